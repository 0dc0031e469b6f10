"""The documents that programs read: eval/metrics.json, `--json`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from tiny_run import STEPS, TinyRun, assign

Rca = Callable[..., Result]


def test_every_target_has_what_scripts_ask_for(undisturbed: TinyRun) -> None:
    metrics = json.loads((undisturbed.path / "eval" / "metrics.json").read_text())
    assert list(metrics) == ["cam", "pseudo", "seg"]
    assert {target: (scores["list"], scores["images"]) for target, scores in metrics.items()} == {
        "cam": ("train", 16), "pseudo": ("train", 16), "seg": ("val", 6)
    }  # fmt: skip
    for scores in metrics.values():
        assert 0 <= scores["miou"] <= 1
        assert scores["protocol"]["images"] == scores["images"]
        assert list(scores["iou"]) == ["background", "ring", "cross", "dots", "bars"]
        assert scores["miou"] == pytest.approx(np.mean([iou for iou in scores["iou"].values() if iou is not None]), abs=1e-5)
    assert metrics["pseudo"]["threshold"] == 0.3
    assert metrics["seg"]["threshold"] is None
    assert [target for target in metrics if "oracle" in metrics[target] or "curve" in metrics[target]] == ["cam"]


def test_the_cam_curve(undisturbed: TinyRun) -> None:
    metrics = json.loads((undisturbed.path / "eval" / "metrics.json").read_text())
    cam, curve = metrics["cam"], {entry["threshold"]: entry["miou"] for entry in metrics["cam"]["curve"]}
    assert cam["oracle"] is True
    assert list(curve) == [round(0.02 * step, 2) for step in range(51)]
    assert cam["miou"] == max(curve.values()) == curve[cam["threshold"]]
    assert curve[0.3] == metrics["pseudo"]["miou"]  # without a CRF a label is a CAM at the threshold


def test_the_score_is_that_of_the_files(undisturbed: TinyRun) -> None:
    """IoU of the predictions and masks on disk, counted anew."""
    truth, prediction = (
        np.concatenate([np.asarray(Image.open(folder / f"val_{index:05d}.png")).ravel() for index in range(6)])
        for folder in (undisturbed.data / "SegmentationClassAug", undisturbed.path / "eval" / "predictions")
    )
    expected = []
    for label in range(5):
        union = ((truth == label) | (prediction == label)) & (truth != 255)
        expected.append(((truth == label) & (prediction == label)).sum() / union.sum())
    scores = json.loads((undisturbed.path / "eval" / "metrics.json").read_text())["seg"]
    assert list(scores["iou"].values()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("word", ["eval", "run"])
def test_json_is_one_document_on_stdout(rca: Rca, undisturbed: TinyRun, tmp_path: Path, word: str) -> None:
    run = undisturbed.copy(tmp_path / "run")
    made = rca(word, "--run", run, "--json", *assign("eval.threshold_step=0.5"))  # with work to do, and news of it
    assert made.code == 0
    document = json.loads(made.out)
    assert document == json.loads((run / "eval" / "metrics.json").read_text())
    assert [entry["threshold"] for entry in document["cam"]["curve"]] == [0.0, 0.5, 1.0]
    assert "eval: stale (eval.threshold_step: 0.02 -> 0.5)" in made.err
    again = rca(word, "--run", run, "--json")
    assert (again.code, again.out) == (0, made.out)


def test_status_as_json(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    (run / "make-pseudo" / "labels" / "train_00002.png").unlink()
    status = rca("status", "--run", run, "--json")
    assert (status.code, status.err) == (0, "")
    document = json.loads(status.out)
    assert document["run"] == str(run)
    assert [(step["step"], step["state"]) for step in document["steps"]] == list(
        zip(STEPS, ["current", "current", "current", "damaged", "missing", "missing"], strict=True)
    )
    assert document["steps"][3]["reasons"] == ["1 file missing (first: train_00002.png)"]
    assert document["next"] == f"rca make-pseudo --run {run}"
