"""Segmentation scores from one int64 confusion matrix, the CAM threshold sweep, and the average precision of tags."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rcatool.data.labels import IGNORE

UNLABELLED = ("wrong", "background", "dropped")  # what a predicted 255 (no label) can count as


def joint_cells(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs of values occur, 256 * truth + prediction (m,) ascending, and in how many pixels (m,) int64.

    truth and prediction are uint8 arrays of the same shape. Label maps consist of runs of equal pixels: to count runs instead of
    pixels takes less than half of the time (benchmarks/eval_rate.py).
    """
    assert truth.shape == prediction.shape
    assert truth.dtype == prediction.dtype == np.uint8
    true, predicted = truth.ravel(), prediction.ravel()
    changes = np.flatnonzero((true[1:] != true[:-1]) | (predicted[1:] != predicted[:-1])) + 1
    starts = np.concatenate([np.zeros(min(true.size, 1), np.int64), changes])
    pairs, run = np.unique(true[starts].astype(np.uint16) << 8 | predicted[starts], return_inverse=True)
    return pairs, np.bincount(run, weights=np.diff(starts, append=true.size)).astype(np.int64)


def confusion_of(joint: np.ndarray, num_labels: int) -> np.ndarray:
    """The part (L, L + 1) of a joint histogram (256, 256) that counts: the last column is a prediction of 255 (no label).

    Pixels whose truth is 255 do not count (spec 4.2); other values from `num_labels` on must not occur.
    """
    columns = [*range(num_labels), IGNORE]
    found = joint[:num_labels, columns]
    assert found.sum() == joint[:IGNORE].sum(), "a label is out of range"
    return found


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_labels: int) -> np.ndarray:
    """Pixel counts (L, L + 1) int64 of two label maps (H, W) uint8: rows truth, columns prediction, the last one 255 (no label)."""
    joint = np.zeros(1 << 16, np.int64)
    pairs, pixels = joint_cells(truth, prediction)
    joint[pairs] = pixels
    return confusion_of(joint.reshape(256, 256), num_labels)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; arrays over the L labels, nan where a ratio has nothing below its line."""

    iou: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    fp_of_union: np.ndarray  # IoU + these two = 1 (IRN)
    fn_of_union: np.ndarray
    fp_of_tp: np.ndarray  # over- and under-activation beside what is right (SEAM)
    fn_of_tp: np.ndarray
    in_truth: np.ndarray  # bool: the label has a pixel in the truth
    miou: float
    pixel_acc: float
    coverage: float


def scores(confusion: np.ndarray, *, unlabelled: str = "wrong") -> Scores:
    """Scores of a matrix (L, L + 1). Predictions of 255 are `wrong`, count as `background`, or are `dropped`.

    IoU = TP / (TP + FP + FN). A label with an empty union is left out of the mean, as IRN does (spec 4.2).
    """
    hit, truth, predicted = sums_of(confusion, unlabelled)
    union = truth + predicted - hit
    iou = divide(hit, union)
    return Scores(
        iou=iou,
        precision=divide(hit, predicted),
        recall=divide(hit, truth),
        fp_of_union=divide(predicted - hit, union),
        fn_of_union=divide(truth - hit, union),
        fp_of_tp=divide(predicted - hit, hit),
        fn_of_tp=divide(truth - hit, hit),
        in_truth=truth > 0,
        miou=mean(iou),
        pixel_acc=float(divide(hit.sum(), truth.sum())),
        coverage=1 - float(confusion[:, -1].sum()) / max(float(confusion.sum()), 1.0),
    )


def sums_of(confusion: np.ndarray, unlabelled: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, truth and prediction (L,) float64 in pixels of a matrix (L, L + 1), with 255 counted as `unlabelled` says."""
    assert unlabelled in UNLABELLED, unlabelled
    square, nothing = confusion[:, :-1].astype(np.float64), confusion[:, -1].astype(np.float64)
    if unlabelled == "background":
        square[:, 0] += nothing
    truth = square.sum(axis=1) + (nothing if unlabelled == "wrong" else 0)
    return np.diag(square), truth, square.sum(axis=0)


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, nan where whole is 0."""
    ratio: np.ndarray = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return ratio


def mean(values: np.ndarray) -> float:
    """Mean of the values that are not nan; nan if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def thresholds(step: float) -> np.ndarray:
    """The background thresholds of a sweep: 0, step, 2 step ... up to 1."""
    return np.round(np.arange(0, 1 + step / 2, step), 6).clip(0, 1)


