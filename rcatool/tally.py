"""Counts of pixels photo by photo: the sum that scores are made of, and each photo's share in it.

A photo has few of the possible pairs of labels, so its confusion matrix is kept as the pairs that occur. 40,000 photos take a few
megabytes, and any score over any part of them, such as a bootstrap resample, needs no second look at the masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from rcatool.breakdown import SHAPE
from rcatool.data.labels import IGNORE
from rcatool.data.mask_digest import content_digest, set_digest
from rcatool.data.npz import BROKEN, read_npz
from rcatool.errors import DataError
from rcatool.metrics import confusion_of, sweep_matrices

_ARRAYS = ("ids", "start", "pair", "pixels")


@dataclass(frozen=True)
class PhotoCounts:
    """Pixels of one photo: `pixels` (m,) uint32 in the `cells` (m,) uint32 of some histogram that are not empty.

    `truth` is the digest of the ground truth; `boundary` (3, 256) int64 is what `boundary_counts` returns, where asked for, and `errors`
    what `breakdown_cells` returns.
    """

    cells: np.ndarray
    pixels: np.ndarray
    truth: str
    boundary: np.ndarray | None = None
    errors: tuple[np.ndarray, np.ndarray] | None = None


def photo_counts(
    cells: np.ndarray, pixels: np.ndarray, truth: np.ndarray,
    boundary: np.ndarray | None = None, errors: tuple[np.ndarray, np.ndarray] | None = None,
) -> PhotoCounts:  # fmt: skip
    """The counts of a photo whose ground truth is (H, W) uint8."""
    return PhotoCounts(cells.astype(np.uint32), pixels.astype(np.uint32), content_digest(truth), boundary, errors)


@dataclass(frozen=True)
class PhotoTable:
    """Confusion of each photo: `ids` (n,), and for photo i the entries start[i]:start[i + 1] of `pair` and `pixels`.

    `pair` (m,) uint16 is 256 * truth + prediction, without truth 255; `pixels` (m,) uint32 says how many there are.
    """

    ids: tuple[str, ...]
    start: np.ndarray
    pair: np.ndarray
    pixels: np.ndarray

    def sums(self, num_labels: int) -> csr_array:
        """Each photo's true positives, truth, predictions and truth without a prediction, (n, 4 * L) float64."""
        truth, prediction = np.divmod(self.pair.astype(np.int64), 256)
        photo = np.repeat(np.arange(len(self.ids)), np.diff(self.start))
        wanted = (truth == prediction, np.ones(len(truth), bool), prediction != IGNORE, prediction == IGNORE)
        label = (truth, truth, prediction, truth)
        rows = np.concatenate([photo[some] for some in wanted])
        columns = np.concatenate([k * num_labels + label[k][some] for k, some in enumerate(wanted)])
        values = np.concatenate([self.pixels[some] for some in wanted]).astype(np.float64)
        return csr_array((values, (rows, columns)), shape=(len(self.ids), 4 * num_labels))

    def arrays(self, target: str) -> dict[str, np.ndarray]:
        """What np.savez stores of it, under names that begin with `target`."""
        ids = np.array([photo_id.encode() for photo_id in self.ids], dtype=np.bytes_)
        return {f"{target}.{name}": array for name, array in zip(_ARRAYS, (ids, self.start, self.pair, self.pixels), strict=True)}


