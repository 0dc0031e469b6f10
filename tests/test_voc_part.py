"""Real photos in VOC layout, with real pretrained weights and the dense CRF."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import Result
from PIL import Image
from small_voc import write_list
from tiny_run import assign

from rcatool.data.labels import IGNORE, VOC_CLASSES, ClassInfo
from rcatool.data.tags import read_vector_tags

Rca = Callable[..., Result]

TRAIN = ("2007_000032", "2007_000256", "2008_005338", "2010_001024")  # an aeroplane each, three of them people, too
VAL = ("2007_000175", "2007_000187")


def manifest(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "prepare" / "manifest.jsonl").read_text().splitlines()]


def read_tags(voc_part: Path) -> dict[str, list[int]]:
    """Class indices by id, from tags.txt."""
    lines = [line.split() for line in (voc_part / "VOC2012" / "tags.txt").read_text().splitlines()]
    return {name: sorted(VOC_CLASSES.index(tag) for tag in tags) for name, *tags in lines}


def test_prepare(rca: Rca, voc_part: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    root = voc_part / "VOC2012"
    done = rca("prepare", "voc", "--root", root, "--train-list", "train_mini", "--val-list", "val", "--run", run)
    assert done.code == 0, done.err
    assert f"tags: {root / 'tags.txt'}" in done.err
    assert f"masks: {root / 'SegmentationClassAug'}, 409 of 409 photos have one" in done.err
    found = manifest(run)
    for split, name, photos in (("train", "train_mini", 159), ("val", "val", 250)):
        listed = (root / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()
        assert [document["id"] for document in found if document["split"] == split] == sorted(listed)
        assert len(listed) == photos
    tags = read_tags(voc_part)
    assert {document["id"]: document["classes"] for document in found} == {document["id"]: tags[document["id"]] for document in found}
    for document in found[::40]:
        with Image.open(root / document["image"]) as photo:
            assert document["size"] == [photo.height, photo.width]


def test_the_tag_file_of_the_field_says_the_same(voc_part: Path) -> None:
    vectors = read_vector_tags(voc_part / "cls_labels.npy", ClassInfo(VOC_CLASSES))
    tags = read_tags(voc_part)
    assert len(vectors) == 12_031
    assert {name: vectors[name] for name in tags} == tags


def test_the_pipeline_with_pretrained_weights_and_crf(rca: Rca, voc_part: Path, tmp_path: Path) -> None:
    from rcatool.checkpoint import load_state

    run, root = tmp_path / "run", few_photos(voc_part, tmp_path / "VOC2012")
    weights = voc_part.parent / "weights" / "mobilenet_v2-imagenet-features-fp16.pth"
    settings = [
        "cls.backbone=mobilenet_v2", f"cls.weights={weights}", "cls.epochs=3", "cls.batch_size=1", "cls.crop_size=128",
        "cls.resize_long=[128, 192]", "cam.scales=[0.5]", "seg.backbone=mobilenet_v2", f"seg.weights={weights}", "seg.epochs=1",
        "seg.batch_size=2", "seg.crop_size=128", "seg.output_stride=16", "eval.scales=[0.5]", "runtime.workers=0", "runtime.device=cpu",
    ]  # fmt: skip
    prepared = rca("prepare", "voc", "--root", root, "--tags", voc_part / "cls_labels.npy", "--run", run, *assign(*settings))
    assert prepared.code == 0, prepared.err
    for word in ("train-cls", "make-pseudo", "train-seg", "eval"):
        done = rca(word, "--run", run)
        assert done.code == 0, done.err

    for step in ("train-cls", "train-seg"):
        model = load_state(run / step / "final.pt")["model"]
        assert all(bool(tensor.isfinite().all()) for tensor in model.values() if tensor.is_floating_point())
    tags = read_tags(voc_part)
    seen = set()
    for name in TRAIN:
        with np.load(run / "make-pseudo" / "cams" / f"{name}.npz", allow_pickle=False) as archive:
            assert archive["keys"].tolist() == tags[name]
            assert np.isfinite(archive["cam"]).all()
            assert set(archive["cam"].max(axis=(1, 2)).tolist()) <= {0, 1}
        label = np.asarray(Image.open(run / "make-pseudo" / "labels" / f"{name}.png"))
        with Image.open(root / "JPEGImages" / f"{name}.jpg") as photo:
            assert label.shape == (photo.height, photo.width)
        values = set(np.unique(label).tolist())
        assert values <= {0, IGNORE, *(c + 1 for c in tags[name])}
        seen |= values
    assert seen - {IGNORE} == {0, *(VOC_CLASSES.index(name) + 1 for name in ("aeroplane", "person"))}
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    assert [(scores["list"], scores["images"]) for scores in metrics.values()] == [("train", 4), ("train", 4), ("val", 2)]
    assert all(0 < scores["miou"] <= 1 for scores in metrics.values())
    assert metrics["pseudo"]["protocol"]["pseudo"]["crf"] == "irn"


def few_photos(voc_part: Path, root: Path) -> Path:
    """The photos and masks by a link, with lists of a few of them and no tags."""
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name in ("JPEGImages", "SegmentationClassAug"):
        (root / name).symlink_to(voc_part / "VOC2012" / name)
    write_list(root, "train", TRAIN)
    write_list(root, "val", VAL)
    return root
