"""Oracle: folders filled by hand."""

import os
from collections import Counter
from pathlib import Path

import pytest

from rcatool.data.photo_files import PHOTO_SUFFIXES, Names, describe, files_below
from rcatool.data.photos import PHOTO_FORMATS


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_every_file_is_taken_or_counted(tmp_path: Path) -> None:
    fill(
        tmp_path, "a.jpg", "B.JPEG", "sub/c d.HEIC", "sub/e.tar.png", "x.MP4", "y.mov", "z.avi", "notes.txt", "tags.csv", "a.xmp",
        ".DS_Store", "Thumbs.db", "._a.jpg", "a.cr2", "b.AVIF", "strange.xyz", "strange.XYZ", "README", ".git/a.jpg", "masks/a.png",
        "all.zip", "song.mp3",
    )  # fmt: skip
    files = files_below(tmp_path, PHOTO_SUFFIXES, skip=tmp_path / "masks", ignore=tmp_path / "tags.csv")
    assert files.wanted == ["B.JPEG", "a.jpg", "sub/c d.HEIC", "sub/e.tar.png"]
    assert files.unreadable == ["a.cr2", "b.AVIF"]
    assert files.skipped == Counter({
        "video": 3, "hidden or system file": 3, ".xyz file": 2, "text file": 1, "sidecar file": 1, "suffixless file": 1,
        "hidden folder": 1, "archive": 1, "sound file": 1,
    })  # fmt: skip


def test_links(tmp_path: Path) -> None:
    fill(tmp_path, "real/a.jpg")
    os.symlink("a.jpg", tmp_path / "real" / "b.jpg")
    os.symlink(".", tmp_path / "real" / "loop")
    os.symlink("real", tmp_path / "photos")
    files = files_below(tmp_path / "photos", PHOTO_SUFFIXES)
    assert (files.wanted, files.skipped) == (["a.jpg", "b.jpg"], Counter({"linked folder": 1}))


def test_names_that_are_not_text(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    try:
        os.close(os.open(os.fsencode(tmp_path) + b"/b\xff.jpg", os.O_CREAT))
    except OSError:
        pytest.skip("this file system has names of text only")
    files = files_below(tmp_path, PHOTO_SUFFIXES)
    assert (files.wanted, files.unreadable) == (["a.jpg"], ["b\\udcff.jpg (its name is not UTF-8)"])


def test_words() -> None:
    assert describe(Counter({"text file": 2, "video": 3, ".xyz file": 1})) == "3 videos, 2 text files, 1 .xyz file"
    assert describe(Counter()) == ""


def test_every_suffix_belongs_to_a_format_that_can_be_read() -> None:
    from PIL import Image

    Image.init()
    heif = {".heic", ".heif", ".hif"}
    assert {Image.EXTENSION[suffix] for suffix in set(PHOTO_SUFFIXES) - heif} == set(PHOTO_FORMATS)


def test_the_exact_name_comes_first() -> None:
    composed, apart = "\u00c4.jpg", "A\u0308.jpg"
    both = Names([composed, apart])
    assert (both.find(composed), both.find(apart), both.find("a.jpg")) == (composed, apart, None)
    assert Names([apart]).find(composed) == apart
