"""Outlines of label maps: closed polygons of (x, y) points, in pixels from the upper left corner of the picture.

A polygon runs a quarter of a pixel inside the border of its region. Programs disagree on what a point at (3, 3) is (the corner
of a pixel, or its centre) and on whether the border belongs to a polygon; inside by a quarter, the same polygon covers the
same pixels for all of them, and a coordinate that was rounded on the way does not fall into another pixel.
"""

from collections.abc import Container
from dataclasses import dataclass, replace
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
    for region, line in _outlines(regions).items():
        points = line.simplified(tolerance) if tolerance > 0 else line.points
        found.append(Segment(int(value_of[region]), int(areas[region]), points))
    return found


@dataclass(frozen=True)
class _Edges:
    """The E pixel edges on the borders of regions, walked with the region on the right, in order of rows, columns, directions."""

    place: np.ndarray  # (E, 3): row and column of the region's pixel, and direction
    owner: np.ndarray  # (E,): number of the region
    following: np.ndarray  # (E,): number of the next edge
    is_corner: np.ndarray  # (E,): whether the next edge goes in another direction
    ends: np.ndarray  # (E, 2): where the edge ends, moved into the region
    shape: tuple[int, int, int]

    def number(self, place: np.ndarray) -> np.ndarray:
        """The numbers of edges (N, 3) that exist."""
        keys = np.ravel_multi_index(tuple(self.place.T), self.shape)
        found: np.ndarray = np.searchsorted(keys, np.ravel_multi_index(tuple(place.T), self.shape))
        return found


def _edges(regions: np.ndarray) -> _Edges:
    """The edges of region numbers (H, W), 0 being no region."""
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
    ends = np.stack([x, y], axis=1) + _END[d] - INSET * (_ACROSS[d] + _ACROSS[then])
    edges = _Edges(np.stack([y, x, d], axis=1), owner, np.zeros(0), then != d, ends, exists.shape)
    return replace(edges, following=edges.number(np.stack([then_y, then_x, then], axis=1)))


def _rings(edges: _Edges) -> dict[int, list[np.ndarray]]:
    """Region number -> its borders as edge numbers in the order of the walk: the outer one, then those of its holes."""
    next_of: list[int] = edges.following.tolist()
    seen = bytearray(len(next_of))
    found: dict[int, list[np.ndarray]] = {}
    for first in range(len(next_of)):  # in order of rows, so a region's outer border comes before its holes
        if seen[first]:
            continue
        edge, ring = first, []
        while not seen[edge]:
            seen[edge] = True
            ring.append(edge)
            edge = next_of[edge]
        found.setdefault(int(edges.owner[first]), []).append(np.array(ring))
    return found


@dataclass(frozen=True)
class _Line:
    """A closed line (N, 2); the points that are `fixed` (N,) join the borders of a region, and stay."""

    points: np.ndarray
    fixed: np.ndarray

    def simplified(self, tolerance: float) -> np.ndarray:
        """The line without the points that are no further than `tolerance` from the one between those that stay."""
        fixed = np.flatnonzero(self.fixed)
        first = int(fixed[0]) if len(fixed) else 0
        turned = np.roll(self.points, -first, axis=0)
        closed = np.concatenate([turned, turned[:1]])
        stops = [*(fixed - first).tolist(), len(turned)] if len(fixed) else [0, len(turned)]
        return np.concatenate([_simplified(closed[begin : end + 1], tolerance)[:-1] for begin, end in pairwise(stops)])


def _outlines(regions: np.ndarray) -> dict[int, _Line]:
    """Region number -> its outline.

    From the leftmost pixel of a hole, a cut leads to the left through pixels of the region, to the first border there.
    That border reaches further to the left than the hole, so that no two cuts lead to one another; and as the hole ends that
    row of pixels, no other cut is in it.
    """
    edges = _edges(regions)
    rings = _rings(edges)
    holes = [np.roll(ring, -_leftmost(edges, ring)) for borders in rings.values() for ring in borders[1:]]
    holes.sort(key=lambda ring: -int(edges.place[ring[0], 1]))
    entries = edges.place[[ring[0] for ring in holes]]
    landings = _landings(edges, regions, entries) if holes else []
    inserts: dict[int, list[_Line]] = {}  # edge -> what comes before its end
    for ring, landing in zip(holes, landings, strict=True):
        y, x, _ = edges.place[ring[0]]
        entry, line = np.array([(x + 1 - INSET, y + INSET)]), _walk(edges, ring, inserts)
        shore = np.array([(edges.place[landing, 1] + INSET, y + INSET)])
        inserts[landing] = [_fixed(shore), _fixed(entry), *line, _fixed(entry), _fixed(shore)]
    return {region: _joined(_walk(edges, borders[0], inserts)) for region, borders in rings.items()}


def _leftmost(edges: _Edges, ring: np.ndarray) -> int:
    """Position in a hole's `ring` of the edge on the left of its leftmost pixel, and of several the highest."""
    y, x, d = edges.place[ring].T
    left = np.flatnonzero(d == 1)  # of the hole: on the right of the region's pixel, which is walked down
    return int(left[np.lexsort((y[left], x[left]))[0]])


def _landings(edges: _Edges, regions: np.ndarray, entries: np.ndarray) -> list[int]:
    """For edges (N, 3) on the right of a pixel: the edge on the left of the row of pixels of one region that ends there."""
    begins = np.zeros(regions.shape, dtype=np.int32)
    columns = np.arange(1, regions.shape[1], dtype=np.int32)
    begins[:, 1:] = np.where(regions[:, 1:] != regions[:, :-1], columns, 0)
    begins = np.maximum.accumulate(begins, axis=1)
    y, x, _ = entries.T
    landings: list[int] = edges.number(np.stack([y, begins[y, x], np.full_like(y, 3)], axis=1)).tolist()
    return landings


def _walk(edges: _Edges, ring: np.ndarray, inserts: dict[int, list[_Line]]) -> list[_Line]:
    """The corners of a ring, with the lines that are to be inserted before the end of some of its edges."""
    pieces, begin = [], 0
    for position, edge in enumerate(ring.tolist() if inserts else []):
        if edge in inserts:
            pieces += [_corners(edges, ring[begin:position]), *inserts.pop(edge)]
            begin = position
    return [*pieces, _corners(edges, ring[begin:])]


def _corners(edges: _Edges, part: np.ndarray) -> _Line:
    points = edges.ends[part[edges.is_corner[part]]]
    return _Line(points, np.zeros(len(points), dtype=bool))


def _fixed(point: np.ndarray) -> _Line:
    return _Line(point, np.ones(len(point), dtype=bool))


def _joined(pieces: list[_Line]) -> _Line:
    return _Line(np.concatenate([piece.points for piece in pieces]), np.concatenate([piece.fixed for piece in pieces]))


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
