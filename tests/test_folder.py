"""Oracles: folders and CSVs made by hand; Python's csv writer; properties of the ids."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_voc import make_mask, make_photo

from rcatool.data import folder, photo_ids
from rcatool.data.manifest import Dataset
from rcatool.errors import ConfigError, DataError
from rcatool.files import is_path_safe

PHOTOS = ("one.jpg", "two.png", "sub/three.JPEG", "sub/deep/four.bmp", "five.webp", "six.tif")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(PHOTOS):
        make_photo(tmp_path / "photos" / name, seed)
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    (tmp_path / "photos" / "._one.jpg").write_bytes(b"what macOS leaves on other disks")
    return tmp_path


def find(root: Path, text: str | bytes, masks: str = "", val_fraction: float = 0.0) -> Dataset:
    (root / "tags.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder.find(root, images="photos", tags="tags.csv", masks=masks, val_fraction=val_fraction)


def tags(dataset: Dataset) -> dict[str, list[str]]:
    return {sample.image: [dataset.info.names[c] for c in sample.classes] for sample in dataset.samples}


EVERY = "one.jpg,cat;dog\ntwo.png,dog\nsub/three.JPEG,cat\nsub/deep/four.bmp,Äpfel|dog\nfive.webp,cat\nsix.tif,猫\n"


def test_all_of_it(root: Path) -> None:
    dataset = find(root, EVERY)
    assert dataset.info.names == ("cat", "dog", "Äpfel", "猫")
    assert tags(dataset) == {
        "photos/one.jpg": ["cat", "dog"],
        "photos/two.png": ["dog"],
        "photos/sub/three.JPEG": ["cat"],
        "photos/sub/deep/four.bmp": ["dog", "Äpfel"],
        "photos/five.webp": ["cat"],
        "photos/six.tif": ["猫"],
    }
    assert {sample.id for sample in dataset.samples} == {"one", "two", "sub_three", "sub_deep_four", "five", "six"}
    assert all(sample.split == "train" and sample.mask is None for sample in dataset.samples)
    assert dataset.warnings == ()
    assert any("cannot score the segmentation network" in note for note in dataset.notes)
    assert any("cannot score CAMs and pseudo labels" in note for note in dataset.notes)


@pytest.mark.parametrize(
    "text",
    [
        "one.jpg,cat;dog\ntwo.png,dog\n",
        "image,tags\none.jpg,cat;dog\ntwo.png,dog\n",
        "\ufeffImage, Tags\r\none.jpg, cat ;dog;;\r\n\r\ntwo.png,dog\r\n",
        "image,tags,note,split\none.jpg,cat|dog,x,\ntwo.png,dog,,Train\n",
        'note,tags,image\n"a ""b""\n,c",cat;dog;cat,one.jpg\n,dog,./two.png\n',
        '"one.jpg","cat;dog"\n"two.png","dog"',
        "image,tags\n.\\one.jpg,cat;dog\ntwo.png,dog",
    ],
)
def test_forms_of_the_same_table(root: Path, text: str) -> None:
    dataset = find(root, text)
    assert tags(dataset) == {"photos/one.jpg": ["cat", "dog"], "photos/two.png": ["dog"]}
    assert dataset.warnings[0].startswith("left out: 4 photos without a row: five.webp, six.tif, sub/deep/four.bmp")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("image,tags\n", "no rows"),
        ("one.jpg,cat\nnope.jpg,cat\n", r"tags\.csv:2: no photo 'nope.jpg'"),
        ("one.jpg,cat\n../x.jpg,cat\n", r"tags\.csv:2: '\.\./x.jpg': expected a path below"),
        ("/etc/passwd,cat\n", ":1:.*below"),
        ("sub/../../x.jpg,cat\n", ":1:.*below"),
        ("..\\x.jpg,cat\n", ":1:.*below"),
        ("C:\\x.jpg,cat\n", ":1:.*below"),
        (",cat\n", ":1: no image"),
        ("one.jpg,cat\n./one.jpg,dog\n", r":2: 'one\.jpg' is there twice, first in tags\.csv:1"),
        ("one.jpg,cat,dog\n", ":1: 3 cells, expected image,tags"),
        ("image,tags,split\none.jpg,cat,test\n", ":2: split 'test'"),
        ('one.jpg,"cat\n', ":1: not valid CSV|:2: not valid CSV"),
        ("one.jpg,cat\ntwo.png," + "x" * 200_000, r"tags\.csv:2: not valid CSV .*field limit"),
        ("one.jpg,\x1b[31mcat\n", ":1: tag .*printable"),
        ("one.jpg,\n", "no row has a tag"),
        ("image,tags,split\none.jpg,cat,val\n", "no row gives a training photo a tag"),
        (b"one.jpg,cat\ntwo.png,d\0g\n", r"tags\.csv:2: a NUL byte"),
        (b"one.jpg,cat\ntwo.png,\xc4pfel\n", r"tags\.csv:2: not UTF-8"),
        ("one.jpg,cat\n".encode("utf-16"), r"tags\.csv:1: "),
        ("notes.txt,cat\n", "no photo 'notes.txt' of a kind that can be read"),
        ("".join(f"one.jpg,c{n}\n" for n in range(2)), "there twice"),
        ("one.jpg," + ";".join(f"c{n}" for n in range(300)), "300 classes"),
    ],
)
def test_tables_that_are_refused(root: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find(root, text)


def test_missing_photos_are_counted_and_guessed(root: Path) -> None:
    with pytest.raises(DataError, match=r"and 2 more rows: b\.jpg, c\.jpg") as caught:
        find(root, "tow.png,cat\nb.jpg,cat\nc.jpg,cat\none.jpg,cat\n")
    assert caught.value.hint == "did you mean two.png?"


@pytest.mark.parametrize(("on_disk", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_two_ways_to_write_a_name(root: Path, on_disk: str, typed: str) -> None:
    make_photo(root / "photos" / unicodedata.normalize(on_disk, "Äpfel.jpg"))
    dataset = find(root, unicodedata.normalize(typed, "Äpfel.jpg,rot\n"))
    assert dataset.samples[0].id == unicodedata.normalize("NFC", "Äpfel")
    assert (root / dataset.samples[0].image).is_file()


def test_untagged_photos_are_named(root: Path) -> None:
    dataset = find(root, "one.jpg,cat\ntwo.png,\nfive.webp, ; \n")
    assert list(tags(dataset)) == ["photos/one.jpg"]
    assert dataset.warnings[1] == "left out: 2 photos whose row has no tags: five.webp, two.png"


def test_class_names_that_look_alike(root: Path) -> None:
    dataset = find(root, "one.jpg,Cat\ntwo.png,cat;traffic light\nfive.webp,traffic  light\nsix.tif,traffic-light\n")
    assert dataset.info.names == ("Cat", "cat", "traffic light", "traffic-light")
    alike = [line for line in dataset.warnings if "alike" in line]
    assert alike == [
        "class names that look alike are kept apart: 'Cat', 'cat'",
        "class names that look alike are kept apart: 'traffic light', 'traffic-light'",
    ]


def test_masks_in_the_order_of_the_names(root: Path) -> None:
    make_mask(root / "masks" / "sub" / "three.png", (1,))
    make_mask(root / "masks" / "lost.png", (1,))
    dataset = find(root, EVERY, masks="masks")
    assert {sample.id: sample.mask for sample in dataset.samples if sample.mask} == {"sub_three": "masks/sub/three.png"}
    notes = "\n".join(dataset.notes)
    assert "0 background, 1 cat, 2 dog, 3 Äpfel, 4 猫" in notes
    assert "train: 6 photos, 1 with a mask" in notes
    assert "CAMs and pseudo labels" not in notes
    assert "not used: 1 mask of no photo, or of several: lost.png" in dataset.warnings


def test_classes_txt_gives_another_order(root: Path) -> None:
    make_mask(root / "masks" / "one.png", (1,))
    (root / "masks" / "classes.txt").write_text("background\n猫\ndog\nhorse\ncat\nÄpfel\n")
    dataset = find(root, EVERY, masks="masks")
    assert dataset.info.names == ("猫", "dog", "horse", "cat", "Äpfel")
    assert tags(dataset)["photos/one.jpg"] == ["dog", "cat"]
    (root / "masks" / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"classes\.txt: no line for 2 of the tags: Äpfel, 猫"):
        find(root, EVERY, masks="masks")


def test_masks_inside_the_photos_and_of_two_photos(root: Path) -> None:
    make_photo(root / "photos" / "one.png")
    make_mask(root / "photos" / "masks" / "one.png", (1,))
    dataset = find(root, "one.jpg,cat\none.png,cat\n", masks="photos/masks")
    assert [sample.mask for sample in dataset.samples] == [None, None]
    assert not any("masks/one.png" in line for line in dataset.warnings if "without a row" in line)
    with pytest.raises(ConfigError, match="the same folder"):
        find(root, EVERY, masks="photos/../photos")


def test_split_column(root: Path) -> None:
    make_mask(root / "masks" / "two.png", (1,))
    text = "image,tags,split\none.jpg,cat,train\ntwo.png,,val\nfive.webp,cat,TUNE\nsix.tif,cat,\n"
    dataset = find(root, text, masks="masks", val_fraction=1.0)
    assert {sample.id: sample.split for sample in dataset.samples} == {"one": "train", "two": "val", "five": "tune", "six": "val"}


def test_val_fraction_is_a_stable_share(tmp_path: Path) -> None:
    names = [f"p{n:04d}.jpg" for n in range(2000)]
    (tmp_path / "photos").mkdir()
    for name in names:
        (tmp_path / "photos" / name).touch()  # names are enough here

    def val(chosen: list[str], fraction: float) -> set[str]:
        dataset = find(tmp_path, "".join(f"{name},cat\n" for name in chosen), val_fraction=fraction)
        return {sample.id for sample in dataset.samples if sample.split == "val"}

    fifth = val(names, 0.2)
    assert abs(len(fifth) - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8)  # four standard deviations
    assert val(names[::-1], 0.2) == fifth
    assert val(names[:1000], 0.2) == {name for name in fifth if name < "p1000"}
    assert fifth < val(names, 0.3)
    assert val(names, 0.0) == set()


def test_ids_of_names_that_collide() -> None:
    ids = photo_ids.make_ids(["a/b.jpg", "a/b.png", "a_b.jpg", "A/B.jpg", "c.jpg", "C.JPG", "-x.jpg", "con.jpg", "d e.jpg"])
    assert ids["a/b.jpg"].startswith("a_b-")
    assert ids["d e.jpg"] == "d_e"
    assert ids["-x.jpg"] == "x"
    assert len({image_id.casefold() for image_id in ids.values()}) == len(ids)
    alone = photo_ids.make_ids(["a/b.jpg", "z.jpg"])
    assert alone == {"a/b.jpg": "a_b", "z.jpg": "z"}


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=120)


@settings(max_examples=100, deadline=None)
@given(photos=st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), unique=True, max_size=12))
def test_ids_are_safe_unique_and_independent_of_order(photos: list[str]) -> None:
    ids = photo_ids.make_ids(photos)
    assert ids.keys() == set(photos)
    assert all(is_path_safe(image_id) for image_id in ids.values())
    assert len({unicodedata.normalize("NFC", image_id).casefold() for image_id in ids.values()}) == len(photos)
    assert photo_ids.make_ids(photos[::-1]) == ids


def test_common_root(tmp_path: Path) -> None:
    assert folder.common_root(tmp_path / "a" / "photos") == tmp_path / "a" / "photos"
    assert folder.common_root(tmp_path / "a" / "photos", tmp_path / "a" / "masks") == tmp_path / "a"


def test_folders_that_are_not_there(root: Path) -> None:
    for setting, arguments in {
        "data.images": {"images": "nope"},
        "data.masks": {"masks": "nope"},
        "data.tags": {"tags": "nope.csv"},
    }.items():
        with pytest.raises(ConfigError, match=setting):
            folder.find(root, **({"images": "photos", "tags": "tags.csv"} | arguments))
