"""A whole run by two processes, resumed from what one had begun, against the same run by one."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from tiny_run import TinyRun, record

from rcatool import engine
from rcatool.checkpoint import load_state


@pytest.fixture
def half_done(rca: Callable[..., Result], undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped in the second epoch of train-cls, done by one process."""
    run, set_lr = undisturbed.copy(tmp_path / "run", until="train-cls"), engine.set_lr
    steps = iter(range(12))

    def stopping(*arguments: object) -> None:
        if next(steps) == 11:
            raise KeyboardInterrupt
        set_lr(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(engine, "set_lr", stopping)
        assert rca("train-cls", "--run", run).code == 130
    assert (run / "train-cls" / "last.pt").exists()
    return run


def test_two_processes_finish_what_one_has_begun(rca: Callable[..., Result], undisturbed: TinyRun, half_done: Path) -> None:
    done = rca("run", "--run", half_done, "--procs", "2", "--json")
    assert done.code == 0, done.err
    assert worst_weight(half_done, undisturbed.path, "train-cls") < 2e-3
    assert [record(half_done, step)["info"]["processes"] for step in ("train-cls", "train-seg")] == [2, 2]
    wrong = [different(path, undisturbed.path / path.relative_to(half_done)) for path in half_done.glob("make-pseudo/labels/*.png")]
    assert len(wrong) == 16
    assert np.mean(wrong) < 0.01
    metrics = json.loads((half_done / "eval/metrics.json").read_text())
    expected = json.loads((undisturbed.path / "eval/metrics.json").read_text())
    for target in ("cam", "pseudo"):  # a pixel of a label that rounding has changed makes another segmentation network
        assert metrics[target]["images"] == expected[target]["images"]
        assert metrics[target]["miou"] == pytest.approx(expected[target]["miou"], abs=0.01)
    assert rca("run", "--run", half_done).err == "everything is up to date\n"  # how many processes there were makes nothing stale


def test_two_processes_train_the_same_segmentation(rca: Callable[..., Result], undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    done = rca("train-seg", "--run", run, "--procs", "2")
    assert done.code == 0, done.err
    assert worst_weight(run, undisturbed.path, "train-seg") < 2e-3


def worst_weight(run: Path, other: Path, step: str) -> float:
    """The largest difference of the two networks: rounding, after epochs at a high rate; a photo left out changes more than 2e-3."""
    found, expected = (load_state(one / step / "final.pt")["model"] for one in (run, other))
    assert found.keys() == expected.keys()
    return max(float((found[name].double() - expected[name].double()).abs().max()) for name in found)


def different(one: Path, other: Path) -> float:
    """Share of the pixels that differ."""
    found, expected = (np.asarray(Image.open(path)) for path in (one, other))
    return float((found != expected).mean())
