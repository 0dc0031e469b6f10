"""Oracles: masks written by scipy in SBD's layout, a file put together byte by byte, folders of known content."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from scipy.io import loadmat, savemat
from small_voc import make_mask, make_voc, write_list, write_mat

from rcatool.data import mat5, sbd
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.run import Run
from rcatool.stages import sbd_masks

Rca = Callable[..., Result]
SIZE = (12, 16)


def pixels(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 21, size, dtype=np.uint8)


def indices(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


# ---- one file


@pytest.mark.parametrize("deflated", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_a_mask_is_what_was_written(tmp_path: Path, deflated: bool, dtype: str) -> None:
    mask = pixels().astype(dtype)
    write_mat(tmp_path / "a.mat", mask, deflated=deflated)
    found = sbd.read_mat(tmp_path / "a.mat")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mask)
    np.testing.assert_array_equal(found, loadmat(tmp_path / "a.mat")["GTcls"][0, 0]["Segmentation"])


def element(order: str, kind: int, content: bytes) -> bytes:
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(order: str, cls: int, dims: tuple[int, ...], name: bytes, *rest: bytes) -> bytes:
    head = element(order, 6, struct.pack(f"{order}II", cls, 0)) + element(order, 5, struct.pack(f"{order}{len(dims)}i", *dims))
    return element(order, 14, head + element(order, 1, name) + b"".join(rest))


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(tmp_path: Path, order: str) -> None:
    """A 2 x 3 matrix in field Segmentation, stored column by column, after a matrix of another name."""
    values = matrix(order, 9, (2, 3), b"", element(order, 2, bytes([1, 4, 2, 5, 3, 20])))
    fields = element(order, 5, struct.pack(f"{order}i", 16)) + element(order, 1, b"Segmentation".ljust(16, b"\0"))
    body = matrix(order, 9, (1, 1), b"other", element(order, 2, b"\7")) + matrix(order, 2, (1, 1), b"GTcls", fields, values)
    head = b"made by hand".ljust(124) + struct.pack(f"{order}H", 0x0100) + (b"IM" if order == "<" else b"MI")
    deflated = zlib.compress(matrix(order, 2, (1, 1), b"GTcls", fields, values))
    for content in (body, struct.pack(f"{order}II", 15, len(deflated)) + deflated):
        (tmp_path / "a.mat").write_bytes(head + content)
        np.testing.assert_array_equal(sbd.read_mat(tmp_path / "a.mat"), [[1, 2, 3], [4, 5, 20]])


def bomb(path: Path) -> None:
    content = zlib.compress(bytes(mat5.MAX_INFLATED + 1))
    path.write_bytes(b"x".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(content)) + content)


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_mat(path, pixels())
        path.write_bytes(change(path.read_bytes()))

    return write


def saving(**content: object) -> Callable[[Path], None]:
    return lambda path: savemat(path, content)


def masked(mask: object) -> Callable[[Path], None]:
    return saving(GTcls={"Segmentation": mask})


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "cannot be read"),
    "a folder": (lambda path: path.mkdir(), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "not a MATLAB 5 file"),
    "HDF5": (lambda path: path.write_bytes(b"MATLAB 7.3".ljust(124) + b"\0\2IM" + b"\x89HDF"), "not a MATLAB 5 file"),
    "a pickle": (lambda path: path.write_bytes(b"\x80\x04\x95" + bytes(200)), "not a MATLAB 5 file"),
    "cut": (rewrite(lambda data: data[:-9]), "not a mask of SBD"),
    "only a header": (rewrite(lambda data: data[:128]), "no struct GTcls"),
    "other bytes": (rewrite(lambda data: data[:150] + b"\0" * 20 + data[170:]), "not a mask of SBD"),
    "a bomb": (bomb, "inflates to more than"),
    "a large file": (lambda path: path.write_bytes(bytes(sbd.MAX_MAT_BYTES + 1)), "more than"),
    "another name": (saving(GTinst={"Segmentation": pixels()}), "no struct GTcls"),
    "no struct": (saving(GTcls=pixels()), "no struct GTcls"),
    "no field": (saving(GTcls={"Boundaries": pixels()}), "no field Segmentation"),
    "cells": (masked(np.array([["a", 1]], object)), "not a matrix of real numbers"),
    "text": (masked("person"), "not a matrix of real numbers"),
    "complex": (masked(pixels() * 1j), "not a matrix of real numbers"),
    "three dimensions": (masked(pixels()[..., None].repeat(3, axis=2)), "not a matrix of real numbers"),
    "no pixels": (masked(np.zeros((0, 4), np.uint8)), "empty"),
    "class 21": (masked(np.full(SIZE, 21, np.uint8)), r"holds 21, expected 0\.\.20"),
    "void": (masked(np.full(SIZE, 255, np.uint8)), "holds 255"),
    "negative": (masked(np.full(SIZE, -1.0)), "holds -1"),
    "between": (masked(np.full(SIZE, 0.5)), "holds 0.5"),
    "not a number": (masked(np.full(SIZE, np.nan)), "holds nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_refused_by_name(tmp_path: Path, case: str) -> None:
    write, message = REFUSED[case]
    write(tmp_path / "x.mat")
    with pytest.raises(DataError, match=rf"x\.mat: .*{message}"):
        sbd.read_mat(tmp_path / "x.mat")


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """Bytes changed at random: what scipy's own reader answers with a crash of the process now and then."""
    rng = np.random.default_rng(0)
    savemat(tmp_path / "a.mat", {"GTcls": {"Segmentation": pixels()}})
    whole = (tmp_path / "a.mat").read_bytes()
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        place = int(rng.integers(len(data)))
        data[place : place + 4] = int(rng.choice([0, 1, 14, 2**16, 2**31 - 1, 2**32 - 1])).to_bytes(4, "little")
        (tmp_path / "b.mat").write_bytes(data)
        try:
            assert sbd.read_mat(tmp_path / "b.mat").max() <= 20
        except DataError:
            refused += 1
    assert 100 < refused < 300


