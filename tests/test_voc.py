"""Oracles: a tree made by hand, so that what must be found is known; the official lists' lengths."""

from pathlib import Path

import pytest
from small_voc import CAT, LISTS, PERSON, classes, make_mask, make_photo, make_voc, write_list

from rcatool.data import voc
from rcatool.data.labels import VOC_CLASSES
from rcatool.errors import ConfigError, DataError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "VOC2012")


def test_all_of_it(base: Path) -> None:
    dataset = voc.find(base, lists=LISTS)
    assert dataset.info.names == VOC_CLASSES
    assert [(sample.id, sample.split) for sample in dataset.samples] == [
        ("a1", "train"),
        ("a2", "train"),
        ("a3", "train"),
        ("b1", "val"),
        ("b2", "val"),
    ]
    sample = dataset.samples[1]
    assert (sample.image, sample.mask, sample.classes) == ("JPEGImages/a2.jpg", "SegmentationClassAug/a2.png", (CAT, PERSON))
    assert not dataset.tags_from_masks
    notes = "\n".join(dataset.notes)
    for text in ("ImageSets/Segmentation/train.txt", "tags.txt", "SegmentationClassAug, 5 of 5 photos have one"):
        assert text in notes


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_root_may_be_the_devkit_or_around_it(tmp_path: Path, below: str) -> None:
    make_voc(tmp_path / "data" / below)
    sample = voc.find(tmp_path / "data", lists=LISTS).samples[0]
    assert sample.image == (f"{below}/" if below else "") + "JPEGImages/a1.jpg"
    assert (tmp_path / "data" / sample.image).is_file()
    assert (tmp_path / "data" / str(sample.mask)).is_file()


@pytest.mark.parametrize(
    ("name", "length", "first"), [("train", 1464, "2007_000032"), ("val", 1449, "2007_000033"), ("trainaug", 10_582, None)]
)
def test_packaged_lists_are_the_official_ones(voc_part: Path, name: str, length: int, first: str | None) -> None:
    ids = (voc.PACKAGED_LISTS / f"{name}.txt").read_text().split()
    assert len(ids) == len(set(ids)) == length
    assert first in (None, ids[0])
    assert ids == [line.split()[0] for line in (voc_part / "official-lists" / f"{name}.txt").read_text().splitlines()]


def test_packaged_lists_share_no_photo_with_val() -> None:
    ids = {name: set((voc.PACKAGED_LISTS / f"{name}.txt").read_text().split()) for name in ("train", "val", "test", "trainaug")}
    assert len(ids["test"]) == 1456
    assert ids["train"] < ids["trainaug"]
    assert not ids["val"] & ids["trainaug"]
    assert not ids["test"] & (ids["val"] | ids["trainaug"])


def test_a_list_in_root_wins_over_the_packaged_one(base: Path) -> None:
    (base / "tags.txt").write_text("2007_000032 cat\n")
    (base / "ImageSets" / "Segmentation" / "train.txt").unlink()
    packaged = voc.find(base, lists={"train": "train"}, tags="masks")
    assert len(packaged.samples) == 1464
    assert "packaged list" in packaged.notes[0]
    write_list(base, "train", ["2007_000032"])
    own = voc.find(base, lists={"train": "train"})
    assert [sample.id for sample in own.samples] == ["2007_000032"]
    assert "packaged" not in own.notes[0]
    assert "official train has 1464, 1 of them are in this list" in own.warnings[0]


def test_lists_of_other_data_are_not_measured_against_the_official_ones(base: Path) -> None:
    assert voc.find(base, lists={"train": "train", "val": "val"}).warnings == ()


def test_lists_with_more_columns_paths_and_windows_line_ends(base: Path) -> None:
    text = "\ufeffa1 1\r\n/JPEGImages/a2.jpg /SegmentationClassAug/a2.png\r\n\r\n  a3\t-1"
    (base / "ImageSets" / "Segmentation" / "train.txt").write_bytes(text.encode())
    assert [sample.id for sample in voc.find(base, lists={"train": "train"}).samples] == ["a1", "a2", "a3"]


@pytest.mark.parametrize("name", ["nope", "../../etc/passwd", "", "train.txt"])
def test_unknown_list(base: Path, name: str) -> None:
    write_list(base, "mine", ["a1"])
    with pytest.raises(ConfigError, match=r"data\.train_list: no list '.*' in .*expected one of mine, test, train, trainaug, val"):
        voc.find(base, lists={"train": name})


