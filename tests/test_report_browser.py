"""The report in a browser: nothing overflows at three widths, text has contrast in both schemes, the keyboard reaches what opens."""

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


def test_layout_contrast_and_keyboard(pages: list[Path], tmp_path: Path) -> None:
    for page, dark in ((pages[0], False), (pages[0], True), (pages[1], True)):
        folder = tmp_path / f"{page.stem}-{dark}"
        folder.mkdir()
        found = browser.measure(page, folder, dark=dark)
        assert [view["width"] for view in found] == list(browser.WIDTHS)
        for view in found:
            assert view["dark"] is dark
            assert view["scroll"] <= view["width"], view
            assert view["out"] == []
            assert view["least"][0] >= 4.5, view["least"]
            assert view["texts"] > 100
            assert view["reached"] > view["closed"] > 3
            assert view["broken"] == 0


def test_the_measure_sees_faults(tmp_path: Path) -> None:
    # The test above would pass on a measure that finds nothing.
    browser.find_chromium()
    page = tmp_path / "bad.html"
    wide = '<p style="width:500px;color:#999;background:#fff">grey</p>'
    page.write_text(f'<!doctype html>{wide}<img src="data:image/png;base64,AAAA" alt="x">')
    views = browser.measure(page, tmp_path, dark=False)
    assert views[0]["scroll"] > views[0]["width"]
    assert len(views[0]["out"]) == 1
    assert 2.8 < views[0]["least"][0] < 2.9  # #999 on white is 2.85
    assert views[0]["broken"] == 1
    assert views[2]["out"] == []