# ---- the folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """VOC with own masks of a1 and b1, without those of SBD."""
    base = make_voc(tmp_path / "VOCdevkit" / "VOC2012")
    (base / "SegmentationClassAug").rename(base / "SegmentationClass")
    for image_id in ("a2", "a3", "b2"):
        (base / "SegmentationClass" / f"{image_id}.png").unlink()
    return base


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """SBD with masks of a1 (VOC has one, too), a2, a3 and a photo of no list."""
    for seed, image_id in enumerate(("a1", "a2", "a3", "z9")):
        write_mat(tmp_path / "benchmark_RELEASE" / "dataset" / "cls" / f"{image_id}.mat", pixels(seed))
    return tmp_path / "benchmark_RELEASE"


def test_vocs_own_mask_wins(base: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sbd_masks.convert(base, archive, workers=0) == 5
    made = base / "SegmentationClassAug"
    assert sorted(os.listdir(made)) == ["a1.png", "a2.png", "a3.png", "b1.png", "z9.png"]
    for image_id in ("a1", "b1"):
        assert (made / f"{image_id}.png").read_bytes() == (base / "SegmentationClass" / f"{image_id}.png").read_bytes()
    for seed, image_id in enumerate(("a2", "a3", "z9"), start=1):
        np.testing.assert_array_equal(indices(made / f"{image_id}.png"), pixels(seed))
    record = json.loads((base / "SegmentationClassAug.json").read_text())
    assert (record["status"], record["masks"], record["of VOC"], record["of SBD"]) == ("done", 5, 2, 3)
    err = capsys.readouterr().err
    assert "VOC: 2 masks here, its archive has 2913" in err
    assert "SBD: 4 masks here, its archive has 11355" in err


@pytest.mark.parametrize("below", ["", "dataset", ".."])
def test_the_archive_by_any_of_its_folders(base: Path, archive: Path, below: str) -> None:
    assert sbd_masks.convert(base, archive / below, workers=0) == 5


def test_no_archive(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--sbd: .*has no cls"):
        sbd_masks.convert(base, tmp_path / "VOCdevkit", workers=0)


def test_a_second_time_makes_what_is_missing(base: Path, archive: Path) -> None:
    made = base / "SegmentationClassAug"
    sbd_masks.convert(base, archive, workers=0)
    assert sbd_masks.convert(base, archive, workers=0) == 0
    (made / "a2.png").unlink()
    assert sbd_masks.convert(base, archive, workers=2) == 1
    np.testing.assert_array_equal(indices(made / "a2.png"), pixels(1))


def test_a_broken_mask_is_named_and_the_rest_resumed(base: Path, archive: Path) -> None:
    broken = archive / "dataset" / "cls" / "a3.mat"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"1 mask cannot be converted, first: .*a3\.mat: not a mask of SBD"):
        sbd_masks.convert(base, archive, workers=0)
    made = base / "SegmentationClassAug"
    assert sorted(os.listdir(made)) == ["a1.png", "a2.png", "b1.png", "z9.png"]
    before = (made / "a2.png").stat().st_mtime_ns
    (made / "z9.png").write_bytes((made / "z9.png").read_bytes()[:40])  # a machine that went down
    broken.write_bytes(whole)
    sbd_masks.convert(base, archive, workers=0)
    assert (made / "a2.png").stat().st_mtime_ns == before
    np.testing.assert_array_equal(indices(made / "a3.png"), pixels(2))
    np.testing.assert_array_equal(indices(made / "z9.png"), pixels(3))


def test_a_folder_from_elsewhere_is_left_alone(base: Path, archive: Path) -> None:
    make_mask(base / "SegmentationClassAug" / "a1.png", (1,))
    before = (base / "SegmentationClassAug" / "a1.png").read_bytes()
    with pytest.raises(ConfigError, match="SegmentationClassAug is there, and not made by --sbd"):
        sbd_masks.convert(base, archive, workers=0)
    assert (base / "SegmentationClassAug" / "a1.png").read_bytes() == before


def test_a_place_that_cannot_be_written_to(base: Path, archive: Path) -> None:
    (base / "SegmentationClassAug").write_text("a file")
    with pytest.raises(SetupError, match="SegmentationClassAug: cannot be written") as caught:
        sbd_masks.convert(base, archive, workers=0)
    assert "--sbd-out DIR" in str(caught.value.hint)


# ---- the command


def prepare(rca: Rca, base: Path, run: str, *more: object) -> Result:
    return rca("prepare", "voc", "--root", base, "--run", run, "--set", "runtime.workers=0", *map(str, more))


def test_prepare_with_sbd_is_prepare_with_a_ready_folder(rca: Rca, base: Path, archive: Path, tmp_path: Path) -> None:
    done = prepare(rca, base, "own", "--sbd", archive)
    assert done.code == 0, done.err
    assert "SegmentationClassAug, 4 of 5 photos have one" in done.err
    assert prepare(rca, base, "ready").code == 0
    for name in ("manifest.jsonl", "summary.json"):
        assert (tmp_path / "own" / "prepare" / name).read_bytes() == (tmp_path / "ready" / "prepare" / name).read_bytes()
    assert "prepare: up to date" in prepare(rca, base, "own", "--sbd", archive).err


def test_new_masks_are_taken_into_a_run_that_was_up_to_date(rca: Rca, base: Path, archive: Path, tmp_path: Path) -> None:
    assert prepare(rca, base, "run", "--sbd", archive).code == 0
    write_mat(archive / "dataset" / "cls" / "b2.mat", pixels(7))
    assert "SegmentationClassAug, 5 of 5 photos have one" in prepare(rca, base, "run", "--sbd", archive).err


def test_masks_elsewhere_leave_root_as_it_is(rca: Rca, base: Path, archive: Path, tmp_path: Path) -> None:
    before = sorted(base.rglob("*"))
    done = prepare(rca, base, "run", "--sbd", archive, "--sbd-out", "work")
    assert done.code == 0, done.err
    assert sorted(base.rglob("*")) == before
    assert Run(tmp_path / "run").read_config().data.root == str(tmp_path / "work")
    assert sorted(os.listdir(tmp_path / "work" / "SegmentationClassAug")) == ["a1.png", "a2.png", "a3.png", "b1.png", "z9.png"]
    assert rca("prepare", "--verify", "--run", "run").code == 0
    assert prepare(rca, tmp_path / "work", "again").code == 0
    assert prepare(rca, base, "run", "--sbd-out", "work").code == 2


def test_photos_to_predict_have_neither_tags_nor_masks(rca: Rca, base: Path, tmp_path: Path) -> None:
    (base / "JPEGImages" / "b2.jpg").rename(base / "JPEGImages" / "t1.jpg")
    make_mask(base / "SegmentationClass" / "t1.png", (1,))
    write_list(base, "val", ["b1"])
    write_list(base, "hidden", ["t1"])
    (base / "tags.txt").write_text("a1 cat\na2 cat\na3 cat\nt1 cat\n")
    done = prepare(rca, base, "run", "--test-list", "hidden")
    assert done.code == 0, done.err
    documents = [json.loads(line) for line in (tmp_path / "run" / "prepare" / "manifest.jsonl").read_text().splitlines()]
    found = [document for document in documents if document["split"] == "test"]
    assert [(document["id"], document["classes"], "mask" in document) for document in found] == [("t1", [], False)]
    write_list(base, "wrong", ["a1"])
    assert "in both data.train_list (train) and data.test_list (wrong)" in prepare(rca, base, "run", "--test-list", "wrong").err
