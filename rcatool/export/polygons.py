"""Outlines of label maps: closed polygons of (x, y) points, in pixels from the upper left corner of the picture.

A polygon runs a quarter of a pixel inside the border of its region. Programs disagree on what a point at (3, 3) is (the corner
of a pixel, or its centre) and on whether the border belongs to a polygon; inside by a quarter, the same polygon covers the
same pixels for all of them, and a coordinate that was rounded on the way does not fall into another pixel.
"""

from collections.abc import Container
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

INSET = 0.25
_AHEAD = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # (x, y) to the right, down, left, up: each a turn to the right
_ACROSS = np.roll(_AHEAD, 1, axis=0)  # what is on the left of one who goes ahead
_END = np.array([(1, 0), (1, 1), (0, 1), (0, 0)])  # where the edge of a pixel in that direction ends


@dataclass(frozen=True)
class Segment:
    """A region of one class whose pixels touch along edges (4-connected): mask value, area in pixels, and outline.

    `points` is (N, 2) float64, N >= 3, without the first point at the end. Holes are part of the one outline: a cut leads from
    the border to each hole and back on the same line.
    """

    value: int
    area: int
    points: np.ndarray


def label_regions(mask: np.ndarray, values: Container[int], *, min_area: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the 4-connected regions of equal value in `mask` (H, W), leaving out other values and regions below `min_area`.

    Returns region numbers (H, W) int32 (0: none), and the mask value and area of each region, both (R + 1,) and 0 for none.
    """
    regions = np.zeros(mask.shape, dtype=np.int32)
    value_of, areas = [np.zeros(1, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    count = 0
    for value in np.unique(mask).tolist():
        if value not in values:
            continue
        numbers, found = ndimage.label(mask == value)
        area = np.bincount(numbers.ravel(), minlength=found + 1)
        kept = area >= min_area
        kept[0] = False
        renumbered = np.where(kept, np.cumsum(kept) + count, 0)
        regions += renumbered.astype(np.int32)[numbers]
        count += int(kept.sum())
        areas.append(area[kept])
        value_of.append(np.full(int(kept.sum()), value))
    return regions, np.concatenate(value_of), np.concatenate(areas)


def segments(mask: np.ndarray, values: Container[int], *, min_area: int = 1, tolerance: float = 0.0) -> list[Segment]:
    """Return the regions of `label_regions` with their outlines.

    With a `tolerance` of 0 an outline encloses its region's pixels and no others. Above 0 it is simplified: no corner of the
    exact outline is further than `tolerance` pixels from the simple one.
    """
    regions, value_of, areas = label_regions(mask, values, min_area=min_area)
    found = []
    for region, rings in sorted(_rings(regions).items()):
        outline = _Outline(rings)
        found.append(Segment(int(value_of[region]), int(areas[region]), outline.simplified(tolerance) if tolerance > 0 else outline.points))
    return found


def _rings(regions: np.ndarray) -> dict[int, list[np.ndarray]]:
    """Region number -> its borders, each (N, 2): first the outer one, then those of its holes, from left to right."""
    owner, following, is_corner, ends = _edges(regions)
    next_of: list[int] = following.tolist()
    seen = np.zeros(len(owner), dtype=bool)
    found: dict[int, list[np.ndarray]] = {}
    for first in range(len(owner)):  # in order of rows, so a region's outer border comes before its holes
        if seen[first]:
            continue
        edge, ring = next_of[first], [first]
        while edge != first:
            ring.append(edge)
            edge = next_of[edge]
        chosen = np.array(ring)
        seen[chosen] = True
        found.setdefault(int(owner[first]), []).append(ends[chosen[is_corner[chosen]]])
    return {region: [rings[0], *sorted(rings[1:], key=lambda ring: tuple(ring[_leftmost(ring)]))] for region, rings in found.items()}


def _edges(regions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The E pixel edges on the borders of `regions` (H, W), walked with the region on the right, in order of their rows.

    Returns whose border it is (E,); the number of the edge that follows (E,); whether there is a corner between them (E,); and
    where the edge ends (E, 2), moved into the region.
    """
    padded = np.pad(regions, 1)
    inner = padded[1:-1, 1:-1]
    exists = np.zeros((*inner.shape, 4), dtype=bool)
    for side, (dx, dy) in enumerate(_ACROSS):
        across = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        exists[..., side] = (inner > 0) & (inner != across)
    y, x, d = np.nonzero(exists)
    owner = inner[y, x]
    ahead_x, ahead_y = x + _AHEAD[d, 0], y + _AHEAD[d, 1]
    over_x, over_y = ahead_x + _ACROSS[d, 0], ahead_y + _ACROSS[d, 1]
    # Around the own pixel where the one ahead is not of the region, even if the one diagonally across is: 4-connected.
    right = padded[ahead_y + 1, ahead_x + 1] != owner
    straight = ~right & (padded[over_y + 1, over_x + 1] != owner)
    then = np.where(right, d + 1, np.where(straight, d, d - 1)) % 4
    then_x = np.where(right, x, np.where(straight, ahead_x, over_x))
    then_y = np.where(right, y, np.where(straight, ahead_y, over_y))
    keys = np.ravel_multi_index((y, x, d), exists.shape)
    following = np.searchsorted(keys, np.ravel_multi_index((then_y, then_x, then), exists.shape))
    ends = np.stack([x, y], axis=1) + _END[d] - INSET * (_ACROSS[d] + _ACROSS[then])
    return owner, following, then != d, ends


def _leftmost(ring: np.ndarray) -> int:
    """Number of the leftmost point, and of several the highest."""
    return int(np.lexsort((ring[:, 1], ring[:, 0]))[0])


class _Outline:
    """The borders of one region as one closed line, `points` (N, 2); the points numbered in `fixed` join borders, and stay."""

    def __init__(self, rings: list[np.ndarray]) -> None:
        self.points = rings[0]
        self.fixed: list[int] = []
        for hole in rings[1:]:
            self._cut_to(np.roll(hole, -_leftmost(hole), axis=0))

    def _cut_to(self, hole: np.ndarray) -> None:
        """Insert a hole that begins with its leftmost point, by a cut from there to the nearest border on its left.

        Between the two there are pixels of the region only, as holes further left are part of the border already.
        """
        x, y = hole[0]
        begin, end = self.points, np.roll(self.points, -1, axis=0)
        spans = (begin[:, 0] == end[:, 0]) & (begin[:, 0] < x)
        spans &= (np.minimum(begin[:, 1], end[:, 1]) <= y) & (np.maximum(begin[:, 1], end[:, 1]) >= y)
        assert spans.any(), "a hole with nothing on its left"
        at = int(np.argmax(np.where(spans, begin[:, 0], -np.inf)))
        shore = (begin[at, 0], y)
        inserted = np.concatenate([[shore], hole, hole[:1], [shore]])
        self.points = np.insert(self.points, at + 1, inserted, axis=0)
        self.fixed = [number + len(inserted) * (number > at) for number in self.fixed]
        self.fixed += [at + 1, at + 2, at + len(inserted) - 1, at + len(inserted)]

    def simplified(self, tolerance: float) -> np.ndarray:
        """The line without the points that are no further than `tolerance` from the one between those that stay."""
        fixed = sorted(self.fixed) or [0]
        turned = np.roll(self.points, -fixed[0], axis=0)
        stops = [*(number - fixed[0] for number in fixed), len(turned)]
        closed = np.concatenate([turned, turned[:1]])
        pieces = [_simplified(closed[begin : end + 1], tolerance)[:-1] for begin, end in pairwise(stops)]
        return np.concatenate(pieces)


def _simplified(line: np.ndarray, tolerance: float) -> np.ndarray:
    """Leave out points of a `line` (N, 2) by the method of Douglas and Peucker; both ends stay.

    A closed line of which less than a triangle would be left is returned as it is.
    """
    kept = np.zeros(len(line), dtype=bool)
    kept[[0, -1]] = True
    waiting = [(0, len(line) - 1)]
    while waiting:
        begin, end = waiting.pop()
        if end - begin < 2:
            continue
        distance = _distance(line[begin + 1 : end], line[begin], line[end])
        furthest = int(np.argmax(distance))
        if distance[furthest] > tolerance:
            middle = begin + 1 + furthest
            kept[middle] = True
            waiting += [(begin, middle), (middle, end)]
    is_closed = np.array_equal(line[0], line[-1])
    return line if is_closed and kept.sum() < 4 else line[kept]


def _distance(points: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of `points` (N, 2) from the piece of a line between two points (which may be the same)."""
    along = end - begin
    length = float(along @ along)
    share = np.clip((points - begin) @ along / length, 0.0, 1.0) if length > 0 else np.zeros(len(points))
    away: np.ndarray = points - begin - share[:, None] * along
    distance: np.ndarray = np.hypot(away[:, 0], away[:, 1])
    return distance
