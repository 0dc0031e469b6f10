"""A network's class probabilities to a label map: photo by photo, with or without tags, dense CRF and unsure pixels (no torch).

The labels of the second round are made here, and predictions where `eval.crf` asks for a CRF.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rcatool.data.labels import IGNORE, class_to_mask, write_mask
from rcatool.data.photos import read_image
from rcatool.errors import DataError
from rcatool.pool import parallel_stream
from rcatool.pseudo import unary_probabilities
from rcatool.refine.crf import CrfParams, choose_backend, crf_params, dense_crf

ITERATIONS = 10  # of the CRF, as in all published pipelines (spec 2.4, 3.4, 3.6)


@dataclass(frozen=True)
class SoftRule:
    """How probabilities become labels: `crf` is the name of its constants or `none`; best scores below `confidence` become ignore.

    `backend` and `device` say where the CRF runs: scipy in processes of their own, or torch on a device.
    """

    crf: str = "none"
    confidence: float = 0.0
    backend: str = "scipy"
    device: str = "cpu"

    @property
    def params(self) -> CrfParams | None:
        """The constants of the CRF, None without one."""
        return None if self.crf == "none" else crf_params(self.crf, ITERATIONS)


@dataclass(frozen=True)
class SoftJob:
    """One photo: its files, and the scores (L, H, W) float32 >= 0 of the mask values `names` (L,) uint8, background first."""

    image: Path
    label: Path
    names: np.ndarray
    scores: np.ndarray


def soft_rule(crf: str, confidence: float, device: str, device_type: str) -> SoftRule:
    """The rule with the back end that is fastest on a device; all give the same labels."""
    return SoftRule(crf, confidence, choose_backend("auto", device_type), device)


def tag_names(classes: Sequence[int]) -> np.ndarray:
    """The mask values (1 + K,) uint8 that a photo with these tags can have: background and its classes."""
    return np.concatenate([[0], class_to_mask(np.asarray(classes, np.int64))]).astype(np.uint8)


def soft_label(job: SoftJob, rule: SoftRule) -> np.ndarray:
    """Label map (H, W) uint8: the best of the names, ties to the first; scores are made to sum to 1 before all else.

    Striking classes out of a softmax is thus to leave them out of `scores`. Raises DataError for a photo of another size.
    """
    params = rule.params
    probabilities = unary_probabilities(job.scores, rule.crf)
    if params is not None:
        image = read_image(job.image)
        if image.shape[:2] != job.scores.shape[1:]:
            found, expected = (f"{height}x{width}" for height, width in (image.shape[:2], job.scores.shape[1:]))
            raise DataError(f"{job.image}: the photo is {found}, expected {expected}", hint="rca prepare ... --force")
        probabilities = dense_crf(image, probabilities, params, backend=rule.backend, device=rule.device)
    label: np.ndarray = job.names[probabilities.argmax(axis=0)]
    if rule.confidence > 0:
        label[probabilities.max(axis=0) < rule.confidence] = IGNORE
    return label


def write_label(job: SoftJob, rule: SoftRule) -> None:
    """Make the label PNG of one photo."""
    write_mask(job.label, soft_label(job, rule))


def write_labels(jobs: Iterable[SoftJob], rule: SoftRule, *, workers: int) -> Iterator[None]:
    """Make the label PNGs of photos as they come, yielding after each; a CRF on the CPU runs in `workers` processes."""
    alone = rule.crf == "none" or rule.backend == "torch"
    return parallel_stream(partial(write_label, rule=rule), jobs, workers=0 if alone else workers)
