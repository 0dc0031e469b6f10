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
    """How CAMs become labels: `background` score (`threshold` constant, or (1 - max)^`bg_power`), CRF, least `confidence`."""

    background: str
    bg_threshold: float
    bg_power: float
    crf: str
    crf_params: CrfParams | None
    confidence: float


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
    scores = np.concatenate([background_score(cam, rule)[None], cam])
    if rule.crf_params is not None:
        assert image is not None
        scores = dense_crf(image, unary_probabilities(scores, rule.crf), rule.crf_params)
    else:
        scores = scores / np.maximum(scores.sum(axis=0, keepdims=True), 1e-5)
    best = scores.argmax(axis=0)
    label = np.concatenate([[0], class_to_mask(keys)])[best].astype(np.uint8)
    if rule.confidence > 0:
        label[scores.max(axis=0) < rule.confidence] = IGNORE
    return label


def unary_probabilities(scores: np.ndarray, crf: str) -> np.ndarray:
    """What the CRF starts from, for scores (L, H, W): `seed` the scores as shares, `irn` 0.7 for the best label (spec 3.6)."""
    if crf == "seed":
        return scores / np.maximum(scores.sum(axis=0, keepdims=True), 1e-5)
    others = len(scores) - 1
    best = np.arange(len(scores))[:, None, None] == scores.argmax(axis=0)
    return np.where(best, 0.7 if others else 1.0, 0.3 / max(others, 1)).astype(np.float32)


def make_label(job: LabelJob, rule: LabelRule) -> None:
    """Make the label PNG of one photo from its stored CAM; raises `DataError` naming a broken file."""
    keys, cam = load_full_cam(job.cam, size=job.size)
    if not len(keys):  # imported CAMs may lack a photo: nothing is known about it
        write_mask(job.label, np.full(job.size, IGNORE, np.uint8))
        return
    image = None
    if rule.crf_params is not None:
        image = read_image(job.image)
        if image.shape[:2] != job.size:
            found, expected = (f"{height}x{width}" for height, width in (image.shape[:2], job.size))
            raise DataError(f"{job.image}: the photo is {found}, expected {expected}", hint="rca prepare ... --force")
    write_mask(job.label, cam_to_label(cam, keys, image, rule))
