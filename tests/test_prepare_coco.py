"""`rca prepare coco` on a tiny data set: hand-made masks, what is made again and what is kept, ready masks, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breaks import Break, cut, remove, replace, write
from broken import Case, Rca, check_answer, table
from PIL import Image
from small_coco import JSON, OFFICIAL_IDS, SIZE, annotation, box, document, make_coco, photo_name
from small_voc import make_mask, make_photo
from tiny_run import CONFIG, contents

from rcatool.data.labels import read_mask
from rcatool.data.manifest import Sample, read_manifest
from rcatool.run import Run

MASKS = "coco/rcatool-masks/small-over-large-crowd-object"
PREPARE = "prepare coco --root coco"
ALONE = ("--set", "runtime.workers=1")  # starting processes takes longer than the work


@pytest.fixture(autouse=True)
def _data_set(rca: Rca) -> None:  # `rca` has gone to a folder of the test's own
    make_coco(Path("coco"))


def samples(run: str = "runs/default") -> dict[int, Sample]:
    """The manifest by the photos' numbers."""
    return {int(sample.id[-12:]): sample for sample in read_manifest(Path(run, "prepare", "manifest.jsonl"))}


def mask_of(number: int, run: str = "runs/default") -> np.ndarray:
    with Image.open(Path(Run(Path(run)).read_config().data.root, str(samples(run)[number].mask))) as image:
        assert image.mode == "P"
        return np.array(image)


