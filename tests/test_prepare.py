"""Oracles: files broken by hand, Pillow and hashlib for what the manifest says, the real photos' known oddities."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_voc import make_mask, make_photo, make_voc, write_list

from rcatool.config import Config, Runtime
from rcatool.config_data import Data
from rcatool.data import labels, shapes
from rcatool.data.labels import VOC_CLASSES, read_classes
from rcatool.data.manifest import read_manifest, split
from rcatool.errors import ConfigError, DataError
from rcatool.run import Run
from rcatool.stages import prepare


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "VOC2012")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def config(root: Path, workers: int = 0, **data: Any) -> Config:
    return Config(data=Data(root=str(root), **data), runtime=Runtime(workers=workers))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_manifest_says_what_is_there(run: Run, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main(run, config(base))
    samples = read_manifest(run.dir("prepare") / "manifest.jsonl", num_classes=20)
    assert [(sample.split, sample.id) for sample in samples] == [
        ("train", "a1"),
        ("train", "a2"),
        ("train", "a3"),
        ("val", "b1"),
        ("val", "b2"),
    ]
    for sample in samples:
        photo = (base / sample.image).read_bytes()
        assert (sample.bytes, sample.sha256) == (len(photo), hashlib.sha256(photo).hexdigest()[:16])
        assert sample.mask_sha256 == hashlib.sha256((base / f"SegmentationClassAug/{sample.id}.png").read_bytes()).hexdigest()[:16]
        assert (sample.size, sample.classes, sample.mask) == ((12, 16), (7, 14), f"SegmentationClassAug/{sample.id}.png")
    assert read_classes(run.dir("prepare") / "classes.json").names == VOC_CLASSES
    assert json.loads((run.dir("prepare") / "stage.json").read_text())["status"] == "done"
    err = capsys.readouterr().err
    assert "without a pixel" not in err
    assert "not tagged with" not in err


def test_workers_write_the_same(base: Path, tmp_path: Path) -> None:
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    prepare.main(one, config(base))
    prepare.main(two, config(base, workers=2))
    for name in ("manifest.jsonl", "classes.json"):
        assert (one.dir("prepare") / name).read_bytes() == (two.dir("prepare") / name).read_bytes()


def test_tags_and_masks_are_compared(run: Run, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "tags.txt").write_text("a1 cat person\na2 cat\na3 cat person dog\nb1 cat person\n")
    for n, image_id in enumerate(("a1", "a2", "a3", "b1", "b2")):
        make_mask(base / "SegmentationClassAug" / f"{image_id}.png", (8, 15) if n < 4 else (1,))
    prepare.main(run, config(base))
    err = capsys.readouterr().err
    assert "1 of 4 photos with a mask have a tag without a pixel" in err  # a3: no dog; b2 has no tags
    assert "1 of 4 photos with a mask have pixels of a class they are not tagged with" in err  # a2: a person
    unseen = next(line for line in err.splitlines() if "no training photo has the tag" in line)
    assert "'cow'" in unseen
    assert "'dog'" not in unseen


def test_tags_from_masks(run: Run, base: Path) -> None:
    (base / "tags.txt").unlink()
    make_mask(base / "SegmentationClassAug" / "a2.png", (1, 0, 255, 20))
    prepare.main(run, config(base, tags="masks"))
    found = {sample.id: sample.classes for sample in read_manifest(run.dir("prepare") / "manifest.jsonl")}
    assert found == {"a1": (7, 14), "a2": (0, 19), "a3": (7, 14), "b1": (7, 14), "b2": (7, 14)}
    make_mask(base / "SegmentationClassAug" / "a2.png", (255,))
    (base / "SegmentationClassAug" / "a3.png").unlink()
    with pytest.raises(DataError, match="2 problems"):
        prepare.main(run, config(base, tags="masks"), force=True)
    lines = (run.root / "prepare-problems.txt").read_text().splitlines()
    assert [line.rpartition("JPEGImages/")[2] for line in lines] == [
        "a2.jpg: no object in its mask to take tags from",
        "a3.jpg: no mask to take tags from",
    ]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "photo gone": (lambda base: (base / "JPEGImages/a2.jpg").unlink(), "JPEGImages/a2.jpg: no such file"),
    "photo truncated": (lambda base: truncate(base / "JPEGImages/a2.jpg"), "JPEGImages/a2.jpg: cannot be decoded"),
    "photo is text": (lambda base: (base / "JPEGImages/a2.jpg").write_text("?"), "JPEGImages/a2.jpg: not an image"),
    "photo of another size": (
        lambda base: make_photo(base / "JPEGImages/a2.jpg", 9, (5, 6)),
        "a2.png: mask is 12 x 16 (H x W), expected 5 x 6",
    ),
    "photo in both splits": (
        lambda base: shutil.copy(base / "JPEGImages/a2.jpg", base / "JPEGImages/b1.jpg"),
        "JPEGImages/b1.jpg (val) is the same photo as JPEGImages/a2.jpg (train)",
    ),
    "mask truncated": (lambda base: truncate(base / "SegmentationClassAug/a2.png"), "a2.png: cannot be decoded"),
    "mask with class 21": (
        lambda base: make_mask(base / "SegmentationClassAug/a2.png", (21,)),
        "a2.png: mask value 21, expected 0..20 or 255",
    ),
    "mask in colours": (lambda base: make_photo(base / "SegmentationClassAug/a2.png"), "a2.png: cannot be decoded (a 8-bit RGB PNG"),
    "mask turned": (
        lambda base: make_mask(base / "SegmentationClassAug/a2.png", (1,), (16, 12)),
        "a2.png: mask is 16 x 12 (H x W), expected 12 x 16",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_nothing_finished_is_lost(run: Run, base: Path, name: str) -> None:
    prepare.main(run, config(base))
    before = contents(run.dir("prepare"))
    damage, message = DAMAGE[name]
    damage(base)
    with pytest.raises(DataError) as caught:
        prepare.main(run, config(base), force=True)
    assert caught.value.message.startswith("1 problem in the data set, first: ")
    assert message in caught.value.message
    assert str(run.root / "prepare-problems.txt") in str(caught.value.hint)
    assert message in (run.root / "prepare-problems.txt").read_text()
    assert contents(run.dir("prepare")) == before


def test_all_problems_are_listed(run: Run, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [f"c{n:02d}" for n in range(30)]
    write_list(base, "train", ids)
    (base / "tags.txt").write_text("".join(f"{image_id} cat\n" for image_id in ids))
    with pytest.raises(DataError, match="^30 problems in the data set"):
        prepare.main(run, config(base, workers=2))
    assert capsys.readouterr().err.count("no such file") == 20
    lines = (run.root / "prepare-problems.txt").read_text().splitlines()
    assert [Path(line.partition(":")[0]).stem for line in lines] == ids
    assert not run.dir("prepare").exists()
    for seed, image_id in enumerate(ids):
        make_photo(base / "JPEGImages" / f"{image_id}.jpg", 100 + seed)
    prepare.main(run, config(base))
    assert not (run.root / "prepare-problems.txt").exists()


def test_equal_photos_within_a_split_are_a_warning(run: Run, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(base / "JPEGImages" / "a1.jpg", base / "JPEGImages" / "a3.jpg")
    prepare.main(run, config(base))
    assert "photos that are there twice in one split: 1 (a3 is a1)" in capsys.readouterr().err


def test_size_is_the_one_after_exif_rotation(run: Run, base: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(base / "JPEGImages" / "a1.jpg") as image:
        image.save(base / "JPEGImages" / "a1.jpg", exif=exif)
    make_mask(base / "SegmentationClassAug" / "a1.png", (8, 15), (16, 12))
    prepare.main(run, config(base))
    assert read_manifest(run.dir("prepare") / "manifest.jsonl")[0].size == (16, 12)


def test_second_time_does_nothing_and_reads_no_mask(run: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare.main(run, config(base))
    before = contents(run.root)
    shutil.rmtree(base / "SegmentationClassAug")
    monkeypatch.setattr(prepare, "read_mask", None)
    prepare.main(run, config(base))
    assert contents(run.root) == before


def test_data_may_move(run: Run, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main(run, config(base))
    before = contents(run.dir("prepare"))
    base.rename(tmp_path / "moved")
    prepare.main(run, config(tmp_path / "moved"))
    assert f"all 5 photos are in {tmp_path / 'moved'}" in capsys.readouterr().err
    assert contents(run.dir("prepare")) == before
    (tmp_path / "moved" / "JPEGImages" / "a2.jpg").write_bytes(b"other")
    with pytest.raises(DataError, match=r"a2\.jpg: 5 bytes, expected") as caught:
        prepare.main(run, config(tmp_path / "moved"))
    assert "--force" in str(caught.value.hint)


def test_folder(run: Run, tmp_path: Path) -> None:
    for seed, name in enumerate(("x.jpg", "sub/y.png", "z.bmp", "w.webp")):
        make_photo(tmp_path / "photos" / name, seed)
    make_mask(tmp_path / "masks" / "sub" / "y.png", (1, 2, 255))
    (tmp_path / "tags.csv").write_text("image,tags,split\nx.jpg,tree;car,train\nsub/y.png,tree|car,val\nz.bmp,car,\nw.webp,,\n")
    settings = config(tmp_path, dataset="folder", images="photos", tags="tags.csv", masks="masks")
    prepare.main(run, settings)
    samples = read_manifest(run.dir("prepare") / "manifest.jsonl")
    assert [(sample.id, sample.split, sample.classes, sample.mask) for sample in samples] == [
        ("x", "train", (0, 1), None),
        ("z", "train", (0,), None),
        ("sub_y", "val", (0, 1), "masks/sub/y.png"),
    ]
    assert read_classes(run.dir("prepare") / "classes.json").names == ("car", "tree")
    make_mask(tmp_path / "masks" / "sub" / "y.png", (3,))
    with pytest.raises(DataError, match=r"y\.png: mask value 3, expected 0\.\.2 or 255"):
        prepare.main(run, settings, force=True)


def test_shapes(run: Run, tmp_path: Path) -> None:
    settings = config(tmp_path / "images", dataset="shapes", shapes_train=8, shapes_val=4, shapes_size=32)
    prepare.main(run, settings)
    samples = read_manifest(run.dir("prepare") / "manifest.jsonl")
    assert (len(split(samples, "train")), len(split(samples, "val"))) == (8, 4)
    assert read_classes(run.dir("prepare") / "classes.json").names == shapes.CLASSES
    before = contents(tmp_path)
    prepare.main(run, settings)
    assert contents(tmp_path) == before


def test_root_must_be_absolute(run: Run) -> None:
    for root in ("", "data"):
        with pytest.raises(ConfigError, match=r"data\.root is"):
            prepare.main(run, Config(data=Data(root=root)))


def test_real_photos(run: Run, voc_part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main(run, config(voc_part, workers=-1, train_list="train_mini", val_list="tune"))
    samples = read_manifest(run.dir("prepare") / "manifest.jsonl", num_classes=20)
    assert (len(split(samples, "train")), len(split(samples, "val"))) == (159, 100)
    without_pixel = 0
    for sample in samples:
        with Image.open(voc_part / sample.image) as photo, Image.open(voc_part / str(sample.mask)) as mask:
            assert sample.size == (photo.height, photo.width)
            values = set(np.unique(np.array(mask)).tolist()) - {0, labels.IGNORE}
        without_pixel += not {c + 1 for c in sample.classes} <= values
    warned = f"{without_pixel} of 259 photos with a mask have a tag without a pixel" in capsys.readouterr().err
    assert warned == (without_pixel > 0)
