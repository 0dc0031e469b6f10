"""Which photos to show: the mIoU of each photo, and the best, the worst and some at random."""

from typing import NamedTuple

import numpy as np

from rcatool import bootstrap
from rcatool.tally import PhotoTable

BEST, WORST, RANDOM = 4, 4, 4  # photos of a gallery
SEED = 0
_CHUNK = 4096  # photos at a time: 21 MB for COCO's labels


class Chosen(NamedTuple):
    """Indices of photos in a table: the best first, the worst first, and random ones that are neither."""

    best: list[int]
    worst: list[int]
    random: list[int]


def photo_miou(table: PhotoTable, num_labels: int) -> np.ndarray:
    """mIoU (n,) of each photo over the labels in its truth or prediction, a predicted 255 counted wrong; nan without a labelled pixel."""
    sums = table.sums(num_labels)
    parts = [
        bootstrap.mean_over_labels(bootstrap.resampled_iou(sums[first : first + _CHUNK].toarray().reshape(-1, 4, num_labels)))
        for first in range(0, len(table.ids), _CHUNK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def choose(miou: np.ndarray) -> Chosen:
    """The photos to show of those with a score, none twice; equal scores in the order of the table. The same every time."""
    order = [index for index in np.argsort(-miou, kind="stable").tolist() if not np.isnan(miou[index])]
    best = order[:BEST]
    worst = order[BEST:][-WORST:][::-1]
    rest = sorted(set(order) - set(best) - set(worst))
    drawn = np.random.default_rng(SEED).permutation(len(rest))[:RANDOM]
    return Chosen(best, worst, [rest[place] for place in sorted(drawn.tolist())])
