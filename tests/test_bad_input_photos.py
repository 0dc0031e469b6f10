"""Photos, masks, lists and tags that `rca prepare` cannot use, met while a finished run is in place: it must stay as it is."""

import json
import pickle
import struct
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from broken import Break, Case, Rca, check, cut, grow, remove, rename, replace, set_up, spoil, table, write
from PIL import Image
from small_voc import make_mask, make_photo, make_voc
from tiny_run import TinyRun, digests

LISTS = "voc/ImageSets/Segmentation"
PHOTO, MASK = "voc/JPEGImages/a2.jpg", "voc/SegmentationClassAug/a2.png"
VOC = "prepare voc --root voc"
FOLDER = "prepare folder --images photos --tags tags.csv"
COMPLETE_LIST = r"complete list in run/prepare-problems\.txt"


@pytest.fixture(autouse=True)
def _data_sets(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)
    make_voc(Path("voc"))
    for seed, name in enumerate("abc"):
        make_photo(Path("photos", f"{name}.jpg"), seed)
        make_mask(Path("masks", f"{name}.png"), [1, 255])
    Path("tags.csv").write_text("image,tags\na.jpg,cat\nb.jpg,cat;dog\nc.jpg,dog\n")


def check_prepare(rca: Rca, case: Case) -> None:
    """A data set that cannot be used leaves the run as it was, settings and all: every step is still current."""
    before = digests(Path("run")), Path("run/config.yaml").read_bytes()
    check(rca, case)
    assert (digests(Path("run")), Path("run/config.yaml").read_bytes()) == before
    assert "everything is up to date" in rca("run").err


