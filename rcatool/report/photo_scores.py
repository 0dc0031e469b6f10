"""Which photos to show: the mIoU of each photo; the best, the worst and some at random; and the same for each class."""

from typing import NamedTuple

import numpy as np

from rcatool import bootstrap
from rcatool.tally import PhotoTable

BEST, WORST, RANDOM = 4, 4, 4  # photos of a gallery
EXTRA, EACH = 60, 2  # photos of a gallery that are there for one class: all of them, those of a class and kind
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


def class_iou(table: PhotoTable, num_labels: int) -> np.ndarray:
    """IoU (n, L) of each label in each photo whose truth has it, a predicted 255 counted wrong; nan in the others."""
    sums = table.sums(num_labels)
    parts = []
    for first in range(0, len(table.ids), _CHUNK):
        dense = sums[first : first + _CHUNK].toarray().reshape(-1, 4, num_labels)
        parts.append(np.where(dense[:, 1] > 0, bootstrap.resampled_iou(dense), np.nan))
    return np.concatenate(parts) if parts else np.zeros((0, num_labels))


class Single(NamedTuple):
    """A photo (index in a table) that is shown for a label, as one of its worst or best."""

    index: int
    label: int
    worst: bool


def choose_for_classes(iou: np.ndarray, shown: set[int], *, most: int = EXTRA) -> list[Single]:
    """Photos of each object class by its IoU (n, L), at most `most`: the worst of every class, then the best, the second worst, ...

    None of those `shown` already, none twice.
    """
    taken, found = set(shown), list[Single]()
    orders = {
        label: [index for index in np.argsort(iou[:, label], kind="stable").tolist() if not np.isnan(iou[index, label])]
        for label in range(1, iou.shape[1])
    }
    for turn in range(2 * EACH):
        for label, order in orders.items():
            free = [index for index in order if index not in taken]
            if free and len(found) < most:
                worst = turn % 2 == 0
                found.append(Single(free[0 if worst else -1], label, worst))
                taken.add(found[-1].index)
    return found
