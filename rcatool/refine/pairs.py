"""Pairs of neighbouring cells of a grid: which there are, the values at their far ends, and the straight path between them.

A pair is a cell and an offset (dy, dx) of the half plane below and to the right of it, so that each pair occurs once. Values of
pairs are grids (..., P, h, w): entry p at (y, x) belongs to the cells (y, x) and (y + dy_p, x + dx_p).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

Offset = tuple[int, int]


def half_plane_offsets(radius: int) -> list[Offset]:
    """Offsets of length below `radius`, one of each opposite two: 34 for radius 5, 152 for radius 10 (spec 3.5, 3.6)."""
    ahead = [(0, dx) for dx in range(1, radius)]
    below = [(dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius)]
    return [(dy, dx) for dy, dx in ahead + below if dy * dy + dx * dx < radius * radius]


def far_ends(grid: Tensor, offset: Offset, *, outside: float) -> Tensor:
    """The values of grid (..., h, w) at each cell's other end, (..., h, w); `outside` where that is off the grid."""
    (dy, dx), (height, width) = offset, grid.shape[-2:]
    # Negative padding crops; an offset longer than the side would crop more than there is.
    if abs(dy) >= height or abs(dx) >= width:
        return torch.full_like(grid, outside)
    return F.pad(grid, (-dx, dx, -dy, dy), value=outside)


def path(offset: Offset) -> list[Offset]:
    """The cells between (0, 0) and `offset`, both included: of their bounding box, those less than 1 from the line (spec 3.6)."""
    dy, dx = offset
    rows, columns = range(min(dy, 0), max(dy, 0) + 1), range(min(dx, 0), max(dx, 0) + 1)
    length = dy * dy + dx * dx
    return [(y, x) for y in rows for x in columns if (y * dx - x * dy) ** 2 < length]


def path_maxima(grid: Tensor, offsets: list[Offset]) -> Tensor:
    """The highest value of grid (B, h, w), at least 0, on each pair's path: (B, P, h, w); a path that leaves the grid has 1.

    The gradient goes to the (first) highest cell of each path. Only its place is kept, not the values of all paths: at radius 10
    they have 14 cells in the mean.
    """
    batch, height, width = grid.shape
    reach = max(max(abs(dy), abs(dx)) for dy, dx in offsets)
    padded = F.pad(grid, (reach, reach, reach, reach), value=1.0)
    row = width + 2 * reach
    with torch.no_grad():
        start = torch.arange(height, device=grid.device)[:, None] * row + torch.arange(width, device=grid.device) + reach * (row + 1)
        places = [_highest(padded.detach(), start, path(offset), reach) for offset in offsets]
    return padded.flatten(1).gather(1, torch.stack(places, dim=1).flatten(1)).view(batch, len(offsets), height, width)


def _highest(padded: Tensor, start: Tensor, cells: list[Offset], reach: int) -> Tensor:
    """The place in the flat padded grid of the highest of `cells` as seen from each cell of the grid, (B, h, w)."""
    height, width = start.shape
    best = padded.new_full((len(padded), height, width), -1.0)
    place = torch.zeros_like(best, dtype=torch.long)
    for y, x in cells:
        value = padded[:, reach + y : reach + y + height, reach + x : reach + x + width]
        higher = value > best
        place = torch.where(higher, start + (y * padded.shape[-1] + x), place)
        best = torch.where(higher, value, best)
    return place
