"""Gaussian filtering of values at points of a D-dimensional space by way of a permutohedral lattice, with numpy and scipy.

The kernel exp(-|f_i - f_j|^2 / 2) between all pairs of points is approximated in three steps that are linear and cheap: splat each point's
value onto the corners of the simplex it lies in, blur along the D + 1 directions of the lattice, slice: read the values back
(Adams, Baek and Davis 2010; the approximation that spec 3.7 names). In the right basis the lattice is that of the integer vectors: a
simplex is a path through a unit cube, from one corner to the opposite one, that takes the axes by falling fraction of the point.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csc_array, csr_array

# The number of a lattice point is looked up in a table of all cells of the box around them, if there are at most so many. Else the box is
# divided into pages, and only those with a point in them are given a place in the table.
TABLE_CELLS = 2**24
PAGE = 64  # a power of two
Lookup = Callable[[np.ndarray], np.ndarray]

BLOCK = 2**14  # points handled together, so that what is computed of them stays in the processor's cache

# Pairs to compare, in this order, so that the numbers at 0, 1, ... end up falling.
SORTING_NETWORKS = {
    2: ((0, 1),),
    5: ((0, 3), (1, 4), (0, 2), (1, 3), (0, 1), (2, 4), (1, 2), (3, 4), (2, 3)),
}


@dataclass(frozen=True)
class Lattice:
    """Points (N) on a lattice (M): `slicing` (N, M + 1), and a matrix (M + 1, M + 1) for each direction of the blur.

    Lattice point 0 stands for all that are missing: its value is always 0.
    """

    slicing: csr_array
    blurs: tuple[csr_array, ...]

    @cached_property
    def splatting(self) -> csc_array:
        """The transpose of `slicing`, (M + 1, N), with the same memory."""
        return self.slicing.T

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Sum over all points of kernel times values (N,) or (N, L) float32 -> the same shape, float32."""
        on_lattice = self.splatting @ values
        for blur in self.blurs:
            on_lattice = blur @ on_lattice
        sums: np.ndarray = self.slicing @ on_lattice
        return sums

    def normalise(self, weight: float) -> None:
        """Make the kernel K into weight * diag(n) K diag(n), n_i = (sum_j K_ij)^-1/2 (`symmetric`; spec 3.7)."""
        points, _ = self.slicing.shape
        sums = self.filter(np.ones(points, np.float32))
        scale = np.sqrt(weight / (sums + 1e-20)).astype(np.float32)
        self.slicing.data.reshape(points, -1)[...] *= scale[:, None]


def make_lattice(features: Sequence[np.ndarray]) -> Lattice:
    """The lattice of points with D = 2 or 5 features, each (N,) float32 >= 0, in standard deviations of the kernel."""
    place = lattice_coordinates(features)
    cells = place.astype(np.int32)  # coordinates are >= 0, so that cutting off is rounding down
    steps, origin, size = enclosing_box(cells)
    keys, weights = simplices(place, cells, steps)
    keys += origin
    occupied, number = number_keys(keys.ravel(), size)
    points, corners = keys.shape
    starts = np.arange(0, points * corners + 1, corners, dtype=np.int32)  # int64 here would make the indices int64
    slicing = csr_array((weights.ravel(), number(keys.ravel()), starts), shape=(points, len(occupied) + 1))
    directions = (steps.sum(), *steps)  # (1, ..., 1) first, as in pydensecrf: the order matters at the rim
    return Lattice(slicing, tuple(blur_matrix(number(occupied - step), number(occupied + step)) for step in directions))


def lattice_coordinates(features: Sequence[np.ndarray]) -> np.ndarray:
    """Coordinates (D, N) float32 in which the lattice is that of the integer vectors.

    With f_i scaled by sqrt(2 / (3 i (i + 1))): y_i = f_1 + ... + f_(i-1) + (i + 1) f_i. The factor 2/3 gives a blur of (1, 2, 1) / 2
    along each direction the standard deviation 1.
    """
    place = np.empty((len(features), len(features[0])), np.float32)
    total = np.zeros_like(place[0])
    for number, feature in enumerate(features, 1):
        scaled = feature * np.float32(np.sqrt(2 / (3 * number * (number + 1))))
        np.multiply(scaled, number + 1, out=place[number - 1])
        place[number - 1] += total
        total += scaled
    return place


