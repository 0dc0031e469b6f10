"""Files of a run that are missing, broken, foreign or changed, and commands in the wrong order."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import Break, Case, Rca, change_checkpoint, change_npz, check, cut, remove, rename, replace, set_up, spoil, table, undo, unnoticed, write
from PIL import Image
from tiny_run import STEPS, TinyRun, digests, results

MANIFEST, CLASSES = "run/prepare/manifest.jsonl", "run/prepare/classes.json"
CLS, SEG = "run/train-cls/final.pt", "run/train-seg/final.pt"
CAM, LABEL = "run/make-pseudo/cams/train_00004.npz", "run/make-pseudo/labels/train_00004.png"
PHOTO = "data/JPEGImages/train_00004.jpg"


@pytest.fixture(autouse=True)
def _finished_run(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)


@table(
    Case("nothing prepared", (remove("run"),), "train-cls", 4, r"run: no run here \(no config\.yaml\)", "rca prepare .* --run run"),
    Case("nothing prepared for a run", (remove("run"),), "run", 4, "run: no run here", "rca prepare .* --run run"),
    Case("nothing prepared for status", (remove("run"),), "status", 4, "run: no run here", "rca prepare .* --run run"),
    Case("train-cls before prepare", (undo("prepare"),), "train-cls", 4, "train-cls needs the output of prepare", "rca prepare shapes --run run$"),
    Case("run before prepare", (undo("prepare"),), "run", 4, "run needs the output of prepare", "rca prepare shapes --run run$"),
    Case("make-pseudo before train-cls", (undo("train-cls"),), "make-pseudo", 4, "make-pseudo needs the output of train-cls", "rca train-cls --run run$"),
    Case("train-seg before make-pseudo", (undo("make-pseudo/labels"),), "train-seg", 4, "train-seg needs the output of make-pseudo", "rca make-pseudo --run run$"),
    Case("train-seg before train-cls", (undo("train-cls"),), "train-seg", 4, "train-seg needs the output of make-pseudo", "rca train-cls --run run$"),
    Case("eval before everything", (undo("train-cls"),), "eval", 4, "eval needs the output of make-pseudo", "rca train-cls --run run$"),
    Case("eval before prepare", (undo("prepare"),), "eval", 4, "eval needs the output of prepare", "rca prepare shapes --run run$"),
    Case("train-seg on labels of other settings", (undo("train-seg"),), "train-seg --set pseudo.bg_threshold=0.45", 4, r"make-pseudo, which is stale \(pseudo\.bg_threshold: 0\.3 -> 0\.45\)", "rca make-pseudo --run run$"),
    Case("eval of a network of other settings", (), "eval --set cls.lr=0.04", 4, r"which is stale \(cls\.lr: 0\.05 -> 0\.04\)", "rca train-cls --run run$"),
    Case("run after a change of the data set", (), "run --set data.shapes_seed=5", 4, r"prepare, which is stale \(data\.shapes_seed: 0 -> 5\)", "rca prepare shapes --run run$"),
)
def test_order_of_commands(rca: Rca, case: Case) -> None:
    check(rca, case)


AGAIN = r"rca prepare \.\.\. --force"


def edit_manifest(old: str, new: str) -> tuple[Break, ...]:
    """Change one line of the manifest behind everybody's back."""
    return undo("train-cls"), replace(MANIFEST, old, new), unnoticed("prepare")


