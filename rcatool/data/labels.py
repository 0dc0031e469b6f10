"""Index conventions, class names, palette, and masks.

A class is `c` in [0, C) in tags and CAM keys, and `c + 1` in masks, where 0 is background and 255 is ignore. This module
is the only place that adds or subtracts that one.
"""

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from rcatool.data.photos import decoding
from rcatool.errors import DataError
from rcatool.files import atomic_save, atomic_write, plain, read_json

IGNORE = 255
MAX_CLASSES = 254  # mask values 1..254; 0 and 255 are taken
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

PNG_GREY, PNG_PALETTE = 0, 3
PNG_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGBA"}

Index = TypeVar("Index", int, np.ndarray)


def class_to_mask(value: Index) -> Index:
    """Return the mask value of a class index (int or integer array)."""
    return value + 1


def mask_to_class(value: Index) -> Index:
    """Return the class index of a mask value (int or integer array) that is neither background nor ignore."""
    assert np.all((np.asarray(value) > 0) & (np.asarray(value) < IGNORE)), "background and ignore are no classes"
    return value - 1


def palette(n: int = 256) -> list[int]:
    """Return the first `n` colours of the VOC colour map as a flat list of 3 n integers in 0..255."""
    colours = []
    for value in range(n):
        rgb = [0, 0, 0]
        for bit in range(8):  # every third bit of the value belongs to one channel, the lowest bits become the highest
            for channel in range(3):
                rgb[channel] |= (value >> (3 * bit + channel) & 1) << (7 - bit)
        colours += rgb
    return colours


_VOC_COLOURS = bytes(palette())  # worked out once: that takes as long as writing a mask


@dataclass(frozen=True)
class ClassInfo:
    """The class names of a data set, in the order of their indices; DataError where they cannot be used."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError("the data set has no class")
        if len(self.names) > MAX_CLASSES:
            raise DataError(f"{len(self.names)} classes: expected at most {MAX_CLASSES}, as masks have 8 bits")
        for name in self.names:
            if not name or name != name.strip() or not name.isprintable():
                raise DataError(f"class name {name!r}: expected printable text without spaces around it")
        if len(set(self.names)) < len(self.names):
            raise DataError(f"class name {next(n for n in self.names if self.names.count(n) > 1)!r} occurs twice")

    @property
    def num_classes(self) -> int:
        """The number C of foreground classes."""
        return len(self.names)


def write_classes(path: Path, info: ClassInfo) -> None:
    """Write classes.json: names, colours (background first) and the ignore value."""
    flat = palette(info.num_classes + 1)
    colours = [flat[i : i + 3] for i in range(0, len(flat), 3)]
    document = {"names": list(info.names), "palette": colours, "ignore_index": IGNORE}
    atomic_write(path, json.dumps(document, ensure_ascii=False) + "\n")


def read_classes(path: Path) -> ClassInfo:
    """Read classes.json; DataError naming the file where it is missing or broken."""
    document = read_json(path, "the class names")
    names = document.get("names") if isinstance(document, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: expected an object with a list of class names under `names`")
    if document.get("ignore_index") != IGNORE:
        raise DataError(f"{path}: ignore_index is {document.get('ignore_index')!r}, expected {IGNORE}")
    try:
        return ClassInfo(tuple(names))
    except DataError as error:
        raise DataError(f"{path}: {error.message}") from error


def read_mask(path: Path, *, num_classes: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask as uint8 (H, W) with values {0..num_classes, 255}.

    DataError naming the file where it is missing, not an 8-bit palette or grey PNG, has other values, or is not of
    `size` (H, W).
    """
    with decoding(path):
        data = plain(path).read_bytes()
        _check_mask_header(data)
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            mask = np.array(image)
    if size is not None and mask.shape != tuple(size):
        turned = "; was it made without the photo's EXIF rotation?" if mask.shape == tuple(size)[::-1] else ""
        raise DataError(f"{path}: mask is {_by(mask.shape)} (H x W), expected {_by(size)} as its photo{turned}")
    wrong = (mask > num_classes) & (mask != IGNORE)
    if wrong.any():
        found = np.unique(mask[wrong])
        raise DataError(f"{path}: mask value {_some(found)}, expected 0..{num_classes} or {IGNORE}")
    return mask


def _check_mask_header(data: bytes) -> None:
    """ValueError unless the bytes start like a PNG whose stored values are the mask's values."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 26:
        raise ValueError("not a PNG")
    depth, colour = data[24], data[25]
    # Grey of fewer bits would be stretched to 0..255 by the decoder; a palette's indices are left alone.
    if not (colour == PNG_PALETTE or (colour == PNG_GREY and depth == 8)):
        kind = PNG_COLOUR_TYPES.get(colour, "unknown")
        raise ValueError(f"a {depth}-bit {kind} PNG, expected an 8-bit palette or grey one of class numbers")


def write_mask(path: Path, mask: np.ndarray, *, flush: bool = True) -> None:
    """Write a uint8 (H, W) mask as palette PNG in VOC colours; equal masks give equal bytes. `flush` as in `atomic_save`."""
    assert mask.dtype == np.uint8, mask.dtype
    assert mask.ndim == 2, mask.shape
    image = Image.fromarray(mask)
    image.putpalette(_VOC_COLOURS)
    atomic_save(path, lambda file: image.save(file, format="PNG"), flush=flush)


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in size)


def _some(values: np.ndarray, most: int = 5) -> str:
    listed = ", ".join(str(value) for value in values[:most])
    return listed if len(values) <= most else f"{listed}, ... ({len(values)} different ones)"
