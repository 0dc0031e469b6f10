"""CAM files of other people's programs: what is in them, and how it becomes a CAM of this project.

Layouts are those that the public code of each method writes with np.save (a dict, pickled) or np.savez. Arrays may be NumPy's or
torch's. Nothing in a file is run: see `data.pickled`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcatool.cams import cam_size, normalise, resize, save_cam
from rcatool.data.npy import read_arrays
from rcatool.data.npz import BROKEN, read_npz
from rcatool.errors import DataError

COARSEST = 32  # pixels per cell of the coarsest maps that are accepted


@dataclass(frozen=True)
class Layout:
    """How a program stores the CAMs of a photo.

    `maps` are the names of its arrays (K, h, w), the best first, beside `keys` (K,); without names it is a dict class -> (h, w).
    `first` is the number of the first class; numbers below it stand for the background, which is left out.
    """

    suffix: str
    maps: tuple[str, ...]
    first: int


LAYOUTS: dict[str, Layout] = {
    "irn": Layout(".npy", ("high_res", "cam"), 0),
    "psa": Layout(".npy", (), 0),
    "seam": Layout(".npy", (), 0),
    "puzzlecam": Layout(".npy", ("hr_cam", "rw", "cam"), 1),
    "clip-es": Layout(".npy", ("attn_highres", "highres", "strided_cam"), 0),
    "mctformer": Layout(".npy", (), 0),
    "npz": Layout(".npz", ("cam", "high_res"), 0),
}
KEYS = ("keys", "key")


@dataclass(frozen=True)
class ImportJob:
    """One photo: its CAM file (None: there is none), where the CAM goes, its size (H, W) and classes, and the stride to store at."""

    source: Path | None
    target: Path
    size: tuple[int, int]
    classes: tuple[int, ...]
    stride: int


@dataclass(frozen=True)
class Imported:
    """What was found in one file: classes without a map and maps of other classes, maps with negative values and the least one.

    `fits`: each class of the photo has a map; `fits_shifted`: it would if classes were counted from one more (+1) or less (-1).
    """

    missing: int = 0
    extra: int = 0
    negative: int = 0
    least: float = 0.0
    fits: bool = True
    fits_shifted: int = 0


def import_cam(job: ImportJob, *, layout: Layout, num_classes: int) -> Imported:
    """Write the CAM of one photo from somebody else's file; a photo without a file gets a CAM without maps.

    A class of the photo without a map gets a map of zeros. Raises DataError naming the file if it is broken, not finite, or its
    maps are not the photo's.
    """
    if job.source is None:
        save_cam(job.target, np.zeros(0, np.int64), np.zeros((0, *cam_size(*job.size, job.stride)), np.float32), job.size)
        return Imported()
    keys, maps = read_maps(job.source, layout=layout)
    problem = _problem(keys, maps, job, num_classes=num_classes)
    if problem:
        raise DataError(f"{job.source}: {problem}", hint="--format says which program wrote the files; rca import-cams --help")
    known = dict(zip(keys.tolist(), maps, strict=True))
    wanted = sorted(job.classes)
    found = [known.get(key, np.zeros(maps.shape[1:] or job.size, np.float32)) for key in wanted]
    chosen = np.stack(found) if found else np.zeros((0, *job.size), np.float32)
    negative = chosen.min(axis=(1, 2), initial=0) < 0
    cam = normalise(resize(np.maximum(chosen, 0), *cam_size(*job.size, job.stride)))
    save_cam(job.target, np.asarray(wanted), np.clip(cam, 0, 1), job.size)
    return Imported(
        missing=sum(key not in known for key in wanted),
        extra=len(set(known) - set(wanted)),
        negative=int(negative.sum()),
        least=float(chosen.min(initial=0)),
        fits=set(wanted) <= set(known),
        fits_shifted=next((by for by in (1, -1) if {key + by for key in wanted} <= set(known)), 0),
    )


def read_maps(path: Path, *, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Read the maps of a file: classes from 0 (K,) int64, without the background, and maps (K, h, w) float32 as they are stored.

    DataError naming the file if it is missing, cannot be read safely or has another layout.
    """
    table = _read_archive(path) if layout.suffix == ".npz" else read_arrays(path)
    try:
        keys, maps = _named(table, layout) if layout.maps else _by_class(table)
    except ValueError as error:
        raise DataError(f"{path}: {error}", hint="--format says which program wrote the files; rca import-cams --help") from error
    is_class = keys >= layout.first
    return keys[is_class] - layout.first, maps[is_class]


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except BROKEN as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from error


