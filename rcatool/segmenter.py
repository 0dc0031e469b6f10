"""The trained network as a function: a photo in, a label map of the photo's own size out.

    from rcatool import Segmenter
    segmenter = Segmenter.load("network.safetensors")  # or a run directory
    found = segmenter("photo.jpg")
    found.mask, found.shares(), found.overlay().save("overlay.jpg")

A photo is first brought to the size of the photos that the network was trained on; tags are never asked for.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rcatool.data import transforms
from rcatool.data.photos import image_pixels, read_image
from rcatool.errors import ConfigError, DataError
from rcatool.network_card import MAX_SIDE, Card, Colour
from rcatool.network_file import Network, read_network, read_run
from rcatool.overlay import draw_overlay
from rcatool.refine.crf import choose_backend, crf_params, dense_crf
from rcatool.seg_inference import best_class
from rcatool.soft_labels import ITERATIONS
from rcatool.tiling import TiledMap, Tiling, band_rows, enlarged
from rcatool.world import make_world

Photo = str | os.PathLike[str] | Image.Image | np.ndarray
Scale = Literal["auto", "original"] | int
_GPU_BATCH = 8  # tiles, or photos of one size, that go through the network together


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What is where in a photo.

    `mask` is (H, W) uint8, the values being places in `classes` (0: background) and `palette` (RGB). `probabilities` is
    (C + 1, H, W) float32, if asked for. `network_size` is the (H, W) at which the network saw the photo.
    """

    mask: np.ndarray
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    network_size: tuple[int, int]
    probabilities: np.ndarray | None = None
    photo: np.ndarray = field(repr=False, kw_only=True)

    def pixels(self) -> dict[str, int]:
        """Number of pixels of each class, those without any included."""
        counts = np.bincount(self.mask.reshape(-1), minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def shares(self) -> dict[str, float]:
        """Share of the photo that each class takes; they add up to 1."""
        return {name: count / self.mask.size for name, count in self.pixels().items()}

    def overlay(self, *, long_side: int = 1600) -> Image.Image:
        """The photo, at most `long_side` pixels long, in the classes' colours, with a legend: RGB."""
        return draw_overlay(self.photo, self.mask, self.classes, self.palette, long_side=long_side)


class Segmenter:
    """A segmentation network that takes photos of any size."""

    def __init__(
        self, network: Network, *, device: str = "auto", precision: str = "auto", tiling: Tiling | None = None,
        flip: bool = False, crf: bool = False,
    ) -> None:  # fmt: skip
        """`device`: auto (CUDA where there is one), cpu, cuda, cuda:N (SetupError where it is not there); `tiling`: for large photos;
        `flip`: also look at the mirror image, twice the time; `crf`: refine by the dense CRF of `eval.crf`, at the network's size.
        """
        self.world = make_world(device=device, precision=precision)
        self.card: Card = network.card
        self.digest = network.digest
        self.tiling = tiling or Tiling()
        self.flip, self.crf = flip, crf
        self._model = self.world.place(network.model).eval()

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str = "auto", *, tiling: Tiling | None = None, flip: bool = False, crf: bool = False
    ) -> "Segmenter":
        """Read a file of `rca export network`, or the network of a run directory.

        Raises DataError saying what is wrong with it, SetupError for a device or a library that is not there.
        """
        place = Path(path)
        return cls(read_run(place) if place.is_dir() else read_network(place), device=device, tiling=tiling, flip=flip, crf=crf)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the mask values: background, then the classes."""
        return self.card.labels

    def __call__(
        self,
        image: Photo,
        *,
        scale: Scale = "auto",
        probabilities: bool = False,
        advance: Callable[[int, int], object] | None = None,
    ) -> Segmentation:
        """Segment one photo: a path, a PIL image, or an RGB uint8 array (H, W, 3).

        `scale` is the long side in pixels at which the network sees the photo: auto (that of the training photos), original, or a
        number. `advance(done, total)` is told of each batch of tiles. Raises DataError for a photo that cannot be read, ConfigError
        for a scale at which a CRF would have to work in tiles.
        """
        return next(self.many([image], scale=scale, probabilities=probabilities, advance=advance))

    def many(
        self,
        images: Iterable[Photo],
        *,
        scale: Scale = "auto",
        batch: int | None = None,
        probabilities: bool = False,
        advance: Callable[[int, int], object] | None = None,
    ) -> Iterator[Segmentation]:
        """Segment photos one after the other, in order; up to `batch` neighbours of one size go through the network together.

        `batch` is 8 on a GPU and 1 on a CPU, unless given; so many photos are in memory at a time. Other arguments and errors are
        those of a call.
        """
        self.check_scale(scale)
        waiting = iter(images)
        while group := list(islice(waiting, batch or self._batch)):
            photos = [load_photo(image) for image in group]
            views = [self._view(photo, scale) for photo in photos]
            for start, stop in self._runs(views):
                shape = views[start].shape[-2:]
                with torch.inference_mode():
                    if stop - start == 1:
                        tiled = TiledMap(self._probabilities, views[start], self.tiling, batch=self._batch, advance=advance)
                        maps = [(tiled.bands(), tiled.rows)]
                    else:
                        maps = [(iter([one]), one.shape[1]) for one in self._probabilities(torch.stack(views[start:stop]))]
                for photo, view, (bands, rows) in zip(photos[start:stop], views[start:stop], maps, strict=True):
                    if self.crf:
                        bands, rows = iter([self._refined(view, bands)]), shape[0]
                    yield self._finish(photo, bands, (rows, shape), probabilities)

    def check_scale(self, scale: Scale) -> None:
        """ConfigError for a scale at which a CRF would have to work in tiles; other faults of it are `network_size`'s to name."""
        side = self.card.long_side if scale == "auto" else scale
        if self.crf and (side == "original" or (isinstance(side, int) and side > self.tiling.tile)):
            raise ConfigError(
                f"the dense CRF takes a photo as a whole: scale {scale}, tiles of {self.tiling.tile}",
                "leave out the CRF or the scale, or make the tile larger",
            )

    def _runs(self, views: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
        """The (start, stop) of neighbours of one size that are a single tile; any other photo is alone."""
        start = 0
        for stop in range(1, len(views) + 1):
            shape = views[start].shape
            if stop == len(views) or views[stop].shape != shape or max(shape) > self.tiling.tile:
                yield start, stop
                start = stop

    @property
    def _batch(self) -> int:
        return _GPU_BATCH if self.world.device.type == "cuda" else 1

    def _view(self, photo: np.ndarray, scale: Scale) -> Tensor:
        """A photo (H, W, 3) as the network is to see it: uint8 (3, h, w) on the CPU."""
        return transforms.resize(transforms.to_tensor(photo), *network_size(photo.shape[:2], scale, self.card.long_side))

    def _probabilities(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) -> (B, C + 1, n, m) float32 on the device. DataError where the network's output is not finite."""
        inputs = transforms.normalise(images.to(self.world.device), self.card.mean, self.card.std).to(memory_format=torch.channels_last)
        with self.world.autocast():
            maps: Tensor = self._model(inputs).float().softmax(dim=1)
            if self.flip:
                maps = (maps + self._model(inputs.flip(3)).float().softmax(dim=1).flip(3)) / 2
        if not bool(torch.isfinite(maps).all()):
            raise DataError("the segmentation network's output is not finite", "train again: rca train-seg --force, with a lower seg.lr")
        return maps

    @torch.inference_mode()
    def _refined(self, view: Tensor, bands: Iterator[Tensor]) -> Tensor:
        """Probabilities (C + 1, h, w) of a view, uint8 (3, h, w), after the dense CRF on the colours that the network saw."""
        maps = torch.cat(list(bands), dim=1)[None]
        scores = F.interpolate(maps, size=view.shape[1:], mode="bilinear", align_corners=False)[0].cpu().numpy()
        image = np.ascontiguousarray(view.permute(1, 2, 0).numpy())
        backend, device = choose_backend("auto", self.world.device.type), str(self.world.device)
        return torch.from_numpy(dense_crf(image, scores, crf_params("deeplab", ITERATIONS), backend=backend, device=device))

    @torch.inference_mode()
    def _finish(
        self, photo: np.ndarray, bands: Iterator[Tensor], source: tuple[int, tuple[int, ...]], probabilities: bool
    ) -> Segmentation:
        """Enlarge a map's bands (`source`: its rows, the network's size) to the photo's size and take the best class of each pixel."""
        height, width = photo.shape[:2]
        labels = len(self.classes)
        mask = np.empty((height, width), np.uint8)
        kept = np.empty((labels, height, width), np.float32) if probabilities else None
        step = band_rows(labels, width)
        for number, band in enumerate(enlarged(bands, source[0], (height, width), step)):
            here = slice(number * step, number * step + band.shape[1])
            mask[here] = best_class(band)
            if kept is not None:
                kept[:, here] = band.cpu().numpy()
        size = (source[1][0], source[1][1])
        return Segmentation(mask, self.classes, self.card.palette, size, kept, photo=photo)


def network_size(size: tuple[int, ...], scale: Scale, long_side: int) -> tuple[int, int]:
    """The (h, w) at which a network trained on photos of `long_side` sees a photo of `size`; ConfigError for another `scale`."""
    if scale == "original":
        return size[0], size[1]
    side = long_side if scale == "auto" else scale
    if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MAX_SIDE:
        raise ConfigError(f"scale: {scale!r}, expected auto, original, or the long side in pixels", "such as 500")
    return transforms.scaled_size(size[0], size[1], side / max(size[:2]))


def load_photo(image: Photo) -> np.ndarray:
    """A photo as RGB uint8 (H, W, 3), its EXIF rotation applied; DataError for what is no photo."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise DataError(f"image: {image.dtype} of shape {image.shape}, expected RGB uint8 (H, W, 3)", "or a path, or a PIL image")
        return image if image.flags.writeable else image.copy()
    return image_pixels(image) if isinstance(image, Image.Image) else read_image(Path(image))
