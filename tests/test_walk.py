"""Pairs of cells and the random walk. Oracles: literal loops and dense matrix powers in double precision, pictures by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rcatool.refine import walk
from rcatool.refine.pairs import far_ends, half_plane_offsets, path, path_maxima
from rcatool.refine.walk import random_walk, transition

OFFSETS = half_plane_offsets(5)
GRIDS = [(6, 7), (12, 11), (9, 3), (1, 8), (8, 1), (2, 2), (1, 1)]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(affinity: Tensor, beta: float) -> np.ndarray:
    """T = A^beta over its column sums, (n, n), cell by cell."""
    _, height, width = affinity.shape
    matrix = np.eye(height * width)
    for p, (dy, dx) in enumerate(OFFSETS):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    i, j = y * width + x, (y + dy) * width + x + dx
                    matrix[i, j] = matrix[j, i] = float(affinity[p, y, x]) ** beta
    return matrix / matrix.sum(axis=0, keepdims=True)


def test_offsets_are_half_of_the_disc() -> None:
    assert {radius: len(half_plane_offsets(radius)) for radius in (1, 2, 5, 10)} == {1: 0, 2: 4, 5: 34, 10: 152}
    for radius in (5, 10):
        found = half_plane_offsets(radius)
        both = {(dy, dx) for dy, dx in found} | {(-dy, -dx) for dy, dx in found}
        disc = {(y, x) for y in range(-20, 21) for x in range(-20, 21) if 0 < y * y + x * x < radius * radius}
        assert both == disc
        assert len(found) * 2 == len(disc)  # each pair once


@pytest.mark.parametrize("size", GRIDS)
def test_far_ends_by_loop(size: tuple[int, int]) -> None:
    grid = rand(2, *size)
    for dy, dx in [*OFFSETS, *((-dy, -dx) for dy, dx in OFFSETS)]:
        expected = torch.full_like(grid, 7.0)
        for y in range(size[0]):
            for x in range(size[1]):
                if 0 <= y + dy < size[0] and 0 <= x + dx < size[1]:
                    expected[:, y, x] = grid[:, y + dy, x + dx]
        assert torch.equal(far_ends(grid, (dy, dx), outside=7.0), expected)


def test_path_is_the_cells_near_the_line() -> None:
    assert path((0, 3)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert path((2, 2)) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert path((2, -3)) == [(0, -1), (0, 0), (1, -3), (1, -2), (1, -1), (1, 0), (2, -3), (2, -2)]
    for offset in half_plane_offsets(10):
        dy, dx = offset
        found = set(path(offset))
        assert {(0, 0), offset} <= found
        assert found == {(dy - y, dx - x) for y, x in found}  # the way back is the same
        for y in range(-9, 10):
            for x in range(-9, 10):
                along = (y * dy + x * dx) / (dy * dy + dx * dx)
                distance = (y - along * dy) ** 2 + (x - along * dx) ** 2
                in_box = min(dy, 0) <= y <= max(dy, 0) and min(dx, 0) <= x <= max(dx, 0)
                assert ((y, x) in found) == (in_box and distance < 1 - 1e-9), (offset, y, x)


@pytest.mark.parametrize("size", [(5, 6), (2, 11), (1, 5)])
@pytest.mark.parametrize("radius", [5, 10])
def test_path_maxima_by_loop(size: tuple[int, int], radius: int) -> None:
    grid, offsets = rand(2, *size).requires_grad_(), half_plane_offsets(radius)
    found = path_maxima(grid, offsets)
    gradient, values = torch.zeros_like(grid), grid.detach().numpy()
    for b in range(2):
        for p, (dy, dx) in enumerate(offsets):
            for y in range(size[0]):
                for x in range(size[1]):
                    if not (y + dy < size[0] and 0 <= x + dx < size[1]):
                        assert found[b, p, y, x] == 1
                        continue
                    cells = [(y + i, x + j) for i, j in path((dy, dx))]
                    highest = max(cells, key=lambda cell: values[b, cell[0], cell[1]])
                    assert found[b, p, y, x] == values[b, highest[0], highest[1]]
                    gradient[b, highest[0], highest[1]] += 1
    found.sum().backward()
    torch.testing.assert_close(grid.grad, gradient)


@pytest.mark.parametrize("size", GRIDS)
def test_the_walk_is_the_dense_matrix_power(size: tuple[int, int]) -> None:
    affinity, maps = rand(len(OFFSETS), *size), rand(3, *size, seed=1)
    matrix = dense(affinity, 3.0)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-12)
    flat = maps.flatten(1).numpy()
    squared = matrix.copy()
    for _ in range(8):
        squared = squared @ squared
    for steps, power in ((1, matrix), (7, np.linalg.matrix_power(matrix, 7)), (256, squared)):
        found = random_walk(maps, affinity, OFFSETS, beta=3.0, steps=steps)
        assert found.dtype == maps.dtype
        np.testing.assert_allclose(found.flatten(1).numpy(), flat @ power, atol=1e-8)
        on_gpu = walk._walk_by_gathering(maps.flatten(1), transition(affinity, OFFSETS, beta=3.0), steps)
        np.testing.assert_allclose(on_gpu.numpy(), flat @ power, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.floats(0.5, 16), st.integers(1, 40))
def test_values_are_means_and_constants_stay(height: int, width: int, seed: int, beta: float, steps: int) -> None:
    affinity, maps = rand(len(OFFSETS), height, width, seed=seed), rand(2, height, width, seed=seed + 1)
    found = random_walk(maps, affinity, OFFSETS, beta=beta, steps=steps)
    for before, after in zip(maps, found, strict=True):
        assert before.min() - 1e-12 <= after.min()
        assert after.max() <= before.max() + 1e-12
    constant = torch.full_like(maps, 0.37)
    torch.testing.assert_close(random_walk(constant, affinity, OFFSETS, beta=beta, steps=steps), constant)


def test_single_precision_does_not_drift() -> None:
    affinity, maps = rand(len(OFFSETS), 12, 11).float(), rand(2, 12, 11, seed=1).float()
    found = random_walk(maps, affinity, OFFSETS, beta=3.0, steps=256)
    assert found.dtype == torch.float32
    expected = maps.flatten(1).double().numpy() @ np.linalg.matrix_power(dense(affinity, 3.0), 256)
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, atol=1e-6)


def test_nothing_wraps_around_the_border() -> None:
    maps = torch.zeros(1, 9, 13, dtype=torch.float64)
    maps[0, 4, 12] = 1  # at the right border: one cell further in the flat index is the left border of the next row
    found = random_walk(maps, torch.ones(len(OFFSETS), 9, 13, dtype=torch.float64), OFFSETS, beta=1, steps=1)[0]
    for y in range(9):
        for x in range(13):
            assert (found[y, x] > 0) == ((y - 4) ** 2 + (x - 12) ** 2 < 25)


def test_a_wall_holds_and_open_ground_is_symmetric() -> None:
    edge = torch.zeros(1, 9, 13, dtype=torch.float64)
    edge[0, :, 6] = 1
    maps = torch.zeros(1, 9, 13, dtype=torch.float64)
    maps[0, 4, 2] = 1
    walled = random_walk(maps, 1 - path_maxima(edge, OFFSETS)[0], OFFSETS, beta=10, steps=256)[0]
    assert (walled[:, 6:] == 0).all()
    assert (walled[:, :6] > 0.005).all()
    centre = torch.zeros(1, 9, 13, dtype=torch.float64)
    centre[0, 4, 6] = 1
    free = random_walk(centre, 1 - path_maxima(torch.zeros_like(edge), OFFSETS)[0], OFFSETS, beta=10, steps=3)[0]
    torch.testing.assert_close(free, free.flip(0))
    torch.testing.assert_close(free, free.flip(1))
