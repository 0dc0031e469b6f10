"""What keeps label maps from being right: every wrong pixel is of one kind, and each kind has its price in mIoU (no torch).

A pixel counts where the truth t is not 255, and is wrong where the prediction p is not t. To say where objects end, the truth's 255 are
given the label of the nearest other pixel first (VOC draws a ring of 255 around every object). A border pixel has a direct neighbour
of another label; the distance to the border is Euclidean, in pixels, 0 on border pixels and infinite without any. With d = `NEAR`:

- `ignored`: p is 255.
- `confusion`: t and p are two classes.
- `missed_object`: t is a class, p background, and no pixel of the photo is predicted t.
- `missed_border`, `missed_part`: t is a class, p background, t is predicted elsewhere; nearer to the border than d, or not.
- `spill`, `leak`: t is background, p a class of the photo, whose nearest true pixel is within d, or farther away.
- `false_object`: t is background, p a class that no pixel of the truth has.

The price of a kind is an oracle's: mIoU with those pixels, and no others, as in the truth.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from rcatool.conventions import plain
from rcatool.data.labels import IGNORE
from rcatool.metrics import confusion_of, scores

NEAR = 10  # pixels
KINDS = ("right", "confusion", "missed_object", "missed_part", "missed_border", "spill", "leak", "false_object", "ignored")
GROUPS = {
    "missed": ("missed_object", "missed_part", "missed_border"),
    "invented": ("spill", "leak", "false_object"),
    "border": ("missed_border", "spill"),
}  # repaired together
BANDS = (0, 5, 10, 20)  # where they begin, pixels from the border
SHAPE = (len(KINDS), len(BANDS), 256, 256)  # of the counts: kind, band, truth, prediction


def fill_ignored(truth: np.ndarray) -> np.ndarray:
    """Label map (H, W) uint8 with the nearest other label in place of 255; as it is where there is nothing else."""
    ignored = truth == IGNORE
    if not ignored.any() or ignored.all():
        return truth
    rows, columns = distance_transform_edt(ignored, return_distances=False, return_indices=True)
    filled: np.ndarray = truth[rows, columns]
    return filled


def border_distance(labels: np.ndarray) -> np.ndarray:
    """Distance (H, W) float64 in pixels to the nearest pixel with a direct neighbour of another label, for labels (H, W)."""
    border = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        step = np.diff(labels.astype(np.int16), axis=axis) != 0
        first, second = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        border[first] |= step
        border[second] |= step
    if not border.any():
        return np.full(labels.shape, np.inf)
    found: np.ndarray = distance_transform_edt(~border)
    return found


def error_kinds(filled: np.ndarray, prediction: np.ndarray, border: np.ndarray) -> np.ndarray:
    """The index in KINDS of each pixel (H, W) uint8, for a truth without 255 and its border distance."""
    kinds = np.zeros(filled.shape, np.uint8)
    missed = (filled > 0) & (prediction == 0)
    kinds[(filled > 0) & (prediction > 0) & (prediction != filled)] = KINDS.index("confusion")
    kinds[missed] = np.where(border[missed] < NEAR, KINDS.index("missed_border"), KINDS.index("missed_part"))
    kinds[missed & ~np.isin(filled, prediction)] = KINDS.index("missed_object")
    invented = (filled == 0) & (prediction > 0)
    for label in np.unique(prediction[invented]):
        wrong = invented & (prediction == label)
        true = filled == label
        if true.any():
            kinds[wrong] = np.where(_near(true)[wrong], KINDS.index("spill"), KINDS.index("leak"))
        else:
            kinds[wrong] = KINDS.index("false_object")
    kinds[prediction == IGNORE] = KINDS.index("ignored")
    return kinds


def _near(true: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool within NEAR of those that are `true`, of which there are some; distances are taken around these only."""
    [box] = find_objects(true.astype(np.uint8))
    around = tuple(slice(max(side.start - NEAR, 0), side.stop + NEAR) for side in box)
    near = np.zeros(true.shape, bool)
    near[around] = distance_transform_edt(~true[around]) <= NEAR
    return near


def breakdown_cells(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which cells of SHAPE, flat (m,) uint32, hold how many pixels (m,) uint32, for label maps (H, W) uint8; truth 255 is left out."""
    filled = fill_ignored(truth)
    border = border_distance(filled)
    kinds = error_kinds(filled, prediction, border)
    bands = np.searchsorted(BANDS, border, side="right") - 1
    counted = truth != IGNORE
    place = (kinds.astype(np.uint32) * len(BANDS) + bands.astype(np.uint32)) << 16 | truth.astype(np.uint32) << 8 | prediction
    place = place[counted]
    # As in `metrics.joint_cells`: runs of equal pixels are counted, which takes less time than to count pixels.
    starts = np.concatenate([np.zeros(min(place.size, 1), np.int64), np.flatnonzero(place[1:] != place[:-1]) + 1])
    cells, run = np.unique(place[starts], return_inverse=True)
    return cells, np.bincount(run, weights=np.diff(starts, append=place.size), minlength=len(cells)).astype(np.uint32)


def repaired(counts: np.ndarray, kinds: Sequence[str], num_labels: int) -> np.ndarray:
    """Confusion matrix (L, L + 1) of counts (SHAPE) with the pixels of some kinds as in the truth."""
    moved = confusion_of(counts[[KINDS.index(kind) for kind in kinds]].sum(axis=(0, 1)), num_labels)
    matrix: np.ndarray = confusion_of(counts.sum(axis=(0, 1)), num_labels) - moved
    matrix[np.arange(num_labels), np.arange(num_labels)] += moved.sum(axis=1)
    return matrix


def breakdown_report(counts: np.ndarray | None, names: Sequence[str]) -> dict[str, Any]:
    """What counts (SHAPE) say, as plain values: pixels and price of each kind and group, mIoU by band; nothing where none were taken.

    `share` is of the wrong pixels, for bands of all pixels; `gain` is what mIoU would gain. Classes are `names`, without background.
    """
    if counts is None:
        return {}
    labels, right = len(names) + 1, KINDS.index("right")
    wrong, miou = counts.sum() - counts[right].sum(), scores(repaired(counts, (), labels)).miou

    def price(kinds: Sequence[str]) -> dict[str, Any]:
        pixels = counts[[KINDS.index(kind) for kind in kinds]].sum()
        better = scores(repaired(counts, kinds, labels)).miou
        return {
            "pixels": int(pixels), "share": plain(float(pixels / max(wrong, 1))),
            "miou_repaired": plain(better), "gain": plain(better - miou),
        }  # fmt: skip

    return {
        "breakdown": {
            "near": NEAR,
            "wrong": plain(float(wrong / max(counts.sum(), 1))),
            "kinds": {kind: price((kind,)) for kind in KINDS[right + 1 :]},
            "groups": {group: price(kinds) for group, kinds in GROUPS.items()},
            "bands": {name: _band(counts[:, band], labels, counts.sum()) for band, name in enumerate(band_names())},
        }
    }


def band_names() -> list[str]:
    """`0-5`, ..., `20+`."""
    return [*(f"{low}-{high}" for low, high in pairwise(BANDS)), f"{BANDS[-1]}+"]


def _band(counts: np.ndarray, labels: int, pixels: int) -> dict[str, Any]:
    """The scores of a band's counts (kinds, 256, 256)."""
    found = scores(confusion_of(counts.sum(axis=0), labels))
    return {
        "pixels": int(counts.sum()), "share": plain(float(counts.sum() / max(pixels, 1))),
        "miou": plain(found.miou), "pixel_acc": plain(found.pixel_acc),
    }  # fmt: skip
