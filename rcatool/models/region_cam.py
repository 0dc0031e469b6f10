"""Region maps: where a photo looks like the regions that its CAM is surest of, and not like its background.

A CAM says most about the parts that tell classes apart. What those parts share with the rest of the object is in the earlier
features of the same network, which see texture and borders. So the sure part of each class's map is pooled into a region, the
part that no map claims into a background region, and every pixel is compared with both (the idea of image-specific prototypes,
Chen et al., CVPR 2022). Nothing is trained for it, and no mask is read.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def hypercolumns(pyramid: Sequence[Tensor]) -> Tensor:
    """Features of several levels, (B, D_i, h_i, w_i), as one: (B, sum D_i, h_0, w_0) float32, every level of length 1 at a pixel."""
    size = pyramid[0].shape[-2:]
    levels = [F.interpolate(level.float(), size=size, mode="bilinear", align_corners=False) for level in pyramid]
    return torch.cat([F.normalize(level, dim=1) for level in levels], dim=1)


def region_cam(columns: Tensor, cam: Tensor, *, rounds: int, sure: float, background: float) -> Tensor:
    """Maps (K, h, w) in [0, 1] of a photo with hypercolumns (D, h, w) and CAM (K, h, w) in [0, 1].

    In a round the region of a class is where its map is above `sure` x its maximum and above the others, weighted by the map;
    the background is where no map reaches `background`, divided by the number of the round, as maps grow clearer. The new map
    is the cosine to the region less that to the background, where positive, over its maximum; it is the next round's CAM.
    A class whose region is empty keeps its map.
    """
    columns = F.normalize(columns, dim=0)
    for number in range(1, rounds + 1):
        highest = cam.amax(dim=0) if len(cam) else cam.new_zeros(cam.shape[1:])
        ground = _pool(columns, (highest < background / number).to(columns.dtype))
        maps = []
        for one in cam:
            weight = one * ((one > sure * one.max()) & (one >= highest))
            if not bool(weight.any()):
                maps.append(one)
                continue
            similarity = torch.tensordot(_pool(columns, weight) - ground, columns, dims=1).relu()
            maps.append(similarity / similarity.max().clamp(min=torch.finfo(similarity.dtype).tiny))
        cam = torch.stack(maps) if maps else cam
    return cam


def _pool(columns: Tensor, weight: Tensor) -> Tensor:
    """The direction (D,) of the weighted sum over pixels; zero where no pixel has a weight."""
    return F.normalize((columns * weight).sum(dim=(1, 2)), dim=0)
