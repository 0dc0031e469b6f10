"""Commands in the wrong order, and the data and records of a run missing, broken or changed."""

import json
from pathlib import Path

import pytest
from breaks import Break, cut, remove, rename, replace, undo, unnoticed, write
from broken import Case, Rca, check, set_up, table
from PIL import Image
from tiny_run import STEPS, TinyRun

MANIFEST, CLASSES = "run/prepare/manifest.jsonl", "run/prepare/classes.json"
PHOTO, MASKS = "data/JPEGImages/train_00004.jpg", "data/SegmentationClassAug"
AGAIN = r"rca prepare \.\.\. --force"


@pytest.fixture(autouse=True)
def _finished_run(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)


@table(
    Case("nothing prepared", (remove("run"),), "train-cls", 4, r"run: no run here \(no config\.yaml\)", "rca prepare .* --run run"),
    Case("nothing prepared for a run", (remove("run"),), "run", 4, "run: no run here", "rca prepare .* --run run"),
    Case("nothing prepared for status", (remove("run"),), "status", 4, "run: no run here", "rca prepare .* --run run"),
    Case("train-cls before prepare", (undo("prepare"),),
         "train-cls", 4, "train-cls needs the output of prepare", "rca prepare shapes --run run$"),
    Case("run before prepare", (undo("prepare"),), "run", 4, "run needs the output of prepare", "rca prepare shapes --run run$"),
    Case("make-pseudo before train-cls", (undo("train-cls"),),
         "make-pseudo", 4, "make-pseudo needs the output of train-cls", "rca train-cls --run run$"),
    Case("train-seg before make-pseudo", (undo("make-pseudo/labels"),),
         "train-seg", 4, "train-seg needs the output of make-pseudo", "rca make-pseudo --run run$"),
    Case("train-seg before train-cls", (undo("train-cls"),),
         "train-seg", 4, "train-seg needs the output of make-pseudo", "rca train-cls --run run$"),
    Case("eval before everything", (undo("train-cls"),), "eval", 4, "eval needs the output of make-pseudo", "rca train-cls --run run$"),
    Case("eval before prepare", (undo("prepare"),), "eval", 4, "eval needs the output of prepare", "rca prepare shapes --run run$"),
    Case("train-seg on labels of other settings", (undo("train-seg"),),
         "train-seg --set pseudo.bg_threshold=0.45", 4, r"make-pseudo, which is stale \(pseudo\.bg_threshold: [\d.]+ -> 0\.45\)",
         "rca make-pseudo --run run$"),
    Case("eval of a network of other settings", (),
         "eval --set cls.lr=0.04", 4, r"which is stale \(cls\.lr: [\d.]+ -> 0\.04\)", "rca train-cls --run run$"),
    Case("run after a change of the data set", (),
         "run --set data.shapes_seed=5", 4, r"prepare, which is stale \(data\.shapes_seed: 0 -> 5\)", "rca prepare shapes --run run$"),
)  # fmt: skip
def test_order_of_commands(rca: Rca, case: Case) -> None:
    check(rca, case)


def edit_manifest(old: str, new: str) -> tuple[Break, ...]:
    """Change one line of the manifest behind everybody's back."""
    return undo("train-cls"), replace(MANIFEST, old, new), unnoticed("prepare")


def set_bytes(photo: str) -> None:
    """Let the manifest say that the photo has the number of bytes that it has now."""
    samples = [json.loads(line) for line in Path(MANIFEST).read_text().splitlines()]
    for sample in samples:
        if sample["id"] == Path(photo).stem:
            sample["bytes"] = Path(photo).stat().st_size
    Path(MANIFEST).write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    unnoticed("prepare")()


