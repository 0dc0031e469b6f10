"""Boundary IoU: the overlap of two label maps along their contours (Cheng et al., CVPR 2021).

The band of a label is those of its pixels that are no further than d from its contour (chessboard distance; the photo's edge
counts as contour), d being 2 % of the photo's diagonal. Boundary IoU of a label is the IoU of its two bands, with intersections
and unions summed over all photos, as mIoU does. Pixels whose truth is 255 are taken out of both maps before the bands are drawn,
so that they never matter, and a perfect prediction scores 1.
"""

import math
from typing import Any

import numpy as np

from rcatool.data.labels import IGNORE
from rcatool.metrics import divide

DILATION = 0.02  # of the diagonal: the paper's value for COCO-like photos


def band_width(height: int, width: int) -> int:
    """The distance d in pixels for a photo of that size, at least 1."""
    return max(1, round(DILATION * math.hypot(height, width)))


def band(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels (H, W) bool whose square of 2 * width + 1 pixels is not all of one label, for labels (H, W) uint8."""
    padded = np.pad(labels, width, constant_values=IGNORE)  # outside of the photo there is no label
    highest = _slide(_slide(padded, 2 * width + 1, np.maximum).T, 2 * width + 1, np.maximum).T
    lowest = _slide(_slide(padded, 2 * width + 1, np.minimum).T, 2 * width + 1, np.minimum).T
    differs: np.ndarray = highest != lowest
    return differs


def boundary_counts(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Pixels (3, 256) int64 by label: in both bands, in the truth's, in the prediction's; column 255 means nothing.

    truth and prediction are label maps (H, W) uint8.
    """
    width = band_width(*truth.shape)
    prediction = np.where(truth == IGNORE, IGNORE, prediction)
    in_truth, in_prediction = band(truth, width), band(prediction, width)
    both = in_truth & in_prediction & (truth == prediction)
    return np.stack([
        np.bincount(labels, minlength=256) for labels in (truth[both], truth[in_truth], prediction[in_prediction])
    ])  # fmt: skip


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Boundary IoU (L,) of counts (3, L) summed over photos; nan for a label with two empty bands."""
    both, truth, prediction = counts.astype(np.float64)
    return divide(both, truth + prediction - both)


def _slide(values: np.ndarray, length: int, extreme: Any) -> np.ndarray:
    """`extreme` (np.maximum or np.minimum) over every `length` neighbours along the first axis, which becomes shorter by length - 1."""
    have = 1
    while have < length:  # each pass doubles the length that a value stands for
        step = min(have, length - have)
        values = extreme(values[:-step], values[step:])
        have += step
    return values