def sweep_edge(scores: Mapping[str, Any]) -> str:
    """What is wrong where the best threshold of some maps (`threshold` in `curve`) is the first or last that was tried; else empty."""
    tried = sorted(entry["threshold"] for entry in scores["curve"])
    if len(tried) < 3 or tried[0] < scores["threshold"] < tried[-1]:
        return ""
    meaning = "everything is object" if scores["threshold"] <= tried[0] else "everything is background"
    return f"the best threshold, {scores['threshold']}, is at the edge of its sweep: {meaning}; these maps find nothing"


def sweep_histogram(truth: np.ndarray, cam: np.ndarray, keys: np.ndarray, levels: np.ndarray, num_labels: int) -> np.ndarray:
    """Pixels (L, L, T + 1) int64 by truth, by the label of the highest map, and by how many of the `levels` (T,) it exceeds.

    truth (H, W) uint8, cam (K, H, W) float32 in [0, 1], keys (K,) mask values of the maps, levels in ascending order. Ties
    between maps go to the first; without a map the label is background. Pixels whose truth is 255 do not count.
    """
    counted = truth != IGNORE
    value = truth[counted].astype(np.int64)
    best, passed = np.zeros_like(value), np.zeros_like(value)
    if len(cam):
        best = keys.astype(np.int64)[cam.argmax(axis=0)[counted]]
        # Compared in the maps' own precision, as the label rule does; else 0.3 in float32 would exceed a threshold of 0.3.
        passed = np.searchsorted(levels.astype(cam.dtype), cam.max(axis=0)[counted], side="left")
    shape = (num_labels, num_labels, len(levels) + 1)
    cell = (value * num_labels + best) * shape[2] + passed
    return np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)


def sweep_matrices(histogram: np.ndarray) -> np.ndarray:
    """Confusion matrices (T, L, L + 1) int64 of the labels `argmax(level, cam)` at every level, from a sweep's histogram.

    A pixel is foreground where its highest map exceeds the level (a tie is background), and then has that map's label.
    """
    up_to = np.moveaxis(histogram.cumsum(axis=2)[:, :, :-1], 2, 0)  # (T, L, L): at most that many levels exceeded
    beyond = histogram.sum(axis=2)[None] - up_to
    out = np.zeros((*beyond.shape[:2], beyond.shape[2] + 1), np.int64)
    out[:, :, :-1] = beyond
    out[:, :, 0] += up_to.sum(axis=2)
    return out


def average_precision(score: np.ndarray, positive: np.ndarray) -> float:
    """Average precision of one class: score (n,), positive (n,) bool; nan without a positive.

    Mean over the positives of the precision at their rank; ties rank in the given order.
    """
    if not positive.any():
        return float("nan")
    ranked = positive[np.argsort(-score, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


def mean_average_precision(score: np.ndarray, tags: np.ndarray) -> float:
    """Mean over classes of the average precision: score (n, C), tags (n, C) bool; classes without a positive are left out."""
    values = [average_precision(score[:, c], tags[:, c]) for c in range(tags.shape[1])]
    return mean(np.array(values))


def constant_loss(tags: np.ndarray) -> float:
    """The multi-label cross-entropy of tags (n, C) bool for who says each class as often as it occurs, whatever the photo."""
    p = tags.mean(axis=0).clip(1e-9, 1 - 1e-9)
    return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())
