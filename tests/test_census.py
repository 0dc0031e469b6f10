"""Oracles: tiny data sets whose counts are worked out by hand; digests by hashlib; the photos' known oddities."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from small_voc import make_mask, make_voc

from rcatool.data.mask_digest import content_digest, set_digest

Rca = Callable[..., Result]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "VOC2012")


def prepare(rca: Rca, base: Path, *more: object) -> tuple[Result, dict[str, Any]]:
    done = rca("prepare", "voc", "--root", base, "--run", "run", "--set", "runtime.workers=0", *map(str, more))
    assert done.code == 0, done.err
    return done, json.loads(Path("run/prepare/summary.json").read_text())


def test_counts_and_shares(rca: Rca, base: Path) -> None:
    """Five masks of 12 x 16 pixels: a column of cat, one of person, one of void; a2 has a second column of person, b2 no mask."""
    (base / "tags.txt").write_text("a1 cat person\na2 cat person\na3 cat\nb1 cat person\n")
    make_mask(base / "SegmentationClassAug" / "a2.png", (8, 15, 15, 255))
    (base / "SegmentationClassAug" / "b2.png").unlink()
    done, document = prepare(rca, base)
    train, val = document["splits"]["train"], document["splits"]["val"]
    assert (train["photos"], train["tagged"], train["with_mask"], train["tags_per_photo"]) == (3, 3, 3, {"1": 1, "2": 2})
    assert (val["photos"], val["tagged"], val["with_mask"], val["tags_per_photo"]) == (2, 1, 1, {"0": 1, "2": 1})
    assert (train["background"], train["void"]) == (round(38 / 48, 6), round(3 / 48, 6))
    assert document["classes"]["person"]["train"] == {"tagged": 2, "in_masks": 3, "pixels": round(4 / 48, 6)}
    assert document["classes"]["cat"]["val"] == {"tagged": 1, "in_masks": 1, "pixels": round(1 / 16, 6)}
    assert document["classes"]["cow"]["train"] == {"tagged": 0, "in_masks": 0, "pixels": 0.0}
    rows = [row.replace("│", " ").split() for row in done.out.splitlines()]
    assert ["person", "2", "1", "8.33", "6.25"] in rows
    assert ["with", "mask", "3", "1"] in rows
    assert "train: 3 photos, 1.67 tags each (1: 1, 2: 2)" in done.out
    assert f"train: 3 masks, background 79.2%, objects 14.6%, void 6.2%; digest of the masks {train['masks_digest']}" in done.out


def test_suspicious_photos(rca: Rca, base: Path) -> None:
    (base / "tags.txt").write_text("a1 cat person\na2 cat\na3 cat person dog\nb1 cat person\n")
    coarse = Image.fromarray(np.random.default_rng(7).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    blobs = coarse.resize((160, 120), Image.Resampling.BICUBIC)
    blobs.save(base / "JPEGImages" / "b1.jpg")
    blobs.resize((80, 60)).save(base / "JPEGImages" / "a1.jpg", quality=60)
    Image.new("RGB", (16, 12), "white").save(base / "JPEGImages" / "b2.jpg")
    shutil.copy(base / "JPEGImages" / "a2.jpg", base / "JPEGImages" / "a3.jpg")
    for image_id, size in (("a1", (60, 80)), ("b1", (120, 160))):
        make_mask(base / "SegmentationClassAug" / f"{image_id}.png", (8, 15), size)
    done, document = prepare(rca, base)
    found = document["suspicious"]
    assert found["tag_without_pixel"] == [{"id": "a3", "split": "train", "classes": ["dog"]}]
    assert found["pixel_without_tag"] == [{"id": "a2", "split": "train", "classes": ["person"]}]
    assert [(entry["ids"], entry["splits"]) for entry in found["near_duplicates"]] == [(["a1", "b1"], ["train", "val"])]
    assert found["equal_photos"] == [{"id": "a3", "split": "train", "same_as": "a2"}]
    assert found["empty_photos"] == [{"id": "b2", "split": "val"}]
    assert "cow" in found["classes_without_training_photo"]
    assert "dog" not in found["classes_without_training_photo"]
    for line in (
        "1 of 4 photos with a mask have a tag without a pixel (a3: dog)",
        "1 of 4 photos with a mask have pixels of a class they are not tagged with (a2: person)",
        "pairs of photos in different splits that look the same: 1 (a1 in train and b1 in val)",
        "photos that are there twice in one split: 1 (a3 is a2)",
        "photos that show a single tone: 1 (b2)",
    ):
        assert f"warning: {line}" in done.err


def test_json_is_all_there_is_on_stdout_also_when_up_to_date(rca: Rca, base: Path) -> None:
    first, document = prepare(rca, base, "--json")
    assert json.loads(first.out) == document
    again, _ = prepare(rca, base, "--json")
    assert "up to date" in again.err
    assert again.out == first.out


def test_a_run_without_counts_says_what_to_do(rca: Rca, base: Path) -> None:
    prepare(rca, base)
    Path("run/prepare/summary.json").unlink()
    assert "prepare: resuming" in rca("prepare", "voc", "--root", base, "--run", "run").err  # damaged, so it is made again
    text = Path("run/prepare/summary.json").read_text()
    Path("run/prepare/summary.json").write_text("x" * len(text))
    broken = rca("prepare", "voc", "--root", base, "--run", "run")
    assert (broken.code, broken.err.splitlines()[-1][-7:]) == (3, "--force")


def test_the_digest_of_masks_is_of_what_they_say(rca: Rca, base: Path) -> None:
    _, before = prepare(rca, base)
    for path in (base / "SegmentationClassAug").iterdir():  # other bytes, same labels
        Image.fromarray(np.array(Image.open(path))).save(path, compress_level=0)
    _, written_again = prepare(rca, base, "--force")
    assert written_again == before
    make_mask(base / "SegmentationClassAug" / "a2.png", (15, 8, 255))
    _, other = prepare(rca, base, "--force")
    assert other["splits"]["val"] == before["splits"]["val"]
    assert other["splits"]["train"]["masks_digest"] != before["splits"]["train"]["masks_digest"]
    assert other["splits"]["train"]["ids_digest"] == before["splits"]["train"]["ids_digest"]


def test_digests_by_their_definition() -> None:
    mask = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
    one = hashlib.sha256(b"2x3\n" + bytes([0, 1, 255, 2, 2, 0])).hexdigest()[:16]
    assert content_digest(mask) == content_digest(np.asfortranarray(mask)) == one
    assert content_digest(mask.reshape(3, 2)) != one
    expected = hashlib.sha256(f"a {one}\nb {'0' * 16}\n".encode()).hexdigest()[:16]
    assert set_digest([("b", "0" * 16), ("a", one)]) == expected


def test_where_the_data_lies_does_not_matter(rca: Rca, base: Path, tmp_path: Path) -> None:
    _, before = prepare(rca, base)
    base.rename(tmp_path / "elsewhere")
    _, after = prepare(rca, tmp_path / "elsewhere", "--force")
    assert after == before


# ---- real photos, prepared in every way that there is


@pytest.fixture(scope="module")
def real(voc_part: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A devkit of links to the real photos with lists of some of them, one of them named as an official list."""
    root = tmp_path_factory.mktemp("real") / "VOCdevkit" / "VOC2012"
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name in ("JPEGImages", "SegmentationClassAug", "SegmentationClass", "tags.txt"):
        (root / name).symlink_to(voc_part / "VOC2012" / name)
    lists = voc_part / "VOC2012" / "ImageSets" / "Segmentation"
    official = (voc_part / "official-lists" / "train.txt").read_text().split()
    there = {path.stem for path in (voc_part / "VOC2012" / "JPEGImages").iterdir()}
    for name, ids in (
        ("part", [image_id for image_id in official if image_id in there][:60]),
        ("val", (lists / "val.txt").read_text().split()[:30]),
    ):
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    return root


