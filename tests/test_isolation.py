"""Masks measure, they never teach: nothing between `prepare` and `eval` reads one. And `eval` predicts without tags.

That is so unless train-seg is asked for it: what `seg.labels` truth and `seg.validate_every` may read is in test_train_seg.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from tiny_run import ROUND_2, SECOND, STEPS, TinyRun, assign, digests, prepare_arguments, record, results

Rca = Callable[..., Result]

LEARNING = STEPS[1:5]
WITHOUT_MASKS = ("train-cls", "make-pseudo", "train-seg")


def noise(mask: Path) -> None:
    """Replace a mask by a valid one of random classes."""
    with Image.open(mask) as image:
        palette, (width, height) = image.getpalette(), image.size
    values = np.random.default_rng(len(mask.name)).integers(0, 5, (height, width), dtype=np.uint8)
    changed = Image.fromarray(values)
    assert palette is not None
    changed.putpalette(palette)
    changed.save(mask)


def garbage(mask: Path) -> None:
    mask.write_bytes(b"no image")


def nothing(mask: Path) -> None:
    mask.unlink()


@pytest.fixture
def prepared(undisturbed: TinyRun, tmp_path: Path) -> TinyRun:
    """A run that is prepared, on images of its own."""
    shutil.copytree(undisturbed.data, tmp_path / "data")
    return TinyRun(undisturbed.copy(tmp_path / "run", until="train-cls"), tmp_path / "data")


@pytest.mark.parametrize("spoil", [noise, garbage, nothing])
def test_masks_are_not_read_between_prepare_and_eval(
    rca: Rca, undisturbed: TinyRun, two_rounds: Path, prepared: TinyRun, spoil: Callable[[Path], None]
) -> None:
    masks = sorted((prepared.data / "SegmentationClassAug").iterdir())
    assert len(masks) == 22
    for mask in masks:
        spoil(mask)
    for word in WITHOUT_MASKS:
        assert rca(word, "--run", prepared.path, *assign(f"data.root={prepared.data}")).code == 0
    assert rca("train-seg", "--run", prepared.path, *assign(*SECOND)).code == 0
    for step in ROUND_2:
        assert record(prepared.path, step)["result"] == record(two_rounds, step)["result"]
    made, expected = digests(prepared.path), digests(undisturbed.path)
    assert {step: made[step] for step in LEARNING} == {step: expected[step] for step in LEARNING}

    scored = rca("eval", "--run", prepared.path)
    if spoil is noise:  # these masks are the ones that scores are made of, and of nothing else
        predictions = [{name: d for name, d in results(run).items() if ".png" in name} for run in (prepared.path, two_rounds)]
        assert len(predictions[0]) == 16 + 6 + 6
        assert predictions[0] == predictions[1]
        spoilt, proper = (json.loads((run / "eval" / "metrics.json").read_text()) for run in (prepared.path, two_rounds))
        assert all(spoilt[target]["miou"] != proper[target]["miou"] for target in ("cam", "pseudo", "seg", "seg_1", "pseudo_2"))
    else:
        assert scored.code == 3
        assert str(masks[0]) in scored.err


def test_predictions_see_no_tags(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    """Other tags of the photos that are predicted, or none: the same network, the same predictions, the same score."""
    from rcatool.checkpoint import load_state

    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(undisturbed.data, data)
    lines = [line.split() for line in (data / "tags.txt").read_text().splitlines()]
    wrong = {"val_00001": ["dots"], "val_00003": [], "val_00004": ["ring", "cross", "dots", "bars"]}
    assert all(wrong[name] != tags for name, *tags in lines if name in wrong)
    (data / "tags.txt").write_text("".join(f"{' '.join([name, *wrong.get(name, tags)])}\n" for name, *tags in lines))
    voc = ["prepare", "voc", *prepare_arguments(run, data)[2:], *assign("data.train_list=train", "data.val_list=val")]
    assert rca(*voc).code == 0
    assert rca("run", "--run", run).code == 0

    this, other = (results(root) for root in (run, undisturbed.path))
    assert this["prepare/manifest.jsonl"] != other["prepare/manifest.jsonl"]
    for step in ("train-cls", "train-seg"):
        models = [load_state(root / step / "final.pt")["model"] for root in (run, undisturbed.path)]
        assert all(models[0][name].equal(models[1][name]) for name in models[1])
    assert [name for name in other if "predictions" in name and this[name] != other[name]] == []
    scores = [json.loads((root / "eval" / "metrics.json").read_text())["seg"]["iou"] for root in (run, undisturbed.path)]
    assert scores[0] == scores[1]
