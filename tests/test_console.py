"""The console: what goes where, and what stays silent."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import shown

from rcatool import console


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts and ends with a console that nothing has been told to."""
    monkeypatch.delenv("RANK", raising=False)
    yield
    console.configure(quiet=False)
    console.attach_log(None)


def say_everything() -> None:
    console.log("news")
    console.warn("careful")
    console.error("broken", "mend it")
    console.print_result("42")
    with console.progress("work", 2) as bar:
        bar.advance()


def test_only_results_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    say_everything()
    assert capsys.readouterr() == ("42\n", "news\nwarning: careful\nerror: broken\nhint: mend it\n")


def test_quiet_keeps_warnings_errors_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(quiet=True)
    say_everything()
    assert capsys.readouterr() == ("42\n", "warning: careful\nerror: broken\nhint: mend it\n")


def test_silent_on_other_ranks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    console.attach_log(tmp_path / "run.log")
    console.log("news")
    console.warn("careful")
    console.error("broken")
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "run.log").exists()


def test_text_is_not_markup_and_lines_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    line = "[red]a[/red] :smile: [/] " + "x" * 300
    console.log(line)
    console.warn(line)
    console.print_result(line)
    assert capsys.readouterr() == (f"{line}\n", f"{line}\nwarning: {line}\n")


def test_attached_log_has_every_line_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    console.log("before")
    console.attach_log(path)
    console.configure(quiet=True)
    console.note("$ rca run")
    console.log("news")
    console.warn("careful")
    console.error("broken", "mend it")
    console.attach_log(None)
    console.log("after")
    lines = path.read_text().splitlines()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*", line) for line in lines)
    assert [line[20:] for line in lines] == ["$ rca run", "news", "warning: careful", "error: broken", "hint: mend it"]


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console.attach_log(tmp_path / "nowhere" / "run.log")
    console.log("news")
    assert capsys.readouterr().err == "news\n"


def test_tables_show_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_result(console.table("scores [x]", ("class", "IoU"), [("[b]cat", 7.5), ("dog", 10.25), ("owl", "-")]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "scores [x]"
    cells = [re.split("[│┃|]", line)[1:3] for line in lines if re.search("cat|dog|owl", line)]
    assert [[cell.strip() for cell in row] for row in cells] == [["[b]cat", "7.5"], ["dog", "10.25"], ["owl", "-"]]
    assert cells[0][1].endswith("7.5 ")  # numbers to the right
    assert cells[1][0].startswith(" dog ")  # text to the left


def test_wide_tables_are_not_cut_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    console.print_result(console.table("", ("a", "b"), [("x" * 150, "y" * 150)]))
    assert "x" * 150 in capsys.readouterr().out


def test_progress_without_a_terminal_is_a_line_per_minute(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.progress("work", 400) as bar:
        for _ in range(150):  # one photo a second, for two and a half minutes
            now += 1
            bar.advance(note="loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "work: 60/400, 1.0/s, 0:05:40 left loss 0.5",
        "work: 120/400, 1.0/s, 0:04:40 left loss 0.5",
    ]


def test_progress_on_a_terminal_is_a_bar() -> None:
    code = (
        "from rcatool import console\n"
        "with console.progress('work [x]', 3) as bar:\n"
        "    bar.advance(); console.log('news'); bar.advance(2, note='loss 0.5')\n"
    )
    text = shown(code, TERM="xterm", COLUMNS="120")
    assert "work [x]" in text
    assert "3/3" in text
    assert "/s" in text
    assert "loss 0.5" in text
    assert "news" in text
