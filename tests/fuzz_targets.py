"""The readers that are fuzzed: whole files to begin with, and what must hold of what they give."""

import io
import json
import pickle
import struct
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io
from fuzzing import Target, archive, npy, npz, pictures, png_with_checksums
from PIL import Image

from rcatool import config_io
from rcatool.cams import load_cam
from rcatool.config import Config
from rcatool.data import manifest, sbd, tag_csv, tag_folders, tag_json
from rcatool.data.labels import read_classes, read_mask
from rcatool.data.npy import read_tag_vectors
from rcatool.data.photos import image_size, read_image

SIZE = (6, 5)
SAMPLE = {
    "id": "a", "split": "train", "image": "a/b.jpg", "size": [6, 5], "classes": [0, 2], "bytes": 10, "sha256": "0" * 16, "mask": "m/a.png",
    "mask_sha256": "f" * 16,
}  # fmt: skip
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 5}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 9, "iscrowd": 0, "segmentation": [[0, 0, 3, 0, 3, 3]]}],
}
MAPS = np.linspace(0, 1, 2 * 6 * 5, dtype=np.float32).reshape(2, *SIZE)


def text(value: object) -> bytes:
    """A value as JSON."""
    return json.dumps(value).encode()


def config_read(path: Path) -> None:
    """Settings that were read are the same when they are written and read again."""
    config = config_io.read_config(path)
    path.write_text(config_io.dump(config), encoding="utf-8")
    assert config_io.read_config(path) == config


def manifest_read(path: Path) -> None:
    """Samples that were read are the same when they are written and read again, and name no file outside of the data set."""
    samples = manifest.read_manifest(path)
    manifest.check_images(samples[:0], path.parent)
    for sample in samples:
        for name in (sample.image, sample.mask, sample.saliency):
            assert name is None or (path.parent / name).resolve().is_relative_to(path.parent.resolve())
        assert (path.parent / f"{sample.id}.png").parent == path.parent
    manifest.write_manifest(path, samples)
    assert manifest.read_manifest(path) == samples


def rows_read(read: object, path: Path) -> None:
    """Rows name photos below their folder."""
    for row in read(path):  # type: ignore[operator]
        assert (path.parent / row.image).resolve().is_relative_to(path.parent.resolve())
        assert all(tag.isprintable() and tag.strip() == tag for tag in row.tags)


def folders_read(path: Path) -> None:
    """The names of photos in folders, one a line; of those that a file system can hold, as they come from there."""
    names = path.read_bytes().decode(errors="surrogateescape").split("\n")
    kept = [name for name in names if len(name) < 1000 and "\0" not in name]
    possible = [name for name in kept if all(len(part.encode(errors="ignore")) < 256 for part in name.split("/"))]
    tag_folders.read_rows(path.parent, [name for name in possible if name.strip("/")])


def mask_read(path: Path) -> None:
    """A mask has classes and 255 only."""
    mask = read_mask(path, num_classes=4)
    assert mask.dtype == np.uint8
    assert mask.ndim == 2
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 4, 255}


def photo_read(path: Path) -> None:
    """A photo is RGB of the size that its header says."""
    photo = read_image(path)
    assert photo.dtype == np.uint8
    assert photo.shape == (*image_size(path), 3)


def cam_read(path: Path) -> None:
    """A CAM is in [0, 1]."""
    keys, cam = load_cam(path, size=SIZE, num_classes=4)
    assert len(keys) == len(cam)
    assert np.isfinite(cam).all()
    assert cam.size == 0 or (cam.min() >= 0 and cam.max() <= 1)


def other_cam_read(name: str, path: Path) -> None:
    """Keys and maps belong together."""
    from rcatool.cam_files import LAYOUTS, read_maps

    keys, maps = read_maps(path, layout=LAYOUTS[name])
    assert len(keys) == len(maps)
    assert maps.dtype == np.float32


def tags_read(path: Path) -> None:
    """Vectors of numbers by name."""
    assert all(isinstance(key, str) and value.ndim == 1 for key, value in read_tag_vectors(path).items())


def checkpoint_read(path: Path) -> None:
    """A dict."""
    from rcatool.checkpoint import load_state

    assert isinstance(load_state(path), dict)


def weights_read(path: Path) -> None:
    """Tensors by name."""
    from rcatool.models.weight_files import read_state

    read_state(path)


def pickled(value: object) -> bytes:
    """What np.save writes of an object."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(value, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def checkpoints(*, zipped: bool) -> list[bytes]:
    """A small checkpoint."""
    import torch

    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.zeros(2, 3)}, "epoch": 3, "names": ["a"]}, buffer, _use_new_zipfile_serialization=zipped)
    return [buffer.getvalue()]


def inner_checkpoint() -> list[bytes]:
    """The pickle inside a checkpoint's archive."""
    import zipfile

    with zipfile.ZipFile(io.BytesIO(checkpoints(zipped=True)[0])) as file:
        return [file.read(name) for name in file.namelist() if name.endswith("data.pkl")]