def _named(table: Mapping[Any, np.ndarray], layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Keys and maps of a dict of named arrays; ValueError where it is none."""
    name = next((name for name in KEYS if name in table), None)
    if name is None:
        raise ValueError(f"it has no `keys`, but {_listed(table)}")
    keys = _integers(table[name].reshape(-1))
    keys = keys[:0] if keys.tolist() == [-1] else keys  # how CLIP-ES says that a photo has none
    place = next((name for name in layout.maps if name in table), None)
    if place is None and len(keys):
        raise ValueError(f"it has no `{'`, `'.join(layout.maps)}`, but {_listed(table)}")
    if place is None or not len(keys):
        return keys[:0], np.zeros((0, 1, 1), np.float32)
    maps = _floats(table[place])
    if maps.ndim == 4 and maps.shape[1] == 1:
        maps = maps[:, 0]
    if len(keys) == len(maps) + 1 and keys[0] < layout.first:  # the background has a number, but no map
        keys = keys[1:]
    if maps.ndim != 3 or len(maps) != len(keys):
        raise ValueError(f"`{place}` has the shape {maps.shape}, expected {len(keys)} maps, one for each of its keys")
    return keys, maps


def _by_class(table: Mapping[Any, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Keys and maps of a dict class -> map; ValueError where it is none."""
    if not all(isinstance(key, int) for key in table):
        raise ValueError(f"its keys are not numbers of classes, but {_listed(table)}")
    maps = [_floats(value) for value in table.values()]
    if len({one.shape for one in maps}) > 1 or any(one.ndim != 2 for one in maps):
        raise ValueError(f"its maps have the shapes {', '.join(str(one.shape) for one in maps[:4])}, expected (h, w), all the same")
    return np.array(list(table), np.int64), np.stack(maps) if maps else np.zeros((0, 1, 1), np.float32)


def _integers(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iu" and not (values.size == 0 or (values.dtype.kind == "f" and bool((values == np.rint(values)).all()))):
        raise ValueError(f"its keys are {values.dtype.name}, expected whole numbers")
    return values.astype(np.int64)


def _floats(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "fiu":
        raise ValueError(f"maps of the type {values.dtype.name}, expected numbers")
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return values.astype(np.float32)


def _problem(keys: np.ndarray, maps: np.ndarray, job: ImportJob, *, num_classes: int) -> str | None:
    """What is wrong with the maps of a file, if anything is."""
    if len(set(keys.tolist())) < len(keys):
        return f"two maps of one class: {keys.tolist()}"
    if len(keys) and int(keys.max()) >= num_classes:
        return f"a map of class {keys.max()} (from 0), but there are {num_classes} classes; does it count from 1 (--first-class 1)?"
    if not bool(np.isfinite(maps).all()):
        return "values that are not finite"
    if len(keys) and not fits_photo(maps.shape[1:], job.size):
        found, size = (f"{height}x{width}" for height, width in (maps.shape[1:], job.size))
        turned = " (turned by 90 degrees they would)" if fits_photo(maps.shape[:0:-1], job.size) else ""
        return f"maps of {found} do not fit the photo, {size}, at any stride up to {COARSEST}{turned}"
    return None


def fits_photo(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether maps (h, w) cover a photo (H, W): at one stride for both sides, rounded up or down."""
    for stride in range(1, COARSEST + 1):
        ends = [{side // stride, -(-side // stride)} for side in size]
        if shape[0] in ends[0] and shape[1] in ends[1] and 0 not in shape:
            return True
    return False


def _listed(table: Mapping[Any, np.ndarray]) -> str:
    names = ", ".join(f"`{name}` {values.shape}" for name, values in list(table.items())[:6])
    return names or "nothing"
