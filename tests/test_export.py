"""`rca export`: what is written, read by others' code; what is refused; and that nothing half is left."""

import gzip
import hashlib
import json
import os
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from drawing import fill_pillow
from PIL import Image
from small_voc import make_photo, make_voc, write_list
from tiny_run import TinyRun, assign, contents, snapshot

from rcatool.data.labels import VOC_CLASSES, palette
from rcatool.data.manifest import read_manifest
from rcatool.data.voc import PACKAGED_LISTS
from rcatool.errors import SetupError
from rcatool.export import voc_server

pytest.importorskip("pycocotools")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

Rca = Callable[..., Result]
FORMATS = {"voc-server": "v.tgz", "coco": "c.json", "labelme": "l", "yolo": "y", "png": "p"}
# From the development kit's table of colours: background, aeroplane, bicycle, person, tvmonitor, void.
VOC_COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}


def write_label(path: Path, label: np.ndarray) -> None:
    """A grey PNG, so that the palette of what is exported comes from the export."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(label).save(path)


def blobs(seed: int, *, shape: tuple[int, int] = (12, 16), values: tuple[int, ...] = (0, 1, 15)) -> np.ndarray:
    """A label map of 2 x 2 blocks, so with holes, corners that touch and specks."""
    blocks = np.random.default_rng(seed).choice(np.array(values, np.uint8), (shape[0] // 2, shape[1] // 2))
    label = np.repeat(np.repeat(blocks, 2, axis=0), 2, axis=1)
    label[0, 0] = 2
    return label


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, np.ndarray]:
    """Folders `labels` and `images` with three pairs (so no processes are started), one of them with one pixel of an object."""
    labels = {name: blobs(seed) for seed, name in enumerate(["2007_000032", "a b", "{0} käse 日本.y;z%s"])}
    labels["a b"][1:] = labels["a b"][:, 1:] = 0
    for seed, (name, label) in enumerate(labels.items()):
        write_label(tmp_path / "labels" / f"{name}.png", label)
        make_photo(tmp_path / "images" / f"{name}.jpg", seed)
    return labels


def export(rca: Rca, word: str, *more: str, images: bool = True) -> Result:
    given = ["--images", "images"] if images else []
    return rca("export", word, "--labels", "labels", *given, "--out", FORMATS[word], *more)


def leftovers(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir()} - {"labels", "images", "torch-home"}


# ---- the VOC server's archive


def tar(folder: Path, *arguments: str) -> list[str]:
    """The lines that the system's own tar prints."""
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["tar", *arguments], capture_output=True, text=True, check=True, cwd=folder, env=environment)
    return done.stdout.splitlines()


def test_archive_members_as_another_reader_sees_them(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path) -> None:
    done = export(rca, "voc-server", "--partial")
    assert done.code == 0
    assert "1456 missing" in done.err  # said, though allowed
    rows = [line.split(maxsplit=5) for line in tar(tmp_path, "--list", "--verbose", "--numeric-owner", "--gzip", "--file", "v.tgz")]
    assert {(row[1], row[3], row[4]) for row in rows} == {("0/0", "1970-01-01", "00:00")}
    top = "results/VOC2012/Segmentation/comp6_test_cls/"
    assert [row[5] for row in rows if row[0].startswith("d")] == [
        "results/", "results/VOC2012/", "results/VOC2012/Segmentation/", top,
    ]  # fmt: skip
    assert len([row for row in rows if row[0].startswith("-rw-r--r--")]) == 3
    tar(tmp_path, "-xzf", "v.tgz")
    assert {path.stem for path in (tmp_path / top).iterdir()} == set(folder)
    for name, label in folder.items():
        data = (tmp_path / top / f"{name}.png").read_bytes()
        width, height, depth, colour = struct.unpack(">IIBB", data[16:26])  # the PNG's own header
        assert (height, width, depth, colour) == (*label.shape, 8, 3)
        with Image.open(tmp_path / top / f"{name}.png") as image:
            assert np.array_equal(np.array(image), label)
            colours = image.getpalette()
        assert colours is not None
        assert {value: tuple(colours[3 * value : 3 * value + 3]) for value in VOC_COLOURS} == VOC_COLOURS