def test_every_way_gives_the_same_manifest(rca: Rca, real: Path, voc_part: Path, tmp_path: Path) -> None:
    ways: dict[str, list[object]] = {
        "tags.txt": ["--root", real],
        "vectors": ["--root", real, "--tags", voc_part / "cls_labels.npy"],
        "around": ["--root", real.parent],
        "around it": ["--root", real.parent.parent],
        "other masks": ["--root", real, "--set", "data.masks=SegmentationClass"],
        "from masks": ["--root", real, "--tags", "masks"],
    }
    found = {}
    for name, words in ways.items():
        done = rca("prepare", "voc", *words, "--train-list", "part", "--run", name, "--set", "runtime.workers=0")
        assert done.code == 0, done.err
        assert "official val has 1449, 30 of them are in this list" in done.err
        found[name] = [json.loads(line) for line in (tmp_path / name / "prepare" / "manifest.jsonl").read_text().splitlines()]
    assert len(found["tags.txt"]) == 90
    assert found["vectors"] == found["around"] == found["around it"] == found["tags.txt"]
    same_labels = json.loads((tmp_path / "other masks" / "prepare" / "summary.json").read_text())["splits"]["train"]["masks_digest"]
    assert same_labels == json.loads((tmp_path / "tags.txt" / "prepare" / "summary.json").read_text())["splits"]["train"]["masks_digest"]
    suspicious = json.loads((tmp_path / "tags.txt" / "prepare" / "summary.json").read_text())["suspicious"]
    differ = {entry["id"] for kind in ("tag_without_pixel", "pixel_without_tag") for entry in suspicious[kind]}
    assert suspicious["near_duplicates"] == []
    for one, other in zip(found["tags.txt"], found["from masks"], strict=True):
        assert (one == other) == (one["id"] not in differ)


def test_a_list_in_root_with_the_packaged_ids_gives_the_same(rca: Rca, base: Path, tmp_path: Path) -> None:
    """The official train list, of which one photo is made, twice: packaged, and copied into ROOT."""
    from rcatool.data.voc import PACKAGED_LISTS

    lists = base / "ImageSets" / "Segmentation"
    ids = (PACKAGED_LISTS / "train.txt").read_text().split()
    for image_id in ids:
        os.link(base / "JPEGImages" / "a1.jpg", base / "JPEGImages" / f"{image_id}.jpg")
    (base / "tags.txt").write_text("".join(f"{image_id} cat\n" for image_id in ids))
    (lists / "train.txt").unlink()
    one, _ = prepare(rca, base)
    assert "1464 photos, packaged list" in one.err
    manifest = Path("run/prepare/manifest.jsonl").read_bytes()
    (lists / "train.txt").write_text("".join(f"{image_id}\n" for image_id in reversed(ids)))
    two, _ = prepare(rca, base, "--force")
    assert f"1464 photos, list {lists / 'train.txt'}" in two.err
    assert "official train" not in two.err
    assert Path("run/prepare/manifest.jsonl").read_bytes() == manifest
