"""The report in a browser: no overflow at three widths, contrast in both schemes, the keyboard, the filter, a silent console."""

import re
from collections.abc import Callable
from pathlib import Path

import browser
import pytest
from conftest import Result
from tiny_run import TinyRun, assign

Rca = Callable[..., Result]


@pytest.fixture
def pages(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> list[Path]:
    """A run's report with long names in it, and a comparison."""
    browser.find_chromium()
    run = undisturbed.copy(tmp_path / f"a-run-with-a-very-long-name-{'x' * 60}")
    for file in ("prepare/classes.json", "eval/metrics.json", "prepare/summary.json"):
        path = run / file
        path.write_text(path.read_text().replace('"ring"', f'"a class with a name of many words and {"o" * 70} letters"'))
    assert rca("report", "--run", run).code == 0
    other = undisturbed.copy(tmp_path / "other", until="eval")
    assert rca("eval", "--run", other, *assign("eval.scales=[0.5]")).code == 0
    assert rca("report", "--compare", undisturbed.path, other, "--out", tmp_path / "compare.html").code == 0
    return [run / "report.html", tmp_path / "compare.html"]


def test_layout_contrast_keyboard_and_console(pages: list[Path], tmp_path: Path) -> None:
    for page, dark in ((pages[0], False), (pages[0], True), (pages[1], False), (pages[1], True)):
        folder = tmp_path / f"{page.stem}-{dark}"
        folder.mkdir()
        views, console = browser.measure(page, folder, dark=dark)
        assert console == []
        assert [view["width"] for view in views] == list(browser.WIDTHS)
        for view in views:
            assert view["dark"] is dark
            assert view["scroll"] <= view["width"], view
            assert view["out"] == []
            assert view["least"][0] >= 4.5, view["least"]
            assert view["texts"] > 100
            assert view["lost"] == []
            assert view["reached"] > view["closed"] > 3
            assert (view["broken"], view["silent"]) == (0, 0)


def test_the_filter_shows_photos_of_a_class(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    browser.find_chromium()
    page = tmp_path / "page.html"
    assert rca("report", "--run", undisturbed.path, "--out", page).code == 0
    text = page.read_text(encoding="utf-8")
    for view in browser.measure(page, tmp_path, dark=False).views:
        (_, at_first, _, _), *classes = view["filter"]
        assert at_first == text.count('class="strip has-') + text.count('class="strip"')  # all but the extra ones
        assert len(classes) == 4
        for number, (name, seen, wrong, lacking) in enumerate(classes, start=1):
            assert (wrong, lacking) == (0, 0), name
            assert seen == sum(f" has-{number} " in f"{found} " for found in re.findall(r'<figure class="(strip[^"]*)"', text)) > 0
    assert "strip extra" in text


def test_the_measure_sees_faults(tmp_path: Path) -> None:
    # The tests above would pass on a measure that finds nothing.
    browser.find_chromium()
    page = tmp_path / "bad.html"
    wide = '<p style="width:500px;color:#999;background:#fff">grey</p>'
    links = '<a href="#a" style="outline:none">no ring</a> <a href="#b" style="display:none">hidden</a> <a href="#c">well</a>'
    style, script = "<style>:focus-visible{outline:2px solid}</style>", '<script>console.error("a fault")</script>'
    page.write_text(f'<!doctype html>{style}{wide}{links}<img src="data:image/png;base64,AAAA" alt="">{script}')
    views, console = browser.measure(page, tmp_path, dark=False)
    assert len(console) == len(browser.WIDTHS)
    assert "a fault" in console[0]
    assert views[0]["scroll"] > views[0]["width"]
    assert len(views[0]["out"]) == 1
    assert 2.8 < views[0]["least"][0] < 2.9  # #999 on white is 2.85
    assert (views[0]["broken"], views[0]["silent"]) == (1, 1)
    assert [text.partition(">")[2] for text in views[0]["lost"]] == ["no ring</a>", "hidden</a>"]
    assert views[2]["out"] == []
