"""Counts of one photo at a time, from files (no torch, so that pools start fast)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcatool.boundary import boundary_counts
from rcatool.breakdown import breakdown_cells
from rcatool.cams import load_full_cam
from rcatool.data.labels import class_to_mask, palette, read_mask
from rcatool.data.photos import read_image
from rcatool.errors import DataError
from rcatool.files import plain
from rcatool.metrics import joint_cells, sweep_histogram
from rcatool.tally import PhotoCounts, photo_counts

_IN_COLOUR = (2, 6)  # colour types of a PNG: RGB, RGBA


@dataclass(frozen=True)
class ScoreJob:
    """A result file and the mask that it is scored against; `size` (H, W) is the photo's, None where only the mask's is known."""

    id: str
    result: Path
    mask: Path
    size: tuple[int, int] | None
    num_classes: int


def score_labels(job: ScoreJob, *, boundary: bool, breakdown: bool = False) -> PhotoCounts:
    """Joint histogram of a label PNG and its mask, and if asked for their boundary counts and the breakdown of what is wrong."""
    truth = read_mask(job.mask, num_classes=job.num_classes, size=job.size)
    prediction = read_mask(job.result, num_classes=job.num_classes, size=job.size)
    return count_labels(truth, prediction, boundary=boundary, breakdown=breakdown)


def score_masks(job: ScoreJob, *, boundary: bool, breakdown: bool = False) -> PhotoCounts:
    """As `score_labels`, of masks from anywhere: in VOC colours too, and of any size, if both have the same."""
    truth, prediction = (read_mask_or_colours(path, num_classes=job.num_classes) for path in (job.mask, job.result))
    if truth.shape != prediction.shape:
        found, expected = (f"{array.shape[0]} x {array.shape[1]}" for array in (prediction, truth))
        raise DataError(f"{job.result}: {found} pixels (H x W), but {job.mask} is {expected}", "score masks at the photo's own size")
    return count_labels(truth, prediction, boundary=boundary, breakdown=breakdown)


def count_labels(truth: np.ndarray, prediction: np.ndarray, *, boundary: bool, breakdown: bool = False) -> PhotoCounts:
    """Counts of two label maps (H, W) uint8."""
    edges = boundary_counts(truth, prediction) if boundary else None
    errors = breakdown_cells(truth, prediction) if breakdown else None
    return photo_counts(*joint_cells(truth, prediction), truth, edges, errors)


def score_cam(job: ScoreJob, *, levels: np.ndarray) -> PhotoCounts:
    """Sweep histogram (L, L, T + 1) of a CAM file and its mask at every threshold in `levels` (T,)."""
    assert job.size is not None
    truth = read_mask(job.mask, num_classes=job.num_classes, size=job.size)
    keys, cam = load_full_cam(job.result, size=job.size, num_classes=job.num_classes)
    histogram = sweep_histogram(truth, cam, class_to_mask(keys), levels, job.num_classes + 1).ravel()
    cells = np.flatnonzero(histogram)
    return photo_counts(cells, histogram[cells], truth)


def read_mask_or_colours(path: Path, *, num_classes: int) -> np.ndarray:
    """As `read_mask`; an RGB or RGBA PNG whose every colour is one of VOC's colour map is read as their numbers.

    The map gives each of the 256 values a colour of its own, so nothing is guessed. Raises DataError naming file and colour
    for any other, and as `read_mask`.
    """
    try:
        with plain(path).open("rb") as file:
            header = file.read(26)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[25:] not in {bytes([kind]) for kind in _IN_COLOUR}:
        return read_mask(path, num_classes=num_classes)
    mask = _values_of_colours(path, read_image(path))
    wrong = (mask > num_classes) & (mask != 255)
    if wrong.any():
        raise DataError(f"{path}: the colour of mask value {mask[wrong][0]}, expected 0..{num_classes} or 255")
    return mask


def _values_of_colours(path: Path, rgb: np.ndarray) -> np.ndarray:
    known = np.array(palette(), np.uint32).reshape(256, 3) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    order = np.argsort(known)
    found = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    place = np.searchsorted(known[order], found).clip(max=255)
    strange = known[order][place] != found
    if strange.any():
        colour = tuple(int(channel) for channel in rgb[strange][0])
        raise DataError(f"{path}: colour {colour} is none of VOC's colour map", "save masks as palette or grey PNG, one value per class")
    values: np.ndarray = order[place].astype(np.uint8)
    return values
