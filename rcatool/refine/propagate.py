"""CAMs of a photo spread over it by a random walk: one function for each kind of affinity."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.models.backbones import Backbone
from rcatool.models.frozen import cells
from rcatool.refine.affinity import STRIDE, AffinityNet, cosine_affinity
from rcatool.refine.irn import BoundaryNet
from rcatool.refine.pairs import Offset, half_plane_offsets
from rcatool.refine.walk import random_walk


@torch.inference_mode()
def by_features(backbone: Backbone, views: Tensor, maps: Tensor, *, radius: int, beta: float, steps: int) -> Tensor:
    """Maps (K, h, w) >= 0 of a photo, spread to where the backbone's features are alike; views (2, 3, H, W), the second mirrored.

    Not by the last level: it is what the maps are made of, and knows the parts that tell classes apart, not the whole objects.
    """
    levels = [(level[0] + level[1].flip(-1)) / 2 for level in backbone.earlier(views)]
    offsets = half_plane_offsets(radius)
    affinity = cosine_affinity(levels, offsets, cells(views, STRIDE))
    return _on_its_grid(maps, affinity, offsets, beta=beta, steps=steps)


@torch.inference_mode()
def by_affinity(net: AffinityNet, views: Tensor, maps: Tensor, *, beta: float, steps: int) -> Tensor:
    """The same along the affinities of `net`, which looks at the first view only (spec 3.5)."""
    return _on_its_grid(maps, net(views[:1])[0], net.offsets, beta=beta, steps=steps)


@torch.inference_mode()
def by_boundary(net: BoundaryNet, views: Tensor, maps: Tensor, *, beta: float, steps: int) -> Tensor:
    """The same within the boundaries of `net`; what lies on a boundary does not spread (spec 3.6)."""
    edge, affinity = net.walkable(views)
    inside = _resized(maps, edge.shape) * (1 - edge)
    return _resized(_on_its_grid(inside, affinity, net.walk_offsets, beta=beta, steps=steps), maps.shape[-2:])


def _on_its_grid(maps: Tensor, affinity: Tensor, offsets: Sequence[Offset], *, beta: float, steps: int) -> Tensor:
    """Walk on the grid of the affinities, and back to the size of the maps."""
    walked = random_walk(_resized(maps, affinity.shape[-2:]), affinity, offsets, beta=beta, steps=steps)
    return _resized(walked, maps.shape[-2:])


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
