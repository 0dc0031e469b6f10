"""Photos, masks and lists that `rca prepare` cannot use, met while a finished run is in place: it must stay as it is."""

from io import BytesIO
from pathlib import Path

import pytest
from breaks import Break, cut, png, remove, rename, replace, spoil, write
from broken import COMPLETE_LIST, PREPARE_VOC, Case, Rca, check_prepare, make_data_sets, set_up, table
from PIL import Image
from small_voc import make_mask
from tiny_run import TinyRun

LISTS = "voc/ImageSets/Segmentation"
PHOTO, MASK = "voc/JPEGImages/a2.jpg", "voc/SegmentationClassAug/a2.png"


@pytest.fixture(autouse=True)
def _data_sets(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)
    make_data_sets()


def picture(path: str, mode: str, size: tuple[int, int] = (16, 12)) -> Break:
    """Put a picture of another kind or size in place."""
    data = BytesIO()
    Image.new(mode, size).save(data, format="PNG")
    return write(path, data.getvalue())


@table(
    Case("photo missing", (remove(PHOTO),), PREPARE_VOC, 3, r"1 problem in the data set, first: .*a2\.jpg: no such file", COMPLETE_LIST),
    Case("photo renamed", (rename(PHOTO, "voc/JPEGImages/A2.jpg"),), PREPARE_VOC, 3, r"a2\.jpg: no such file", COMPLETE_LIST),
    Case("photo empty", (write(PHOTO),), PREPARE_VOC, 3, r"a2\.jpg: not an image \(JPEG, PNG, ", COMPLETE_LIST),
    Case("photo cut short", (cut(PHOTO),), PREPARE_VOC, 3, r"a2\.jpg: cannot be decoded", COMPLETE_LIST),
    Case("photo that is text", (write(PHOTO, "<html>404</html>"),), PREPARE_VOC, 3, r"a2\.jpg: not an image", COMPLETE_LIST),
    Case("photo that is a program", (write(PHOTO, "%!PS\n(hello) show"),), PREPARE_VOC, 3, r"a2\.jpg: not an image", COMPLETE_LIST),
    Case("photo that is a folder", (remove(PHOTO), write(PHOTO + "/x")),
         PREPARE_VOC, 3, r"a2\.jpg: cannot be decoded \(Is a directory\)", COMPLETE_LIST),
    Case("photo of more pixels than memory", (write(PHOTO, png(100_000, 100_000)),),
         PREPARE_VOC, 3, r"a2\.jpg: more than \d+ pixels, refused", COMPLETE_LIST),
    Case("photo without pixels", (write(PHOTO, png(0, 0)),), PREPARE_VOC, 3, r"a2\.jpg: ", COMPLETE_LIST),
    Case("photo of float pixels", (lambda: Image.new("F", (16, 12)).save(PHOTO, format="TIFF"),),
         PREPARE_VOC, 3, "float pixels; expected 8 or 16 bits", COMPLETE_LIST),
    Case("several photos broken", (remove(PHOTO), write("voc/JPEGImages/b1.jpg"), cut(MASK)),
         PREPARE_VOC, 3, "3 problems in the data set, first: ", COMPLETE_LIST),
    Case("same photo in train and val", (lambda: Path("voc/JPEGImages/b1.jpg").write_bytes(Path(PHOTO).read_bytes()),),
         PREPARE_VOC, 3, r"b1\.jpg \(val\) is the same photo as .*a2\.jpg \(train\)", COMPLETE_LIST),
    Case("no folder", (), "prepare voc --root nowhere", 2, r"data\.root: .*/nowhere is not a folder", "rca prepare voc --root DIR"),
    Case("no photos in the folder", (remove("voc/JPEGImages"),), PREPARE_VOC, 2, "voc has no JPEGImages, nor VOC2012/JPEGImages"),
    Case("mask cut short", (cut(MASK),), PREPARE_VOC, 3, r"a2\.png: cannot be decoded", COMPLETE_LIST),
    Case("mask of another size", (lambda: make_mask(Path(MASK), [1], (5, 6)),),
         PREPARE_VOC, 3, r"a2\.png: mask is 5 x 6 \(H x W\), expected 12 x 16 as its photo", COMPLETE_LIST),
    Case("mask in colour", (picture(MASK, "RGB"),),
         PREPARE_VOC, 3, r"a2\.png: .*8-bit RGB PNG, expected an 8-bit palette or grey one", COMPLETE_LIST),
    Case("mask with an unknown class", (lambda: make_mask(Path(MASK), [1, 21, 99]),),
         PREPARE_VOC, 3, r"a2\.png: mask value 21, 99, expected 0\.\.20 or 255", COMPLETE_LIST),
    Case("mask of more pixels than memory", (write(MASK, png(100_000, 100_000, colour=3)),),
         PREPARE_VOC, 3, r"a2\.png: more than \d+ pixels, refused", COMPLETE_LIST),
    Case("tags from a mask that is not there", (remove(MASK),),
         PREPARE_VOC + " --tags masks", 3, r"a2\.jpg: no mask to take tags from", COMPLETE_LIST),
    Case("mask folder that is not there", (), PREPARE_VOC + " --set data.masks=Truth", 2, r"data\.masks: .*/Truth is not a folder"),
)  # fmt: skip
def test_photos_and_masks(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)


