"""Class probabilities of large images: overlapping tiles, blended without seams, enlarged in bands of rows.

Memory grows with the size of a tile and the width of the image, not with its height: rows of tiles come from top to bottom, and what
is above the next row is finished. Where an image is no larger than a tile, it is one tile, and nothing is blended.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.errors import ConfigError

ALIGN = 64  # pixels: tiles begin at multiples of it, so that the cells of all networks (strides 4 to 64) fall on one grid
BAND_BYTES = 64 << 20  # of enlarged probabilities at a time
_MARGIN = 7 / 16  # share of the overlap at a tile's inner border that counts for nothing: there the network has seen padding


@dataclass(frozen=True)
class Tiling:
    """Pixels of the side of a tile, and of the overlap of two: multiples of 64, the overlap at most half a tile (ConfigError)."""

    tile: int = 1024
    overlap: int = 256

    def __post_init__(self) -> None:
        for name, value in (("tile", self.tile), ("overlap", self.overlap)):
            if value < ALIGN or value % ALIGN:
                near = max(1, round(value / ALIGN)) * ALIGN
                raise ConfigError(f"{name}: {value}, expected a multiple of {ALIGN}", f"such as {near}")
        if 2 * self.overlap > self.tile:
            raise ConfigError(f"overlap: {self.overlap}, expected at most half of the tile ({self.tile // 2})")


def tile_spans(length: int, tiling: Tiling) -> list[tuple[int, int]]:
    """The (start, stop) of the tiles along a side of `length` pixels: as few as will do, spread evenly, starts at multiples of 64.

    No tile is longer than `tiling.tile`; neighbours overlap by `tiling.overlap` or more.
    """
    tile = tiling.tile
    if length <= tile:
        return [(0, length)]
    last = math.ceil(length / ALIGN) * ALIGN - tile
    count = math.ceil(last / (tile - tiling.overlap)) + 1
    starts = [last * place // ((count - 1) * ALIGN) * ALIGN for place in range(count)]
    return [(start, min(start + tile, length)) for start in starts]


@dataclass(frozen=True)
class Axis:
    """Tiles along one side, counted in cells: where each starts, the weights (n,) of its n cells, and the cells of all.

    At each cell the weights of all tiles add up to 1.
    """

    starts: list[int]
    weights: list[Tensor]
    cells: int


def make_axis(spans: Sequence[tuple[int, int]], overlap: int, cells: int) -> Axis:
    """The axis of tiles at `spans` (pixels) whose first has `cells` cells: weights rise linearly in the middle of the overlap.

    Several tiles share a grid whose cell is a power of two of pixels; a single tile keeps its own cells.
    """
    if len(spans) == 1:
        return Axis([0], [torch.ones(cells)], cells)
    cell = min(ALIGN, 1 << int(math.log2(max(1.0, spans[0][1] / cells))))
    starts = [start // cell for start, _ in spans]
    counts = [math.ceil((stop - start) / cell) for start, stop in spans]
    weights = []
    for place, count in enumerate(counts):
        centres = torch.arange(count, dtype=torch.float64) + 0.5
        from_left = centres if place > 0 else torch.full_like(centres, math.inf)
        from_right = count - centres if place < len(counts) - 1 else torch.full_like(centres, math.inf)
        inside = torch.minimum(from_left, from_right) * cell / overlap  # of the overlap
        weights.append(((inside - _MARGIN) / (1 - 2 * _MARGIN)).clamp(0, 1))
    total = torch.zeros(starts[-1] + counts[-1], dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + len(weight)] += weight
    shares = [(weight / total[start : start + len(weight)]).float() for start, weight in zip(starts, weights, strict=True)]
    return Axis(starts, shares, len(total))


class TiledMap:
    """The probabilities of one image on a grid of cells, (K, rows, columns), made tile by tile when they are asked for.

    `forward` maps tiles (B, 3, h, w) of the `image` (3, H, W) to probabilities (B, K, n, m) on any device; `batch` tiles of one size
    go together. `advance(done, total)` is told of each batch of tiles.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        image: Tensor,
        tiling: Tiling,
        *,
        batch: int = 1,
        advance: Callable[[int, int], object] | None = None,
    ) -> None:
        self._forward, self._image, self._tiling, self._batch, self._advance = forward, image, tiling, batch, advance
        self._down, self._across = (tile_spans(side, tiling) for side in image.shape[-2:])
        self._done = 0
        self._axes: tuple[Axis, Axis] | None = None
        self._first = self._strip(0)

    @property
    def rows(self) -> int:
        """Cells from top to bottom."""
        assert self._axes is not None
        return self._axes[0].cells

    def bands(self) -> Iterator[Tensor]:
        """The finished rows (K, n, columns), from top to bottom; to be asked for once."""
        assert self._axes is not None
        axis, strip = self._axes[0], self._first
        del self._first
        for place, start in enumerate(axis.starts):
            final = axis.starts[place + 1] - start if place + 1 < len(axis.starts) else strip.shape[1]
            yield strip[:, :final]
            if place + 1 < len(axis.starts):
                below = self._strip(place + 1)
                unfinished = strip[:, final:]
                below[:, : unfinished.shape[1]] += unfinished
                strip = below

    def _strip(self, row: int) -> Tensor:
        """A row of tiles, blended along it and weighted for the blend with other rows: (K, n, columns)."""
        top, bottom = self._down[row]
        strip: Tensor | None = None
        for group in _groups(self._across, self._batch):
            tiles = torch.stack([self._image[:, top:bottom, left:right] for _, (left, right) in group])
            maps = self._forward(tiles)
            if self._axes is None:
                first = maps.shape[-2], maps.shape[-1]
                self._axes = tuple(make_axis(s, self._tiling.overlap, n) for s, n in zip((self._down, self._across), first, strict=True))  # type: ignore[assignment]
            assert self._axes is not None
            down, across = self._axes
            if strip is None:
                strip = maps.new_zeros(maps.shape[1], len(down.weights[row]), across.cells)
            for map_, (place, _) in zip(maps, group, strict=True):
                weight = across.weights[place].to(maps)
                start = across.starts[place]
                strip[..., start : start + len(weight)] += _fitted(map_, (strip.shape[1], len(weight))) * weight
            self._count(len(group))
        assert strip is not None
        return strip * down.weights[row].to(strip)[:, None]

    def _count(self, tiles: int) -> None:
        self._done += tiles
        if self._advance is not None:
            self._advance(self._done, len(self._down) * len(self._across))


