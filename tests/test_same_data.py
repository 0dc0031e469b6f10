"""The same data set said in several ways gives the same manifest, byte for byte."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from small_voc import make_mask, make_photo, write_list
from tiny_run import CONFIG

from rcatool.data.labels import VOC_CLASSES

Rca = Callable[..., Result]

CLASSES = ("cat", "dog", "owl")
TAGS = {  # photo -> tags; the first class has the photo, the others copies of it
    "cat/a.jpg": ["cat"], "cat/b.JPG": ["cat", "dog"], "dog/a.jpg": ["dog"], "dog/sub dir/Äpfel.png": ["dog", "owl"],
    "owl/c.webp": ["owl"], "cat/d.bmp": ["cat", "dog", "owl"], "dog/e.jpg": ["dog"],
}  # fmt: skip


def files_of(run: Path) -> tuple[bytes, bytes]:
    return (run / "prepare" / "manifest.jsonl").read_bytes(), (run / "prepare" / "classes.json").read_bytes()


def prepare(rca: Rca, run: str, *options: str | Path) -> tuple[bytes, bytes]:
    done = rca("prepare", *options, "--run", f"run-{run}", "--config", CONFIG)
    assert done.code == 0, done.err
    return files_of(Path(f"run-{run}"))


def make_tree(folder: Path) -> None:
    for seed, (photo, (first, *others)) in enumerate(TAGS.items()):
        make_photo(folder / photo, seed)
        for other in others:
            copy = folder / other / Path(photo).relative_to(first)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / photo, copy)


def coco_document() -> dict[str, object]:
    return {
        "images": [{"id": number, "file_name": photo, "height": 12, "width": 16} for number, photo in enumerate(TAGS)],
        "categories": [{"id": 5 * number, "name": name} for number, name in enumerate(CLASSES, start=1)],
        "annotations": [
            {"image_id": number, "category_id": 5 * (CLASSES.index(tag) + 1), "segmentation": box(CLASSES.index(tag))}
            for number, tags in enumerate(TAGS.values())
            for tag in tags
        ],
    }


def box(column: int) -> list[list[int]]:
    """A column of pixels, all of it."""
    return [[column, 0, column + 1, 0, column + 1, 12, column, 12]]


def write_sources() -> None:
    with open("tags.csv", "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([["image", "tags"], *([photo, ";".join(tags)] for photo, tags in TAGS.items())])
    Path("tags.json").write_text(json.dumps(TAGS))
    entries = [{"image": photo, "tags": tags} for photo, tags in TAGS.items()]
    Path("list.json").write_text(json.dumps(entries[::-1], ensure_ascii=False), encoding="utf-8")
    Path("tags.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    Path("coco.json").write_text(json.dumps(coco_document()))


@pytest.mark.parametrize("fractions", [(), ("--val-fraction", "0.3", "--tune-fraction", "0.2")])
def test_every_source_of_tags(rca: Rca, fractions: tuple[str, ...]) -> None:
    make_tree(Path("photos"))
    write_sources()
    expected = prepare(rca, "csv", "folder", "--images", "photos", "--tags", "tags.csv", *fractions)
    documents = [json.loads(line) for line in expected[0].splitlines()]
    assert {document["image"]: [CLASSES[c] for c in document["classes"]] for document in documents} == TAGS
    if fractions:
        assert {document["split"] for document in documents} == {"train", "val", "tune"}
    for source in ("tags.json", "list.json", "tags.jsonl", "coco.json", "folders"):
        assert prepare(rca, source, "folder", "--images", "photos", "--tags", source, *fractions) == expected, source


def test_split_said_in_several_ways(rca: Rca) -> None:
    splits = dict(zip(TAGS, ("train", "val", "train", "tune", "train", "val", "train"), strict=True))
    for seed, (photo, tags) in enumerate(TAGS.items()):
        make_photo(Path("photos", splits[photo], tags[0], Path(photo).name), seed)
    photos = {f"{splits[photo]}/{tags[0]}/{Path(photo).name}": tags[:1] for photo, tags in TAGS.items()}
    rows = [{"image": photo, "tags": tags, "split": photo.split("/")[0]} for photo, tags in photos.items()]
    Path("list.json").write_text(json.dumps(rows))
    Path("tags.csv").write_text("split,image,tags\n" + "".join(f"{row['split']},{row['image']},{row['tags'][0]}\n" for row in rows))
    expected = prepare(rca, "csv", "folder", "--images", "photos", "--tags", "tags.csv")
    assert {json.loads(line)["split"] for line in expected[0].splitlines()} == {"train", "val", "tune"}
    assert prepare(rca, "json", "folder", "--images", "photos", "--tags", "list.json") == expected
    assert prepare(rca, "folders", "folder", "--images", "photos", "--tags", "folders") == expected


def without_masks(manifest: bytes) -> list[dict[str, object]]:
    """The lines without the place and digest of the masks."""
    documents = [json.loads(line) for line in manifest.splitlines()]
    return [{key: value for key, value in document.items() if not key.startswith("mask")} for document in documents]


def test_masks_drawn_and_ready_made(rca: Rca) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    make_tree(Path("photos"))
    write_sources()
    for photo, tags in TAGS.items():
        values = [CLASSES.index(name) + 1 if name in tags else 0 for name in CLASSES]
        make_mask(Path("masks", photo).with_suffix(".png"), values)
    places = ("folder", "--images", "photos", "--tags", "tags.csv", "--masks")
    ready = prepare(rca, "ready", *places, "masks")
    drawn = prepare(rca, "drawn", *places, "coco.json")
    assert drawn[1] == ready[1]
    assert without_masks(drawn[0]) == without_masks(ready[0])
    masks = [(json.loads(a)["mask"], json.loads(b)["mask"]) for a, b in zip(drawn[0].splitlines(), ready[0].splitlines(), strict=True)]
    assert len(masks) == len(TAGS)
    for one, other in masks:
        assert one == f"coco-{other}"
        assert np.array_equal(np.array(Image.open(one)), np.array(Image.open(other)))
    again = rca("prepare", *places, "coco.json", "--run", "run-drawn", "--force")
    assert "masks: those in " in again.err
    Path("coco.json").write_text(json.dumps(coco_document() | {"info": "changed"}))
    changed = rca("prepare", *places, "coco.json", "--run", "run-drawn")  # without --force: the file counts, not its name
    assert "masks: 7 drawn in " in changed.err


def test_voc_as_a_folder(rca: Rca, voc_part: Path) -> None:
    source, root = voc_part / "VOC2012", Path("VOC2012").absolute()
    ids = (source / "ImageSets" / "Segmentation" / "train_mini.txt").read_text().split()[:24]
    for name in ids:
        for part, suffix in (("JPEGImages", "jpg"), ("SegmentationClassAug", "png")):
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / part / f"{name}.{suffix}").symlink_to(source / part / f"{name}.{suffix}")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    write_list(root, "train", ids[::2])
    write_list(root, "val", ids[1::2])
    lines = [line.split() for line in (source / "tags.txt").read_text().splitlines()]
    table = {name: tags for name, *tags in lines if name in ids}
    (root / "tags.txt").write_text("".join(f"{name} {' '.join(tags)}\n" for name, tags in table.items()))
    (root / "SegmentationClassAug" / "classes.txt").write_text("".join(f"{name}\n" for name in VOC_CLASSES))
    entries = [{"image": f"{name}.jpg", "tags": table[name], "split": "train" if name in ids[::2] else "val"} for name in ids]
    Path("tags.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    expected = prepare(rca, "voc", "voc", "--root", root)
    assert len(expected[0].splitlines()) == 24
    places = ("--images", root / "JPEGImages", "--masks", root / "SegmentationClassAug", "--tags", "tags.jsonl")
    assert prepare(rca, "folder", "folder", *places) == expected
