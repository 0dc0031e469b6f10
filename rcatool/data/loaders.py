"""Loaders of the data sets: which photos a batch has, in which order, and processes that read ahead."""

import multiprocessing.queues
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from rcatool.data.datasets import MultiScaleDataset
from rcatool.data.manifest import Sample
from rcatool.errors import RcaError
from rcatool.ranks import share_of


class EpochBatches:
    """Batches of (epoch, index) in a shuffled order that depends on (seed, epoch) alone, or in the photos' own.

    The last batch of an epoch may be smaller; nothing is dropped or repeated. Of several processes each has its share of every batch,
    which is `[None]` where there are not enough photos for all.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, shuffle: bool = True) -> None:
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Sequence[tuple[int, int] | None]]:
        order = list(range(self.count))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count).tolist()
        for start in range(0, self.count, self.batch_size):
            yield [(self.epoch, index) for index in share_of(order[start : start + self.batch_size])] or [None]


@dataclass(frozen=True)
class _Nothing:
    """The item of an empty batch: one as it would be, to be left out of it."""

    pattern: Any


class _ErrorsAsItems(Dataset[Any]):
    """A data set that returns our errors instead of raising them."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        try:
            return _Nothing(self.dataset[(0, 0)]) if key is None else self.dataset[key]
        except RcaError as error:
            return error


def _collate(items: list[Any]) -> Any:
    if isinstance(items[0], _Nothing):
        return [part[:0] for part in default_collate([items[0].pattern])]
    return next((item for item in items if isinstance(item, RcaError)), None) or default_collate(items)


_END = object()


def _start_worker(_: int) -> None:
    """End a worker that cannot send a batch, for want of memory: Python would drop the batch, and it would be waited for for ever."""
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda error, item: os._exit(1))  # type: ignore[attr-defined]


class Loader(DataLoader[Any]):
    """A DataLoader that raises our errors as they are; torch would put a worker's whole traceback into the message."""

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(_ErrorsAsItems(dataset), worker_init_fn=_start_worker, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        while (batch := self._next(batches)) is not _END:
            if isinstance(batch, RcaError):
                raise batch
            yield batch

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, _END)
        except (ConnectionError, EOFError, FileNotFoundError) as error:  # readers raise none of these: it is the way to the worker
            if self.num_workers == 0:
                raise
            raise RuntimeError("DataLoader worker (pid unknown) is gone, and a batch with it") from error


def train_loader(dataset: Dataset[Any], batches: EpochBatches, *, workers: int, pin: bool) -> Loader:
    """A loader over `batches`; set `batches.epoch` before each pass."""
    return Loader(
        dataset, batch_sampler=batches, collate_fn=_collate, num_workers=workers, pin_memory=pin, persistent_workers=workers > 0
    )


def view_loader(dataset: MultiScaleDataset, *, workers: int, pin: bool = False) -> Loader:
    """A loader of one photo at a time, in order."""
    return Loader(dataset, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None, pin_memory=pin)


def view_batches(dataset: MultiScaleDataset, *, most: int, workers: int, pin: bool) -> Iterator[tuple[list[Sample], list[list[Tensor]]]]:
    """All photos with their views, up to `most` of one size together: sizes one after the other then, else in order."""
    order = sorted(dataset.samples, key=lambda sample: sample.size) if most > 1 else dataset.samples
    ordered = MultiScaleDataset(order, dataset.root, scales=dataset.scales, flip=dataset.flip)
    samples: list[Sample] = []
    photos: list[list[Tensor]] = []
    for index, views in view_loader(ordered, workers=workers, pin=pin):
        if len(samples) == most or (samples and samples[0].size != order[index].size):
            yield samples, photos
            samples, photos = [], []
        samples.append(order[index])
        photos.append(views)
    if samples:
        yield samples, photos