def safetensors() -> list[bytes]:
    """Two small tensors."""
    import torch
    from safetensors.torch import save

    return [save({"w": torch.zeros(2, 3), "b": torch.ones(2)}, {"about": "x"})]


def mxnet() -> list[bytes]:
    """A list of one array and its name."""
    array = struct.pack("<IiI2qiiI", 0xF993FAC9, 0, 2, 2, 1, 1, 0, 0) + bytes(8)
    return [struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<QQ", 1, 5) + b"arg:w"]


def mats() -> list[bytes]:
    """A struct with a matrix of classes, as SBD has it, deflated and not."""
    found = []
    for compressed in (False, True):
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"GTcls": {"Boundaries": 1.0, "Segmentation": np.eye(5, dtype=np.uint8)}}, do_compression=compressed)
        found.append(buffer.getvalue())
    return found


def masks() -> list[bytes]:
    """Grey and palette masks."""
    found = []
    for mode in ("L", "P"):
        image = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(SIZE) % 5)
        buffer = io.BytesIO()
        (image if mode == "L" else image.convert("P")).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


CAM = {"keys.npy": npy(np.array([0, 2], np.uint16)), "cam.npy": b"", "size.npy": npy(np.array(SIZE, np.int32))}
STATE = {"a/data.pkl": b"", "a/byteorder": b"little", "a/data/0": bytes(24), "a/version": b"3\n"}

TARGETS: dict[str, Target] = {
    "config": Target(".yaml", lambda: [config_io.dump(Config())[:1500].encode(), b"cls:\n  epochs: 3\n  resize_long: [1, 2]\nseed: 1\n"],
                     config_read),
    "manifest": Target(".jsonl", lambda: [text(SAMPLE) + b"\n" + text(SAMPLE | {"id": "b", "split": "val"}) + b"\n"], manifest_read),
    "classes": Target(".json", lambda: [text({"names": ["cat", "dog"], "palette": [[0, 0, 0]], "ignore_index": 255})], read_classes),
    "tags-csv": Target(".csv", lambda: [b"image,tags,split\na.jpg,cat;dog,train\n\"b.jpg\",dog|cat,val\n", b"a.jpg,cat\n"],
                       partial(rows_read, tag_csv.read_rows)),
    "tags-json": Target(".json", lambda: [text({"a.jpg": ["cat"]}), text([{"image": "a.jpg", "tags": ["b"], "split": "val"}]), text(COCO)],
                        partial(rows_read, tag_json.read_rows)),
    "tags-jsonl": Target(".jsonl", lambda: [text({"image": "a.jpg", "tags": ["b"]}) + b"\n\n" + text({"image": "b.jpg", "tags": []})],
                         partial(rows_read, tag_json.read_rows)),
    "tags-folders": Target(".txt", lambda: [b"cat/a.jpg\ndog/b.jpg\ndog/a.jpg", b"train/cat/a.jpg\nval/dog/b/c.jpg"], folders_read),
    "mask": Target(".png", masks, mask_read),
    "mask-checksums": Target(".png", masks, mask_read, png_with_checksums),
    "photo": Target(".jpg", partial(pictures, "JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"), photo_read),
    "photo-png": Target(".png", partial(pictures, "PNG"), photo_read, png_with_checksums),
    "cam": Target(".npz", lambda: [npz(keys=np.array([0, 2], np.uint16), cam=MAPS.astype(np.float16), size=np.array(SIZE, np.int32))],
                  cam_read),
    "cam-array": Target(".npz", lambda: [npy(MAPS.astype(np.float16))], cam_read, archive(**CAM)),
    "cam-irn": Target(".npy", lambda: [pickled({"keys": np.array([0, 2]), "cam": MAPS, "high_res": MAPS})], partial(other_cam_read, "irn")),
    "cam-psa": Target(".npy", lambda: [pickled({0: MAPS[0], 2: MAPS[1]})], partial(other_cam_read, "psa")),
    "cam-npz": Target(".npz", lambda: [npz(keys=np.array([0, 2]), cam=MAPS)], partial(other_cam_read, "npz")),
    "tags-npy": Target(".npy", lambda: [pickled({"a": np.array([0.0, 1.0], "f4"), "b": [1.0, 0.0]}),
                                        pickled({"a": (1, 0)}) + pickle.dumps({"b": [1]}, protocol=2)], tags_read),
    "checkpoint": Target(".pt", partial(checkpoints, zipped=True), checkpoint_read),
    "checkpoint-old": Target(".pt", partial(checkpoints, zipped=False), checkpoint_read),
    "checkpoint-pickle": Target(".pt", inner_checkpoint, checkpoint_read, archive(**STATE)),
    "safetensors": Target(".safetensors", safetensors, weights_read),
    "mxnet": Target(".params", mxnet, weights_read),
    "mat": Target(".mat", mats, sbd.read_mat),
}  # fmt: skip