def test_archive_bytes_depend_on_the_labels_only(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path) -> None:
    digests = set()
    for second in (1, 100_000_000):
        os.utime(tmp_path / "labels" / "a b.png", (second, second))
        assert export(rca, "voc-server", "--partial", "--force").code == 0
        digests.add(hashlib.sha256((tmp_path / "v.tgz").read_bytes()).hexdigest())
    assert len(digests) == 1
    assert (tmp_path / "v.tgz").read_bytes()[4:8] == bytes(4)  # the time in gzip's header
    folder["a b"][3, 3] = 7
    write_label(tmp_path / "labels" / "a b.png", folder["a b"])
    assert export(rca, "voc-server", "--partial", "--force").code == 0
    assert hashlib.sha256((tmp_path / "v.tgz").read_bytes()).hexdigest() not in digests


def test_archive_of_the_whole_test_list(rca: Rca, tmp_path: Path) -> None:
    ids = (PACKAGED_LISTS / "test.txt").read_text().split()
    assert len(ids) == 1456
    write_label(tmp_path / "one.png", np.full((3, 4), 20, np.uint8))
    make_photo(tmp_path / "one.jpg", size=(3, 4))
    for kind in ("labels", "images"):
        (tmp_path / kind).mkdir()
        for image_id in ids:
            suffix = "png" if kind == "labels" else "jpg"
            os.link(tmp_path / f"one.{suffix}", tmp_path / kind / f"{image_id}.{suffix}")
    done = export(rca, "voc-server", "--comp", "comp5")
    assert (done.code, "warning" in done.err) == (0, False)
    names = tar(tmp_path, "-tzf", "v.tgz")
    wanted = sorted(f"results/VOC2012/Segmentation/comp5_test_cls/{image_id}.png" for image_id in ids)
    assert [name for name in names if not name.endswith("/")] == wanted
    os.unlink(tmp_path / "labels" / f"{ids[7]}.png")
    done = export(rca, "voc-server", "--force")
    assert done.code == 3
    assert f"1455 labels for the 1456 photos of the list test: 1 missing ({ids[7]})" in done.err


def test_archive_of_a_list_of_ones_own(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path) -> None:
    for name in ("a b", "{0} käse 日本.y;z%s"):  # a list's ids are single words
        (tmp_path / "labels" / f"{name}.png").unlink()
    (tmp_path / "mine.txt").write_text("2007_000032\n")
    assert export(rca, "voc-server", "--list", "mine.txt").code == 0
    (tmp_path / "mine.txt").write_text("2007_000033\n")
    done = export(rca, "voc-server", "--list", "mine.txt", "--force")
    assert done.code == 3
    assert "1 missing (2007_000033), 1 not in it (2007_000032)" in done.err


def test_archive_refuses_what_the_server_would(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path) -> None:
    label = folder["a b"]
    label[2, 2:5] = 255
    write_label(tmp_path / "labels" / "a b.png", label)
    done = export(rca, "voc-server", "--partial")
    assert done.code == 3
    assert "a b.png: 3 pixels of a b have the value 255" in done.err
    write_label(tmp_path / "labels" / "a b.png", np.zeros((16, 12), np.uint8))
    done = export(rca, "voc-server", "--partial")
    assert done.code == 3
    assert "a b.png: mask is 16 x 12 (H x W), expected 12 x 16" in done.err
    write_label(tmp_path / "labels" / "a b.png", np.full((12, 16), 21, np.uint8))
    assert "a b.png: mask value 21, expected 0..20" in export(rca, "voc-server", "--partial").err
    assert leftovers(tmp_path) == set()