def test_overlap_is_named(base: Path) -> None:
    write_list(base, "val", ["b1", "a3", "a1"])
    with pytest.raises(DataError, match=r"2 photos are in both data\.train_list \(train\) and data\.val_list \(val\): a3, a1$"):
        voc.find(base, lists=LISTS)
    with pytest.raises(DataError, match=r"3 photos are in both data\.train_list \(train\) and data\.tune_list \(train\)"):
        voc.find(base, lists={"train": "train", "tune": "train"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the list is empty"),
        (b"a1\na2\na1\n", "train.txt:3: a1 is already in line 1"),
        (b"a1\n..\n", "train.txt:2: '..' cannot be"),
        (b"a1\n-rf\n", "train.txt:2"),
        (b"\xff\xfea\0", "not UTF-8"),
    ],
)
def test_broken_list(base: Path, text: bytes, message: str) -> None:
    (base / "ImageSets" / "Segmentation" / "train.txt").write_bytes(text)
    with pytest.raises(DataError, match=message):
        voc.find(base, lists={"train": "train"})


def test_photos_of_other_kinds_and_missing_ones(base: Path) -> None:
    (base / "JPEGImages" / "a1.jpg").rename(base / "JPEGImages" / "a1.JPEG")
    (base / "JPEGImages" / "a2.jpg").unlink()
    make_photo(base / "JPEGImages" / "a2.png")
    make_photo(base / "JPEGImages" / "a3.png")  # the .jpg comes first
    (base / "JPEGImages" / "b1.jpg").unlink()
    images = {sample.id: sample.image for sample in voc.find(base, lists=LISTS).samples}
    assert [images[image_id] for image_id in ("a1", "a2", "a3", "b1")] == [
        f"JPEGImages/{name}" for name in ("a1.JPEG", "a2.png", "a3.jpg", "b1.jpg")
    ]


def test_mask_folders(base: Path) -> None:
    make_mask(base / "SegmentationClass" / "a1.png", (1,))
    make_mask(base / "mine" / "a2.png", (1,))

    def masks(setting: str) -> list[str | None]:
        return [sample.mask for sample in voc.find(base, lists={"train": "train"}, masks=setting).samples]

    assert masks("") == [f"SegmentationClassAug/a{n}.png" for n in (1, 2, 3)]
    assert masks("mine") == [None, "mine/a2.png", None]
    (base / "SegmentationClassAug").rename(base / "away")
    assert masks("") == ["SegmentationClass/a1.png", None, None]
    with pytest.raises(ConfigError, match=r"data\.masks: .*nope is not a folder"):
        masks("nope")
    make_mask(base.parent / "elsewhere" / "a1.png", (1,))
    with pytest.raises(ConfigError, match=r"outside of data\.root"):
        masks(str(base.parent / "elsewhere"))


def test_val_needs_no_tags(base: Path) -> None:
    (base / "tags.txt").write_text("a1 cat\na2 cat\na3 cat\n")
    assert classes(voc.find(base, lists=LISTS))["b1"] == ()


def test_no_tags_anywhere(base: Path) -> None:
    (base / "tags.txt").unlink()
    with pytest.raises(DataError, match="no tags: neither") as caught:
        voc.find(base, lists=LISTS)
    assert "--tags" in str(caught.value.hint)
    assert voc.find(base, lists=LISTS, tags="masks").tags_from_masks
    with pytest.raises(ConfigError, match=r"data\.tags: .*nope\.txt is not a file"):
        voc.find(base, lists=LISTS, tags="nope.txt")


def test_own_class_names(base: Path) -> None:
    (base / "classes.txt").write_text("person\ncat\n")
    dataset = voc.find(base, lists=LISTS)
    assert dataset.info.names == ("person", "cat")
    assert classes(dataset)["a1"] == (0, 1)
    (base / "classes.txt").write_text("person\nbig cat\n")
    with pytest.raises(DataError, match="'big cat' has a space"):
        voc.find(base, lists=LISTS)


@pytest.mark.parametrize("name", ["nowhere", "VOC2012/JPEGImages"])
def test_root_without_photos(base: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.root"):
        voc.find(base.parent / name, lists=LISTS)


def test_real_lists_and_tags(voc_part: Path) -> None:
    lists = {"train": "train", "val": "val", "tune": "tune"}
    text = voc.find(voc_part, lists=lists)
    assert [sum(sample.split == split for sample in text.samples) for split in lists] == [1892, 250, 100]
    persons = sum(PERSON in sample.classes for sample in text.samples if sample.split == "train")
    cows = sum(VOC_CLASSES.index("cow") in sample.classes for sample in text.samples if sample.split == "train")
    assert (persons, cows) == (540, 246)
    vectors = voc.find(voc_part, lists=lists, tags="cls_labels.npy")
    assert classes(vectors) == classes(text)  # two files of different origin
    assert "2242 of 2242 photos have one" in text.notes[-1]
