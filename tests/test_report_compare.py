"""`rca report --compare` and `rca show`: against `rca compare --json` and against the files of the run."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from test_report import Page, check_safe
from tiny_run import TinyRun, assign

from rcatool.data.labels import palette, read_mask
from rcatool.data.manifest import read_manifest
from rcatool.report import terminal
from rcatool.report.panels import HEAT, heated
from rcatool.report.strip import GAP, HEAD, MARGIN, SMALLEST

Rca = Callable[..., Result]


def signed(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def test_the_page_of_two_runs_says_what_compare_says(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    other = undisturbed.copy(tmp_path / "other", until="eval")
    assert rca("eval", "--run", other, *assign("eval.scales=[0.5]")).code == 0
    document = json.loads(rca("compare", undisturbed.path, other, "--json").out)
    done = rca("report", "--compare", undisturbed.path, other)
    path = other / "compare-run.html"
    assert (done.code, done.out) == (0, f"{path}\n"), done.err
    found = Page(path.read_text(encoding="utf-8"))
    (tmp_path / "report.html").write_bytes(path.read_bytes())
    check_safe(found, tmp_path)
    difference = document["difference"]
    assert signed(difference["miou"]) in found.words["difference"]
    assert " to ".join(map(signed, difference["interval"])) in found.words["difference"]
    for name, told in difference["iou"].items():
        [row] = [row for row in found.rows if row[:2] == [name, ""]]
        assert row[4:] == [signed(told["difference"]), " to ".join(map(signed, told["interval"]))]
    assert ["eval.scales", "[1.0]", "[0.5]"] in [row[:3] for row in found.rows]
    assert len(found.all("img")) % 4 == 0  # photo, A, B, truth
    here, there = (json.loads((run / "eval" / "metrics.json").read_text()) for run in (undisturbed.path, other))
    for target, name in (("cam", "CAMs"), ("pseudo", "pseudo labels"), ("seg", "segmentation network")):
        first, second = here[target]["miou"], there[target]["miou"]
        assert [name, f"{100 * first:.1f}", f"{100 * second:.1f}", signed(second - first)] in found.rows
    text = path.read_text(encoding="utf-8")
    charts = text.partition('<section id="training">')[2].partition("</section>")[0].split("<svg")[1:]
    assert len(charts) > 6
    for chart in charts:  # both were trained alike
        lines = re.findall(r'<polyline class="line line-(\d)" points="([^"]*)"', chart)
        assert [number for number, _ in lines] == ["0", "1"]
        assert lines[0][1] == lines[1][1]
    refused = rca("report", "--compare", undisturbed.path, tmp_path / "nothing")
    assert (refused.code, "no run here" in refused.err) == (4, True)


def test_a_run_compared_with_itself_shows_no_photo(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert rca("report", "--compare", undisturbed.path, undisturbed.path, "--out", out).code == 0
    found = Page(out.read_text(encoding="utf-8"))
    assert found.all("img") == []
    assert "no difference shown" in found.words["difference"]


def test_show_draws_what_the_files_say(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.path
    samples = {sample.id: sample for sample in read_manifest(run / "prepare" / "manifest.jsonl")}
    for photo, panels in (("train_00003", 4), ("val_00001", 3)):
        out = tmp_path / f"{photo}.png"
        done = rca("show", photo, "--run", run, "--out", out)
        assert (done.code, done.out) == (0, f"{out}\n"), done.err
        picture = np.asarray(Image.open(out).convert("RGB"))
        height, width = samples[photo].size
        scale = SMALLEST / max(height, width)
        step, top = round(width * scale) + GAP, HEAD
        assert picture.shape[1] == 2 * MARGIN - GAP + panels * step
        # The centre of the truth's panel, the last one: the photo mixed with the label's colour, or as it is on background.
        truth = read_mask(undisturbed.data / str(samples[photo].mask), num_classes=4)
        label = int(np.bincount(truth[truth > 0]).argmax())
        inside = truth == label
        first, last = (
            picture[top : top + round(height * scale), left : left + round(width * scale)]
            for left in (MARGIN, MARGIN + (panels - 1) * step)
        )
        rows, columns = ((np.argwhere(inside) + 0.5) * scale).astype(int).T
        moved = (last[rows, columns].astype(float) - 0.55 * first[rows, columns]) / 0.45
        shown = 255 * np.sqrt(np.array(palette()[3 * label : 3 * label + 3]) / 255)
        assert np.abs(np.median(moved, axis=0) - shown).max() < 12
        rows, columns = ((np.argwhere(truth == 0) + 0.5) * scale).astype(int).T
        assert np.median(np.abs(last[rows, columns].astype(int) - first[rows, columns])) == 0
    assert rca("show", "val_00001.png", "--run", run, "--out", out, "--force").code == 0  # a file's name will do


def test_show_predicts_what_eval_would(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    def strip(photo: str, run: Path, *options: str) -> bytes:
        done = rca("show", photo, "--run", run, "--out", tmp_path / "strip.png", "--force", *options)
        assert done.code == 0, done.err
        return (tmp_path / "strip.png").read_bytes()

    run = undisturbed.copy(tmp_path / "run", until="eval")
    without = strip("val_00001", run)
    assert strip("val_00001", run, "--predict") == strip("val_00001", undisturbed.path) != without
    assert strip("train_00003", run, "--predict") != strip("train_00003", undisturbed.path)  # which has no prediction
    bare = undisturbed.copy(tmp_path / "bare", until="train-seg")
    refused = rca("show", "val_00001", "--run", bare, "--predict")
    assert (refused.code, f"rca train-seg --run {bare}" in refused.err) == (4, True)


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        (("val_0001",), 3, "val_0001: no such photo", "did you mean val_0000"),
        (("zzz",), 3, "zzz: no such photo", "ids look like"),
        (("val_00001", "--out", "strip.jpg"), 2, "ends in .png", "strip.png"),
        (("val_00001", "--run", "nowhere"), 4, "no run here", "rca prepare"),
    ],
)
def test_show_refuses_in_one_line(rca: Rca, undisturbed: TinyRun, words: tuple[str, ...], code: int, message: str, hint: str) -> None:
    done = rca("show", *(words if "--run" in words else (*words, "--run", undisturbed.path)))
    assert (done.code, done.out) == (code, "")
    lines = done.err.splitlines()
    assert len(lines) == 2
    assert message in lines[0]
    assert hint in lines[1]


def test_show_says_what_is_not_there_yet(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/labels")
    done = rca("show", "train_00003", "--run", run)
    assert done.out == f"{run / 'show' / 'train_00003.png'}\n"
    assert f"no pseudo label of this train photo yet; rca make-pseudo --run {run} makes it" in done.err
    assert "no CAM" not in done.err


def test_terminals_by_what_they_say_of_themselves() -> None:
    table = {
        "iterm": ({"TERM_PROGRAM": "iTerm.app"}, {"TERM_PROGRAM": "WezTerm"}, {"LC_TERMINAL": "iTerm2", "TERM": "xterm-256color"}),
        "kitty": ({"TERM": "xterm-kitty"}, {"KITTY_WINDOW_ID": "1"}),
        None: ({}, {"TERM": "xterm-256color"}, {"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/x"}, {"TERM": "screen-256color"}),
    }
    for kind, environments in table.items():
        assert [terminal.protocol(each) for each in environments] == [kind] * len(environments)


def test_pictures_for_terminals_decode_to_the_same() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    iterm = terminal.encoded(picture, "iterm")
    assert iterm.startswith("\033]1337;File=inline=1;")
    kitty = terminal.encoded(picture, "kitty")
    commands = [part.partition(";") for part in kitty.removeprefix("\033_G").removesuffix("\033\\").split("\033\\\033_G")]
    assert [keys for keys, _, _ in commands] == ["a=T,f=100,m=1", *["m=1"] * (len(commands) - 2), "m=0"]
    assert max(len(data) for _, _, data in commands) == 4096
    for data in (iterm.partition(":")[2].removesuffix("\a"), "".join(data for _, _, data in commands)):
        with Image.open(io.BytesIO(base64.b64decode(data))) as again:
            assert np.array_equal(np.asarray(again), np.asarray(picture))


def test_heat_is_brighter_the_higher_the_map() -> None:
    lightness = HEAT @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 15).all()
    values = np.linspace(0, 1, 50, dtype=np.float32)[None]
    found = heated(np.full((1, 50, 3), 100, np.uint8), values).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(found[0]) >= -0.5).all()
    assert found[0, -1] > 2 * found[0, 0]
