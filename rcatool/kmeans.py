"""Seeded k-means of many groups of points at once, for the prototypes of the region memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 2**13  # points whose distances are computed at a time


@dataclass(frozen=True)
class _Groups:
    """Points (N, D) sorted by group; of (N,) each point's group; first (G,) and count (G,) place and number of each group's points.

    `spans` are the same as (group, start, end), in blocks, for the processor that starts the work on a device.
    """

    points: Tensor
    of: Tensor
    first: Tensor
    count: Tensor
    spans: Sequence[tuple[int, int, int]]


def kmeans(points: Tensor, groups: Tensor, num_groups: int, k: int, *, seed: int, iterations: int = 30) -> tuple[Tensor, Tensor]:
    """Cluster the points (N, D) of each group (N,) in [0, G) by themselves: centres (G, k, D) and which of them exist (G, k) bool.

    k-means++ seeding, Lloyd until nothing changes or `iterations`; a cluster that runs empty takes the point of its group that
    is farthest from its centre. A group of at most k points has them as its centres. The same seed gives the same centres,
    whatever other groups there are; dtype and device are those of the points (spec 2.6).
    """
    sorted_ = _sort(points, groups, num_groups)
    count = sorted_.count
    exists = torch.arange(k, device=points.device) < count[:, None]
    if not len(points) or not k:
        return points.new_zeros(num_groups, k, points.shape[1]), exists
    place = torch.arange(k, device=points.device) + sorted_.first[:, None]
    own = sorted_.points[place.clamp(max=len(points) - 1)]  # (G, k, D), right where a group has at most k points
    few = (count <= k)[:, None, None]
    centres = torch.where(few, own, _plus_plus(sorted_, k, seed))
    owner = None
    for _ in range(iterations):
        distance, nearest = _distances(sorted_, centres, exists).min(dim=1)
        if owner is not None and torch.equal(nearest, owner):
            break
        owner = nearest
        centres = torch.where(few, own, _means(sorted_, owner, distance, centres, exists))
    return centres * exists[:, :, None], exists


def _sort(points: Tensor, groups: Tensor, num_groups: int) -> _Groups:
    order = groups.argsort(stable=True)
    count = torch.bincount(groups, minlength=num_groups)
    first = count.cumsum(0) - count
    spans = [
        (group, start, min(start + _BLOCK, begin + size))
        for group, (begin, size) in enumerate(zip(first.tolist(), count.tolist(), strict=True))
        for start in range(begin, begin + size, _BLOCK)
    ]
    return _Groups(points[order], groups[order], first, count, spans)


def _distances(groups: _Groups, centres: Tensor, exists: Tensor) -> Tensor:
    """Squared distances (N, k) float64 of each point to its own group's centres; infinite where a centre does not exist.

    In the expanded form, for the sake of speed, and in double precision, as it loses digits between near points.
    """
    wide = centres.double()
    squares = wide.square().sum(dim=2).masked_fill(~exists, torch.inf)
    found = wide.new_empty(len(groups.points), centres.shape[1])
    for group, start, end in groups.spans:
        points = groups.points[start:end].double()
        found[start:end] = points.square().sum(dim=1, keepdim=True) - 2 * points @ wide[group].T + squares[group]
    return found.clamp_(min=0)


def _plus_plus(groups: _Groups, k: int, seed: int) -> Tensor:
    """k-means++ seeds (G, k, D): the next one is drawn in proportion to the squared distance from those there are."""
    # Drawn on the CPU, so that every device draws the same, and the same for every group, so that none depends on the others.
    drawn = torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    last = (groups.first + groups.count - 1).clamp(min=0)
    weight = torch.ones(len(groups.points), dtype=torch.float64, device=groups.points.device)
    nearest, seeds = None, []
    for share in drawn:
        total = weight.cumsum(0)
        before = torch.where(groups.first > 0, total[(groups.first - 1).clamp(min=0)], 0.0)
        place = torch.searchsorted(total, before + share * (total[last] - before), right=True)
        chosen = groups.points[torch.minimum(place, last).maximum(groups.first.clamp(max=len(total) - 1))]
        seeds.append(chosen)
        distance = _distances(groups, chosen[:, None], torch.ones_like(groups.first, dtype=torch.bool)[:, None])[:, 0]
        nearest = distance if nearest is None else torch.minimum(nearest, distance)
        left = torch.zeros_like(groups.first, dtype=torch.float64).index_add_(0, groups.of, nearest)
        weight = torch.where((left > 0)[groups.of], nearest, 1.0)  # ones where all points coincide with a seed
    return torch.stack(seeds, dim=1)


def _means(groups: _Groups, owner: Tensor, distance: Tensor, centres: Tensor, exists: Tensor) -> Tensor:
    """The mean of each cluster's points; clusters without any take their group's points farthest from a centre, one each."""
    k = centres.shape[1]
    flat = groups.of * k + owner
    sums = torch.zeros_like(centres).flatten(0, 1).index_add_(0, flat, groups.points).view_as(centres)
    size = torch.bincount(flat, minlength=exists.numel()).view_as(exists)
    means = sums / size.clamp(min=1).unsqueeze(2)
    empty = (size == 0) & exists
    for group in empty.any(dim=1).nonzero().flatten().tolist():
        mine = slice(int(groups.first[group]), int(groups.first[group] + groups.count[group]))
        number = int(empty[group].sum())
        means[group, empty[group]] = groups.points[mine][distance[mine].topk(number).indices]
    return means