def _groups(spans: Sequence[tuple[int, int]], batch: int) -> Iterator[list[tuple[int, tuple[int, int]]]]:
    """Numbered spans, up to `batch` neighbours of one length together."""
    for _, same in itertools.groupby(enumerate(spans), key=lambda item: item[1][1] - item[1][0]):
        members = list(same)
        for start in range(0, len(members), batch):
            yield members[start : start + batch]


def _fitted(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (K, n, m) on the cells of the common grid; those of most networks are already."""
    return maps if maps.shape[-2:] == size else F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def band_rows(classes: int, width: int) -> int:
    """Rows of a band of `classes` float32 maps that are `width` wide."""
    return max(1, BAND_BYTES // (4 * classes * width))


def enlarged(bands: Iterator[Tensor], rows: int, size: tuple[int, int], step: int) -> Iterator[Tensor]:
    """Maps that come in bands (K, n, w), `rows` rows in all, enlarged to `size` (H, W): bands (K, step, W), the last one shorter.

    The values of `F.interpolate(..., mode="bilinear", align_corners=False)` over the whole.
    """
    height, width = size
    # float64: in float32 the place of a row is off by a thousandth of a cell at the end of a large photo
    places = ((torch.arange(height, dtype=torch.float64) + 0.5) * rows / height - 0.5).clamp(min=0)
    upper = places.long().clamp(max=rows - 1)
    lower = (upper + 1).clamp(max=rows - 1)
    share = (places - upper).float()
    held, start = next(bands), 0  # rows start .. start + n of the source
    for first in range(0, height, step):
        here = slice(first, min(first + step, height))
        while int(lower[here][-1]) >= start + held.shape[1]:
            held = torch.cat([held, next(bands)], dim=1)
        keep = int(upper[here][0]) - start
        held, start = held[:, keep:], start + keep
        above, below = (held[:, (index[here] - start).to(held.device)] for index in (upper, lower))
        mixed = torch.lerp(above, below, share[here].to(held)[:, None])
        yield F.interpolate(mixed[None], size=(mixed.shape[1], width), mode="bilinear", align_corners=False)[0]
