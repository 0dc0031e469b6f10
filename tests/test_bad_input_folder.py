"""Folders, JSON and masks that `rca prepare folder` cannot use, met while a finished run is in place: it must stay as it is."""

import errno
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breaks import Break, cut, grow, remove, write
from broken import COMPLETE_LIST, Case, Rca, check_prepare, make_data_sets, set_up, table
from PIL import Image
from small_voc import make_photo
from tiff_bytes import tiff
from tiny_run import TinyRun

FOLDER = "prepare folder --images photos --tags"
JSON, LINES, CLASSES, DRAWN = f"{FOLDER} tags.json", f"{FOLDER} tags.jsonl", f"{FOLDER} folders", f"{FOLDER} tags.csv --masks truth.json"
COCO = {
    "images": [{"id": n, "file_name": f"{name}.jpg", "height": 12, "width": 16} for n, name in enumerate("abc")],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [{"image_id": 1, "category_id": 2, "segmentation": [[0, 0, 5, 0, 5, 5]]}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _data_sets(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)
    make_data_sets()


def tags(content: Any, name: str = "tags.json") -> tuple[Break]:
    return (write(name, content if isinstance(content, (str, bytes)) else json.dumps(content)),)


def truth(**changes: Any) -> tuple[Break]:
    return tags(COCO | changes, "truth.json")


def segment(**changes: Any) -> tuple[Break]:
    return truth(annotations=[COCO["annotations"][0] | changes])


@table(
    Case("JSON that is not there", (), JSON, 2, r"data\.tags: .*tags\.json is not a file", "--tags FILE"),
    Case("JSON cut short", (*tags({"a.jpg": ["cat"]}), cut("tags.json")), JSON, 3, r"tags\.json:1: not valid JSON \("),
    Case("JSON empty", tags(""), JSON, 3, r"tags\.json:1: not valid JSON"),
    Case("JSON of an empty object", tags("{}"), JSON, 3, r"tags\.json: no rows, expected lines like"),
    Case("JSON of an empty list", tags("[]"), JSON, 3, r"tags\.json: no rows"),
    Case("JSON of a number", tags("3"), JSON, 3, r"tags\.json: 3, expected \{"),
    Case("JSON nested deeply", tags("[" * 200_000), JSON, 3, r"tags\.json: not valid JSON \(nested too deeply\)"),
    Case("JSON objects nested deeply", tags('{"a":' * 100_000), JSON, 3, r"tags\.json: not valid JSON \(nested too deeply\)"),
    Case("JSON too large", (write("tags.json"), grow("tags.json", 2**28 + 1)), JSON, 3, r"tags\.json: more than 256 MiB"),
    Case("JSON of UTF-16", tags('{"a.jpg": ["cat"]}'.encode("utf-16")), JSON, 3, r"tags\.json:1: ", "UTF-8 text"),
    Case("JSON of Latin-1", tags('{"a.jpg": ["\u00c4pfel"]}'.encode("latin-1")), JSON, 3, r"tags\.json:1: not UTF-8 text", "UTF-8 text"),
    Case("JSON with a key twice", tags('{"a.jpg": ["cat"], "a.jpg": []}'), JSON, 3, r'the key "a\.jpg" occurs twice'),
    Case("JSON lines called JSON", tags('{"image": "a.jpg"}\n{"image": "b.jpg"}'),
         JSON, 3, r"tags\.json:2: not valid JSON", r"named \.jsonl"),
    Case("JSON with text for tags", tags({"a.jpg": "cat"}), JSON, 3, r'tags\.json: "a\.jpg" has "cat" in place of a list of tags'),
    Case("JSON with a number for a tag", tags({"a.jpg": [7]}), JSON, 3, r'tags\.json: "a\.jpg": tag 7, expected text'),
    Case("JSON with a photo outside", tags({"../a.jpg": ["cat"]}), JSON, 3, "expected a path below the folder of photos"),
    Case("JSON with a photo by its full path", tags({"/etc/passwd": ["cat"]}), JSON, 3, "expected a path below"),
    Case("JSON without its photo", tags({"d.jpg": ["cat"]}),
         JSON, 3, r"tags\.json: \"d\.jpg\": no photo 'd\.jpg' in .*photos", "did you mean"),
    Case("JSON with other case", tags({"A.JPG": ["cat"]}), JSON, 3, r"no photo 'A\.JPG' in ", r"did you mean a\.jpg\?"),
    Case("JSON with the folder in the path", tags({"photos/b.jpg": ["cat"]}), JSON, 3, "no photo 'photos/b.jpg'", r"did you mean b\.jpg\?"),
    Case("JSON entry without tags", tags([{"image": "a.jpg"}]), JSON, 3, r"tags\.json: entry 1: tags: missing"),
    Case("JSON entry twice", tags([{"image": "a.jpg", "tags": ["cat"]}, {"image": "./a.jpg", "tags": ["cat"]}]),
         JSON, 3, r"tags\.json: entry 2: 'a\.jpg' is there twice, first in tags\.json: entry 1"),
    Case("JSON entry of an unknown split", tags([{"image": "a.jpg", "tags": ["cat"], "split": "test"}]),
         JSON, 3, r"entry 1: split 'test', expected one of train, val, tune"),
    Case("JSON with no tag at all", tags({"a.jpg": [], "b.jpg": [" "]}), JSON, 3, r"tags\.json: no row has a tag"),
    Case("JSON with too many classes", tags({"a.jpg": [f"c{n}" for n in range(255)]}), JSON, 3, "255 classes: expected at most 254"),
    Case("JSON with an escape sequence", tags({"a.jpg": ["\x1b]0;x\x07cat"]}), JSON, 3, "expected printable text"),
    Case("JSON with half a letter", tags('{"a.jpg": ["\\ud83d"]}'), JSON, 3, "expected printable text"),
    Case("JSON with a photo named by half a letter", tags('{"\\ud83d.jpg": ["cat"]}'), JSON, 3, "half of a letter, expected Unicode text"),
    Case("JSON with a huge number", tags('{"a.jpg": [' + "9" * 9999 + "]}"), JSON, 3, r"tags\.json: not valid JSON"),
    Case("JSON line broken", tags('{"image": "a.jpg", "tags": ["cat"]}\n{"image"', "tags.jsonl"),
         LINES, 3, r"tags\.jsonl:2: not valid JSON \(.* at column \d+\)"),
    Case("JSON line of another kind", tags('"a.jpg"\n', "tags.jsonl"), LINES, 3, r'tags\.jsonl:1: "a\.jpg", expected an object'),
    Case("COCO with a lost category", tags(COCO | {"categories": []}), JSON, 3, r"annotations\[0\]\.category_id: 2 is not the id"),
    Case("COCO with a lost image", tags(COCO | {"images": []}), JSON, 3, r"annotations\[0\]\.image_id: 1 is not the id of an image"),
    Case("COCO without categories", tags({name: COCO[name] for name in ("images", "annotations")}), JSON, 3, "categories: missing"),
    Case("COCO with one photo twice", tags(COCO | {"images": [*COCO["images"], COCO["images"][0] | {"id": 9}]}),
         JSON, 3, r"images\[3\]: 'a\.jpg' is there twice, first in tags\.json: images\[0\]"),
)  # fmt: skip
def test_json(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)


@table(
    Case("masks JSON that is not there", (), DRAWN, 3, r"truth\.json: cannot be read \(No such file"),
    Case("masks JSON broken", tags("{", "truth.json"), DRAWN, 3, r"truth\.json:1: not valid JSON"),
    Case("masks JSON of another kind", tags({"a": 1}, "truth.json"), DRAWN, 3, "expected an object with lists of images, categories"),
    Case("masks of boxes", segment(segmentation=None, bbox=[0, 0, 3, 3]), DRAWN, 3, r"annotations\[0\]\.segmentation: empty or missing"),
    Case("mask with a point too few", segment(segmentation=[[0, 0, 5, 5]]), DRAWN, 3, "lists of at least 3 points"),
    Case("mask with a point far away", segment(segmentation=[[0, 0, 5, 5, 1e300, 1]]), DRAWN, 3, "is no coordinate in or near an image"),
    Case("mask with runs behind its end", segment(segmentation={"size": [12, 16], "counts": [0, 10**9]}), DRAWN, 3, "do not add up"),
    Case("mask with runs that are too short", segment(segmentation={"size": [12, 16], "counts": "0"}), DRAWN, 3, "do not add up"),
    Case("mask with runs that go on", segment(segmentation={"size": [12, 16], "counts": "ooooooooo"}), DRAWN, 3, "counts: expected"),
    Case("masks of an image larger than memory", truth(images=[COCO["images"][1] | {"height": 10**9, "width": 10**9}]),
         DRAWN, 3, r"images\[0\]: .* pixels, more than \d+, refused"),
    Case("masks of another size", truth(images=[COCO["images"][1] | {"height": 30, "width": 40}]),
         DRAWN, 3, r"b\.png: mask is 30 x 40 \(H x W\), expected 12 x 16 as its photo", COMPLETE_LIST),
    Case("masks of a turned photo", truth(images=[COCO["images"][1] | {"height": 16, "width": 12}]),
         DRAWN, 3, r"b\.png: mask is 16 x 12 .* expected 12 x 16 as its photo; .*EXIF", COMPLETE_LIST),
    Case("masks of no photo", truth(images=[], annotations=[]), DRAWN, 3, "none of its 0 images is one of the 3 photos"),
    Case("masks without a tag's class", truth(categories=[{"id": 2, "name": "dog"}]),
         DRAWN, 3, r"classes\.txt: no line for 1 of the tags: cat"),
    Case("masks over somebody's folder", (*truth(), write("truth-masks/a.png", b"mine")),
         DRAWN, 2, "truth-masks holds something that was not"),
)  # fmt: skip
def test_drawn_masks(rca: Rca, case: Case) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    check_prepare(rca, case)


def test_annotations_where_nothing_can_be_written(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name == "drawn.json":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    message, hint = r"truth-masks/drawn\.json: cannot be written \(Read-only", r"masks are drawn beside truth\.json: copy it"
    check_prepare(rca, Case("", truth(), DRAWN, 6, message, hint))


def moved(*pairs: tuple[str, str]) -> Break:
    """Put photos into other folders."""

    def broken() -> None:
        for old, new in pairs:
            Path("photos", new).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(Path("photos", old), Path("photos", new))

    return broken


def saved(name: str, image: Image.Image, **options: Any) -> Break:
    return lambda: image.save(Path("photos", name), **options)


BOMB = b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02"
FLOAT = tiff(np.zeros((12, 16), np.float32), photometric=1)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
FOR = {suffix: (remove("photos/b.jpg"), *tags({"a.jpg": ["cat"], f"b.{suffix}": ["dog"]})) for suffix in ("tif", "heic", "gif", "avif")}


@table(
    Case("class folders without classes", (),
         CLASSES, 3, r"photos: no photo in a class folder, expected photos/CLASS/photo\.jpg", "--tags FILE"),
    Case("class folders given as a file", (), f"{FOLDER} photos", 2, r"data\.tags: .*photos is not a file", "--tags folders"),
    Case("class folders in a folder of test", (moved(("a.jpg", "train/cat/a.jpg"), ("b.jpg", "test/cat/b.jpg")),),
         CLASSES, 3, r"photos/test: no split, expected folders train, val, tune", "rename or move it"),
    Case("class folder with an escape sequence", (moved(("a.jpg", "c\x1b[31mat/a.jpg")),), CLASSES, 3, "expected printable text"),
    Case("class folders for val only", (moved(("a.jpg", "val/cat/a.jpg")),), CLASSES, 3, "no row gives a training photo a tag"),
    Case("fractions of more than all", (), f"{FOLDER} tags.csv --val-fraction 0.6 --tune-fraction 0.6",
         2, r"data\.val_fraction 0\.6 and data\.tune_fraction 0\.6 are more than 1 together"),
    Case("fraction below none", (), f"{FOLDER} tags.csv --tune-fraction -1", 2, r"data\.tune_fraction: expected at least 0, got -1"),
    Case("no photo in the folder", (remove("photos"), write("photos/a.mp4"), write("photos/b.mp4"), write("photos/c.txt")),
         f"{FOLDER} tags.csv", 3, r"photos: no photo \(\.jpg, .*\) in this folder or below it, but 2 videos, 1 text file"),
    Case("photo of float pixels", (*FOR["tif"], write("photos/b.tif", FLOAT)), JSON, 3, r"b\.tif: .*float pixels", COMPLETE_LIST),
    Case("photo of a kind without a decoder", (*FOR["avif"], write("photos/b.avif", b"x")),
         JSON, 3, r"no photo 'b\.avif' of a kind that can be read"),
    Case("photo that is a pointer", (write("photos/b.jpg", "version https://git-lfs.github.com/spec/v1\n"),),
         f"{FOLDER} tags.csv", 3, r"b\.jpg: not an image that can be read but a pointer of Git LFS", COMPLETE_LIST),
    Case("GIF cut short", (*FOR["gif"], saved("b.gif", Image.effect_noise((64, 64), 90)), cut("photos/b.gif")),
         JSON, 3, r"b\.gif: cannot be decoded", COMPLETE_LIST),
    Case("animation of more pixels than memory", (*FOR["gif"], write("photos/b.gif", BOMB)),
         JSON, 3, r"b\.gif: more than \d+ pixels, refused", COMPLETE_LIST),
    Case("same photo in train and val", (lambda: shutil.copy("photos/a.jpg", "photos/d.jpg"),
          *tags([{"image": "a.jpg", "tags": ["cat"]}, {"image": "d.jpg", "tags": ["cat"], "split": "val"}])),
         JSON, 3, r"d\.jpg \(val\) is the same photo as a\.jpg \(train\)", COMPLETE_LIST),
    Case("CSV with another header", (write("tags.csv", "filename,label\na.jpg,cat\n"),), f"{FOLDER} tags.csv",
         3, r"tags\.csv:1: no photo 'filename' of a kind that can be read", "the header of a CSV has to be image,tags"),
    Case("CSV with semicolons", (write("tags.csv", "image;tags\na.jpg;cat\n"),),
         f"{FOLDER} tags.csv", 3, r"tags\.csv:1: a single cell, expected image,tags"),
    Case("CSV with one name written in two ways", (write("photos/\u00c4.jpg"), write("tags.csv", "\u00c4.jpg,cat\nA\u0308.jpg,dog\n")),
         f"{FOLDER} tags.csv", 3, r"tags\.csv:2: .* is there twice, first in tags\.csv:1"),
)  # fmt: skip
def test_folders_and_photos(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)


def test_heic_without_its_library(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pillow_heif" else find(name, *rest))
    message, hint = "HEIC and HEIF photos need the library pillow-heif", r"pip install 'rcatool\[heic\]'"
    check_prepare(rca, Case("no HEIF", (*FOR["heic"], write("photos/b.heic", HEIC)), JSON, 6, message, hint))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # found out when the photo is opened
    breaks = (*tags({"a.jpg": ["cat"], "c.jpg": ["dog"]}), write("photos/c.jpg", HEIC))
    check_prepare(rca, Case("no HEIF", breaks, JSON, 6, message, hint))


def test_heic_that_is_broken(rca: Rca) -> None:
    pytest.importorskip("pillow_heif", reason="the HEIF library is not installed")
    check_prepare(rca, Case("", (*FOR["heic"], write("photos/b.heic", HEIC)), JSON, 3, r"b\.heic: ", COMPLETE_LIST))


def test_a_messy_folder(rca: Rca) -> None:
    """What is no photo is counted, what is a photo and not taken is named, and the last line says the former."""
    for name in ("clip.mp4", "clip.MOV", "notes.txt", ".DS_Store", "Thumbs.db", "old.cr2", "strange.xyz"):
        write(f"photos/{name}", "x")()
    make_photo(Path("photos/untagged.jpg"), 9)
    Image.new("RGB", (16, 12), "red").save("photos/moving.gif", save_all=True, append_images=[Image.new("RGB", (16, 12), "blue")])
    os.close(os.open(b"photos/b\xff.jpg", os.O_CREAT))
    Path("tags.csv").write_text("a.jpg,cat\nb.jpg,cat;Cat\nc.jpg,\nmoving.gif,cat\n")
    code, out, err = rca(*f"{FOLDER} tags.csv --run mine --config run/config.yaml".split())
    assert code == 0, err
    lines = err.splitlines()
    said, counts = lines[-1].split("photos: ")
    assert said.startswith("skipped below /")
    assert sorted(counts.split(", ")) == ["1 .xyz file", "1 text file", "2 hidden or system files", "2 videos"]
    assert "warning: left out: 1 photo without a row: untagged.jpg" in lines
    assert "warning: left out: 1 photo whose row has no tags: c.jpg" in lines
    assert r"warning: left out: 2 pictures that cannot be read: b\udcff.jpg (its name is not UTF-8), old.cr2" in lines
    assert "warning: photos with an animation or several pages, of which the first is taken: 1 (moving)" in lines
    assert "warning: class names that look alike are kept apart: 'Cat', 'cat'" in lines
