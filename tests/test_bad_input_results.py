"""What the steps of a run have made, broken behind their backs: checkpoints, CAMs, labels, scores."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breaks import Break, Hostile, change_checkpoint, change_npz, cut, remove, save, spoil, undo, unnoticed, write
from broken import Case, Rca, check, set_up, table
from PIL import Image
from tiny_run import TinyRun

CLS, SEG = "run/train-cls/final.pt", "run/train-seg/final.pt"
CAM, LABEL = "run/make-pseudo/cams/train_00004.npz", "run/make-pseudo/labels/train_00004.png"
SCORES = "run/eval/metrics.json"
CLS_AGAIN, SEG_AGAIN = "rca train-cls --run run --force", "rca train-seg --run run --force"
CAM_AGAIN = "delete it, then rca make-pseudo makes it again"


@pytest.fixture(autouse=True)
def _finished_run(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)


def broken_cls(*breaks: Break) -> tuple[Break, ...]:
    return undo("make-pseudo/cams"), *breaks, unnoticed("train-cls")


def broken_seg(*breaks: Break) -> tuple[Break, ...]:
    return undo("eval"), *breaks, unnoticed("train-seg")


def not_a_number(state: dict[str, Any]) -> None:
    for value in state["model"].values():
        if value.is_floating_point():
            value.fill_(np.nan)


@table(
    Case("checkpoint cut short", (undo("make-pseudo/cams"), cut(CLS)),
         "make-pseudo", 4, r"train-cls, which is damaged \(1 file changed in size \(first: final\.pt\)\)", "rca train-cls --run run$"),
    Case("checkpoint missing", (undo("eval"), remove(SEG)),
         "eval", 4, r"train-seg, which is damaged \(1 file missing \(first: final\.pt\)\)", "rca train-seg --run run$"),
    Case("checkpoint cut short unnoticed", broken_cls(cut(CLS)), "make-pseudo", 3, r"final\.pt: not a readable checkpoint", CLS_AGAIN),
    Case("checkpoint garbage", broken_cls(write(CLS, b"\x00garbage" * 99)),
         "make-pseudo", 3, r"final\.pt: not a readable checkpoint", CLS_AGAIN),
    Case("checkpoint empty", broken_seg(write(SEG)), "eval", 3, r"final\.pt: not a readable checkpoint", SEG_AGAIN),
    Case("checkpoint spoiled inside", broken_seg(spoil(SEG)), "eval", 3, r"final\.pt: ", SEG_AGAIN),
    Case("checkpoint that runs code", broken_cls(write(CLS, pickle.dumps({"model": Hostile()}))),
         "make-pseudo", 3, r"final\.pt: not a readable checkpoint", CLS_AGAIN),
    Case("checkpoint that is no dict", broken_cls(save([1], CLS)),
         "make-pseudo", 3, r"final\.pt: holds list, expected a dict", CLS_AGAIN),
    Case("checkpoint without a network", broken_seg(change_checkpoint(SEG, lambda state: state.pop("model"))),
         "eval", 3, r"final\.pt: does not fit the network of the settings", SEG_AGAIN),
    Case("checkpoint of other classes", broken_cls(change_checkpoint(CLS, lambda state: state.update(classes=["cat"]))),
         "make-pseudo", 3, r"final\.pt: trained for other classes than this data set has", CLS_AGAIN),
    Case("checkpoint of another network", broken_seg(lambda: Path(SEG).write_bytes(Path(CLS).read_bytes())),
         "eval", 3, r"final\.pt: does not fit the network of the settings", SEG_AGAIN),
    Case("checkpoint with NaN",
         broken_seg(change_checkpoint(SEG, not_a_number)),
         "eval", 3, "the segmentation network's output is not finite", "rca train-seg --force, with a lower seg.lr"),
    Case("checkpoint of maps with NaN",
         broken_cls(change_checkpoint(CLS, not_a_number)),
         "make-pseudo", 3, r"train_\d+\.jpg: its CAM is not finite", "rca train-cls --force, with a lower cls.lr"),
)  # fmt: skip
def test_checkpoints(rca: Rca, case: Case) -> None:
    check(rca, case)


def broken_cam(*breaks: Break) -> tuple[Break, ...]:
    return undo("make-pseudo/labels"), *breaks, unnoticed("make-pseudo/cams")


def broken_arrays(change: Callable[[dict[str, Any]], object]) -> tuple[Break, ...]:
    return broken_cam(change_npz(CAM, change))


def broken_label(*breaks: Break) -> tuple[Break, ...]:
    return undo("train-seg"), *breaks, unnoticed("make-pseudo/labels")


@table(
    Case("CAM missing", (undo("train-seg"), remove(CAM)), "train-seg", 4, "make-pseudo", "rca make-pseudo --run run$"),
    Case("CAM cut short", (undo("eval"), cut(CAM)),
         "eval", 4, r"make-pseudo, which is damaged \(1 file changed in size \(first: train_00004\.npz\)\)", "rca make-pseudo --run run$"),
    Case("CAM cut short unnoticed", broken_cam(cut(CAM)), "make-pseudo", 3, r"train_00004\.npz: not a readable CAM file", CAM_AGAIN),
    Case("CAM spoiled", broken_cam(spoil(CAM)), "make-pseudo", 3, r"train_00004\.npz: not a readable CAM file", CAM_AGAIN),
    Case("CAM of objects", broken_cam(lambda: np.savez(CAM, allow_pickle=True, keys=np.array([Hostile()], dtype=object))),
         "make-pseudo", 3, r"train_00004\.npz: not a readable CAM file", CAM_AGAIN),
    Case("CAM without maps", broken_arrays(lambda arrays: arrays.pop("cam")),
         "make-pseudo", 3, r"train_00004\.npz: not a readable CAM file", CAM_AGAIN),
    Case("CAM with NaN", broken_arrays(lambda arrays: arrays["cam"].fill(np.nan)),
         "make-pseudo", 3, r"train_00004\.npz: values that are not in \[0, 1\]", CAM_AGAIN),
    Case("CAM out of range", broken_arrays(lambda arrays: arrays["cam"].fill(2)),
         "make-pseudo", 3, r"train_00004\.npz: values that are not in \[0, 1\]", CAM_AGAIN),
    Case("CAM of a photo of another size", broken_arrays(lambda arrays: arrays["size"].fill(64)),
         "make-pseudo", 3, r"train_00004\.npz: made for a photo of 64x64, expected 48x48", CAM_AGAIN),
    Case("CAM of other classes", broken_arrays(lambda arrays: arrays.update(keys=arrays["keys"] + 254)),
         "make-pseudo", 3, r"train_00004\.npz: maps of the classes \[25[\d, ]+\], expected numbers below 254", CAM_AGAIN),
    Case("CAM of classes too many",
         (undo("eval"), change_npz(CAM, lambda arrays: arrays.update(keys=arrays["keys"] + 4)), unnoticed("make-pseudo/cams")),
         "eval", 3, r"train_00004\.npz: maps of the classes \[[\d, ]+\], expected numbers below 4", CAM_AGAIN),
    Case("label cut short", (undo("train-seg"), cut(LABEL)),
         "train-seg", 4, r"make-pseudo, which is damaged \(1 file changed in size \(first: train_00004\.png\)\)",
         "rca make-pseudo --run run$"),
    Case("label missing", (undo("train-seg"), remove(LABEL)),
         "train-seg", 4, r"make-pseudo, which is damaged \(1 file missing \(first: train_00004\.png\)\)", "rca make-pseudo --run run$"),
    Case("label cut short unnoticed", broken_label(cut(LABEL)), "train-seg", 3, r"labels/train_00004\.png: cannot be decoded"),
    Case("label of another size", broken_label(lambda: Image.new("L", (9, 9)).save(LABEL)),
         "train-seg", 3, r"labels/train_00004\.png: mask is 9 x 9 \(H x W\), expected 48 x 48"),
    Case("label in colour", broken_label(lambda: Image.new("RGB", (48, 48)).save(LABEL)),
         "train-seg", 3, r"labels/train_00004\.png: .*8-bit RGB PNG, expected an 8-bit palette or grey one"),
    Case("label of an unknown class", broken_label(lambda: Image.new("L", (48, 48), 9).save(LABEL)),
         "train-seg", 3, r"labels/train_00004\.png: mask value 9, expected 0\.\.4 or 255"),
    Case("label broken, with worker processes", broken_label(write(LABEL, "x")),
         "train-seg --set runtime.workers=1", 3, r"labels/train_00004\.png: cannot be decoded"),
    Case("scores garbage", (write(SCORES, "{"), unnoticed("eval")),
         "eval", 3, r"metrics\.json: not valid JSON \(the scores of rca eval\)", "rca eval --run run --force"),
    Case("scores of something else", (write(SCORES, "[1]"), unnoticed("eval")),
         "eval", 3, r"metrics\.json: not a document of scores", "rca eval --run run --force"),
)  # fmt: skip
def test_maps_labels_and_scores(rca: Rca, case: Case) -> None:
    check(rca, case)