def read_photo_tables(path: Path) -> dict[str, PhotoTable]:
    """The tables in eval/per_image.npz by target. Raises DataError naming the file if it is missing or broken."""
    tables = {}
    try:
        arrays = read_npz(path)
        for target in dict.fromkeys(name.rpartition(".")[0] for name in arrays):
            ids, start, pair, pixels = (arrays[f"{target}.{name}"] for name in _ARRAYS)
            tables[target] = PhotoTable(tuple(raw.decode() for raw in ids.tolist()), start, pair, pixels)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file (the counts of each photo)") from error
    except (*BROKEN, AttributeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return tables


class Tally:
    """Adds up the `PhotoCounts` of label maps, whose histograms are (256, 256): truth, prediction."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.joint = np.zeros((256, 256), np.int64)
        self.boundary: np.ndarray | None = None
        self.errors: np.ndarray | None = None  # breakdown.SHAPE
        self._photos: list[PhotoCounts] = []

    def add(self, photo_id: str, photo: PhotoCounts) -> None:
        """Count one more photo."""
        self.ids.append(photo_id)
        self.joint.ravel()[photo.cells] += photo.pixels
        if photo.boundary is not None:
            self.boundary = photo.boundary + (0 if self.boundary is None else self.boundary)
        if photo.errors is not None:
            if self.errors is None:
                self.errors = np.zeros(SHAPE, np.int64)
            self.errors.ravel()[photo.errors[0]] += photo.errors[1]
        self._photos.append(replace(photo, boundary=None, errors=None))  # only their sums are needed

    def confusion(self, num_labels: int) -> np.ndarray:
        """The confusion matrix (L, L + 1) int64 of all photos; the last column is a prediction of 255."""
        return confusion_of(self.joint, num_labels)

    def table(self) -> PhotoTable:
        """The confusion of each photo, in the order they were added."""
        kept = [photo.cells < IGNORE << 8 for photo in self._photos]  # a pixel without truth tells nothing
        return _table(self.ids, [(p.cells[k], p.pixels[k]) for p, k in zip(self._photos, kept, strict=True)])

    def truth_digest(self) -> str:
        """What was the ground truth: see `truth_digest`."""
        return truth_digest(self.ids, self._photos)


class SweepTally:
    """Adds up the `PhotoCounts` of CAMs, whose histograms are `sweep_histogram`'s (L, L, T + 1)."""

    def __init__(self, num_labels: int, levels: int) -> None:
        self.ids: list[str] = []
        self._histogram = np.zeros((num_labels, num_labels, levels + 1), np.int64)
        self._photos: list[PhotoCounts] = []

    def add(self, photo_id: str, photo: PhotoCounts) -> None:
        """Count one more photo."""
        self.ids.append(photo_id)
        self._histogram.ravel()[photo.cells] += photo.pixels
        self._photos.append(photo)

    def confusions(self) -> np.ndarray:
        """Confusion matrices (T, L, L + 1) int64 of all photos at every level."""
        return sweep_matrices(self._histogram)

    def table(self, level: int) -> PhotoTable:
        """The confusion of each photo at one level (its index), in the order they were added."""
        entries = []
        for photo in self._photos:
            truth, label, passed = np.unravel_index(photo.cells, self._histogram.shape)
            pairs = (truth << 8) + np.where(passed > level, label, 0)
            pair, where = np.unique(pairs, return_inverse=True)
            entries.append((pair, np.bincount(where, weights=photo.pixels, minlength=len(pair))))
        return _table(self.ids, entries)

    def truth_digest(self) -> str:
        """What was the ground truth: see `truth_digest`."""
        return truth_digest(self.ids, self._photos)


def truth_digest(ids: Sequence[str], photos: Sequence[PhotoCounts]) -> str:
    """Digest of the ground truth, however it is stored, in whatever order: the one that `rca prepare` prints for a split's masks."""
    return set_digest((photo_id, photo.truth) for photo_id, photo in zip(ids, photos, strict=True))


def _table(ids: Sequence[str], entries: Sequence[tuple[Any, Any]]) -> PhotoTable:
    lengths = [len(pair) for pair, _ in entries]
    pair = np.concatenate([pair for pair, _ in entries]) if entries else np.zeros(0)
    pixels = np.concatenate([pixels for _, pixels in entries]) if entries else np.zeros(0)
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return PhotoTable(tuple(ids), start, pair.astype(np.uint16), pixels.astype(np.uint32))
