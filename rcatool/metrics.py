"""Segmentation scores from one int64 confusion matrix, the CAM threshold sweep, and the average precision of tags."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rcatool.data.labels import IGNORE


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_labels: int) -> np.ndarray:
    """Pixel counts (L, L + 1) int64: rows truth, columns prediction, the last column a prediction of 255 (no label).

    truth and prediction are uint8 of the same shape; pixels whose truth is 255 do not count (spec 4.2).
    """
    assert truth.shape == prediction.shape
    counted = truth != IGNORE
    column = np.where(prediction == IGNORE, num_labels, prediction)[counted].astype(np.int64)
    cell = truth[counted].astype(np.int64) * (num_labels + 1) + column
    return np.bincount(cell, minlength=num_labels * (num_labels + 1)).reshape(num_labels, num_labels + 1)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; arrays over the L labels, nan where a label has neither truth nor prediction."""

    iou: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    miou: float
    pixel_acc: float
    coverage: float


def scores(confusion: np.ndarray, *, unlabelled: str = "wrong") -> Scores:
    """Scores of a matrix (L, L + 1). Predictions of 255 are `wrong`, count as `background`, or are `dropped`.

    IoU = TP / (TP + FP + FN). A label with an empty union is left out of the mean, as IRN does.
    """
    square, nothing = confusion[:, :-1].astype(np.float64), confusion[:, -1].astype(np.float64)
    if unlabelled == "background":
        square[:, 0] += nothing
    truth = square.sum(axis=1) + (nothing if unlabelled == "wrong" else 0)
    hit, predicted = np.diag(square), square.sum(axis=0)
    iou = _divide(hit, truth + predicted - hit)
    total = float(truth.sum())
    return Scores(
        iou=iou,
        precision=_divide(hit, predicted),
        recall=_divide(hit, truth),
        miou=float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan"),
        pixel_acc=float(hit.sum()) / total if total else float("nan"),
        coverage=1 - float(nothing.sum()) / max(float(confusion.sum()), 1.0),
    )


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def thresholds(step: float) -> np.ndarray:
    """The background thresholds of a sweep: 0, step, 2 step ... up to 1."""
    return np.round(np.arange(0, 1 + step / 2, step), 6).clip(0, 1)


def sweep_confusion(truth: np.ndarray, cam: np.ndarray, keys: np.ndarray, levels: np.ndarray, num_labels: int) -> np.ndarray:
    """Confusion matrices (T, L, L + 1) int64 of the labels `argmax(threshold, cam)` for every threshold in `levels` (T,).

    truth (H, W) uint8, cam (K, H, W) float32 in [0, 1], keys (K,) mask values of the maps. A pixel is foreground where
    its highest map exceeds the threshold (a tie is background), and then has that map's label. Every pixel is counted
    once, by truth, winning map and the number of thresholds it passes; the matrices are sums over those counts.
    """
    counted = truth != IGNORE
    value = truth[counted].astype(np.int64)
    best, passed = np.zeros_like(value), np.zeros_like(value)
    if len(cam):
        best = cam.argmax(axis=0)[counted]
        # Compared in the maps' own precision, as the label rule does; else 0.3 in float32 would exceed a threshold of 0.3.
        passed = np.searchsorted(levels.astype(cam.dtype), cam.max(axis=0)[counted], side="left")
    shape = (num_labels, max(len(keys), 1), len(levels) + 1)
    cell = (value * shape[1] + best) * shape[2] + passed
    counts = np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)
    out = np.zeros((len(levels), num_labels, num_labels + 1), np.int64)
    for j in range(len(levels)):
        out[j, :, 0] = counts[:, :, : j + 1].sum(axis=(1, 2))
        for k, label in enumerate(keys):
            out[j, :, label] += counts[:, k, j + 1 :].sum(axis=1)
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
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def report(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The scores of a matrix as plain values: mIoU in [0, 1] with 255 counted wrong, and the two other conventions beside it."""
    wrong = scores(confusion)
    labels = ("background", *names)

    def by_name(values: np.ndarray) -> dict[str, float | None]:
        return {name: None if np.isnan(v) else round(float(v), 6) for name, v in zip(labels, values, strict=True)}

    return {
        "miou": _plain(wrong.miou),
        "pixel_acc": _plain(wrong.pixel_acc),
        "coverage": _plain(wrong.coverage),
        "miou_unlabelled_as_background": _plain(scores(confusion, unlabelled="background").miou),
        "miou_unlabelled_dropped": _plain(scores(confusion, unlabelled="dropped").miou),
        "iou": by_name(wrong.iou),
        "precision": by_name(wrong.precision),
        "recall": by_name(wrong.recall),
        "absent_classes": [name for name, v in zip(labels, wrong.iou, strict=True) if np.isnan(v)],
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)
