"""What other evaluators would print for the same masks: the IRN, EPS, SEAM and CLIP-ES conventions by name.

Read in those projects' evaluation scripts; stated as rules, on label maps and on CAMs. All of them ignore pixels whose truth is 255
and take IoU = TP / (TP + FP + FN) over the whole list; they differ in what a predicted 255 counts as, in which labels enter the mean
and in the background rule of a CAM.

======= ===================== ============================= ==========================================================
name    predicted 255         mean over                     CAMs: background score
======= ===================== ============================= ==========================================================
irn     background            labels with a non-empty union 0.15
eps     pixel dropped         labels with a non-empty union best of 0.15, 0.16 ... 0.34; absent labels count as 0
seam    wrong (a miss)        all labels, absent ones as 0  best of 0.00, 0.01 ... 0.59
clip-es not meaningful        labels with a pixel of truth  best of (1 - max)^1 and (1 - max)^2
======= ===================== ============================= ==========================================================

Sources: jiwoon-ahn/irn, step/eval_sem_seg.py and step/eval_cam.py (cam_eval_thres of run_sample.py); halbielee/EPS, evaluate_png.py
(label maps) and evaluate_npy.py (CAMs: SEAM's counting with another range); YudeWang/SEAM, evaluation.py; linyq2117/CLIP-ES,
eval_cam.py and eval_cam_with_crf.py. What is not imitated: the lists they read (IRN and SEAM score against SegmentationClass, EPS
and CLIP-ES against SegmentationClassAug: choose the folder), SEAM's 32-bit counts, which overflow on COCO, its 1e-10 beside each
denominator, and EPS's cropping of a prediction that is larger than its mask. CLIP-ES scores label maps before its confidence gate
writes 255; its histogram would put a 255 into some other cell, so there is no number for such masks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rcatool.metrics import Scores, mean, scores, thresholds


def power_level(power: float) -> float:
    """The constant background score t that labels as (1 - max)^power does: t = (1 - t)^power, as max exceeds one where it exceeds t."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) ** power > middle else (low, middle)
    return low


@dataclass(frozen=True)
class Convention:
    """One project's rules, for label maps and for CAMs; `levels` are the background scores its script tries."""

    name: str
    unlabelled: str  # of metrics.UNLABELLED, or `refused`
    mean_over: str  # union, truth or all
    cam_mean_over: str
    levels: tuple[float, ...]
    rule: str
    cam_rule: str


CONVENTIONS = (
    Convention(
        "irn", "background", "union", "union", (0.15,),
        "255 counts as background; mean over labels in truth or prediction",
        "background score 0.15; mean over labels in truth or prediction",
    ),
    Convention(
        "eps", "dropped", "union", "all", tuple(round(0.01 * k, 2) for k in range(15, 35)),
        "pixels predicted 255 are dropped; mean over labels in truth or prediction",
        "best background score of 0.15-0.34 (oracle); mean over all labels, absent ones as 0",
    ),
    Convention(
        "seam", "wrong", "all", "all", tuple(round(0.01 * k, 2) for k in range(60)),
        "255 is a miss; mean over all labels, absent ones as 0",
        "best background score of 0.00-0.59 (oracle); mean over all labels, absent ones as 0",
    ),
    Convention(
        "clip-es", "refused", "truth", "truth", (power_level(1), power_level(2)),
        "no 255 allowed; mean over labels in truth",
        "best of (1 - max)^1 and (1 - max)^2 (oracle); mean over labels in truth",
    ),
)  # fmt: skip


def emulate_labels(confusion: np.ndarray) -> dict[str, dict[str, Any]]:
    """mIoU of label maps with confusion (L, L + 1) in every convention, with its rule; None where it has no number.

    IRN also reports FP and FN over the union, for the background and as the mean of the other labels; SEAM's script has FP and FN
    over TP, here as the mean of the labels but background that have a true positive.
    """
    found: dict[str, dict[str, Any]] = {}
    for convention in CONVENTIONS:
        refused = convention.unlabelled == "refused"
        known = not (refused and confusion[:, -1].any())
        result = scores(confusion, unlabelled="wrong" if refused else convention.unlabelled)
        found[convention.name] = {"miou": _mean(result, convention.mean_over) if known else None, "rule": convention.rule}
        if convention.name == "irn":
            rates = {"fp": result.fp_of_union, "fn": result.fn_of_union}
            found["irn"] |= {f"{name}_background": plain(float(rate[0])) for name, rate in rates.items()}
            found["irn"] |= {f"{name}_foreground": plain(mean(rate[1:])) for name, rate in rates.items()}
        if convention.name == "seam":
            found["seam"] |= {"fp_of_tp": plain(mean(result.fp_of_tp[1:])), "fn_of_tp": plain(mean(result.fn_of_tp[1:]))}
    return found


def emulate_cams(confusions: np.ndarray, levels: np.ndarray) -> dict[str, dict[str, Any]]:
    """mIoU of CAMs with confusions (T, L, L + 1) at `levels` (T,), which hold every convention's, with the rule and the level."""
    found = {}
    for convention in CONVENTIONS:
        tried = [int(np.flatnonzero(np.isclose(levels, level))[0]) for level in convention.levels]
        values = [_mean(scores(confusions[j]), convention.cam_mean_over) for j in tried]
        best = max(range(len(tried)), key=lambda k: values[k] or 0.0)
        found[convention.name] = {
            "miou": values[best], "threshold": round(float(levels[tried[best]]), 6), "oracle": len(tried) > 1,
            "rule": convention.cam_rule,
        }  # fmt: skip
    return found


def all_levels(step: float) -> np.ndarray:
    """The thresholds of the sweep in steps of `step` together with those that a convention tries, ascending, each once."""
    return np.unique(np.round([*thresholds(step), *(level for convention in CONVENTIONS for level in convention.levels)], 6))


def plain(value: float) -> float | None:
    """A number for a document: six decimals, None for nan."""
    return None if np.isnan(value) else round(value, 6)


def _mean(result: Scores, over: str) -> float | None:
    if over == "truth":
        return plain(mean(result.iou[result.in_truth]))
    return plain(mean(np.nan_to_num(result.iou) if over == "all" else result.iou))
