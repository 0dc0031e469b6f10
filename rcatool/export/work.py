"""Every label of a source through one function, on all cores, in order, with a progress bar and a count of what happened."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rcatool import console
from rcatool.data.labels import IGNORE
from rcatool.export.source import Item, Source
from rcatool.pool import parallel_map, worker_count

R = TypeVar("R")


@dataclass(frozen=True)
class Tally:
    """What was written: segments and their points; pixels in all, of the value 255, and in regions that were too small.

    `same` and `either` are pixels of an object in both the label and the drawn outlines, with the same value, and in one of them.
    """

    photos: int = 1
    segments: int = 0
    points: int = 0
    pixels: int = 0
    ignored: int = 0
    small: int = 0
    same: int = 0
    either: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


NOTHING = Tally(photos=0)


def count_ignored(label: np.ndarray) -> int:
    """Number of pixels of the value 255 in a label map."""
    return int(np.count_nonzero(label == IGNORE))


def for_each(work: Callable[[Item], R], source: Source, *, task: str) -> Iterator[R]:
    """Yield `work(item)` for the items of `source`, in order. `work` must be picklable, and what it raises is raised here."""
    with console.progress(task, total=len(source.items)) as bar:
        yield from parallel_map(work, source.items, workers=worker_count(source.workers), bar=bar.advance)


def warn_of_losses(tally: Tally) -> None:
    """Say which pixels a format has no place for."""
    if tally.ignored:
        share = 100 * tally.ignored / tally.pixels
        console.warn(f"export: {tally.ignored} pixels ({share:.2f} %) have the value 255 (ignore); this format makes them background")
    if tally.small:
        console.log(f"export: {tally.small} pixels were in regions below --min-area")
