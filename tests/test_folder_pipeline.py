"""The five commands on a folder of real photos with a CSV of tags, with masks and without."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from tiny_run import CONFIG, assign

from rcatool.data.labels import IGNORE, VOC_CLASSES

Rca = Callable[..., Result]

CLASSES = ("horse", "person", "cow", "bird")  # in an order of their own
PHOTOS = 16
LONG_SIDE = 96
SETTINGS = ("cls.crop_size=64", "cls.resize_long=[64, 96]", "seg.crop_size=64", "cam.scales=[1.0]")


@pytest.fixture
def holiday(voc_part: Path, tmp_path: Path) -> Path:
    """A folder with small versions of real photos in `my photos`, tags.csv, and masks with classes.txt."""
    table = dict(line.split(maxsplit=1) for line in (voc_part / "VOC2012" / "tags.txt").read_text().splitlines())
    listed = (voc_part / "VOC2012" / "ImageSets" / "Segmentation" / "train_mini.txt").read_text().split()
    tags = {name: table[name].split() for name in listed if set(table[name].split()) <= set(CLASSES)}
    chosen = sorted(tags, key=lambda name: (-len(tags[name]), name))[:PHOTOS]  # those with two tags first
    with open(tmp_path / "tags.csv", "w", encoding="utf-8", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["image", "tags", "split"])
        for index, name in enumerate(chosen):
            photo = f"{'summer' if index % 3 else 'autumn, late'}/{name}.jpg"
            copy_small(voc_part / "VOC2012" / "JPEGImages" / f"{name}.jpg", tmp_path / "my photos" / photo)
            mask = tmp_path / "masks" / Path(photo).with_suffix(".png")
            copy_small(voc_part / "VOC2012" / "SegmentationClassAug" / f"{name}.png", mask)
            rows.writerow([photo, ";|"[index % 2].join(tags[name]), "val" if index % 4 == 0 else "train"])
    (tmp_path / "masks" / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return tmp_path


def copy_small(source: Path, target: Path) -> None:
    """Copy a photo, or a mask with the values of CLASSES and ignore for all others, in a smaller size."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        scale = LONG_SIDE / max(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        if source.suffix == ".jpg":
            image.resize(size, Image.Resampling.BILINEAR).save(target)
            return
        values = np.full(256, IGNORE, np.uint8)
        values[0] = 0
        for number, name in enumerate(CLASSES, start=1):
            values[VOC_CLASSES.index(name) + 1] = number
        Image.fromarray(values[np.asarray(image.resize(size, Image.Resampling.NEAREST))]).save(target)


def test_photos_with_masks(rca: Rca, holiday: Path) -> None:
    run = holiday / "run"
    places = ("--images", holiday / "my photos", "--tags", holiday / "tags.csv", "--masks", holiday / "masks")
    prepared = rca("prepare", "folder", *places, "--run", run, "--config", CONFIG, *assign(*SETTINGS))
    assert prepared.code == 0, prepared.err
    assert "with values 0 background, 1 horse, 2 person, 3 cow, 4 bird" in prepared.err
    assert "train: 12 photos, 12 with a mask" in prepared.err
    assert "val: 4 photos, 4 with a mask" in prepared.err
    assert "pixels of a class they are not tagged with" not in prepared.err  # so the classes are in the right order
    for word in ("train-cls", "make-pseudo", "train-seg"):
        done = rca(word, "--run", run)
        assert done.code == 0, done.err
    scored = rca("eval", "--run", run, "--json")
    assert scored.code == 0, scored.err

    check_labels(run, photos=12)
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    assert json.loads(scored.out) == metrics
    assert {name: (scores["list"], scores["images"], scores["threshold"]) for name, scores in metrics.items() if name != "cam"} == {
        "pseudo": ("train", 12, 0.3), "seg": ("val", 4, None)
    }  # fmt: skip
    cam = metrics["cam"]
    assert (cam["list"], cam["images"], cam["oracle"]) == ("train", 12, True)
    assert cam["miou"] == max(entry["miou"] for entry in cam["curve"])
    assert 0 <= cam["threshold"] <= 1
    for scores in metrics.values():
        assert 0 < scores["miou"] <= 1
        assert list(scores["iou"]) == ["background", *CLASSES]
    assert len(list((run / "eval" / "predictions").glob("*.png"))) == 4


def test_photos_without_masks(rca: Rca, holiday: Path) -> None:
    """No split column and no masks: some photos are held out, a network comes out, and nothing is scored."""
    rows = [line.rpartition(",")[0] for line in (holiday / "tags.csv").read_text().splitlines()]
    (holiday / "tags.csv").write_text("".join(f"{row}\n" for row in rows))
    run = holiday / "run"
    places = ("--images", holiday / "my photos", "--tags", holiday / "tags.csv", "--val-fraction", "0.3")
    prepared = rca("prepare", "folder", *places, "--run", run, "--config", CONFIG, *assign(*SETTINGS))
    assert prepared.code == 0, prepared.err
    assert "no training photo has a mask: `rca eval` cannot score CAMs and pseudo labels" in prepared.err
    assert "no val photo has a mask: `rca eval` cannot score the segmentation network" in prepared.err
    done = rca("run", "--run", run)
    assert done.code == 0, done.err

    split = [json.loads(line)["split"] for line in (run / "prepare" / "manifest.jsonl").read_text().splitlines()]
    train, val = split.count("train"), split.count("val")
    assert train + val == PHOTOS
    assert min(train, val) > 0
    check_labels(run, photos=train)
    assert (run / "train-seg" / "final.pt").is_file()
    assert len(list((run / "eval" / "predictions").glob("*.png"))) == val
    assert done.err.count(f"{train} of {train} train photos have no mask and are not scored") == 1  # and not for each target
    assert "no val photo has a mask, so the segmentation network cannot be scored" in done.err
    assert done.out.strip() == ""
    scored = rca("eval", "--run", run, "--json")
    assert (scored.code, json.loads(scored.out)) == (0, {})


def check_labels(run: Path, *, photos: int) -> None:
    """There is a label map for each training photo, of its size, with its own tags and nothing else."""
    documents = [json.loads(line) for line in (run / "prepare" / "manifest.jsonl").read_text().splitlines()]
    documents = [document for document in documents if document["split"] == "train"]
    folder = run / "make-pseudo" / "labels"
    assert sorted(path.stem for path in folder.glob("*.png")) == sorted(document["id"] for document in documents)
    assert len(documents) == photos
    for document in documents:
        label = np.asarray(Image.open(folder / f"{document['id']}.png"))
        assert list(label.shape) == document["size"]
        assert set(np.unique(label).tolist()) <= {0, IGNORE, *(c + 1 for c in document["classes"])}


def test_a_folder_without_settings_of_its_own_is_told_of_the_presets(rca: Rca, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png")
    folder = ("prepare", "folder", "--images", "photos", "--tags", "folders")
    done = rca(*folder, "--run", "plain")
    assert done.code == 0, done.err
    assert done.err.count("add --config own-photos, or --config own-photos-cpu") == 1
    for number, chosen in enumerate((["--config", "own-photos-cpu"], ["--set", "cls.lr=0.002"])):
        done = rca(*folder, "--run", f"chosen{number}", *chosen)
        assert done.code == 0, done.err
        assert "own-photos" not in done.err
