"""Oracle: trees made by hand."""

import unicodedata
from pathlib import Path

import pytest

from rcatool.data import tag_folders
from rcatool.errors import DataError


def read(folder: Path, content: dict[str, str]) -> tuple[dict[str, tuple[tuple[str, ...], str | None]], list[str]]:
    """Photo -> tags and split, and the copies; `content` is path -> bytes of a file."""
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(data)
    rows, copies = tag_folders.read_rows(folder, list(content))
    return {row.image: (row.tags, row.split) for row in rows}, copies


def test_the_first_folder_is_the_class(tmp_path: Path) -> None:
    content = {"cat/a.jpg": "1", "cat/2019/b.jpg": "2", "traffic  light/c.jpg": "3", "loose.jpg": "4"}
    assert read(tmp_path, content) == (
        {"cat/a.jpg": (("cat",), None), "cat/2019/b.jpg": (("cat",), None), "traffic  light/c.jpg": (("traffic light",), None)}, []
    )  # fmt: skip


def test_the_same_photo_in_several_class_folders_has_several_tags(tmp_path: Path) -> None:
    content = {
        "cat/x.jpg": "both", "dog/x.jpg": "both", "owl/x.jpg": "other",  # of the same length, too
        "cat/y.jpg": "name is another", "dog/z.jpg": "name is another",
        "cat/s/w.jpg": "four", "dog/s/w.jpg": "four", "owl/t/w.jpg": "four",
    }  # fmt: skip
    content["owl/x.jpg"] = "BOTH"
    rows, copies = read(tmp_path, content)
    assert rows == {
        "cat/x.jpg": (("cat", "dog"), None), "owl/x.jpg": (("owl",), None), "cat/y.jpg": (("cat",), None), "dog/z.jpg": (("dog",), None),
        "cat/s/w.jpg": (("cat", "dog"), None), "owl/t/w.jpg": (("owl",), None),
    }  # fmt: skip
    assert sorted(copies) == ["dog/s/w.jpg", "dog/x.jpg"]


def test_folders_of_splits_around_those_of_classes(tmp_path: Path) -> None:
    content = {"train/cat/a.jpg": "1", "val/cat/a.jpg": "1", "tune/dog/b.jpg": "2", "train/dog/a.jpg": "1", "train/loose.jpg": "3"}
    assert read(tmp_path, content) == (
        {"train/cat/a.jpg": (("cat", "dog"), "train"), "val/cat/a.jpg": (("cat",), "val"), "tune/dog/b.jpg": (("dog",), "tune")},
        ["train/dog/a.jpg"],
    )  # fmt: skip


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert read(tmp_path, {"train/a.jpg": "1", "car/a.jpg": "2"})[0] == {"car/a.jpg": (("car",), None), "train/a.jpg": (("train",), None)}


def test_two_ways_to_write_a_class(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Äpfel") for form in ("NFC", "NFD"))
    rows, _ = read(tmp_path, {f"{composed}/a.jpg": "1", f"{apart}/b.jpg": "2"})
    assert {tags for tags, _ in rows.values()} == {(composed,)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.jpg": "1", "b.jpg": "2"}, "no photo in a class folder, expected photos/CLASS/photo.jpg"),
        ({}, "no photo in a class folder"),
        ({"train/a.jpg": "1", "val/b.jpg": "2"}, "no photo in a class folder"),
        ({"train/cat/a.jpg": "1", "test/cat/b.jpg": "2"}, "photos/test: no split, expected folders train, val, tune or those of classes"),
        ({"Train/cat/a.jpg": "1"}, "photos/Train: no split"),
        ({"c\x1bt/a.jpg": "1"}, "tag .*expected printable text"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "photos", content)


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(DataError, match=r"cat/a\.jpg: cannot be read"):
        tag_folders.read_rows(tmp_path, ["cat/a.jpg", "dog/a.jpg"])