def expected(*boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """A mask of boxes (value, x, y, width, height), each painted over the earlier ones."""
    mask = np.zeros(SIZE, np.uint8)
    for value, x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = value
    return mask


PERSON, DOG, CROWD = (1, 1, 1, 10, 8), (17, 2, 2, 4, 4), (1, 8, 0, 8, 12)


def test_tags_and_masks(rca: Rca) -> None:
    code, out, err = rca(*PREPARE.split())
    assert code == 0
    assert {number: (sample.split, sample.classes) for number, sample in samples().items()} == {
        9: ("train", (0, 16)), 25: ("train", (79,)), 42: ("val", (21,)),
    }  # fmt: skip
    assert np.array_equal(mask_of(9), expected(CROWD, PERSON, DOG))
    assert np.array_equal(mask_of(25), expected((80, 0, 0, 3, 3), (80, 8, 8, 3, 3)))
    assert np.array_equal(mask_of(42), expected((22, 4, 0, 8, 12)))
    assert "train: 2 photos with an annotation; the official train2014 has 82081" in err
    assert "val: 1 photos with an annotation; the official val2014 has 40137" in err
    assert "masks: made in" in err
    assert ["photos", "2", "1"] in [row.replace("│", " ").split() for row in out.splitlines()]


@pytest.mark.parametrize(
    ("options", "boxes"),
    [
        ("--variant coco2voc", [CROWD, PERSON, DOG]),
        ("--variant recam", [DOG, PERSON]),
        ("--overlap annotation-order", [DOG, PERSON, CROWD]),
        ("--crowd ignore", [(255, *CROWD[1:]), PERSON, DOG]),
        ("--variant recam --crowd ignore", [(255, *CROWD[1:]), DOG, PERSON]),
    ],
)
def test_rules(rca: Rca, options: str, boxes: list[tuple[int, int, int, int, int]]) -> None:
    assert rca(*PREPARE.split(), *options.split()).code == 0
    assert np.array_equal(mask_of(9), expected(*boxes))
    assert samples()[9].classes == (0, 16)  # tags are those of crowds, too, by any rule


def test_void(rca: Rca) -> None:
    assert rca(*PREPARE.split(), "--variant", "coco2voc-border").code == 0
    mask = expected((255, 0, 0, 6, 6), (80, 0, 0, 3, 3))
    mask[5:, 5:14] = 255
    mask[8:11, 8:11] = 80
    assert np.array_equal(mask_of(25), mask)


def test_the_80_ids_become_1_to_80_in_their_order(rca: Rca) -> None:
    path = Path(JSON["train"])
    said = json.loads(path.read_text())
    said["annotations"] = [annotation(n, 9, number, [box(n % 16, n // 16, 1, 1)], 1) for n, number in enumerate(OFFICIAL_IDS)]
    said["categories"].reverse()
    path.write_text(json.dumps(said))
    assert rca(*PREPARE.split(), *ALONE).code == 0
    assert mask_of(9).ravel().tolist() == [*range(1, 81), *[0] * (SIZE[0] * SIZE[1] - 80)]
    assert samples()[9].classes == tuple(range(80))
    names = json.loads(Path("runs/default/prepare/classes.json").read_text())["names"]
    assert names == [f"thing {number}" for number in OFFICIAL_IDS]


def test_all_photos_and_a_tune_part(rca: Rca) -> None:
    assert rca(*PREPARE.split(), "--photos", "all", "--tune-fraction", "0.7", *ALONE).code == 0
    assert sorted(samples()) == [9, 25, 30, 42, 73]
    assert not mask_of(30).any()
    before = {number: sample.split for number, sample in samples().items()}
    assert before == {9: "tune", 25: "train", 30: "tune", 42: "val", 73: "val"}
    said(images=lambda images: images.insert(0, images[0] | {"id": 5, "file_name": photo_name("train", 5)}))()
    make_photo(Path("coco", "train2014", photo_name("train", 5)), 5)
    assert rca(*PREPARE.split(), "--force", "--masks-out", "other", *ALONE).code == 0
    assert len(samples()) == 6
    assert {number: samples()[number].split for number in before} == before  # whatever photos come


def test_the_second_time_nothing_is_read_or_made(rca: Rca) -> None:
    assert rca(*PREPARE.split()).code == 0
    before = contents(Path())
    (Path(JSON["train"]).parent).rename("elsewhere")
    code, _, err = rca(*PREPARE.split())
    assert (code, "prepare: up to date" in err) == (0, True)
    assert Run(Path("runs/default")).state("prepare", Run(Path("runs/default")).read_config()).kind == "current"
    Path("elsewhere").rename(Path(JSON["train"]).parent)
    assert {name: digest for name, digest in contents(Path()).items() if "run.log" not in name} == {
        name: digest for name, digest in before.items() if "run.log" not in name
    }


def test_masks_are_used_by_other_runs_and_only_missing_ones_are_made(rca: Rca) -> None:
    assert rca(*PREPARE.split()).code == 0
    whole = contents(Path(MASKS))
    lost, emptied, kept = (next(Path(MASKS).rglob(f"*{number:012d}.png")) for number in (9, 25, 42))
    lost.unlink()
    emptied.write_bytes(b"")  # what a loss of power leaves
    kept.write_bytes(kept.read_bytes() + b"not made again")
    time = kept.stat().st_mtime_ns
    assert rca(*PREPARE.split(), "--run", "second").code == 0
    assert kept.stat().st_mtime_ns == time
    assert {name for name, digest in contents(Path(MASKS)).items() if whole[name] != digest} == {"masks.json", f"val/{kept.name}"}
    assert json.loads(Path(MASKS, "masks.json").read_text())["made"] == 5


def test_a_stopped_command_goes_on_where_it_was(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    from rcatool.data import coco_paint

    finished: list[Path] = []

    def stop(path: Path, *arguments: Any, **options: Any) -> None:
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(path)
        write_mask(path, *arguments, **options)

    write_mask = coco_paint.write_mask
    with monkeypatch.context() as patch:
        patch.setattr(coco_paint, "write_mask", stop)
        assert rca(*PREPARE.split(), *ALONE).code == 130
    assert not Path("runs/default/prepare").exists()
    times = {path: path.stat().st_mtime_ns for path in finished}
    assert rca(*PREPARE.split(), *ALONE).code == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == times
    assert np.array_equal(mask_of(42), expected((22, 4, 0, 8, 12)))


def test_masks_elsewhere_and_what_to_type(rca: Rca) -> None:
    code, _, err = rca(*PREPARE.split(), "--masks-out", "my masks")
    assert (code, Path("my masks/masks.json").exists(), Path("coco/rcatool-masks").exists()) == (0, True, False)
    assert str(samples()[9].mask).startswith("my masks/train/")
    assert np.array_equal(mask_of(9), expected(CROWD, PERSON, DOG))
    Path("runs/default/prepare/manifest.jsonl").unlink()
    here = Path().absolute()
    words = f"rca prepare coco --root {here}/coco --masks-out '{here}/my masks' --run runs/default"
    assert rca("status").out.splitlines()[-1] == f"next: {words}"


@pytest.mark.parametrize("name", ["COCO_train2014_{:012d}.png", "{:012d}.png", "{}.png"])
@pytest.mark.parametrize("folder", ["ready", "ready/SegmentationClass/train"])
def test_ready_masks(rca: Rca, name: str, folder: str) -> None:
    for number, values in {9: [1, 17], 25: [80, 255], 42: [22], 1234: [3]}.items():
        make_mask(Path(folder, name.format(number)), values)
    code, _, err = rca(*PREPARE.split(), "--masks", "ready")
    assert (code, Path("coco/rcatool-masks").exists()) == (0, False)
    assert np.array_equal(mask_of(9)[0, :3], [1, 17, 0])
    assert "made elsewhere, by a rule that is not known here" in err


def test_ready_masks_with_official_ids_are_refused(rca: Rca) -> None:
    for number, values in {9: [1, 18], 25: [90], 42: [23]}.items():
        make_mask(Path("ready", f"{number}.png"), values)
    code, _, err = rca(*PREPARE.split(), "--masks", "ready")
    assert code == 3
    assert "the masks hold official ids (1..90), expected 1..80 in the order of these: of the photos looked at, 3 fit" in err
    assert "--variant coco2voc" in err


def test_the_next_steps_run(rca: Rca) -> None:
    assert rca(*PREPARE.split(), "--config", CONFIG, "--photos", "all", "--set", "cls.epochs=1").code == 0
    assert rca("make-pseudo").code == 4  # train-cls comes first
    assert rca("train-cls").code == 0
    assert rca("make-pseudo").code == 0
    folder = Path("runs/default/make-pseudo/labels")
    labels = {path.stem[-2:]: read_mask(path, num_classes=80, size=SIZE) for path in folder.glob("*.png")}
    assert set(labels) == {"09", "25"}  # 30 has no tag
    assert set(np.unique(labels["25"])) <= {0, 80, 255}


# ---- what cannot be used


def said(**changes: Any) -> Break:
    """Change the training photos' annotations: a list takes the place of the one there, a function is called with it."""

    def broken() -> None:
        found = json.loads(Path(JSON["train"]).read_text())
        for key, change in changes.items():
            if callable(change):
                change(found[key])
            else:
                found[key] = change
        Path(JSON["train"]).write_text(json.dumps(found))

    return broken


def first(**fields: Any) -> Callable[[list[dict[str, Any]]], object]:
    """Change fields of the first entry of a list."""
    return lambda entries: entries[0].update(fields)


def shape(segmentation: Any) -> Break:
    return said(annotations=[annotation(77, 9, 1, segmentation, 5)])


TRAIN_JSON = r"instances_train2014\.json"


@table(
    Case("JSON cut short", (cut(JSON["train"]),), PREPARE, 3, rf"{TRAIN_JSON}: .*cut short"),
    Case("JSON empty", (write(JSON["train"]),), PREPARE, 3, rf"{TRAIN_JSON}: the file ends too early"),
    Case("no JSON", (write(JSON["val"], b"PK\x03\x04"),), PREPARE, 3, r"instances_val2014\.json: 'P' at byte 0, expected \{"),
    Case("JSON with NaN", (replace(JSON["train"], '"area": 16', '"area": NaN'),), PREPARE, 3, rf"{TRAIN_JSON}: NaN where a number"),
    Case("JSON and more", (replace(JSON["val"], '"info"', '"info": 1} {"info"'),),
         PREPARE, 3, "no list of annotations or categories or im"),
    Case("JSON of endless depth", (write(JSON["train"], "[" * 10**6),), PREPARE, 3, rf"{TRAIN_JSON}: '\[' at byte 0"),
    Case("value of endless depth", (write(JSON["train"], '{"info": ' + "[" * 10**6),), PREPARE, 3, rf"{TRAIN_JSON}: .*without end"),
    Case("captions in its place", (said(categories=[]), replace(JSON["train"], '"categories"', '"licence"')),
         PREPARE, 3, f"{TRAIN_JSON}: no list of categories, expected the instances"),
    Case("a list of images twice", (replace(JSON["train"], '"info"', '"images": [], "info"'),), PREPARE, 3, "a second list of images"),
    Case("images that are none", (said(images=[7]),), PREPARE, 3, "7' in the list of images, expected objects"),
    Case("no annotations", (remove(JSON["val"]),), PREPARE, 3, r"instances_val2014\.json: no such file", r"annotations_trainval2014\.zip"),
    Case("no photos", (remove("coco/val2014"),), PREPARE, 2, r"data\.root: .*/coco has no folder val2014", "as COCO unpacks"),
    Case("nothing there", (), "prepare coco --root nowhere", 2, r"data\.root: .*/nowhere has no folder train2014"),
    Case("path in a file name", (said(images=first(file_name="../../etc/passwd.jpg")),),
         PREPARE, 3, r"images, id 9: file_name is '\.\./\.\./etc/passwd\.jpg', expected the plain name"),
    Case("file name with an escape", (said(images=first(file_name="a\x1b[2J.jpg")),), PREPARE, 3, r"file_name is 'a\\x1b\[2J\.jpg'"),
    Case("file name that is a number", (said(images=first(file_name=9)),), PREPARE, 3, "images, id 9: file_name is 9, expected text"),
    Case("photo of no size", (said(images=first(height=0)),), PREPARE, 3, "images, id 9: height is 0, expected a whole number from 1"),
    Case("photo of endless size", (said(images=first(height=2**40)),), PREPARE, 3, r"images, id 9: 1099511627776 x 16 pixels, expected"),
    Case("photo of another size", (said(images=first(height=10), annotations=[]),),
         PREPARE + " --photos all --set runtime.workers=1", 3, r"0009\.png: mask is 10 x 16 \(H x W\), expected 12 x 16"),
    Case("photo without an id", (said(images=lambda images: images[0].pop("id")),), PREPARE, 3, "images, id missing: id is missing"),
    Case("photo twice", (said(images=lambda images: images.append(images[0])),), PREPARE, 3, f"{TRAIN_JSON}: image 9 occurs twice"),
    Case("file name twice", (said(images=lambda images: images.append(images[0] | {"id": 11})),),
         PREPARE, 3, "file_name COCO.*occurs twice"),
    Case("annotation twice", (said(annotations=lambda items: items.append(items[0])),), PREPARE, 3, "annotation 1 occurs twice"),
    Case("annotation of no photo", (said(annotations=first(image_id=8)),),
         PREPARE, 3, "annotation 1 is of image 8, which is not in the file"),
    Case("annotation of no category", (said(annotations=first(category_id=12)),),
         PREPARE, 3, "annotation 1 is of category 12, which is not"),
    Case("category that is text", (said(annotations=first(category_id="dog")),),
         PREPARE, 3, "annotations, id 1: category_id is 'dog', exp"),
    Case("crowd that is text", (said(annotations=first(iscrowd="no")),), PREPARE, 3, "annotations, id 1: iscrowd is 'no', expected 0 or 1"),
    Case("no area", (said(annotations=lambda items: items[0].pop("area")),), PREPARE, 3, "annotations, id 1: area is missing, expected a"),
    Case("category twice", (said(categories=lambda items: items.append(items[0])),), PREPARE, 3, "categories, id 1: this id occurs twice"),
    Case("other categories", (said(categories=first(name="folk")),), PREPARE, 3, "instances_val2014.*: its categories are not those of"),
    Case("no segmentation", (shape(None),), PREPARE, 3, f"{TRAIN_JSON}: annotation 77: segmentation: null, expected polygons"),
    Case("polygon of text", (shape([["1", "2", "3", "4", "5", "6"]]),), PREPARE, 3, r"annotation 77: segmentation: \"1\" is no coordinate"),
    Case("polygon of points", (shape([[[1, 2], [3, 4], [5, 6]]]),), PREPARE, 3, "annotation 77: segmentation: a list is no coordinate"),
    Case("polygon that is flat", (shape(box(1, 1, 3, 3)),), PREPARE, 3, "annotation 77: segmentation: 1, expected lists of numbers"),
    Case("polygon far away", (shape([box(1, 1, 1e9, 3)]),),
         PREPARE, 3, "annotation 77: segmentation: .* is no coordinate in or near an image of 12 x 16"),
    Case("runs of another size", (shape({"size": [16, 12], "counts": [192]}),),
         PREPARE, 3, r"annotation 77: segmentation.size: a list, expected \[12, 16\]"),
    Case("runs that are short", (shape({"size": [12, 16], "counts": [3, 4]}),),
         PREPARE, 3, "77: segmentation: the runs do not add up to 12 x 16"),
    Case("runs that go back", (shape({"size": [12, 16], "counts": [200, -8]}),),
         PREPARE, 3, "annotation 77: segmentation: the runs do not add up"),
    Case("compressed runs that go back", (shape({"size": [12, 16], "counts": "X6H"}),),
         PREPARE, 3, "annotation 77: segmentation: the runs do not add up"),
    Case("compressed runs of nothing", (shape({"size": [12, 16], "counts": ""}),),
         PREPARE, 3, "annotation 77: segmentation: the runs do not add"),
    Case("compressed runs cut short", (shape({"size": [12, 16], "counts": "ooo"}),),
         PREPARE, 3, "77: segmentation.counts: expected a list"),
    Case("missing photo", (remove(f"coco/train2014/{photo_name('train', 9)}"),), PREPARE, 3, r"0009\.jpg: no such file"),
    Case("photo cut short", (cut(f"coco/train2014/{photo_name('train', 9)}"),), PREPARE, 3, r"0009\.jpg: cannot be decoded"),
    Case("nothing left to train on", (), PREPARE + " --tune-fraction 1", 3, f"{TRAIN_JSON}: no training photo is left"),
    Case("share that is none", (), PREPARE + " --tune-fraction 1.5", 2, r"data\.tune_fraction: expected at most 1, got 1\.5"),
    Case("unknown variant", (), PREPARE + " --variant coco", 2, "--variant: 'coco' is not known; the known ones are coco2voc"),
    Case("unknown overlap", (), PREPARE + " --overlap big", 2, "data.coco_overlap: 'big' is not one of small-over-large, annotation-order"),
    Case("no folder of masks", (), PREPARE + " --masks ready", 2, "data.masks: .*ready is not a folder"),
    Case("two masks of a photo", (lambda: [make_mask(Path("m", name), []) for name in ("9.png", "x_0009.png")],),
         PREPARE + " --masks m", 3, "are masks of one photo, number 9"),
    Case("masks beside other files", (write("m/notes.txt", "mine"),), PREPARE + " --masks-out m", 2, "/m holds something that is not"),
    Case("masks in a file", (write("m", "mine"),), PREPARE + " --masks-out m", 2, "/m holds something that is not"),
    Case("masks below a file", (write("m", "mine"),), PREPARE + " --masks-out m/n", 6, "cannot be written", "--masks-out DIR"),
    Case("a record that is none", (write("m/masks.json", "[]"),), PREPARE + " --masks-out m", 3, r"masks\.json: not the record"),
)  # fmt: skip
def test_what_cannot_be_used(rca: Rca, case: Case) -> None:
    for broken in case.broken:
        broken()
    check_answer(rca(*case.line.split()), case)
    assert not Path("runs/default/config.yaml").exists()


def test_masks_made_otherwise_are_never_mixed(rca: Rca) -> None:
    assert rca(*PREPARE.split(), "--masks-out", "m").code == 0
    before = contents(Path("m"))
    code, _, err = rca(*PREPARE.split(), "--masks-out", "m", "--variant", "recam", "--run", "other")
    assert (code, "m: its masks were made by another rule" in err, "--masks-out DIR" in err) == (2, True, True)
    said(annotations=first(area=17))()
    code, _, err = rca(*PREPARE.split(), "--masks-out", "m", "--run", "other")
    assert (code, "m: its masks were made from other annotations" in err) == (2, True)
    assert contents(Path("m")) == before


def test_what_has_no_area_is_counted(rca: Rca) -> None:
    line = [1, 1, 4, 1, 4, 1]
    odd = [annotation(1, 9, 1, [[1, 1, 2, 2], box(2, 2, 2, 2)], 4), annotation(2, 9, 2, [], 0), annotation(3, 25, 3, [line], 0)]
    Path(JSON["train"]).write_text(json.dumps(document("train", [9, 25, 30], odd)))
    for run in ("first", "second"):  # the second run makes no mask
        code, _, err = rca(*PREPARE.split(), "--run", run)
        assert code == 0
        assert "1 polygons of less than 3 points were left out of masks" in err
        assert "2 annotations cover no pixel in masks" in err
    assert np.array_equal(mask_of(9, "first"), expected((1, 2, 2, 2, 2)))
