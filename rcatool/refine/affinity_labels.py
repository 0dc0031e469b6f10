"""Labels to learn affinities from: where a CAM is sure of an object, and where of background (no torch, so that pools start fast).

Two label rules look at each CAM: one with a strong background, against which only sure objects win, and one with a weak background,
which wins only where nothing is near. What neither is sure of is ignored (spec 3.5, 3.6).
"""

from dataclasses import dataclass

import numpy as np

from rcatool.cams import load_full_cam
from rcatool.data.labels import IGNORE, write_mask
from rcatool.data.photos import read_image
from rcatool.errors import DataError
from rcatool.pseudo import LabelJob, LabelRule, cam_to_label


@dataclass(frozen=True)
class AffinityRule:
    """The rule with the strong background (`objects`) and the one with the weak background (`ground`)."""

    objects: LabelRule
    ground: LabelRule


def affinity_label(cam: np.ndarray, keys: np.ndarray, image: np.ndarray | None, rule: AffinityRule) -> np.ndarray:
    """Label map (H, W) uint8 of maps (K, H, W) in [0, 1] of classes keys (K,): sure objects, sure background (0), else 255."""
    objects = cam_to_label(cam, keys, image, rule.objects)
    ground = cam_to_label(cam, keys, image, rule.ground)
    return np.where(objects > 0, objects, np.where(ground == 0, 0, IGNORE)).astype(np.uint8)


def make_affinity_label(job: LabelJob, rule: AffinityRule) -> None:
    """Make the label PNG of one photo from its stored CAM; raises `DataError` naming a broken file."""
    keys, cam = load_full_cam(job.cam, size=job.size)
    image = None
    if rule.objects.crf_params is not None:
        image = read_image(job.image)
        if image.shape[:2] != job.size:
            found, expected = (f"{height}x{width}" for height, width in (image.shape[:2], job.size))
            raise DataError(f"{job.image}: the photo is {found}, expected {expected}", hint="rca prepare ... --force")
    write_mask(job.label, affinity_label(cam, keys, image, rule))
