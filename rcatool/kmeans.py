"""Seeded k-means on tensors, for the prototypes of the region memory."""

import torch
from torch import Tensor


def kmeans(points: Tensor, k: int, *, seed: int, iterations: int = 30) -> Tensor:
    """Cluster `points` (N, D), N >= 1, into at most `k` centres: (min(k, N), D), same dtype and device.

    k-means++ seeding, Lloyd until nothing changes or `iterations`; a cluster that runs empty takes the point farthest
    from its centre. The same seed gives the same centres (spec 2.6).
    """
    if len(points) <= k:
        return points.clone()
    centres = _plus_plus(points, k, seed)
    owner = None
    for _ in range(iterations):
        distance, nearest = _distances(points, centres).min(dim=1)
        if owner is not None and torch.equal(nearest, owner):
            break
        owner = nearest
        centres = _means(points, owner, distance, k)
    return centres


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (N, K), by differences: the expanded form loses too many digits between near points."""
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").square()


def _plus_plus(points: Tensor, k: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device draws the same points
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = _distances(points, points[chosen]).squeeze(1)
    for _ in range(k - 1):
        weight = distance.double().cpu()
        if float(weight.sum()) <= 0:  # all points coincide with a centre
            weight = torch.ones_like(weight)
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
        distance = torch.minimum(distance, _distances(points, points[chosen[-1:]]).squeeze(1))
    return points[chosen].clone()


def _means(points: Tensor, owner: Tensor, distance: Tensor, k: int) -> Tensor:
    sums = torch.zeros(k, points.shape[1], dtype=points.dtype, device=points.device).index_add_(0, owner, points)
    counts = torch.bincount(owner, minlength=k)
    centres = sums / counts.clamp(min=1).unsqueeze(1)
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        centres[empty] = points[distance.topk(len(empty)).indices]
    return centres