@table(
    Case("manifest missing", (remove(MANIFEST),), "train-seg --force", 4, r"input prepare is damaged \(1 file missing \(first: manifest\.jsonl\)\)", "rca prepare shapes"),
    Case("manifest cut short", (cut(MANIFEST),), "run", 4, r"prepare, which is damaged \(1 file changed in size", "rca prepare shapes"),
    Case("manifest with a broken line", edit_manifest('{"id": "train_00001"', '"id": "train_00001"'), "train-cls", 3, r"manifest\.jsonl:2: not valid JSON", AGAIN),
    Case("manifest with an id twice", edit_manifest("train_00001", "train_00000"), "train-cls", 3, r"manifest\.jsonl:2: id 'train_00000' occurs twice", AGAIN),
    Case("manifest with an id upwards", edit_manifest('"train_00001"', '"../train_01"'), "train-cls", 3, r'manifest\.jsonl:2: id: "\.\./train_01"', AGAIN),
    Case("manifest with a photo upwards", edit_manifest("JPEGImages/train_00001.jpg", "../../etc/passwd"), "train-cls", 3, r"manifest\.jsonl:2: image: .*a path below data\.root", AGAIN),
    Case("manifest with an absolute photo", edit_manifest("JPEGImages/train_00001.jpg", "/etc/passwd"), "train-cls", 3, r"manifest\.jsonl:2: image: .*a path below data\.root", AGAIN),
    Case("manifest with a class too many", edit_manifest('"classes": [1]', '"classes": [4]'), "train-cls", 3, r"manifest\.jsonl:2: classes: \[4\], expected sorted indices below 4", AGAIN),
    Case("manifest with a split of its own", edit_manifest('"split": "train"', '"split": "test"'), "train-cls", 3, r'manifest\.jsonl:1: split: "test", expected one of train, val, tune', AGAIN),
    Case("manifest without a size", edit_manifest('"size"', '"sise"'), "train-cls", 3, r"manifest\.jsonl:1: size: missing, expected \[H, W\]", AGAIN),
    Case("manifest not text", (undo("train-cls"), write(MANIFEST, b"\xff\xfe"), unnoticed("prepare")), "train-cls", 3, r"manifest\.jsonl: cannot be read", AGAIN),
    Case("manifest empty", (undo("train-cls"), write(MANIFEST), unnoticed("prepare")), "train-cls", 3, r"manifest\.jsonl:1: not valid JSON", AGAIN),
    Case("class names broken", (undo("train-cls"), write(CLASSES, "{"), unnoticed("prepare")), "train-cls", 3, r"classes\.json: not valid JSON \(the class names\)"),
    Case("class names not a list", (undo("train-cls"), write(CLASSES, '{"names": 4}'), unnoticed("prepare")), "train-cls", 3, r"classes\.json: expected an object with a list of class names"),
    Case("class names twice", (undo("train-cls"), replace(CLASSES, "cross", "rings"), replace(CLASSES, "rings", "ring"), unnoticed("prepare")), "train-cls", 3, r"classes\.json: class name 'ring' occurs twice"),
    Case("photo missing", (undo("train-cls"), remove(PHOTO)), "train-cls", 3, r"train_00004\.jpg: No such file", AGAIN),
    Case("photo renamed", (undo("train-seg"), rename(PHOTO, PHOTO.replace("jpg", "JPG"))), "train-seg", 3, r"train_00004\.jpg: No such file", AGAIN),
    Case("photo cut short", (undo("make-pseudo/cams"), cut(PHOTO)), "make-pseudo", 3, r"train_00004\.jpg: \d+ bytes, expected \d+", AGAIN),
    Case("photo spoiled", (undo("train-cls"), write(PHOTO, bytes(Path(PHOTO).name, "ascii")), lambda: set_bytes(PHOTO)), "train-cls", 3, r"train_00004\.jpg: not an image"),
    Case("photo spoiled, with worker processes", (undo("train-seg"), write(PHOTO, "x"), lambda: set_bytes(PHOTO)), "train-seg --set runtime.workers=1", 3, r"JPEGImages/train_00004\.jpg: not an image \("),
    Case("photos moved", (undo("train-cls"), rename("data", "elsewhere")), "train-cls", 3, r"No such file or directory \(and 21 more photos of 22\)", AGAIN),
    Case("mask missing when it is needed", (undo("eval"), remove("data/SegmentationClassAug/train_00004.png")), "eval", 3, r"train_00004\.png: file not found"),
    Case("mask cut short when it is needed", (undo("eval"), cut("data/SegmentationClassAug/train_00004.png")), "eval", 3, r"train_00004\.png: cannot be decoded"),
    Case("mask of another size when it is needed", (undo("eval"), lambda: Image.new("L", (9, 9)).save("data/SegmentationClassAug/val_00001.png")), "eval", 3, r"val_00001\.png: mask is 9 x 9 \(H x W\), expected 48 x 48"),
)
def test_data_of_the_run(rca: Rca, case: Case) -> None:
    check(rca, case)


def set_bytes(photo: str) -> None:
    """Let the manifest say that the photo has the number of bytes that it has now."""
    samples = [json.loads(line) for line in Path(MANIFEST).read_text().splitlines()]
    for sample in samples:
        if sample["id"] == Path(photo).stem:
            sample["bytes"] = Path(photo).stat().st_size
    Path(MANIFEST).write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    unnoticed("prepare")()


CLS_AGAIN, SEG_AGAIN = "rca train-cls --run run --force", "rca train-seg --run run --force"


def broken_cls(*breaks: Break) -> tuple[Break, ...]:
    return undo("make-pseudo/cams"), *breaks, unnoticed("train-cls")


def broken_seg(*breaks: Break) -> tuple[Break, ...]:
    return undo("eval"), *breaks, unnoticed("train-seg")


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("hacked", "w")


