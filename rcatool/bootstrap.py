"""How far a score depends on which photos it was measured on: bootstrap over photos, of one result or of two on the same photos.

A resample draws as many photos as there are, with replacement, and scores what it drew as `metrics.scores` scores the whole. The
interval is the percentile interval (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). It knows the photos'
luck only, not that of training.
"""

from typing import Any

import numpy as np

from rcatool.metrics import UNLABELLED, divide
from rcatool.tally import PhotoTable

RESAMPLES = 1000
SEED = 0
LEVEL = 0.95
_CHUNK = 2**21  # draws at a time: 16 MB


def resampled_sums(table: PhotoTable, num_labels: int, *, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """True positives, truth, predictions, truth without prediction of every resample: (R, 4, L) float64, whole numbers.

    The draws depend on the number of photos and the seed only, so two tables of the same photos are resampled alike.
    """
    sums, photos = table.sums(num_labels), len(table.ids)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(photos, 1))
    parts = []
    for first in range(0, resamples, step):
        draws = rng.integers(0, photos, (min(step, resamples - first), photos))
        weights = np.stack([np.bincount(draw, minlength=photos) for draw in draws]).astype(np.float64)
        parts.append((sums.T @ weights.T).T)
    return np.concatenate(parts).reshape(resamples, 4, num_labels)


def resampled_iou(sums: np.ndarray, unlabelled: str = "wrong") -> np.ndarray:
    """IoU (R, L) of the sums (R, 4, L) of resamples, with 255 counted as `unlabelled` says; nan for an empty union."""
    assert unlabelled in UNLABELLED, unlabelled
    hit, truth, predicted, nothing = (sums[:, k].copy() for k in range(4))
    if unlabelled == "background":
        hit[:, 0] += nothing[:, 0]
        predicted[:, 0] += nothing.sum(axis=1)
    if unlabelled == "dropped":
        truth -= nothing
    return divide(hit, truth + predicted - hit)


def mean_over_labels(iou: np.ndarray) -> np.ndarray:
    """mIoU (R,) of IoU (R, L): the mean over the labels that are not nan."""
    return divide(np.nansum(iou, axis=1), (~np.isnan(iou)).sum(axis=1))


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """The central part of the resampled values (R,) that holds a share of `level`; None if none is a number."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def describe(photos: int) -> dict[str, Any]:
    """How intervals were made, for a document."""
    return {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "over": f"{photos} photos", "method": "percentile bootstrap"}
