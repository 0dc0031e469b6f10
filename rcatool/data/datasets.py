"""torch data sets over manifest samples: photos with tags, photos with label maps, photos at several scales.

Training items are drawn by (epoch, index) pairs, and each draws its own generator from (seed, epoch, index): what a
photo looks like depends on neither the worker that made it nor on what came before.
"""

import multiprocessing.queues
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from rcatool.data import transforms
from rcatool.data.labels import read_mask
from rcatool.data.manifest import Sample
from rcatool.data.photos import read_image
from rcatool.data.saliency import read_saliency
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
class Variation:
    """How training photos are varied, beside their scale."""

    crop_size: int
    flip: bool
    color_jitter: float
    seed: int


class _TrainingPhotos(Dataset[tuple[Any, ...]]):
    """Photos to train on: (epoch, index) -> (image (3, S, S) float32, target, index), and more."""

    def __init__(self, samples: Sequence[Sample], root: Path, num_classes: int, variation: Variation) -> None:
        self.samples, self.root, self.num_classes, self.variation = list(samples), root, num_classes, variation

    def __len__(self) -> int:
        return len(self.samples)

    def _start(self, key: tuple[int, int]) -> tuple[Sample, Tensor, np.random.Generator]:
        """The photo of (epoch, index), whole, and the generator of its variation."""
        sample = self.samples[key[1]]
        rng = np.random.default_rng([self.variation.seed, *key])
        return sample, transforms.to_tensor(read_image(self.root / sample.image)), rng

    def _view(self, size: tuple[int, int], rng: np.random.Generator) -> transforms.View:
        return transforms.draw_view(size, self.variation.crop_size, flip=self.variation.flip, rng=rng)


class ClsDataset(_TrainingPhotos):
    """Training photos with tags: (epoch, index) -> (image (3, S, S) float32, tags (C,) float32, index, view (7,) int64).

    The long side is drawn from `resize_long` before cropping; without it the whole photo is squeezed into the square. The view
    says what part of the photo the image shows (`transforms.View.numbers`). With `saliency`, that part of the photo's saliency map
    (S, S) float32 comes last.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        root: Path,
        num_classes: int,
        variation: Variation,
        *,
        resize_long: tuple[int, int] | None,
        saliency: bool = False,
    ) -> None:
        super().__init__(samples, root, num_classes, variation)
        self.resize_long, self.saliency = resize_long, saliency

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        sample, image, rng = self._start(key)
        size = (self.variation.crop_size, self.variation.crop_size)
        if self.resize_long is not None:
            long = int(rng.integers(self.resize_long[0], self.resize_long[1] + 1))
            size = transforms.scaled_size(*image.shape[-2:], long / max(image.shape[-2:]))
        view = self._view(size, rng)
        piece = transforms.view_image(image, view, jitter=self.variation.color_jitter, rng=rng)
        item = piece, tag_vector(sample, self.num_classes), key[1], view.numbers
        if not self.saliency:
            return item
        assert sample.saliency is not None
        return *item, transforms.view_map(torch.from_numpy(read_saliency(self.root / sample.saliency, sample.size)), view)


class SegDataset(_TrainingPhotos):
    """Training photos with label maps: (epoch, index) -> (image (3, S, S) float32, label (S, S) int64 with 255, index).

    Labels are the PNGs in a folder, or without one the photos' own masks. With `weigh`, which gives the weights (H, W) float32 of a label
    map, those of the crop (S, S) come last, 0 outside of the photo.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        root: Path,
        num_classes: int,
        variation: Variation,
        *,
        labels: Path | None,
        resize_scale: tuple[float, float],
        weigh: Callable[[Sample, np.ndarray], np.ndarray] | None = None,
    ) -> None:
        super().__init__(samples, root, num_classes, variation)
        self.labels, self.resize_scale, self.weigh = labels, resize_scale, weigh

    def read_label(self, sample: Sample) -> np.ndarray:
        """The label map (H, W) uint8 of a whole photo; raises `DataError` naming a file that is missing or broken."""
        assert self.labels is not None or sample.mask is not None
        path = self.root / str(sample.mask) if self.labels is None else self.labels / f"{sample.id}.png"
        return read_mask(path, num_classes=self.num_classes, size=sample.size)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        sample, image, rng = self._start(key)
        label = self.read_label(sample)
        view = self._view(transforms.scaled_size(*image.shape[-2:], float(rng.uniform(*self.resize_scale))), rng)
        piece = transforms.view_image(image, view, jitter=self.variation.color_jitter, rng=rng)
        item = piece, transforms.view_label(torch.from_numpy(label), view).long(), key[1]
        if self.weigh is None:
            return item
        return *item, transforms.view_map(torch.from_numpy(self.weigh(sample, label)), view)


class MultiScaleDataset(Dataset[tuple[int, list[Tensor]]]):
    """Whole photos for inference: index -> (index, one image (1 or 2, 3, H_s, W_s) float32 per scale; the second is mirrored)."""

    def __init__(self, samples: Sequence[Sample], root: Path, *, scales: Sequence[float], flip: bool) -> None:
        self.samples, self.root, self.scales, self.flip = list(samples), root, tuple(scales), flip

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[int, list[Tensor]]:
        image = transforms.to_tensor(read_image(self.root / self.samples[index].image))
        views = []
        for scale in self.scales:
            view = transforms.normalise(transforms.resize(image, *transforms.scaled_size(*image.shape[-2:], scale)))
            views.append(torch.stack([view, view.flip(-1)] if self.flip else [view]))
        return index, views


def tag_vector(sample: Sample, num_classes: int) -> Tensor:
    """The image tags of a sample as a multi-hot float32 vector (C,)."""
    tags = torch.zeros(num_classes)
    tags[list(sample.classes)] = 1
    return tags


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
