"""Confusion matrices of one photo at a time, from files (no torch, so that pools start fast)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcatool.cams import load_full_cam
from rcatool.data.labels import class_to_mask, read_mask
from rcatool.metrics import confusion_matrix, sweep_confusion


@dataclass(frozen=True)
class ScoreJob:
    """A result file and the mask that it is scored against."""

    result: Path
    mask: Path
    size: tuple[int, int]
    num_classes: int


def score_labels(job: ScoreJob) -> np.ndarray:
    """Confusion matrix (L, L + 1) of a label PNG."""
    truth = read_mask(job.mask, num_classes=job.num_classes, size=job.size)
    prediction = read_mask(job.result, num_classes=job.num_classes, size=job.size)
    return confusion_matrix(truth, prediction, job.num_classes + 1)


def score_cam(job: ScoreJob, *, levels: np.ndarray) -> np.ndarray:
    """Confusion matrices (T, L, L + 1) of a CAM file at every threshold."""
    truth = read_mask(job.mask, num_classes=job.num_classes, size=job.size)
    keys, cam = load_full_cam(job.result, size=job.size, num_classes=job.num_classes)
    return sweep_confusion(truth, cam, class_to_mask(keys), levels, job.num_classes + 1)
