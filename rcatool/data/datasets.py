"""torch data sets over manifest samples: photos with tags, photos with label maps, photos at several scales.

Training items are drawn by (epoch, index) pairs, and each draws its own generator from (seed, epoch, index): what a
photo looks like depends on neither the worker that made it nor on what came before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rcatool.data import transforms
from rcatool.data.labels import read_mask
from rcatool.data.manifest import Sample
from rcatool.data.photos import read_image
from rcatool.data.saliency import read_saliency


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