def enclosing_box(cells: np.ndarray) -> tuple[np.ndarray, int, int]:
    """A box around the unit cubes `cells` (D, N) of all points and their neighbours, its cells numbered.

    Returns what to add to a number for a step along each axis (D,), the number of the origin, and how many cells there are. The box is one
    of the differences of successive coordinates: these vary least, as colour channels go together.
    """
    differences = cells.copy()
    differences[1:] -= cells[:-1]
    # A corner of a cube differs from its first one by up to 1, a neighbour of the corner by 1 more.
    lowest = differences.min(axis=1).astype(np.int64) - 2
    extents = differences.max(axis=1) + 3 - lowest
    strides = np.cumprod([1, *extents[:-1]], dtype=np.int64)
    steps = strides.copy()
    steps[:-1] -= strides[1:]
    return steps, -int(lowest @ strides), int(extents[-1] * strides[-1])


def simplices(place: np.ndarray, cells: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners and barycentric weights of the simplices of points at place (D, N) in unit cubes cells (D, N).

    Returns keys (N, D + 1) int64, the sums of steps times coordinates, and weights (N, D + 1) float32 that sum to 1.
    """
    axes, points = place.shape
    keys, weights = np.empty((points, axes + 1), np.int64), np.empty((points, axes + 1), np.float32)
    for start in range(0, points, BLOCK):
        rows = slice(start, start + BLOCK)
        falling = falling_fractions(place[:, rows] - cells[:, rows].astype(np.float32))
        fractions = [row.view(np.float32) for row in falling]
        np.subtract(1, fractions[0], out=weights[rows, 0])
        for number in range(1, axes):
            np.subtract(fractions[number - 1], fractions[number], out=weights[rows, number])
        weights[rows, axes] = fractions[-1]
        corner = steps @ cells[:, rows]
        keys[rows, 0] = corner
        for number, row in enumerate(falling, 1):
            corner += steps.take(row & 7)
            keys[rows, number] = corner
    return keys, weights


def falling_fractions(fractions: np.ndarray) -> list[np.ndarray]:
    """Sort fractions (D, N) float32 in [0, 1) along D, largest first: D rows (N,) int32, the bits of the fraction but the last three.

    The last three bits are the number of the axis it came from. (Numbers >= 0 are in the order of their bits.)
    """
    packed = fractions.view(np.int32)
    packed &= ~7
    packed |= np.arange(len(packed), dtype=np.int32)[:, None]
    rows, spare = list(packed), np.empty_like(packed[0])
    for first, second in SORTING_NETWORKS[len(rows)]:
        np.minimum(rows[first], rows[second], out=spare)
        np.maximum(rows[first], rows[second], out=rows[first])
        rows[second], spare = spare, rows[second]
    return rows


def number_keys(keys: np.ndarray, size: int) -> tuple[np.ndarray, Lookup]:
    """Number the different keys, int64 in [0, size), from 1 on in rising order.

    Returns the keys in that order, int64, and a function from keys to their numbers, int32: 0 for a key that is not among them.
    """
    if size <= TABLE_CELLS:
        return _number_in_table(keys, size)
    pages, page_of = number_keys(keys // PAGE, size // PAGE + 1)

    def compact(keys: np.ndarray) -> np.ndarray:
        return page_of(keys // PAGE) * np.int64(PAGE) + (keys & (PAGE - 1))

    occupied, number = _number_in_table(compact(keys), PAGE * (len(pages) + 1))
    return pages[occupied // PAGE - 1] * PAGE + occupied % PAGE, lambda keys: number(compact(keys))


def _number_in_table(keys: np.ndarray, size: int) -> tuple[np.ndarray, Lookup]:
    flags = np.zeros(size, bool)
    flags[keys] = True
    occupied = np.flatnonzero(flags)
    table = np.zeros(size, np.int32)
    table[occupied] = np.arange(1, len(occupied) + 1)
    return occupied, table.take


def blur_matrix(before: np.ndarray, after: np.ndarray) -> csr_array:
    """The matrix (M + 1, M + 1) that adds half of the values at both neighbours, before (M,) and after (M,), to points 1 ... M."""
    count = len(before) + 1
    neighbours = np.zeros((count, 3), np.int32)
    neighbours[1:] = np.stack([np.arange(1, count), before, after], axis=1)
    weights = np.tile(np.array([1, 0.5, 0.5], np.float32), count)
    return csr_array((weights, neighbours.ravel(), np.arange(0, 3 * count + 1, 3, dtype=np.int32)), shape=(count, count))
