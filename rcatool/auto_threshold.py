"""A constant background score from the CAMs alone, where no mask says which is best (`pseudo.background: auto`).

The highest map of a pixel is low on background and high on objects. Otsu's threshold parts these values so that the two groups differ
most (largest variance between them), over the pixels of all photos, each photo counting the same.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rcatool.cams import load_cam

BINS = 256


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


def choose_threshold(shares: Iterable[np.ndarray]) -> float:
    """The threshold for the photos whose `peak_shares` are given, to three digits."""
    return round(otsu(sum(shares, np.zeros(BINS))), 3)