@table(
    Case("checkpoint cut short", (undo("make-pseudo/cams"), cut(CLS)), "make-pseudo", 4, r"train-cls, which is damaged \(1 file changed in size \(first: final\.pt\)\)", "rca train-cls --run run$"),
    Case("checkpoint missing", (undo("eval"), remove(SEG)), "eval", 4, r"train-seg, which is damaged \(1 file missing \(first: final\.pt\)\)", "rca train-seg --run run$"),
    Case("checkpoint cut short unnoticed", broken_cls(cut(CLS)), "make-pseudo", 3, r"final\.pt: not a readable checkpoint", CLS_AGAIN),
    Case("checkpoint garbage", broken_cls(write(CLS, b"\x00garbage" * 99)), "make-pseudo", 3, r"final\.pt: not a readable checkpoint", CLS_AGAIN),
    Case("checkpoint empty", broken_seg(write(SEG)), "eval", 3, r"final\.pt: not a readable checkpoint", SEG_AGAIN),
    Case("checkpoint spoiled inside", broken_seg(spoil(SEG)), "eval", 3, r"final\.pt: ", SEG_AGAIN),
    Case("checkpoint that runs code", broken_cls(write(CLS, pickle.dumps({"model": _Hostile()}))), "make-pseudo", 3, r"final\.pt: not a readable checkpoint", CLS_AGAIN),
    Case("checkpoint that is no dict", broken_cls(lambda: __import__("torch").save([1], CLS)), "make-pseudo", 3, r"final\.pt: holds list, expected a dict", CLS_AGAIN),
    Case("checkpoint without a network", broken_seg(change_checkpoint(SEG, lambda state: state.pop("model"))), "eval", 3, r"final\.pt: does not fit the network of the settings", SEG_AGAIN),
    Case("checkpoint of other classes", broken_cls(change_checkpoint(CLS, lambda state: state.update(classes=["cat"]))), "make-pseudo", 3, r"final\.pt: trained for other classes than this data set has", CLS_AGAIN),
    Case("checkpoint of another network", broken_seg(lambda: Path(SEG).write_bytes(Path(CLS).read_bytes())), "eval", 3, r"final\.pt: does not fit the network of the settings", SEG_AGAIN),
    Case("checkpoint with NaN", broken_seg(change_checkpoint(SEG, lambda state: [v.fill_(np.nan) for v in state["model"].values() if v.is_floating_point()])), "eval", 3, "the segmentation network's output is not finite", "rca train-seg --force, with a lower seg.lr"),
    Case("checkpoint of maps with NaN", broken_cls(change_checkpoint(CLS, lambda state: [v.fill_(np.nan) for v in state["model"].values() if v.is_floating_point()])), "make-pseudo", 3, r"train_00000\.jpg: its CAM is not finite", "rca train-cls --force, with a lower cls.lr"),
)
def test_checkpoints(rca: Rca, case: Case) -> None:
    check(rca, case)
    assert not Path("hacked").exists()


CAM_AGAIN = "delete it, then rca make-pseudo makes it again"


def broken_cam(*breaks: Break) -> tuple[Break, ...]:
    return undo("make-pseudo/labels"), *breaks, unnoticed("make-pseudo/cams")


def broken_arrays(change: Callable[[dict[str, Any]], object]) -> tuple[Break, ...]:
    return broken_cam(change_npz(CAM, change))


def broken_label(*breaks: Break) -> tuple[Break, ...]:
    return undo("train-seg"), *breaks, unnoticed("make-pseudo/labels")


