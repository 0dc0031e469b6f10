"""CAMs to pseudo labels: background score, dense CRF, label rule, for one photo at a time (no torch, so that pools start fast).

A photo is read (`read_job`), gives one or two stacks of scores that a CRF starts from (`start_scores`), and what the CRF makes of
them becomes a label map (`scores_to_label`). Without a CRF the stacks are taken as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rcatool.cams import load_full_cam
from rcatool.data.labels import IGNORE, class_to_mask, write_mask
from rcatool.data.photos import read_image
from rcatool.data.saliency import read_saliency
from rcatool.errors import DataError
from rcatool.refine.crf import CrfParams, dense_crf


@dataclass(frozen=True)
class LabelRule:
    """How CAMs become labels.

    `background` is the background's score: `threshold` a constant, `power` (1 - max)^bg_power, `saliency` 1 - saliency. `kind`
    decides: `argmax` takes the best score if it reaches `confidence`; `confidence` (IRN, spec 3.6) takes a class where it beats
    the constant sure[0], background where none beats sure[1], else ignore; `conflict` is RCA's released rule (spec 2.4) with
    the numbers in `doubts`. `crf_backend` is the program of the CRF: scipy, torch or pydensecrf.
    """

    background: str
    bg_threshold: float
    bg_power: float
    crf: str
    crf_params: CrfParams | None
    confidence: float
    crf_backend: str = "scipy"
    kind: str = "argmax"
    sure: tuple[float, float] = (0.30, 0.05)
    doubts: "Doubts | None" = None


@dataclass(frozen=True)
class Doubts:
    """When the rule `conflict` ignores: two scores above `conflict`; background of saliency >= `uncertain` / 255 or with a class above
    `attention`; a photo with less than the share `smallest` of foreground."""

    conflict: float = 0.9
    attention: float = 0.8
    uncertain: int = 32
    smallest: float = 0.01


@dataclass(frozen=True)
class LabelJob:
    """One photo's files: read image, cam and, where there is one, saliency; write label."""

    image: Path
    cam: Path
    label: Path
    size: tuple[int, int]
    saliency: Path | None = None


class Photo(NamedTuple):
    """What is read of a photo: classes (K,), maps (K, H, W) in [0, 1], image (H, W, 3) for a CRF, saliency (H, W) if it is used."""

    keys: np.ndarray
    cam: np.ndarray
    image: np.ndarray | None = None
    saliency: np.ndarray | None = None


def make_label(job: LabelJob, rule: LabelRule) -> None:
    """Make the label PNG of one photo from its stored CAM; raises `DataError` naming a broken file."""
    write_mask(job.label, photo_label(read_job(job, rule), rule))


def read_job(job: LabelJob, rule: LabelRule) -> Photo:
    """Read the files of a photo that the rule needs; raises `DataError` naming a broken file."""
    keys, cam = load_full_cam(job.cam, size=job.size)
    saliency = None
    if job.saliency is not None and (rule.background == "saliency" or rule.kind == "conflict"):
        saliency = read_saliency(job.saliency, job.size)
    if rule.crf_params is None:
        return Photo(keys, cam, None, saliency)
    image = read_image(job.image)
    if image.shape[:2] != job.size:
        found, expected = (f"{height}x{width}" for height, width in (image.shape[:2], job.size))
        raise DataError(f"{job.image}: the photo is {found}, expected {expected}", hint="rca prepare ... --force")
    return Photo(keys, cam, image, saliency)


def photo_label(photo: Photo, rule: LabelRule) -> np.ndarray:
    """Label map (H, W) uint8 of a photo with values {0, present classes + 1, 255}; all 255 where a photo has no maps.

    The photo's image is needed with a CRF only. Ties go to the background, then to the lower class.
    """
    scores = start_scores(photo, rule)
    if rule.crf_params is not None:
        assert photo.image is not None
        scores = [dense_crf(photo.image, one, rule.crf_params, backend=rule.crf_backend) for one in scores]
    return scores_to_label(scores, photo, rule)


def background_score(photo: Photo, rule: LabelRule) -> np.ndarray:
    """Score of the background (H, W) float32 in [0, 1]."""
    if rule.background == "saliency":
        assert photo.saliency is not None
        return 1 - photo.saliency
    peak = photo.cam.max(axis=0) if len(photo.cam) else np.zeros(photo.cam.shape[1:], np.float32)
    if rule.background == "power":
        return (1 - peak) ** rule.bg_power
    return np.full_like(peak, rule.bg_threshold)


def start_scores(photo: Photo, rule: LabelRule) -> list[np.ndarray]:
    """Stacks (1 + K, H, W) of background and classes, each summing to 1: one, or the two of the rule `confidence`."""
    if rule.kind == "confidence":
        constants = [np.full(photo.cam.shape[1:], level, np.float32) for level in rule.sure]
    else:
        constants = [background_score(photo, rule)]
    return [unary_probabilities(np.concatenate([one[None], photo.cam]), rule.crf) for one in constants]


def scores_to_label(scores: Sequence[np.ndarray], photo: Photo, rule: LabelRule) -> np.ndarray:
    """Label map (H, W) uint8 of the stacks (1 + K, H, W) that `start_scores` gave, after the CRF if there is one."""
    if not len(photo.keys):  # a photo whose CAM was not imported: nothing is known about it
        return np.full(photo.cam.shape[1:], IGNORE, np.uint8)
    names = np.concatenate([[0], class_to_mask(photo.keys)]).astype(np.uint8)
    if rule.kind == "confidence":
        surely, perhaps = (names[one.argmax(axis=0)] for one in scores)
        return np.where(surely > 0, surely, np.where(perhaps > 0, np.uint8(IGNORE), np.uint8(0)))
    if rule.kind == "conflict":
        return _without_doubts(scores[0], names, photo, rule)
    label: np.ndarray = names[scores[0].argmax(axis=0)]
    if rule.confidence > 0:
        label[scores[0].max(axis=0) < rule.confidence] = IGNORE
    return label


def _without_doubts(found: np.ndarray, names: np.ndarray, photo: Photo, rule: LabelRule) -> np.ndarray:
    """The rule `conflict`: probabilities after a CRF, the maps as they are without; saliency, where given, is the background."""
    doubts = rule.doubts or Doubts()
    scores = found.copy() if rule.crf_params is not None else np.concatenate([background_score(photo, rule)[None], photo.cam])
    evidence = scores[1:].max(axis=0) > doubts.attention
    if photo.saliency is not None:
        scores[0] = 1 - photo.saliency
        evidence |= np.rint(255 * photo.saliency) >= doubts.uncertain
    label: np.ndarray = names[scores.argmax(axis=0)]
    conflict = (scores > doubts.conflict).sum(axis=0) > 1
    uncertain = (label == 0) & evidence
    label[conflict | uncertain] = IGNORE
    if ((label > 0) & (label != IGNORE)).mean() < doubts.smallest:
        label[:] = IGNORE
    return label


def unary_probabilities(scores: np.ndarray, crf: str) -> np.ndarray:
    """Probabilities for scores (L, H, W): the scores as shares, or with `irn` 0.7 for the best label (spec 3.6)."""
    if crf != "irn":
        return scores / np.maximum(scores.sum(axis=0, keepdims=True), 1e-5)
    others = len(scores) - 1
    best = np.arange(len(scores))[:, None, None] == scores.argmax(axis=0)
    return np.where(best, 0.7 if others else 1.0, 0.3 / max(others, 1)).astype(np.float32)
