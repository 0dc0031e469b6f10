"""A classifier that has learnt nothing is told, by train-cls and by make-pseudo, and so is a tag that every photo has."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result
from small_voc import make_voc
from tiny_run import TinyRun

from rcatool.checkpoint import load_state, save_state
from rcatool.engine import TrainLog
from rcatool.run import Run
from rcatool.stages.train_cls import _check_learning

Rca = Callable[..., Result]
HALF = torch.tensor([[1, 0], [0, 1]])  # each of two tags on every second photo: log 2 = 0.693 is to know nothing


@pytest.mark.parametrize(("loss", "told"), [(0.70, True), (0.68, True), (0.66, False), (0.1, False)])
def test_a_loss_that_knows_no_photo(loss: float, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = TrainLog(tmp_path / "log.jsonl", every=1)
    log.add({"loss_o": torch.tensor(loss)})
    log.flush(step=1)
    _check_learning(log, HALF.bool())
    shown = capsys.readouterr().err
    assert ("has learnt next to nothing" in shown) == told
    assert not told or f"loss {loss:.3f}; 0.693 is to say" in shown


def test_no_line_of_the_log_no_complaint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _check_learning(TrainLog(tmp_path / "log.jsonl", every=1), HALF.bool())  # a training that was stopped when all was done
    _check_learning(TrainLog(tmp_path / "log.jsonl", every=1), torch.ones(4, 1, dtype=torch.bool))
    assert capsys.readouterr().err == ""


def test_empty_maps(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/cams")
    state = load_state(run / "train-cls" / "final.pt")
    state["model"] = {name: value * 0 if value.is_floating_point() else value for name, value in state["model"].items()}
    save_state(run / "train-cls" / "final.pt", state)
    Run(run).amend("train-cls")
    done = rca("make-pseudo", "--run", run, "--set", "cam.region_memory=0")
    assert done.code == 0, done.err
    assert "warning: make-pseudo: the maps of 16 of 16 photos are empty: train-cls has not learnt their classes" in done.err


def test_maps_that_are_there(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    done = rca("make-pseudo", "--run", undisturbed.copy(tmp_path / "run", until="make-pseudo/cams"))
    assert "are empty" not in done.err


def test_a_tag_that_every_photo_has(rca: Rca, tmp_path: Path) -> None:
    base = make_voc(tmp_path / "voc")
    done = rca("prepare", "voc", "--root", base, "--run", tmp_path / "a")
    assert "every training photo has the tag 'cat' and 'person': nothing tells it from the background" in done.err
    (base / "tags.txt").write_text("a1 person cat\na2 cat\na3 cat\nb1 person\nb2 person\n")
    assert "every training photo has the tag 'cat': " in rca("prepare", "voc", "--root", base, "--run", tmp_path / "b").err
    (base / "tags.txt").write_text("a1 person cat\na2 cat\na3 person\nb1 person\nb2 person\n")
    assert "every training photo" not in rca("prepare", "voc", "--root", base, "--run", tmp_path / "c").err
