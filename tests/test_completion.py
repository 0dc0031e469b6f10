"""What the shell is told when somebody types a tab."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import shown

from rcatool import config_io
from rcatool.cli import main

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: no shell of whoever runs the tests is touched."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def offered(line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash is offered for the last word of a line."""
    monkeypatch.setenv("_RCA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit):
        main([])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rca train", ["train-cls", "train-seg"]),
        ("rca prepare sh", ["shapes"]),
        ("rca eval --ref", ["--reference"]),
        ("rca run --set pseudo.bg", ["pseudo.bg_threshold=", "pseudo.bg_power="]),
        ("rca prepare folder --config own", ["own-photos", "own-photos-cpu"]),
        ("rca import-cams --format ps", ["psa"]),
    ],
)
def test_words(line: str, expected: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered(line, capsys, monkeypatch) == expected


def test_every_setting_and_preset_is_offered(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered("rca run --set ", capsys, monkeypatch) == [f"{name}=" for name in config_io.settings()]
    assert offered("rca prepare voc --config ", capsys, monkeypatch) == list(config_io.list_presets())


def test_the_script_for_bash_can_be_read_by_bash(tmp_path: Path) -> None:
    told = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # tests may run where no parent is a shell
    words = [sys.executable, "-m", "rcatool", "--show-completion", "bash"]
    script = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, check=True, env=told).stdout
    assert "complete -o default -F _rca_completion rca" in script
    (tmp_path / "rca.sh").write_text(script)
    subprocess.run(["bash", "-n", str(tmp_path / "rca.sh")], check=True)


def test_no_color() -> None:
    code = "from rcatool import console\nconsole.warn('careful')\nconsole.error('broken', 'mend it')\n"
    colour = r"\x1b\[[0-9;]*3[0-7]m"
    assert re.search(colour, shown(code))
    plain = shown(code, NO_COLOR="1")
    assert re.search(colour, plain) is None
    assert "careful" in plain
    assert "mend it" in plain
