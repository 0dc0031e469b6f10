"""Random walk on a grid: maps spread along affinities (spec 3.5, 3.6), as sparse products on the few maps of a photo.

The literature squares the dense n x n transition matrix log2(t) times. A cell has at most 2 P + 1 neighbours, so t products with a
sparse matrix come to the same numbers with a fraction of time and memory (benchmarks/walk_rate.py).
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from rcatool.refine.pairs import Offset, far_ends


def random_walk(maps: Tensor, affinity: Tensor, offsets: Sequence[Offset], *, beta: float, steps: int) -> Tensor:
    """`maps` T^steps, with T = A^beta divided by its column sums: maps (K, h, w) -> (K, h, w), same type and device.

    affinity (P, h, w) in [0, 1] of pairs of cells by `offsets`, whose lengths count (pairs that leave the grid are left out); A has
    1 on the diagonal and is symmetric. Columns of T sum to 1 (the official orientation, invariant 51), so each value of the
    result is a mean of values of `maps`. Computed in double precision: in single, 256 steps drift by 3e-4.
    """
    count, height, width = maps.shape
    assert affinity.shape == (len(offsets), height, width), (affinity.shape, maps.shape)
    diagonals = transition(affinity.double(), offsets, beta=beta)
    walk = _walk_by_diagonals if maps.device.type == "cpu" else _walk_by_gathering
    return walk(maps.flatten(1).double(), diagonals, steps).view(count, height, width).to(maps.dtype)


def transition(affinity: Tensor, offsets: Sequence[Offset], *, beta: float) -> dict[int, Tensor]:
    """The transposed T by diagonals: {shift: (n,)}, entry i of which is the weight of cell i + shift in the new value of cell i.

    Where the weight is not 0, i + shift is on the grid.
    """
    height, width = affinity.shape[-2:]
    weights = [
        one.pow(beta) * far_ends(torch.ones_like(one), offset, outside=0.0) for one, offset in zip(affinity, offsets, strict=True)
    ]
    diagonals = {0: torch.ones_like(weights[0]).flatten() if weights else affinity.new_ones(height * width)}
    for (dy, dx), weight in zip(offsets, weights, strict=True):
        back = far_ends(weight, (-dy, -dx), outside=0.0)
        # On a grid narrower than the radius two offsets can be one shift of the flat index, for different cells.
        for shift, values in ((dy * width + dx, weight), (-dy * width - dx, back)):
            diagonals[shift] = diagonals[shift] + values.flatten() if shift in diagonals else values.flatten()
    total = torch.stack(list(diagonals.values())).sum(dim=0)
    return {shift: values / total for shift, values in diagonals.items()}


def _walk_by_diagonals(maps: Tensor, diagonals: dict[int, Tensor], steps: int) -> Tensor:
    """For the CPU, maps (K, n): one at a time, which measured 3 times as fast as rows (CSR), and 10 times as all maps at once."""
    shifts = sorted(diagonals)
    n = len(diagonals[0])
    # scipy wants the entry of row i of a diagonal in column i + shift.
    data = np.stack([np.roll(diagonals[shift].numpy(), shift) for shift in shifts])
    matrix = scipy.sparse.dia_array((data, shifts), shape=(n, n))
    out = np.empty(maps.shape, data.dtype)
    for k, values in enumerate(maps.numpy()):
        for _ in range(steps):
            values = matrix @ values
        out[k] = values
    return torch.from_numpy(out)


def _walk_by_gathering(maps: Tensor, diagonals: dict[int, Tensor], steps: int) -> Tensor:
    """For a GPU, maps (K, n): every cell fetches its 2 P + 1 neighbours, all maps at once."""
    shifts = torch.tensor(list(diagonals), device=maps.device)[:, None]
    n = maps.shape[1]
    near = (torch.arange(n, device=maps.device) + shifts).clamp(0, n - 1)  # off the grid the weight is 0
    weights = torch.stack(list(diagonals.values()))
    for _ in range(steps):
        maps = torch.einsum("kdn,dn->kn", maps[:, near], weights)
    return maps
