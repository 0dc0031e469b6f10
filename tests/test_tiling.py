"""Tiles cover an image as few and as evenly as they may, blend without seams, and grow into the photo as one map would."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from rcatool.errors import ConfigError
from rcatool.tiling import ALIGN, TiledMap, Tiling, enlarged, make_axis, tile_spans


def image(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(height * width))


def whole(tiled: TiledMap) -> Tensor:
    return torch.cat(list(tiled.bands()), dim=1)


def mean_of_cells(cell: int) -> nn.Module:
    """A network whose output at a cell depends on that cell alone; a cut cell is padded with zeros."""

    def forward(images: Tensor) -> Tensor:
        height, width = (-(-side // cell) * cell for side in images.shape[-2:])
        padded = images.new_zeros(len(images), 3, height, width, dtype=torch.float32)
        padded[..., : images.shape[-2], : images.shape[-1]] = images
        return padded.unfold(2, cell, cell).unfold(3, cell, cell).mean(dim=(-2, -1))

    return forward  # type: ignore[return-value]


# ---- where tiles lie


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (1, 128, 64, [(0, 1)]),
        (128, 128, 64, [(0, 128)]),
        (129, 128, 64, [(0, 128), (64, 129)]),
        (192, 128, 64, [(0, 128), (64, 192)]),
        (193, 128, 64, [(0, 128), (64, 192), (128, 193)]),
        (1500, 1024, 256, [(0, 1024), (512, 1500)]),
        (2560, 1024, 256, [(0, 1024), (768, 1792), (1536, 2560)]),
        (2000, 1024, 256, [(0, 1024), (512, 1536), (1024, 2000)]),
    ],
)
def test_spans_by_hand(length: int, tile: int, overlap: int, expected: list[tuple[int, int]]) -> None:
    assert tile_spans(length, Tiling(tile, overlap)) == expected


sides = st.integers(2, 8).flatmap(lambda n: st.tuples(st.just(n * ALIGN), st.integers(1, n // 2).map(lambda m: m * ALIGN)))


@given(st.integers(1, 5000), sides)
def test_spans_cover_a_side_with_as_few_tiles_as_possible(length: int, sizes: tuple[int, int]) -> None:
    tile, overlap = sizes
    spans = tile_spans(length, Tiling(tile, overlap))
    assert (spans[0][0], spans[-1][1]) == (0, length)
    assert all(stop - start <= tile and start % ALIGN == 0 for start, stop in spans)
    assert all(first[1] - second[0] >= overlap for first, second in itertools.pairwise(spans))
    fewer = len(spans) - 1
    assert fewer == 0 or tile + (fewer - 1) * (tile - overlap) < length


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (1000, 256, "tile: 1000, expected a multiple of 64"),
        (0, 64, "tile: 0"),
        (-64, 64, "tile: -64"),
        (512, 100, "overlap: 100"),
        (512, 0, "overlap: 0"),
        (512, 320, "overlap: 320, expected at most half of the tile"),
    ],
)
def test_sizes_that_cannot_be(tile: int, overlap: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tiling(tile, overlap)


@given(st.integers(1, 3000), sides, st.sampled_from([4, 8, 16, 32, 64]))
def test_the_weights_of_all_tiles_add_up_to_one(length: int, sizes: tuple[int, int], cell: int) -> None:
    spans = tile_spans(length, Tiling(*sizes))
    axis = make_axis(spans, sizes[1], -(-spans[0][1] // cell))
    assert axis.cells == -(-length // cell)
    total = np.zeros(axis.cells)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        assert bool((weight >= 0).all())
        total[start : start + len(weight)] += weight.numpy()
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_rim_of_a_tile_that_saw_padding_counts_for_nothing() -> None:
    axis = make_axis([(0, 512), (256, 768)], 256, 64)  # cells of 8 pixels, 32 of them in the overlap
    first, second = axis.weights
    assert first[:32].tolist() == [1] * 32
    assert second[32:].tolist() == [1] * 32
    assert not first[-8:].any()
    assert not second[:8].any()
    np.testing.assert_allclose(second[:32].flip(0), first[32:], atol=1e-7)
    rise = np.diff(first[32:].numpy()[::-1])
    assert rise.min() >= 0
    assert rise.max() < 0.3  # no step from nothing to all


# ---- blending


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 420), st.integers(1, 420), st.sampled_from([8, 16, 32]), st.integers(1, 3))
def test_what_depends_on_a_cell_alone_is_the_same_in_tiles(height: int, width: int, cell: int, batch: int) -> None:
    photo = image(height, width)
    tiled = TiledMap(mean_of_cells(cell), photo, Tiling(128, 64), batch=batch)
    expected = np.zeros((3, -(-height // cell), -(-width // cell)))
    for row, column in np.ndindex(*expected.shape[1:]):
        piece = photo.numpy()[:, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell].astype(float)
        expected[:, row, column] = piece.sum(axis=(1, 2)) / cell**2
    assert tiled.rows == expected.shape[1]
    np.testing.assert_allclose(whole(tiled).numpy(), expected, atol=1e-3)


def convolutions() -> nn.Sequential:
    """Stride 8; an output depends on 64 pixels or fewer around it."""
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for inside, outside in ((3, 8), (8, 8), (8, 5)):
        layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Conv2d(5, 5, 3, 1, 2, dilation=2)).eval()


@pytest.mark.parametrize("size", [(300, 517), (129, 600), (640, 90), (250, 250)])
@torch.inference_mode()
def test_with_overlap_as_large_as_the_field_of_view_tiles_equal_the_whole(size: tuple[int, int]) -> None:
    net, photo = convolutions(), image(*size)
    expected = net.double()(photo[None].double() / 255)[0]
    net.float()
    found = whole(TiledMap(lambda tiles: net(tiles.float() / 255), photo, Tiling(192, 64)))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
    assert float(expected.std()) > 0.01  # it is not all the same anyway


@torch.inference_mode()
def test_a_network_with_cells_of_its_own_lands_on_the_common_grid() -> None:
    # 128 pixels become 10 cells of 12.8: no start of a tile is the border of a cell.
    def forward(tiles: Tensor) -> Tensor:
        size = tuple(max(1, round(side / 12.8)) for side in tiles.shape[-2:])
        return nn.functional.interpolate(tiles.float(), size=size, mode="area")

    ramp = torch.arange(300, dtype=torch.float32).div(2).to(torch.uint8).expand(3, 200, 300)
    found = whole(TiledMap(forward, ramp, Tiling(128, 64)))
    assert found.shape == (3, -(-200 // 8), -(-300 // 8))
    middle = np.arange(found.shape[2]) * 8 + 4
    np.testing.assert_allclose(found[0, 5], middle / 2, atol=5)


def test_rows_of_tiles_are_made_when_they_are_asked_for_and_in_batches_of_one_size() -> None:
    seen: list[tuple[int, ...]] = []
    told: list[tuple[int, int]] = []

    def forward(tiles: Tensor) -> Tensor:
        seen.append(tuple(tiles.shape))
        return tiles[..., ::8, ::8].float()

    tiled = TiledMap(forward, image(400, 300), Tiling(128, 64), batch=2, advance=lambda *count: told.append(count))
    row = [(2, 3, 128, 128), (1, 3, 128, 128), (1, 3, 128, 108)]
    assert seen == row
    bands: Iterator[Tensor] = tiled.bands()
    assert next(bands).shape == (3, 8, 38)  # what the second row of tiles does not reach
    assert seen == row
    next(bands)
    assert seen == row * 2
    list(bands)
    assert len(seen) == 3 * 6
    assert told[-1] == (24, 24)


# ---- enlarging


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_enlarging_in_bands_is_bilinear_interpolation_of_the_whole(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    cuts = sorted(data.draw(st.sets(st.integers(1, rows), max_size=3)) | {0, rows})
    maps = torch.rand(2, rows, columns, generator=torch.Generator().manual_seed(rows * columns))
    bands = iter([maps[:, start:stop] for start, stop in itertools.pairwise(cuts)])
    step = data.draw(st.integers(1, 40))
    found = list(enlarged(bands, rows, (height, width), step))
    assert all(band.shape[1] == step for band in found[:-1])
    down, across = ((np.arange(new) + 0.5) * old / new - 0.5 for old, new in ((rows, height), (columns, width)))
    places = np.meshgrid(down, across, indexing="ij")
    for channel, map_ in enumerate(torch.cat(found, dim=1)):
        expected = ndimage.map_coordinates(maps[channel].double().numpy(), places, order=1, mode="nearest")
        np.testing.assert_allclose(map_.numpy(), expected, atol=2e-5)
