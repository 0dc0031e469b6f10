"""Labels to learn affinities from: where a CAM is sure of an object, and where of background (no torch, so that pools start fast).

Two label rules look at each CAM: one with a strong background, against which only sure objects win, and one with a weak background,
which wins only where nothing is near. What neither is sure of is ignored (spec 3.5, 3.6).
"""

from dataclasses import dataclass

import numpy as np

from rcatool.data.labels import IGNORE, write_mask
from rcatool.pseudo import LabelJob, LabelRule, Photo, photo_label, read_job


@dataclass(frozen=True)
class AffinityRule:
    """The rule with the strong background (`objects`) and the one with the weak background (`ground`)."""

    objects: LabelRule
    ground: LabelRule


def affinity_label(photo: Photo, rule: AffinityRule) -> np.ndarray:
    """Label map (H, W) uint8 of a photo: sure objects, sure background (0), else 255."""
    objects, ground = photo_label(photo, rule.objects), photo_label(photo, rule.ground)
    surely = np.isin(objects, (0, IGNORE), invert=True)
    return np.where(surely, objects, np.where(ground == 0, 0, IGNORE)).astype(np.uint8)


def make_affinity_label(job: LabelJob, rule: AffinityRule) -> None:
    """Make the label PNG of one photo from its stored CAM; raises `DataError` naming a broken file."""
    write_mask(job.label, affinity_label(read_job(job, rule.objects), rule))
