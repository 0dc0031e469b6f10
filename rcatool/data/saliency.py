"""Saliency maps of photos: one 8-bit grey PNG each, from any network that finds what stands out, made outside of the project."""

import os
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from rcatool.data.manifest import Sample, below, first_few
from rcatool.data.photos import decoding
from rcatool.errors import ConfigError, DataError
from rcatool.files import plain

SPLITS = ("train", "tune")  # the photos that labels are made of
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of 8 bits or fewer; a palette's indices are no brightness, so its colours are read


def add_saliency(samples: Sequence[Sample], root: Path, *, folder: str, images: str = "") -> list[Sample]:
    """Return `samples` with the paths of their maps below `root`/`folder`: ID.png, or the photo's path below `images` with .png.

    Photos of train and tune need one, others get none. Looks at names only. ConfigError for a folder that is not there or not
    below `root`, DataError naming the first photos without a map.
    """
    place = Path(os.path.normpath(root / folder))
    if not place.is_dir():
        raise ConfigError(f"data.saliency: {place} is not a folder", "--set data.saliency=DIR, relative to data.root; empty for none")
    found, lacking = [], []
    for sample in samples:
        if sample.split not in SPLITS:
            found.append(sample)
            continue
        photo = Path(root, sample.image)
        inside = photo.relative_to(root / images) if photo.is_relative_to(root / images) else Path(photo.name)
        names = (place / f"{sample.id}.png", place / inside.with_suffix(".png"))
        path = next((name for name in names if name.is_file()), None)
        if path is None:
            lacking.append(sample.image)
        else:
            found.append(replace(sample, saliency=below(path, root)))
    if lacking:
        wanted = len(lacking) + sum(sample.saliency is not None for sample in found)
        message = f"{len(lacking)} of {wanted} photos have no saliency map in {place}: {first_few(lacking)}"
        raise DataError(message, "one PNG for each photo of train and tune, named like the photo")
    return found


def require_saliency(samples: Sequence[Sample], photos: str, *, setting: str, otherwise: str) -> None:
    """Raise ConfigError unless all samples, called `photos`, have a map, which `setting` needs; `otherwise` is a setting to do without."""
    lacking = sum(sample.saliency is None for sample in samples)
    if lacking:
        message = f"{setting}: {lacking} of {len(samples)} {photos} have no saliency map"
        raise ConfigError(message, f"rca prepare ... --set data.saliency=DIR, or --set {otherwise}")


def read_saliency(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a map as float32 (H, W) in [0, 1], 1 where the photo stands out.

    DataError naming the file where it is missing, broken, not an 8-bit grey PNG (colours that are all grey will do), or not of
    `size` (H, W).
    """
    with decoding(path), Image.open(BytesIO(plain(path).read_bytes()), formats=("PNG",)) as image:
        if image.mode not in MODES:
            raise ValueError(f"a PNG of mode {image.mode}, expected 8-bit grey")
        pixels = np.array(image.convert("RGB"))
    if bool((pixels != pixels[..., :1]).any()):
        raise DataError(f"{path}: a coloured picture, expected a grey saliency map")
    if pixels.shape[:2] != tuple(size):
        found, expected = (f"{height} x {width}" for height, width in (pixels.shape[:2], size))
        raise DataError(f"{path}: saliency map is {found} (H x W), expected {expected} as its photo")
    return pixels[..., 0].astype(np.float32) / 255