def png(width: int, height: int, *, colour: int = 2) -> bytes:
    """The start of a PNG of any size, with a single row of pixels, if that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def picture(path: str, mode: str, size: tuple[int, int] = (16, 12)) -> Break:
    """Put a picture of another kind or size in place."""
    data = BytesIO()
    Image.new(mode, size).save(data, format="PNG")
    return write(path, data.getvalue())


@table(
    Case("photo missing", (remove(PHOTO),), VOC, 3, r"1 problem in the data set, first: .*a2\.jpg: file not found", COMPLETE_LIST),
    Case("photo renamed", (rename(PHOTO, "voc/JPEGImages/A2.jpg"),), VOC, 3, r"a2\.jpg: file not found", COMPLETE_LIST),
    Case("photo empty", (write(PHOTO),), VOC, 3, r"a2\.jpg: not an image \(JPEG, PNG, ", COMPLETE_LIST),
    Case("photo cut short", (cut(PHOTO),), VOC, 3, r"a2\.jpg: cannot be decoded", COMPLETE_LIST),
    Case("photo that is text", (write(PHOTO, "<html>404</html>"),), VOC, 3, r"a2\.jpg: not an image", COMPLETE_LIST),
    Case("photo that is a program", (write(PHOTO, "%!PS\n(hello) show"),), VOC, 3, r"a2\.jpg: not an image", COMPLETE_LIST),
    Case("photo that is a folder", (remove(PHOTO), write(PHOTO + "/x")), VOC, 3, r"a2\.jpg: cannot be decoded \(Is a directory\)", COMPLETE_LIST),
    Case("photo of more pixels than memory", (write(PHOTO, png(100_000, 100_000)),), VOC, 3, r"a2\.jpg: more than \d+ pixels, refused", COMPLETE_LIST),
    Case("photo without pixels", (write(PHOTO, png(0, 0)),), VOC, 3, r"a2\.jpg: ", COMPLETE_LIST),
    Case("photo of float pixels", (lambda: Image.new("F", (16, 12)).save(PHOTO, format="TIFF"),), VOC, 3, "float pixels; expected 8 or 16 bits", COMPLETE_LIST),
    Case("several photos broken", (remove(PHOTO), write("voc/JPEGImages/b1.jpg"), cut(MASK)), VOC, 3, "3 problems in the data set, first: ", COMPLETE_LIST),
    Case("same photo in train and val", (lambda: Path("voc/JPEGImages/b1.jpg").write_bytes(Path(PHOTO).read_bytes()),), VOC, 3, r"b1\.jpg \(val\) is the same photo as .*a2\.jpg \(train\)", COMPLETE_LIST),
    Case("no folder", (), "prepare voc --root nowhere", 2, r"data\.root: .*/nowhere is not a folder", "rca prepare voc --root DIR"),
    Case("no photos in the folder", (remove("voc/JPEGImages"),), VOC, 2, "voc has no JPEGImages, nor VOC2012/JPEGImages"),
    Case("mask cut short", (cut(MASK),), VOC, 3, r"a2\.png: cannot be decoded", COMPLETE_LIST),
    Case("mask of another size", (lambda: make_mask(Path(MASK), [1], (5, 6)),), VOC, 3, r"a2\.png: mask is 5 x 6 \(H x W\), expected 12 x 16 as its photo", COMPLETE_LIST),
    Case("mask in colour", (picture(MASK, "RGB"),), VOC, 3, r"a2\.png: .*8-bit RGB PNG, expected an 8-bit palette or grey one", COMPLETE_LIST),
    Case("mask with an unknown class", (lambda: make_mask(Path(MASK), [1, 21, 99]),), VOC, 3, r"a2\.png: mask value 21, 99, expected 0\.\.20 or 255", COMPLETE_LIST),
    Case("mask of more pixels than memory", (write(MASK, png(100_000, 100_000, colour=3)),), VOC, 3, r"a2\.png: more than \d+ pixels, refused", COMPLETE_LIST),
    Case("tags from a mask that is not there", (remove(MASK),), VOC + " --tags masks", 3, r"a2\.jpg: no mask to take tags from", COMPLETE_LIST),
    Case("mask folder that is not there", (), VOC + " --set data.masks=Truth", 2, r"data\.masks: .*/Truth is not a folder"),
)
def test_photos_and_masks(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)


@table(
    Case("mistyped list", (), VOC + " --train-list trian", 2, "data.train_list: no list 'trian' in .*, expected one of .*train"),
    Case("list outside the folder", (), VOC + " --val-list ../../../secret", 2, r"data\.val_list: no list '\.\./"),
    Case("list empty", (write(f"{LISTS}/train.txt", "\n \n"),), VOC, 3, r"train\.txt: the list is empty"),
    Case("list not text", (write(f"{LISTS}/train.txt", b"a1\n\xff\xfe\n"),), VOC, 3, r"train\.txt: not UTF-8 text"),
    Case("list with a line twice", (write(f"{LISTS}/train.txt", "a1\na2\na1\n"),), VOC, 3, r"train\.txt:3: a1 is already in line 1"),
    Case("list with a path upwards", (write(f"{LISTS}/train.txt", "a1\n../..\n"),), VOC, 3, r"train\.txt:2: '\.\.' cannot be the name of a photo"),
    Case("list with a NUL", (write(f"{LISTS}/train.txt", "a1\na\0b\n"),), VOC, 3, r"train\.txt:2: .* cannot be the name of a photo"),
    Case("list with a photo that is nowhere", (write(f"{LISTS}/val.txt", "b1\nzz\n"), replace("voc/tags.txt", "b1", "zz")), VOC, 3, r"zz\.jpg: file not found", COMPLETE_LIST),
    Case("lists that overlap", (write(f"{LISTS}/val.txt", "b1\na1\n"),), VOC, 3, r"1 photos are in both data\.train_list \(train\) and data\.val_list \(val\): a1", "choose lists that share no photo"),
    Case("list in the place of a list", (), VOC + " --val-list train", 3, "3 photos are in both", "choose lists"),
)
def test_lists(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)


def labels(table: Mapping[str, object]) -> Break:
    """Write cls_labels.npy as it is passed around."""
    return lambda: np.save("cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("hacked", "w")


NPY = VOC + " --tags cls_labels.npy"
WHOLE = {name: np.eye(20)[0] for name in ("a1", "a2", "a3", "b1", "b2")}


@table(
    Case("unknown tag", (replace("voc/tags.txt", "a2 person", "a2 persn"),), VOC, 3, r"tags\.txt:2: unknown class 'persn', expected some of aeroplane"),
    Case("photo with two lines of tags", (replace("voc/tags.txt", "a2", "a1"),), VOC, 3, r"tags\.txt:2: a second line for a1"),
    Case("training photo without tags", (replace("voc/tags.txt", "a2 person cat", "a2"),), VOC, 3, r"1 training photos have no tags in .*tags\.txt: a2", "--tags FILE"),
    Case("no tags at all", (remove("voc/tags.txt"),), VOC, 3, "no tags: neither .*tags.txt nor .*Annotations is there", "--tags FILE"),
    Case("tags not text", (write("voc/tags.txt", b"\x89PNG\xff"),), VOC, 3, r"tags\.txt: not UTF-8 text"),
    Case("tag file that is not there", (), VOC + " --tags nowhere.txt", 2, r"data\.tags: .*nowhere\.txt is not a file"),
    Case("annotation cut short", (remove("voc/tags.txt"), write("voc/Annotations/a1.xml", "<annotation><obj")), VOC, 3, r"a1\.xml: not a VOC annotation"),
    Case("annotation with an entity", (remove("voc/tags.txt"), write("voc/Annotations/a1.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")), VOC, 3, "document type, which is refused"),
    Case("annotation too large", (remove("voc/tags.txt"), write("voc/Annotations/a1.xml"), grow("voc/Annotations/a1.xml", 2**31)), VOC, 3, r"a1\.xml: more than \d+ bytes"),
    Case("cls_labels that runs code", (labels({"a1": _Hostile()}),), NPY, 3, r"cls_labels\.npy: not a tag file .*open, which is refused"),
    Case("cls_labels that is a bare pickle", (lambda: Path("cls_labels.npy").write_bytes(pickle.dumps({"a1": [1]})),), NPY, 3, r"cls_labels\.npy: .*not a \.npy file of one object"),
    Case("cls_labels cut short", (labels(WHOLE), cut("cls_labels.npy")), NPY, 3, r"cls_labels\.npy: not a tag file"),
    Case("cls_labels of a plain array", (lambda: np.save("cls_labels.npy", np.eye(20)),), NPY, 3, r"cls_labels\.npy: .*not a \.npy file of one object"),
    Case("cls_labels of 80 classes", (labels({"a1": np.zeros(80)}),), NPY, 3, r"cls_labels\.npy: a1 has 80 values; expected 20 of 0 or 1"),
    Case("cls_labels with NaN", (labels(WHOLE | {"a2": np.full(20, np.nan)}),), NPY, 3, "a2 has 20 values, one of them nan; expected 20 of 0 or 1"),
    Case("cls_labels without a photo", (labels({"a1": np.eye(20)[0]}),), NPY, 3, r"2 training photos have no tags in .*cls_labels\.npy: a2, a3", "--tags FILE"),
)
def test_tags(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)
    assert not Path("hacked").exists()


def csv(text: str | bytes) -> tuple[Break]:
    return (write("tags.csv", text),)


MANY = f"a.jpg,{';'.join(f'tag{n}' for n in range(255))}\n"


@table(
    Case("CSV that is not there", (remove("tags.csv"),), FOLDER, 2, r"data\.tags: .*tags\.csv is not a file", "--tags FILE"),
    Case("CSV empty", csv(""), FOLDER, 3, r"tags\.csv: no rows, expected lines like"),
    Case("CSV with a header alone", csv("image,tags\n"), FOLDER, 3, r"tags\.csv: no rows"),
    Case("CSV with a NUL", csv("a.jpg,cat\nb.jpg,d\0g\n"), FOLDER, 3, r"tags\.csv:2: a NUL byte", r"CSV \(UTF-8\)"),
    Case("CSV of UTF-16", csv("a.jpg,cat\n".encode("utf-16")), FOLDER, 3, r"tags\.csv:1: ", r"CSV \(UTF-8\)"),
    Case("CSV of a spreadsheet", csv(b"PK\x03\x04\x00\x00xl/workbook.xml"), FOLDER, 3, r"tags\.csv:1: a NUL byte", r"CSV \(UTF-8\)"),
    Case("CSV with an open quote", csv('a.jpg,"cat\nb.jpg,dog\n'), FOLDER, 3, r"tags\.csv:2: not valid CSV"),
    Case("CSV with tags in columns", csv("a.jpg,cat,dog\n"), FOLDER, 3, r"tags\.csv:1: 3 cells, expected image,tags with tags separated by ;"),
    Case("CSV too large", (grow("tags.csv", 2**28 + 1),), FOLDER, 3, r"tags\.csv: more than 256 MiB"),
    Case("row without its photo", csv("a.jpg,cat\nd.jpg,dog\n"), FOLDER, 3, r"tags\.csv:2: no photo 'd\.jpg' in .*photos", r"did you mean \w\.jpg"),
    Case("row with a photo outside", csv("../photos/a.jpg,cat\n"), FOLDER, 3, r"tags\.csv:1: '\.\./photos/a\.jpg': expected a path below"),
    Case("row twice", csv("a.jpg,cat\na.jpg,dog\n"), FOLDER, 3, r"tags\.csv:2: a\.jpg is already in line 1"),
    Case("no row with a tag", csv("a.jpg,\nb.jpg,\n"), FOLDER, 3, r"tags\.csv: no row has a tag"),
    Case("unknown split", csv("image,tags,split\na.jpg,cat,test\n"), FOLDER, 3, r"tags\.csv:2: split 'test', expected one of train, val, tune"),
    Case("more classes than a PNG holds", csv(MANY), FOLDER, 3, "255 classes: expected at most 254"),
    Case("nothing left to train on", (), FOLDER + " --val-fraction 1", 3, r"tags\.csv: no row gives a training photo a tag"),
    Case("share that is none", (), FOLDER + " --val-fraction 1.5", 2, r"data\.val_fraction: expected at most 1, got 1\.5"),
    Case("no folder of photos", (), "prepare folder --images nowhere --tags tags.csv", 2, r"data\.images: .*/nowhere is not a folder"),
    Case("photo cut short in a folder", (cut("photos/b.jpg"),), FOLDER, 3, r"b\.jpg: cannot be decoded", COMPLETE_LIST),
    Case("photo spoiled in a folder", (write("photos/b.png", png(9, 9)), replace("tags.csv", "b.jpg", "b.png")), FOLDER, 3, r"b\.png: cannot be decoded", COMPLETE_LIST),
    Case("no folder of masks", (), FOLDER + " --masks nowhere", 2, r"data\.masks: .*/nowhere is not a folder"),
    Case("photos for masks", (), FOLDER + " --masks photos", 2, r"data\.masks and data\.images are the same folder"),
    Case("masks of other classes", (write("masks/classes.txt", "cat\ncow\n"),), FOLDER + " --masks masks", 3, r"classes\.txt: no line for 1 of the tags: dog"),
    Case("mask of a class that has no name", (lambda: make_mask(Path("masks/a.png"), [7]),), FOLDER + " --masks masks", 3, r"a\.png: mask value 7, expected 0\.\.2 or 255", COMPLETE_LIST),
)
def test_folders(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)


def test_nothing_to_score_with(rca: Rca) -> None:
    """Photos without masks can be trained on; `eval` says what it cannot score, and that is no error."""
    assert rca(*FOLDER.split(), "--run", "mine", "--config", "run/config.yaml", "--val-fraction", "0.4").code == 0
    code, out, err = rca("run", "--run", "mine", "--json")
    assert (code, json.loads(out)) == (0, {})
    assert "train photos have no mask and are not scored" in err
    assert "no val photo has a mask, so the segmentation network cannot be scored" in err


@table(
    Case("images over somebody's photos", (), "prepare shapes --root photos", 2, "photos holds something that was not generated"),
    Case("record of generated images broken", (write("data/shapes.json", "{"),), "prepare shapes", 3, r"shapes\.json: not valid JSON"),
    Case("generated photo spoiled", (spoil("data/JPEGImages/train_00003.jpg"),), "prepare shapes --force", 3, "train_00003", COMPLETE_LIST),
    Case("no generated image", (), "prepare shapes --set data.shapes_train=0", 2, r"data\.shapes_train: expected at least 1, got 0"),
    Case("generated images too large", (), "prepare shapes --set data.shapes_size=100000", 2, r"data\.shapes_size: expected at most 1024"),
)
def test_shapes(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)