@table(
    Case("manifest missing", (remove(MANIFEST),),
         "train-seg --force", 4, r"input prepare is damaged \(1 file missing \(first: manifest\.jsonl\)\)", "rca prepare shapes"),
    Case("manifest cut short", (cut(MANIFEST),), "run", 4, r"prepare, which is damaged \(1 file changed in size", "rca prepare shapes"),
    Case("manifest with a broken line", edit_manifest('{"id": "train_00001"', '"id": "train_00001"'),
         "train-cls", 3, r"manifest\.jsonl:2: not valid JSON", AGAIN),
    Case("manifest with an id twice", edit_manifest("train_00001", "train_00000"),
         "train-cls", 3, r"manifest\.jsonl:2: id 'train_00000' occurs twice", AGAIN),
    Case("manifest with an id upwards", edit_manifest('"train_00001"', '"../train_01"'),
         "train-cls", 3, r'manifest\.jsonl:2: id: "\.\./train_01"', AGAIN),
    Case("manifest with a photo upwards", edit_manifest("JPEGImages/train_00001.jpg", "../../etc/passwd"),
         "train-cls", 3, r"manifest\.jsonl:2: image: .*a path below data\.root", AGAIN),
    Case("manifest with an absolute photo", edit_manifest("JPEGImages/train_00001.jpg", "/etc/passwd"),
         "train-cls", 3, r"manifest\.jsonl:2: image: .*a path below data\.root", AGAIN),
    Case("manifest with a class too many", edit_manifest('"classes": [1]', '"classes": [4]'),
         "train-cls", 3, r"manifest\.jsonl:2: classes: \[4\], expected sorted indices below 4", AGAIN),
    Case("manifest with a split of its own", edit_manifest('"split": "train"', '"split": "dev"'),
         "train-cls", 3, r'manifest\.jsonl:1: split: "dev", expected one of train, val, tune', AGAIN),
    Case("manifest without a size", edit_manifest('"size"', '"sise"'),
         "train-cls", 3, r"manifest\.jsonl:1: size: missing, expected \[H, W\]", AGAIN),
    Case("manifest not text", (undo("train-cls"), write(MANIFEST, b"\xff\xfe"), unnoticed("prepare")),
         "train-cls", 3, r"manifest\.jsonl: cannot be read", AGAIN),
    Case("manifest empty", (undo("train-cls"), write(MANIFEST), unnoticed("prepare")),
         "train-cls", 3, r"manifest\.jsonl:1: not valid JSON", AGAIN),
    Case("class names broken", (undo("train-cls"), write(CLASSES, "{"), unnoticed("prepare")),
         "train-cls", 3, r"classes\.json: not valid JSON \(the class names\)"),
    Case("class names not a list", (undo("train-cls"), write(CLASSES, '{"names": 4}'), unnoticed("prepare")),
         "train-cls", 3, r"classes\.json: expected an object with a list of class names"),
    Case("class names twice",
         (undo("train-cls"), replace(CLASSES, "cross", "rings"), replace(CLASSES, "rings", "ring"), unnoticed("prepare")),
         "train-cls", 3, r"classes\.json: class name 'ring' occurs twice"),
    Case("photo missing", (undo("train-cls"), remove(PHOTO)), "train-cls", 3, r"train_00004\.jpg: No such file", AGAIN),
    Case("photo renamed", (undo("train-seg"), rename(PHOTO, PHOTO.replace("jpg", "JPG"))),
         "train-seg", 3, r"train_00004\.jpg: No such file", AGAIN),
    Case("photo cut short", (undo("make-pseudo/cams"), cut(PHOTO)), "make-pseudo", 3, r"train_00004\.jpg: \d+ bytes, expected \d+", AGAIN),
    Case("photo spoiled", (undo("train-cls"), write(PHOTO, bytes(Path(PHOTO).name, "ascii")), lambda: set_bytes(PHOTO)),
         "train-cls", 3, r"train_00004\.jpg: not an image"),
    Case("photo spoiled, with worker processes", (undo("train-seg"), write(PHOTO, "x"), lambda: set_bytes(PHOTO)),
         "train-seg --set runtime.workers=1", 3, r"JPEGImages/train_00004\.jpg: not an image \("),
    Case("photos moved", (undo("train-cls"), rename("data", "elsewhere")),
         "train-cls", 3, r"No such file or directory \(and 21 more photos of 22\)", AGAIN),
    Case("mask missing when it is needed", (undo("eval"), remove(MASKS + "/train_00004.png")),
         "eval", 3, r"train_00004\.png: no such file"),
    Case("mask cut short when it is needed", (undo("eval"), cut(MASKS + "/train_00004.png")),
         "eval", 3, r"train_00004\.png: cannot be decoded"),
    Case("mask of another size when it is needed", (undo("eval"), lambda: Image.new("L", (9, 9)).save(MASKS + "/val_00001.png")),
         "eval", 3, r"val_00001\.png: mask is 9 x 9 \(H x W\), expected 48 x 48"),
)  # fmt: skip
def test_data_of_the_run(rca: Rca, case: Case) -> None:
    check(rca, case)


@table(
    *(
        Case(f"record of {step} broken", (write(f"run/{step}/stage.json", '{"status": "do'),),
             step.partition("/")[0], 3, rf"{step}/stage\.json: not valid JSON", rf"rca {step.partition('/')[0]} --run run --force")
        for step in STEPS[1:]
    ),
    Case("record of prepare broken", (write("run/prepare/stage.json", '{"status": "do'),),
         "run", 4, r"prepare, which is damaged \(.*stage\.json: not valid JSON", "rca prepare shapes --run run"),
    Case("record of prepare broken, for prepare", (write("run/prepare/stage.json", "x"),),
         "prepare shapes", 3, r"stage\.json: not valid JSON", "rca prepare shapes --run run --force"),
    Case("record of another kind", (write("run/train-seg/stage.json", '{"status": "done"}'),),
         "train-seg", 3, r"train-seg/stage\.json: not a record of train-seg", "rca train-seg --run run --force"),
    Case("record nested without end", (write("run/train-cls/stage.json", "[" * 100_000),),
         "make-pseudo", 4, r"train-cls, which is damaged", "rca train-cls --run run"),
)  # fmt: skip
def test_records(rca: Rca, case: Case) -> None:
    check(rca, case)