def test_archive_that_reads_back_differently_is_not_kept(
    rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = voc_server.pack

    def spoil(handle: Any, members: Any) -> Any:
        packed = pack(handle, members)
        handle.flush()
        data = bytearray(gzip.decompress(Path(handle.name).read_bytes()))
        data[data.index(b"IDAT") - 300] ^= 1  # a colour of the first photo's palette
        handle.seek(0)
        handle.truncate()
        handle.write(gzip.compress(bytes(data)))
        return packed

    monkeypatch.setattr(voc_server, "pack", spoil)
    done = export(rca, "voc-server", "--partial")
    assert done.code == 6
    assert "reads back differently" in done.err
    assert leftovers(tmp_path) == set()


def as_png(label: np.ndarray, colours: list[int] | None) -> bytes:
    image, file = Image.fromarray(label), BytesIO()
    if colours is not None:
        image.putpalette(colours)
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("fault", ["none", "grey", "other colours", "a pixel", "size", "missing", "extra", "order", "no PNG", "cut off"])
def test_reading_back_notices(tmp_path: Path, fault: str) -> None:
    label, other = blobs(0), blobs(0)
    other[5, 5] += fault == "a pixel"
    colours = {"grey": None, "other colours": [0, 0, 0, 128, 0, 1, *palette()[6:]]}.get(fault, palette())
    content = as_png(other[:, :-1] if fault == "size" else other, colours)
    files = {"a.png": content if fault != "no PNG" else b"no PNG", "b.png": as_png(label, palette())}
    if fault == "missing":
        del files["a.png"]
    if fault == "extra":
        files["c.png"] = files["b.png"]
    with open(tmp_path / "x.tgz", "wb") as handle:
        voc_server.pack(handle, [(path, files[path], 0, ()) for path in sorted(files, reverse=fault == "order")])
    if fault == "cut off":
        (tmp_path / "x.tgz").write_bytes((tmp_path / "x.tgz").read_bytes()[:-20])
    expected = {path: (zlib.crc32(label.tobytes()), label.shape) for path in ("a.png", "b.png")}
    if fault == "none":
        assert list(voc_server.check(tmp_path / "x.tgz", expected)) == ["a.png", "b.png"]
    else:
        with pytest.raises(SetupError, match="x.tgz: reads back differently"):
            list(voc_server.check(tmp_path / "x.tgz", expected))


# ---- COCO


def coco_document(path: Path) -> Any:
    from pycocotools.coco import COCO

    return COCO(str(path))


@pytest.mark.parametrize("regions", [False, True])
def test_coco_decodes_to_the_labels(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path, regions: bool) -> None:
    folder["a b"][4:6, 4:6] = 255
    write_label(tmp_path / "labels" / "a b.png", folder["a b"])
    done = export(rca, "coco", *(["--regions"] if regions else []))
    assert done.code == 0
    assert "4 pixels (0.69 %) have the value 255" in done.err
    coco = coco_document(tmp_path / "c.json")
    assert [entry["name"] for entry in coco.loadCats(range(1, 21))] == list(VOC_CLASSES)
    assert {entry["file_name"] for entry in coco.dataset["images"]} == {f"{name}.jpg" for name in folder}
    for image in coco.dataset["images"]:
        label = folder[Path(image["file_name"]).stem]
        assert label.shape == (image["height"], image["width"])
        drawn = np.zeros_like(label)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        for entry in annotations:
            mask = coco.annToMask(entry) > 0
            assert entry["area"] == mask.sum()
            assert not drawn[mask].any()
            drawn[mask] = entry["category_id"]
            rows, columns = np.nonzero(mask)
            assert entry["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert np.array_equal(drawn, np.where(label == 255, 0, label))
        if not regions:
            assert len({entry["category_id"] for entry in annotations}) == len(annotations)
    ids = [entry["id"] for entry in coco.dataset["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def test_coco_regions_are_connected_and_large_enough(rca: Rca, tmp_path: Path) -> None:
    label = np.zeros((6, 9), np.uint8)
    label[0:2, 0:3] = 1  # 6 pixels
    label[2, 3] = 1  # a speck that touches at a corner only
    label[4:6, 0:2] = 1  # 4 pixels
    label[4:6, 2:4] = 2  # another class beside it
    write_label(tmp_path / "labels" / "a.png", label)
    make_photo(tmp_path / "images" / "a.jpg", size=(6, 9))
    assert export(rca, "coco", "--regions").code == 0
    entries = coco_document(tmp_path / "c.json").dataset["annotations"]
    assert sorted((entry["category_id"], entry["area"]) for entry in entries) == [(1, 1), (1, 4), (1, 6), (2, 4)]
    done = export(rca, "coco", "--regions", "--min-area", "4", "--force")
    assert "1 pixels were in regions below --min-area" in done.err
    entries = coco_document(tmp_path / "c.json").dataset["annotations"]
    assert sorted((entry["category_id"], entry["area"]) for entry in entries) == [(1, 4), (1, 6), (2, 4)]


def test_coco_without_its_library(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    done = export(rca, "coco")
    assert done.code == 6
    assert "hint: pip install 'rcatool[coco]'" in done.err
    assert leftovers(tmp_path) == set()


# ---- polygons


@pytest.mark.parametrize("exact", [True, False])
def test_labelme_files(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path, exact: bool) -> None:
    done = export(rca, "labelme", *(["--tolerance", "0"] if exact else []))
    assert done.code == 0
    assert ("IoU with the labels 100.00 %" in done.err) == exact
    for name, label in folder.items():
        document = json.loads((tmp_path / "l" / f"{name}.json").read_text(encoding="utf-8"))
        # What its reader asks for: these keys, a photo to be found from the file's own folder, its size, and shapes of these keys.
        assert set(document) == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
        assert (document["version"].count("."), document["flags"], document["imageData"]) == (2, {}, None)
        assert not os.path.isabs(document["imagePath"])
        with Image.open(tmp_path / "l" / document["imagePath"]) as photo:
            assert photo.size == (document["imageWidth"], document["imageHeight"]) == (16, 12)
        drawn = np.zeros_like(label)
        for shape in document["shapes"]:
            assert set(shape) == {"label", "points", "group_id", "description", "shape_type", "flags"}
            assert (shape["shape_type"], shape["flags"]) == ("polygon", {})
            assert len(shape["points"]) >= 3
            drawn[fill_pillow(label.shape, np.array(shape["points"]))] = VOC_CLASSES.index(shape["label"]) + 1
        if exact:
            assert np.array_equal(drawn, label)
            areas = [int(fill_pillow(label.shape, np.array(shape["points"])).sum()) for shape in document["shapes"]]
            assert areas == sorted(areas, reverse=True)  # so that a small one is drawn over a large one
        else:
            assert (drawn == label).mean() > 0.8
    assert (tmp_path / "l" / "labels.txt").read_text().split() == ["__ignore__", "_background_", *VOC_CLASSES]


def test_yolo_files(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path) -> None:
    import yaml

    done = export(rca, "yolo")
    assert done.code == 0
    document = yaml.safe_load((tmp_path / "y" / "data.yaml").read_text(encoding="utf-8"))
    assert document == {"train": "images/train", "val": "images/train", "names": dict(enumerate(VOC_CLASSES))}
    assert "no labels of val photos" in done.err
    photos = sorted((tmp_path / "y" / "images" / "train").iterdir())
    assert {photo.stem for photo in photos} == set(folder)
    for photo in photos:
        assert photo.read_bytes() == (tmp_path / "images" / photo.name).read_bytes()
        # Where its reader looks: the last folder `images` of the path becomes `labels`, the suffix .txt.
        path = Path("/labels/".join(str(photo).rsplit("/images/", 1))).with_suffix(".txt")
        label = folder[photo.stem]
        drawn = np.zeros_like(label)
        for line in path.read_text().splitlines():
            number, *rest = line.split(" ")
            shares = np.array(rest, dtype=np.float32).reshape(-1, 2)
            assert len(shares) >= 3
            assert (shares > 0).all()
            assert (shares < 1).all()
            drawn[fill_pillow(label.shape, shares * [label.shape[1], label.shape[0]])] = int(number) + 1
        assert np.array_equal(drawn, label)
    assert (tmp_path / "y" / "labels" / "train" / "a b.txt").read_bytes() != b""  # its one speck
    assert export(rca, "yolo", "--min-area", "2", "--force").code == 0
    assert (tmp_path / "y" / "labels" / "train" / "a b.txt").read_bytes() == b""  # a photo without an object


def test_yolo_photos_linked_or_left_out(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert export(rca, "yolo", "--photos", "link").code == 0
    link = tmp_path / "y" / "images" / "train" / "a b.jpg"
    assert link.is_symlink()
    assert link.samefile(tmp_path / "images" / "a b.jpg")
    assert export(rca, "yolo", "--photos", "none", "--force", images=False).code == 0
    assert not (tmp_path / "y" / "images").exists()
    assert len(list((tmp_path / "y" / "labels" / "train").iterdir())) == 3


def test_yolo_class_names_that_yaml_would_change(rca: Rca, tmp_path: Path) -> None:
    import yaml

    names = ["no", "1:30", "0x10", "a: b", "- c", "#d", "ünï 😀", "null", "'q\"", "{e}", "~", "1e3"]
    (tmp_path / "names.txt").write_text("background\n" + "\n".join(names) + "\n", encoding="utf-8")
    write_label(tmp_path / "labels" / "a.png", np.full((2, 2), 12, np.uint8))
    assert export(rca, "yolo", "--classes", "names.txt", "--photos", "none", images=False).code == 0
    assert yaml.safe_load((tmp_path / "y" / "data.yaml").read_text(encoding="utf-8"))["names"] == dict(enumerate(names))


# ---- PNG


def test_png_with_the_table_of_classes(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path) -> None:
    folder["a b"][5] = 255
    write_label(tmp_path / "labels" / "a b.png", folder["a b"])
    assert export(rca, "png", images=False).code == 0
    for name, label in folder.items():
        with Image.open(tmp_path / "p" / f"{name}.png") as image:
            assert image.mode == "P"
            assert np.array_equal(np.array(image), label)
            colours = np.array(image.convert("RGB"))
        for value in np.unique(label).tolist():
            assert (colours[label == value] == VOC_COLOURS[value]).all()
    table = json.loads((tmp_path / "p" / "classes.json").read_text())
    assert (table["names"], table["palette"][15]) == (list(VOC_CLASSES), [192, 128, 128])
    assert (tmp_path / "p" / "classes.txt").read_text().splitlines() == list(VOC_CLASSES)
    assert rca("export", "png", "--labels", "p", "--out", "again").code == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "p")
    assert export(rca, "png", "--rgb", "--force").code == 0
    with Image.open(tmp_path / "p" / "a b.png") as image:
        assert image.mode == "RGB"
        assert (np.array(image)[5] == VOC_COLOURS[255]).all()


def test_class_names_are_found_beside_the_labels(rca: Rca, tmp_path: Path) -> None:
    write_label(tmp_path / "labels" / "a.png", np.full((2, 2), 3, np.uint8))
    (tmp_path / "labels" / "classes.txt").write_text("one\ntwo words\nthree\n")
    assert export(rca, "png", images=False).code == 0
    assert json.loads((tmp_path / "p" / "classes.json").read_text())["names"] == ["one", "two words", "three"]
    write_label(tmp_path / "labels" / "a.png", np.full((2, 2), 4, np.uint8))
    done = export(rca, "png", "--force", images=False)
    assert done.code == 3
    assert "a.png: mask value 4, expected 0..3 or 255" in done.err
    assert "classes.txt" in done.err.splitlines()[-1]


# ---- a run


def test_labels_of_a_run(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    samples = read_manifest(undisturbed.path / "prepare" / "manifest.jsonl")
    before = snapshot(undisturbed.path)
    assert rca("export", "png", "--run", undisturbed.path, "--out", "p").code == 0
    predicted = {path.name for path in (undisturbed.path / "eval" / "predictions").iterdir()}
    assert {path.name for path in (tmp_path / "p").glob("*.png")} == predicted
    assert rca("export", "coco", "--run", undisturbed.path, "--what", "pseudo", "--out", "c.json").code == 0
    coco = coco_document(tmp_path / "c.json")
    tagged = {sample.image: sample for sample in samples if sample.split in ("train", "tune") and sample.classes}
    assert {image["file_name"] for image in coco.dataset["images"]} == set(tagged)
    for image in coco.dataset["images"]:
        with Image.open(undisturbed.path / "make-pseudo" / "labels" / f"{tagged[image['file_name']].id}.png") as file:
            label = np.array(file)
        areas = {entry["category_id"]: entry["area"] for entry in coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))}
        assert areas == {value: int((label == value).sum()) for value in np.unique(label).tolist() if value not in (0, 255)}
    assert rca("export", "yolo", "--run", undisturbed.path, "--out", "y").code == 0
    assert (tmp_path / "y" / "data.yaml").read_text().startswith("train: images/val\nval: images/val\n")
    assert {path.stem for path in (tmp_path / "y" / "images" / "val").iterdir()} == {s.id for s in samples if s.split == "val"}
    assert rca("export", "labelme", "--run", undisturbed.path, "--out", "l").code == 0
    assert "not VOC's 20" in rca("export", "voc-server", "--run", undisturbed.path, "--out", "v.tgz").err
    assert snapshot(undisturbed.path) == before


def test_a_run_that_is_not_ready(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    def refused(run: Path | str, *more: str) -> list[str]:
        done = rca("export", "png", "--run", run, "--out", "p", *more)
        assert (done.code, leftovers(tmp_path) & {"p"}) == (4, set())
        return done.err.splitlines()

    assert refused("nowhere")[0] == "error: nowhere: no run here (no config.yaml)"
    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    assert refused("run") == ["error: export needs the output of train-seg", "hint: rca train-seg --run run"]
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("bg_threshold:", "bg_threshold: 0.9 #"))
    message, hint = refused("run", "--what", "pseudo")
    assert "export needs the output of make-pseudo, which is stale (pseudo.bg_threshold" in message
    assert hint == "hint: rca make-pseudo --run run"
    whole = undisturbed.copy(tmp_path / "whole")
    (next((whole / "eval" / "predictions").iterdir())).unlink()
    assert "which is damaged" in refused("whole")[0]
    assert rca("eval", "--run", "whole", *assign("eval.flip=true")).code == 0
    assert rca("export", "png", "--run", "whole", "--out", "p").code == 0


# ---- where it goes, and what goes wrong


@pytest.mark.parametrize("word", FORMATS)
def test_what_is_there_is_refused_or_moved_aside(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path, word: str) -> None:
    more = ["--partial"] if word == "voc-server" else []
    out = tmp_path / FORMATS[word]
    assert export(rca, word, *more).code == 0
    before = snapshot(tmp_path)
    done = export(rca, word, *more)
    assert done.code == 2
    assert "is there already" in done.err
    assert "--force" in done.err
    assert snapshot(tmp_path) == before
    assert export(rca, word, *more, "--force").code == 0
    assert export(rca, word, *more, "--force").code == 0
    stem, suffix = (out.stem, out.suffix) if out.is_file() else (out.name, "")
    assert leftovers(tmp_path) == {out.name, f"{stem}-old{suffix}", f"{stem}-old-2{suffix}"}


@pytest.mark.parametrize("word", FORMATS)
def test_nothing_half_is_left(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path, word: str) -> None:
    more = ["--partial"] if word == "voc-server" else []
    assert export(rca, word, *more).code == 0
    last = sorted((tmp_path / "labels").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:60])
    before = snapshot(tmp_path / FORMATS[word])
    for out, force in ((f"new-{FORMATS[word]}", []), (FORMATS[word], ["--force"])):
        done = rca("export", word, "--labels", "labels", "--images", "images", "--out", out, *force, *more)
        assert done.code == 3
        assert "Traceback" not in done.err
        assert last.name in done.err
    assert leftovers(tmp_path) == {FORMATS[word]}
    assert snapshot(tmp_path / FORMATS[word]) == before


def test_an_interruption_leaves_nothing(
    rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rcatool.export import png

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(png, "write_classes", stop)
    assert export(rca, "png").code == 130
    assert leftovers(tmp_path) == set()


def test_an_empty_folder_is_taken_and_one_in_use_is_not(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert export(rca, "png").code == 0
    for out in (".", "..", "labels"):
        done = rca("export", "png", "--labels", "labels", "--out", out, "--force")
        assert done.code == 2
        assert "which this would replace" in done.err
    (tmp_path / "file").write_text("x")
    for word, out in (("png", "file/p"), ("png", "x" * 300), ("coco", "file/a/c.json"), ("coco", "x" * 300), ("png", "/proc/p")):
        done = rca("export", word, "--labels", "labels", "--images", "images", "--out", out)
        assert done.code == 6, out
        assert "cannot be written" in done.err
    assert leftovers(tmp_path) == {"p", "file"}


BAD = [
    ("png --out p --labels nowhere", 2, "--labels: nowhere is not a folder"),
    ("png --out p --labels images", 3, "images: no label PNG in this folder"),
    ("png --out p --labels labels --run r", 2, "--labels and --run are both given"),
    ("png --out p --labels labels --what pseudo", 2, "--labels and --what are both given"),
    ("png --out p --images images", 2, "--images goes with --labels"),
    ("png --out p --labels labels --images nowhere", 2, "--images: nowhere is not a folder"),
    ("png --out p --labels labels --images labels", 3, "labels: no photo for 3 of 3 labels"),
    ("png --out p --labels labels --classes nowhere.txt", 3, "nowhere.txt: cannot be read"),
    ("png --out p --labels labels --classes empty.txt", 3, "empty.txt: the data set has no class"),
    ("png --labels labels", 2, "missing option '--out'"),
    ("png --out p --labels labels --what truth", 2, "--what"),
    ("coco --out c.json --labels labels", 2, "a COCO document names its photos"),
    ("coco --out c.json --labels labels --images images --min-area 5", 2, "--min-area 5 is about connected regions"),
    ("coco --out c.json --labels labels --images images --min-area 0", 2, "--min-area"),
    ("labelme --out l --labels labels", 2, "a LabelMe file names its photo"),
    ("labelme --out l --labels labels --images images --tolerance nan", 2, "--tolerance"),
    ("labelme --out l --labels labels --images images --tolerance -1", 2, "--tolerance"),
    ("yolo --out y --labels labels", 2, "YOLO reads photos that lie beside their labels"),
    ("yolo --out y --labels labels --images images --photos move", 2, "--photos"),
    ("voc-server --out v.zip --labels labels --images images", 2, "v.zip is no name of a packed archive"),
    ("voc-server --out v.tgz --labels labels", 2, "the server refuses labels that are not of their photo's size"),
    ("voc-server --out v.tgz --labels labels --images images --list nowhere", 2, "--list: nowhere is no file, nor one of test, train"),
    ("voc-server --out v.tgz --labels labels --images images --list empty.txt", 3, "empty.txt: the list is empty"),
    ("voc-server --out v.tgz --labels labels --images images", 3, "1456 missing"),
    ("voc-server --out v.tgz --labels labels --images images --comp comp7", 2, "--comp"),
    ("", 2, "missing command"),
]


@pytest.mark.parametrize(("line", "code", "message"), BAD)
def test_bad_input(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path, line: str, code: int, message: str) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    done = rca("export", *line.split())
    assert (done.code, done.out) == (code, "")
    assert message in done.err.splitlines()[0]
    assert len(done.err.splitlines()) <= 2
    assert leftovers(tmp_path) == {"empty.txt"}


def test_photos_that_do_not_fit(rca: Rca, folder: dict[str, np.ndarray], tmp_path: Path) -> None:
    make_photo(tmp_path / "images" / "a b.png")
    done = export(rca, "coco")
    assert done.code == 3
    assert "several photos for one label: a b.jpg, a b.png" in done.err
    (tmp_path / "images" / "a b.png").unlink()
    (tmp_path / "images" / "2007_000032.jpg").unlink()
    assert "no photo for 1 of 3 labels: 2007_000032" in export(rca, "coco").err
    (tmp_path / "images" / "2007_000032.jpg").write_text("no photo")
    done = export(rca, "coco")
    assert done.code == 3
    assert "2007_000032.jpg: not an image" in done.err


def test_photo_and_label_in_one_folder_and_a_turned_photo(rca: Rca, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[274] = 6  # shown upright, it is as high as it is stored wide
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (4, 6)).save(tmp_path / "labels" / "a.jpg", exif=turned)
    write_label(tmp_path / "labels" / "a.png", np.ones((4, 6), np.uint8))
    assert rca("export", "coco", "--labels", "labels", "--images", "labels", "--out", "c.json").code == 0
    (image,) = coco_document(tmp_path / "c.json").dataset["images"]
    assert (image["file_name"], image["height"], image["width"]) == ("a.jpg", 4, 6)


@pytest.mark.skipif(os.sep != "/", reason="names that other systems refuse anyway")
def test_names_that_are_no_file_names_elsewhere(rca: Rca, tmp_path: Path) -> None:
    for name in ("-rf", "con", "a\nb", 'a"b', os.fsdecode(b"\xff")):
        path = tmp_path / "labels" / f"{name}.png"
        try:
            write_label(path, np.ones((2, 2), np.uint8))
        except OSError:
            continue  # this disk refuses it, too
        done = export(rca, "png", images=False)
        assert done.code == 3
        assert "cannot be the name of a photo" in done.err
        path.unlink()


def test_a_photo_that_is_gone(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(undisturbed.data), str(tmp_path / "gone")))
    done = rca("export", "yolo", "--run", "run", "--out", "y")
    assert done.code == 3
    assert "no such file" in done.err
    assert "--photos none" in done.err
    assert rca("export", "yolo", "--run", "run", "--photos", "none", "--out", "y").code == 0


def test_a_run_with_a_test_split_goes_to_the_server(rca: Rca) -> None:
    """From photos to the archive: the photos of the test list are predicted, and they alone are packed."""
    voc = make_voc(Path("VOC2012"))
    make_photo(voc / "JPEGImages/t1.jpg", 8)
    make_photo(voc / "JPEGImages/t2.jpg", 9, (10, 14))
    write_list(voc, "hidden", ["t1", "t2"])
    tiny = "--config", Path(__file__).with_name("tiny.yaml"), "--set", "data.dataset=voc"
    lists = "--train-list", "train", "--val-list", "val", "--test-list", "hidden"
    assert rca("prepare", "voc", "--root", voc, *lists, *tiny, "--set", "cls.epochs=1", "--set", "seg.epochs=1").code == 0
    assert rca("run").code == 0
    hidden = voc / "ImageSets/Segmentation/hidden.txt"
    done = rca("export", "voc-server", "--list", hidden, "--out", "v.tgz")
    assert done.code == 0, done.err
    with tarfile.open("v.tgz") as archive:
        names = [entry.name for entry in archive if entry.isfile()]
        sizes = [Image.open(archive.extractfile(name)).size for name in names]  # type: ignore[arg-type]
    assert names == [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in ("t1", "t2")]
    assert sizes == [(16, 12), (14, 10)]