@table(
    Case("CAM missing", (undo("train-seg"), remove(CAM)), "train-seg", 4, "make-pseudo", "rca make-pseudo --run run$"),
    Case("CAM cut short", (undo("eval"), cut(CAM)), "eval", 4, r"make-pseudo, which is damaged \(1 file changed in size \(first: train_00004\.npz\)\)", "rca make-pseudo --run run$"),
    Case("CAM cut short unnoticed", broken_cam(cut(CAM)), "make-pseudo", 3, r"train_00004\.npz: not a readable CAM file", CAM_AGAIN),
    Case("CAM spoiled", broken_cam(spoil(CAM)), "make-pseudo", 3, r"train_00004\.npz: not a readable CAM file", CAM_AGAIN),
    Case("CAM of objects", broken_cam(lambda: np.savez(CAM, allow_pickle=True, keys=np.array([_Hostile()], dtype=object))), "make-pseudo", 3, r"train_00004\.npz: not a readable CAM file", CAM_AGAIN),
    Case("CAM without maps", broken_arrays(lambda arrays: arrays.pop("cam")), "make-pseudo", 3, r"train_00004\.npz: not a readable CAM file", CAM_AGAIN),
    Case("CAM with NaN", broken_arrays(lambda arrays: arrays["cam"].fill(np.nan)), "make-pseudo", 3, r"train_00004\.npz: values that are not in \[0, 1\]", CAM_AGAIN),
    Case("CAM out of range", broken_arrays(lambda arrays: arrays["cam"].fill(2)), "make-pseudo", 3, r"train_00004\.npz: values that are not in \[0, 1\]", CAM_AGAIN),
    Case("CAM of a photo of another size", broken_arrays(lambda arrays: arrays["size"].fill(64)), "make-pseudo", 3, r"train_00004\.npz: made for a photo of 64x64, expected 48x48", CAM_AGAIN),
    Case("CAM of other classes", broken_arrays(lambda arrays: arrays.update(keys=arrays["keys"] + 254)), "make-pseudo", 3, r"train_00004\.npz: maps of the classes \[25[\d, ]+\], expected numbers below 254", CAM_AGAIN),
    Case("CAM of classes too many", (undo("eval"), change_npz(CAM, lambda arrays: arrays.update(keys=arrays["keys"] + 4)), unnoticed("make-pseudo/cams")), "eval", 3, r"train_00004\.npz: maps of the classes \[[\d, ]+\], expected numbers below 4", CAM_AGAIN),
    Case("label cut short", (undo("train-seg"), cut(LABEL)), "train-seg", 4, r"make-pseudo, which is damaged \(1 file changed in size \(first: train_00004\.png\)\)", "rca make-pseudo --run run$"),
    Case("label missing", (undo("train-seg"), remove(LABEL)), "train-seg", 4, r"make-pseudo, which is damaged \(1 file missing \(first: train_00004\.png\)\)", "rca make-pseudo --run run$"),
    Case("label cut short unnoticed", broken_label(cut(LABEL)), "train-seg", 3, r"labels/train_00004\.png: cannot be decoded"),
    Case("label of another size", broken_label(lambda: Image.new("L", (9, 9)).save(LABEL)), "train-seg", 3, r"labels/train_00004\.png: mask is 9 x 9 \(H x W\), expected 48 x 48"),
    Case("label in colour", broken_label(lambda: Image.new("RGB", (48, 48)).save(LABEL)), "train-seg", 3, r"labels/train_00004\.png: .*8-bit RGB PNG, expected an 8-bit palette or grey one"),
    Case("label of an unknown class", broken_label(lambda: Image.new("L", (48, 48), 9).save(LABEL)), "train-seg", 3, r"labels/train_00004\.png: mask value 9, expected 0\.\.4 or 255"),
    Case("label broken, with worker processes", broken_label(write(LABEL, "x")), "train-seg --set runtime.workers=1", 3, r"labels/train_00004\.png: cannot be decoded"),
    Case("scores garbage", (write("run/eval/metrics.json", "{"), unnoticed("eval")), "eval", 3, r"metrics\.json: not valid JSON \(the scores of rca eval\)", "rca eval --run run --force"),
    Case("scores of something else", (write("run/eval/metrics.json", "[1]"), unnoticed("eval")), "eval", 3, r"metrics\.json: not a document of scores", "rca eval --run run --force"),
)
def test_maps_labels_and_scores(rca: Rca, case: Case) -> None:
    check(rca, case)
    assert not Path("hacked").exists()


@table(
    *(
        Case(f"record of {step} broken", (write(f"run/{step}/stage.json", '{"status": "do'),), step.partition("/")[0], 3, rf"{step}/stage\.json: not valid JSON", rf"rca {step.partition('/')[0]} --run run --force")
        for step in STEPS[1:]
    ),
    Case("record of prepare broken", (write("run/prepare/stage.json", '{"status": "do'),), "run", 4, r"prepare, which is damaged \(.*stage\.json: not valid JSON", "rca prepare shapes --run run"),
    Case("record of prepare broken, for prepare", (write("run/prepare/stage.json", "x"),), "prepare shapes", 3, r"stage\.json: not valid JSON", "rca prepare shapes --run run --force"),
    Case("record of another kind", (write("run/train-seg/stage.json", '{"status": "done"}'),), "train-seg", 3, r"train-seg/stage\.json: not a record of train-seg", "rca train-seg --run run --force"),
    Case("record nested without end", (write("run/train-cls/stage.json", "[" * 100_000),), "make-pseudo", 4, r"train-cls, which is damaged", "rca train-cls --run run"),
)
def test_records(rca: Rca, case: Case) -> None:
    check(rca, case)
