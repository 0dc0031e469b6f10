"""A constant background score from the CAMs alone, where no mask says which is best (`pseudo.background: auto`).

The highest map of a pixel is low on background and high on objects. Otsu's threshold parts these values so that the two groups differ
most (largest variance between them), over the pixels of all photos, each photo counting the same. With a CRF, which shrinks objects, the
threshold is lowered until they are as large as without it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rcatool.cams import load_cam
from rcatool.data.labels import IGNORE
from rcatool.pseudo import LabelJob, LabelRule, photo_label, read_job

BINS = 256
GRID = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # shares of the threshold without a CRF that are tried with one
PROBES = 64  # photos that this is tried on


def peak_shares(cam: Path, size: tuple[int, int]) -> np.ndarray:
    """Shares (256,) of a photo's cells by the value of their highest map, of its CAM file; zeros where it has no maps.

    Raises DataError naming a broken file, as `load_cam`.
    """
    keys, maps = load_cam(cam, size=size)
    if not len(keys):
        return np.zeros(BINS)
    peak = maps.max(axis=0)
    return np.histogram(peak, bins=BINS, range=(0, 1))[0] / peak.size


def otsu(shares: np.ndarray) -> float:
    """The threshold in (0, 1) after one of the bins (n,) of [0, 1] that parts `shares` best; 0.5 where all lie in one bin.

    N. Otsu, A threshold selection method from gray-level histograms, 1979. Between two groups far apart it is in the middle.
    """
    weight = shares / max(shares.sum(), 1e-12)
    value = (np.arange(len(weight)) + 0.5) / len(weight)
    below = weight.cumsum()[:-1]
    gap = (weight @ value) * below - (weight * value).cumsum()[:-1]
    between = np.divide(gap**2, below * (1 - below), out=np.zeros_like(gap), where=below * (1 - below) > 1e-12)
    if between.max(initial=0) <= 0:
        return 0.5
    best = np.flatnonzero(below == below[between.argmax()])  # nothing lies between these
    return float((best.mean() + 1) / len(weight))


def foreground_shares(job: LabelJob, rule: LabelRule, thresholds: Sequence[float]) -> np.ndarray:
    """Share of a photo's pixels that get a class with each of the constant background scores (T,), first without, then with the CRF.

    Shape (2, T). Raises as `read_job`.
    """
    photo = read_job(job, rule)
    with_crf = [replace(rule, background="threshold", bg_threshold=level, confidence=0.0, kind="argmax") for level in thresholds]
    without = [replace(one, crf_params=None) for one in with_crf]
    return np.array([[_foreground(photo_label(photo, one)) for one in rules] for rules in (without, with_crf)])


def _foreground(label: np.ndarray) -> float:
    return float(((label > 0) & (label != IGNORE)).mean())


def keep_area(threshold: float, shares: np.ndarray, thresholds: Sequence[float]) -> float:
    """The threshold at which labels have as much foreground with the CRF as they have at `threshold` without it.

    A CRF starting from a constant background score takes more from objects than it gives them. shares (2, T) is the mean of
    `foreground_shares` over photos, at `thresholds` in ascending order, the last being `threshold`.
    """
    wanted, with_crf = shares[0, -1], np.minimum.accumulate(shares[1])  # falls with the threshold, but for single pixels
    return float(np.interp(-wanted, -with_crf, thresholds))