@table(
    Case("mistyped list", (), PREPARE_VOC + " --train-list trian", 2, "data.train_list: no list 'trian' in .*, expected one of .*train"),
    Case("list outside the folder", (), PREPARE_VOC + " --val-list ../../../secret", 2, r"data\.val_list: no list '\.\./"),
    Case("list empty", (write(f"{LISTS}/train.txt", "\n \n"),), PREPARE_VOC, 3, r"train\.txt: the list is empty"),
    Case("list not text", (write(f"{LISTS}/train.txt", b"a1\n\xff\xfe\n"),), PREPARE_VOC, 3, r"train\.txt: not UTF-8 text"),
    Case("list with a line twice", (write(f"{LISTS}/train.txt", "a1\na2\na1\n"),),
         PREPARE_VOC, 3, r"train\.txt:3: a1 is already in line 1"),
    Case("list with a path upwards", (write(f"{LISTS}/train.txt", "a1\n../..\n"),),
         PREPARE_VOC, 3, r"train\.txt:2: '\.\.' cannot be the name of a photo"),
    Case("list with a NUL", (write(f"{LISTS}/train.txt", "a1\na\0b\n"),),
         PREPARE_VOC, 3, r"train\.txt:2: .* cannot be the name of a photo"),
    Case("list with a photo that is nowhere", (write(f"{LISTS}/val.txt", "b1\nzz\n"), replace("voc/tags.txt", "b1", "zz")),
         PREPARE_VOC, 3, r"zz\.jpg: no such file", COMPLETE_LIST),
    Case("lists that overlap", (write(f"{LISTS}/val.txt", "b1\na1\n"),),
         PREPARE_VOC, 3, r"1 photos are in both data\.train_list \(train\) and data\.val_list \(val\): a1",
         "choose lists that share no photo"),
    Case("list in the place of a list", (), PREPARE_VOC + " --val-list train", 3, "3 photos are in both", "choose lists"),
)  # fmt: skip
def test_lists(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)


@table(
    Case("images over somebody's photos", (), "prepare shapes --root photos", 2, "photos holds something that was not generated"),
    Case("record of generated images broken", (write("data/shapes.json", "{"),), "prepare shapes", 3, r"shapes\.json: not valid JSON"),
    Case("generated photo spoiled", (spoil("data/JPEGImages/train_00003.jpg"),), "prepare shapes --force", 3, "train_00003", COMPLETE_LIST),
    Case("no generated image", (), "prepare shapes --set data.shapes_train=0", 2, r"data\.shapes_train: expected at least 1, got 0"),
    Case("generated images too large", (), "prepare shapes --set data.shapes_size=100000", 2, r"data\.shapes_size: expected at most 1024"),
)  # fmt: skip
def test_shapes(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)
