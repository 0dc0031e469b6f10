"""The dense CRF with torch, several images at once: their lattices side by side, as one block-diagonal matrix.

The same steps as `lattice` and `crf._scipy`, written for a GPU: every step is one operation over all points of all images. Sums are
taken in a fixed order (no atomic additions), so that results repeat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from rcatool.refine.crf import CrfParams, log_probabilities

BATCH_PIXELS = 2**22  # of the images refined together: about 600 bytes of memory each, so 2.5 GB


@dataclass
class TorchLattice:
    """Points (N) on a lattice (M), each in a simplex with D + 1 corners.

    For slicing, corners (N, D + 1) are lattice points with weights (N, D + 1). For splatting the same pairs are ordered by lattice point:
    points and splat_weights (N * (D + 1),), those of lattice point m from starts[m] on, order being where they come from. neighbours
    (D + 1, 2, M) for each direction of the blur, numbered from 1 on, 0 for a missing one.
    """

    corners: Tensor
    weights: Tensor
    order: Tensor
    starts: Tensor
    neighbours: Tensor

    def __post_init__(self) -> None:
        self.points = self.order // self.corners.shape[1]
        self.splat_weights = self.weights.flatten()[self.order]

    def filter(self, values: Tensor) -> Tensor:
        """Sum over all points of kernel times values (N, L) -> (N, L)."""
        on_lattice = embedding_bag(self.points, values, self.starts, mode="sum", per_sample_weights=self.splat_weights)
        for before, after in self.neighbours:
            padded = pad(on_lattice, (0, 0, 1, 0))
            on_lattice = on_lattice + 0.5 * (padded[before] + padded[after])
        return embedding_bag(self.corners, on_lattice, mode="sum", per_sample_weights=self.weights)

    def normalised(self, weight: float) -> "TorchLattice":
        """This lattice with weight * diag(n) K diag(n) in place of its kernel K, n_i = (sum_j K_ij)^-1/2."""
        sums = self.filter(torch.ones_like(self.weights[:, :1]))
        return replace(self, weights=self.weights * (weight / (sums + 1e-20)).sqrt())


def dense_crf_batch(
    images: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], params: CrfParams, *, device: str | torch.device = "cpu"
) -> list[np.ndarray]:
    """`crf.dense_crf` of several images (H, W, 3) uint8 RGB with probabilities (L, H, W); sizes and numbers of labels may differ."""
    sizes = [image.shape[:2] for image in images]
    counts = [height * width for height, width in sizes]
    kernels = _kernels(images, params, torch.device(device))
    unary = _unary(probabilities).to(device)
    ones = torch.ones_like(unary[:, :1])
    fixed = unary - sum(kernel.filter(ones) for kernel in kernels)
    found = _softmax(unary)
    for _ in range(params.iterations if kernels and unary.shape[1] else 0):
        others = found[:, 1:].contiguous()
        received = torch.stack([kernel.filter(others) for kernel in kernels]).sum(dim=0)
        found = _softmax(fixed + received + received.sum(dim=1, keepdim=True))
    parts = found.cpu().split(counts)
    return [
        np.ascontiguousarray(part[:, : len(given)].numpy().T).reshape(given.shape) for part, given in zip(parts, probabilities, strict=True)
    ]


def make_lattice(features: Tensor, owner: Tensor) -> TorchLattice:
    """The lattices of points with features (N, D) float32 >= 0, in standard deviations: one for each value of owner (N,) from 0 on."""
    place = _coordinates(features)
    cells = place.floor().long()
    keys, steps = _keys_of_cells(cells, owner)
    fractions, axes = (place - cells).sort(dim=1, descending=True)
    weights = -pad(pad(fractions, (1, 0), value=1.0), (0, 1)).diff(dim=1)
    corner_keys = (keys[:, None] + pad(steps[axes].cumsum(dim=1), (1, 0))).flatten()
    in_order, order = corner_keys.sort(stable=True)
    occupied, number, counts = torch.unique_consecutive(in_order, return_inverse=True, return_counts=True)
    corners = torch.empty_like(number)
    corners[order] = number
    directions = [steps.sum(), *steps]
    neighbours = [torch.stack([_search(occupied, occupied - step), _search(occupied, occupied + step)]) for step in directions]
    return TorchLattice(corners.reshape(weights.shape), weights, order, counts.cumsum(0) - counts, torch.stack(neighbours))


def _coordinates(features: Tensor) -> Tensor:
    """Coordinates (N, D) in which the lattice is that of the integer vectors, rounded as in `lattice.lattice_coordinates`."""
    place, total = torch.empty_like(features), torch.zeros_like(features[:, 0])
    for axis, feature in enumerate(features.unbind(dim=1)):
        scaled = feature * math.sqrt(2 / (3 * (axis + 1) * (axis + 2)))
        place[:, axis] = scaled * (axis + 2) + total
        total += scaled
    return place


def _keys_of_cells(cells: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers (N,) of cells (N, D) in a box with room for all neighbours, one box for each owner, and steps (D,) along each axis."""
    lowest, highest = cells.amin(dim=0), cells.amax(dim=0)
    extents = highest - lowest + 5
    steps = pad(extents[:-1].cumprod(dim=0), (1, 0), value=1)
    return ((cells - lowest + 2) * steps).sum(dim=1) + owner * extents.prod(), steps


def _search(occupied: Tensor, wanted: Tensor) -> Tensor:
    """Numbers from 1 on of the wanted keys among those occupied, in rising order; 0 for those that are not there."""
    found = torch.searchsorted(occupied, wanted).clamp(max=len(occupied) - 1)
    return torch.where(occupied[found] == wanted, found + 1, 0)


def _kernels(images: Sequence[np.ndarray], params: CrfParams, device: torch.device) -> list[TorchLattice]:
    """The kernels of weight > 0 over the pixels of all images, normalised and weighted."""
    counts = torch.tensor([image.shape[0] * image.shape[1] for image in images], device=device)
    owner = torch.arange(len(images), device=device).repeat_interleave(counts)
    positions = torch.cat([_positions(*image.shape[:2], device) for image in images])
    kernels = []
    if params.gaussian_weight > 0:
        kernels.append(make_lattice(positions / params.gaussian_sxy, owner).normalised(params.gaussian_weight))
    if params.bilateral_weight > 0:
        colours = torch.cat([torch.from_numpy(np.ascontiguousarray(image)).to(device).reshape(-1, 3) for image in images])
        features = torch.cat([positions / params.bilateral_sxy, colours * (1 / params.bilateral_srgb)], dim=1)
        kernels.append(make_lattice(features, owner).normalised(params.bilateral_weight))
    return kernels


def _positions(height: int, width: int, device: torch.device) -> Tensor:
    """x and y (H * W, 2) of all pixels."""
    return torch.cartesian_prod(torch.arange(height, device=device), torch.arange(width, device=device)).flip(1).float()


def _unary(probabilities: Sequence[np.ndarray]) -> Tensor:
    """Scores (N, K) of labels 1 ... K relative to label 0; -inf for labels that an image does not have."""
    most = max(len(given) for given in probabilities)
    parts = []
    for given in probabilities:
        scores = torch.from_numpy(log_probabilities(given)).flatten(1)
        parts.append(pad((scores[1:] - scores[0]).T, (0, most - len(given)), value=-torch.inf))
    return torch.cat(parts)


def _softmax(scores: Tensor) -> Tensor:
    """Probabilities (N, K + 1) of scores (N, K) relative to that of a further label, which comes first."""
    return pad(scores, (1, 0)).softmax(dim=1)
