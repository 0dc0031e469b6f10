"""CAMs to pseudo labels: background score, dense CRF, label rule, for one photo at a time (no torch, so that pools start fast)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcatool.cams import load_full_cam
from rcatool.data.labels import IGNORE, class_to_mask, write_mask
from rcatool.data.photos import read_image
from rcatool.errors import DataError
from rcatool.refine.crf import CrfParams, dense_crf


@dataclass(frozen=True)
class LabelRule:
    """How CAMs become labels: `background` score (`threshold` constant, or (1 - max)^`bg_power`), CRF, least `confidence`.

    `crf_backend` is the program of the CRF: scipy, torch or pydensecrf.
    """

    background: str
    bg_threshold: float
    bg_power: float
    crf: str
    crf_params: CrfParams | None
    confidence: float
    crf_backend: str = "scipy"


@dataclass(frozen=True)
class LabelJob:
    """One photo's files: read image and cam, write label."""

    image: Path
    cam: Path
    label: Path
    size: tuple[int, int]


def background_score(cam: np.ndarray, rule: LabelRule) -> np.ndarray:
    """Score of the background (H, W) for maps (K, H, W) in [0, 1]."""
    peak = cam.max(axis=0) if len(cam) else np.zeros(cam.shape[1:], np.float32)
    if rule.background == "power":
        return (1 - peak) ** rule.bg_power
    return np.full_like(peak, rule.bg_threshold)


def cam_to_label(cam: np.ndarray, keys: np.ndarray, image: np.ndarray | None, rule: LabelRule) -> np.ndarray:
    """Label map (H, W) uint8 with values {0, present classes + 1, 255} of maps (K, H, W) in [0, 1] of classes keys (K,).

    image (H, W, 3) uint8 is needed with a CRF only. Ties go to the background, then to the lower class.
    """
    scores = start_scores(cam, rule)
    if rule.crf_params is not None:
        assert image is not None
        scores = dense_crf(image, scores, rule.crf_params, backend=rule.crf_backend)
    return scores_to_label(scores, keys, rule)


def start_scores(cam: np.ndarray, rule: LabelRule) -> np.ndarray:
    """Probabilities (1 + K, H, W) of background and classes for maps (K, H, W) in [0, 1]: what a CRF starts from."""
    return unary_probabilities(np.concatenate([background_score(cam, rule)[None], cam]), rule.crf)


def scores_to_label(scores: np.ndarray, keys: np.ndarray, rule: LabelRule) -> np.ndarray:
    """Label map (H, W) of probabilities (1 + K, H, W) of background and classes keys (K,): the best, if `confidence` allows."""
    best = scores.argmax(axis=0)
    label = np.concatenate([[0], class_to_mask(keys)])[best].astype(np.uint8)
    if rule.confidence > 0:
        label[scores.max(axis=0) < rule.confidence] = IGNORE
    return label


def unary_probabilities(scores: np.ndarray, crf: str) -> np.ndarray:
    """Probabilities for scores (L, H, W): the scores as shares, or with `irn` 0.7 for the best label (spec 3.6)."""
    if crf != "irn":
        return scores / np.maximum(scores.sum(axis=0, keepdims=True), 1e-5)
    others = len(scores) - 1
    best = np.arange(len(scores))[:, None, None] == scores.argmax(axis=0)
    return np.where(best, 0.7 if others else 1.0, 0.3 / max(others, 1)).astype(np.float32)


def make_label(job: LabelJob, rule: LabelRule) -> None:
    """Make the label PNG of one photo from its stored CAM; raises `DataError` naming a broken file."""
    keys, cam, image = read_job(job, rule)
    write_mask(job.label, cam_to_label(cam, keys, image, rule))


def read_job(job: LabelJob, rule: LabelRule) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Classes (K,), maps (K, H, W) and, where there is a CRF, the photo (H, W, 3); raises `DataError` naming a broken file."""
    keys, cam = load_full_cam(job.cam, size=job.size)
    if rule.crf_params is None:
        return keys, cam, None
    image = read_image(job.image)
    if image.shape[:2] != job.size:
        found, expected = (f"{height}x{width}" for height, width in (image.shape[:2], job.size))
        raise DataError(f"{job.image}: the photo is {found}, expected {expected}", hint="rca prepare ... --force")
    return keys, cam, image
