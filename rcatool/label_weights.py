"""How much each pixel of a pseudo label counts in training, by what the CAM that it was made of says (no torch: for worker processes)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcatool.data.labels import IGNORE, class_to_mask
from rcatool.data.manifest import Sample
from rcatool.pseudo import LabelJob, LabelRule, Photo, background_score, read_job


@dataclass(frozen=True)
class MarginWeights:
    """Weights of a photo's labels from its CAM in the folder `cams`; `rule` gives the background's score as when labels are made."""

    cams: Path
    root: Path
    rule: LabelRule
    margin: float

    def __call__(self, sample: Sample, label: np.ndarray) -> np.ndarray:
        """(H, W) float32 in [0, 1] for a label map (H, W) uint8; raises `DataError` naming a CAM file that is missing or broken."""
        saliency = self.root / sample.saliency if sample.saliency else None
        files = LabelJob(self.root / sample.image, self.cams / f"{sample.id}.npz", Path(), sample.size, saliency)
        photo = read_job(files, self.rule)
        return margin_weights(label, photo, background_score(photo, self.rule), margin=self.margin)


def margin_weights(label: np.ndarray, photo: Photo, background: np.ndarray, *, margin: float) -> np.ndarray:
    """Weights (H, W) float32 of a label map (H, W) uint8: by how much its score beats the best of the other scores.

    Scores are the background's (H, W) and the photo's maps (K, H, W). 1 where the label leads by `margin` or more, half at a tie, 0 where
    another score leads by as much, as after a CRF, and linear between. 0 where there is no label, or no map of its class.
    """
    names = np.concatenate([[0], class_to_mask(photo.keys)]).astype(np.uint8)
    place = np.full(256, len(names), np.int64)  # of a class in the stack; what the photo has no map of comes last
    place[names] = np.arange(len(names))
    scores = np.concatenate([background[None], photo.cam]).astype(np.float32)
    if len(names) == 1:
        return np.zeros(label.shape, np.float32)
    second, best = np.partition(scores, -2, axis=0)[-2:]
    known = (label != IGNORE) & (place[label] < len(names))
    own = np.take_along_axis(scores, np.where(known, place[label], 0)[None], axis=0)[0]
    lead = own - np.where(own == best, second, best)
    weights: np.ndarray = np.where(known, np.clip(0.5 + lead / (2 * margin), 0, 1), 0).astype(np.float32)
    return weights
