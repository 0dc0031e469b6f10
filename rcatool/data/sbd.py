"""SBD, the Semantic Boundaries Dataset: its .mat masks, and the SegmentationClassAug folder made of them and VOC's own.

SBD has masks of 11,355 photos of VOC 2011, without a void border (no 255), all of them among VOC 2012's photos. VOC's own
mask is taken where both have one, as is the field's custom (the train-DeepLab recipe, the union behind the 10,582 of trainaug).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcatool.data.labels import VOC_CLASSES, read_mask, write_mask
from rcatool.data.mat5 import BROKEN, read_field
from rcatool.errors import ConfigError, DataError
from rcatool.files import atomic_save, plain

OFFICIAL_MASKS = 11_355
FOLDER = "SegmentationClassAug"
MAX_MAT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Source:
    """Where the mask of one photo comes from: a PNG of VOC or a .mat of SBD."""

    image_id: str
    path: Path


def find_masks(folder: Path) -> Path:
    """Return the folder of .mat files in an unpacked SBD archive; ConfigError where there is none."""
    for base in (folder, folder / "dataset", folder / "benchmark_RELEASE" / "dataset"):
        if (base / "cls").is_dir():
            return base / "cls"
    places = "cls, nor dataset/cls, nor benchmark_RELEASE/dataset/cls"
    raise ConfigError(f"--sbd: {folder} has no {places}", "name the unpacked folder benchmark_RELEASE")


def sources(base: Path, mats: Path) -> list[Source]:
    """Return the mask of every photo that VOC (SegmentationClass of `base`) or SBD has one of, sorted by id; VOC's wins."""
    found = {name[:-4]: mats / name for name in os.listdir(mats) if name.endswith(".mat")}
    own = base / "SegmentationClass"
    if own.is_dir():
        found |= {name[:-4]: own / name for name in os.listdir(own) if name.endswith(".png")}
    return [Source(image_id, found[image_id]) for image_id in sorted(found)]


def make_mask(source: Source, *, folder: Path) -> str | None:
    """Write FOLDER/<id>.png unless a readable one is there; return what is wrong with the source, if anything is.

    A PNG of VOC is copied byte by byte. Files are not flushed to the disk one by one: the caller does that for all of them.
    """
    target = folder / f"{source.image_id}.png"
    try:
        if target.exists():
            read_mask(target, num_classes=len(VOC_CLASSES))
            return None
    except DataError:
        pass  # half a file of a machine that went down
    try:
        if source.path.suffix == ".mat":
            write_mask(target, read_mat(source.path), flush=False)
        else:
            read_mask(source.path, num_classes=len(VOC_CLASSES))
            data = plain(source.path).read_bytes()
            atomic_save(target, lambda file: file.write(data), flush=False)
    except DataError as error:
        return error.message
    return None


def read_mat(path: Path) -> np.ndarray:
    """Read GTcls.Segmentation of an SBD .mat file: uint8 (H, W), values 0..20; DataError naming the file.

    Nothing in such a file is executed, and what it inflates to is limited.
    """
    try:
        if path.stat().st_size > MAX_MAT_BYTES:
            raise ValueError(f"more than {MAX_MAT_BYTES} bytes")
        mask = read_field(plain(path).read_bytes(), "GTcls", "Segmentation")
        if mask.size == 0:
            raise ValueError("GTcls.Segmentation is empty")
        wrong = mask[~np.isin(mask, np.arange(len(VOC_CLASSES) + 1))]
        if len(wrong):
            raise ValueError(f"GTcls.Segmentation holds {wrong[0]}, expected 0..{len(VOC_CLASSES)}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except BROKEN as error:
        raise DataError(f"{path}: not a mask of SBD ({error or 'cut short'})") from error
    return np.ascontiguousarray(mask, np.uint8)
