"""Region maps: where a photo looks like regions of its classes, its own and remembered ones, and not like background.

A CAM says most about the parts that tell classes apart. What those parts share with the rest of the object is in the earlier
features of the same network, which see texture and borders. So the sure part of each class's map is pooled into a region, the
part that no map claims into a background region, and every pixel is compared with both (the idea of image-specific prototypes,
Chen et al., CVPR 2022). A region of one photo is small and noisy; the regions of other training photos, looked up with it by
softmax attention as in the paper's semantic aggregation (spec 1.6), say what such regions look like elsewhere. Nothing is
trained for it, and no mask is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class RegionRule:
    """How maps are redrawn, `rounds` times.

    A class's region is where its map is above `sure` x its maximum, the background where no map reaches `background`, divided by
    the round's number; `share` of each comes from the region memory, looked up at `temperature`.
    """

    rounds: int
    sure: float
    background: float
    share: float = 0.7
    temperature: float = 0.1


@dataclass(frozen=True)
class RegionBank:
    """Regions of many photos: `regions[c]` (N_c, D) of class c, each of length 1, and `photos[c]` (N_c,) whose; at -1 backgrounds."""

    regions: Sequence[Tensor]
    photos: Sequence[Tensor]

    def recall(self, region: Tensor, cls: int, *, photo: int, temperature: float) -> Tensor:
        """What the memory of class cls (-1: background) has like `region` (D,): softmax attention, of length 1.

        Regions of `photo` itself are left out. Zero where nothing else is remembered.
        """
        other = self.photos[cls] != photo
        if not bool(other.any()):
            return torch.zeros_like(region)
        entries = self.regions[cls][other]
        return F.normalize((entries @ region / temperature).softmax(dim=0) @ entries, dim=0)


def hypercolumns(pyramid: Sequence[Tensor]) -> Tensor:
    """Features of several levels, (B, D_i, h_i, w_i), as one: (B, sum D_i, h_0, w_0) float32, every level of length 1 at a pixel."""
    size = pyramid[0].shape[-2:]
    levels = [F.interpolate(level.float(), size=size, mode="bilinear", align_corners=False) for level in pyramid]
    return torch.cat([F.normalize(level, dim=1) for level in levels], dim=1)


def photo_regions(columns: Tensor, cam: Tensor, *, sure: float, background: float) -> tuple[Tensor, Tensor]:
    """Regions (K, D) of the classes of a photo and its background (D,), of length 1, or zero where there is none.

    columns (D, h, w) of length 1 at a pixel, cam (K, h, w) in [0, 1]. A class's region is where its map is above `sure` x its
    maximum and above the others, weighted by the map; the background is where no map reaches `background`.
    """
    highest = cam.amax(dim=0) if len(cam) else cam.new_zeros(cam.shape[1:])
    own = (cam > sure * cam.amax(dim=(1, 2), keepdim=True)) & (cam >= highest)
    weight = torch.cat([cam * own, (highest < background).to(cam.dtype)[None]])
    pooled = F.normalize(weight.flatten(1) @ columns.flatten(1).T, dim=1)
    return pooled[:-1], pooled[-1]


def region_cam(
    columns: Tensor, cam: Tensor, rule: RegionRule, *, bank: RegionBank | None = None, keys: Sequence[int] = (), photo: int = -1
) -> Tensor:
    """Maps (K, h, w) in [0, 1] of a photo with hypercolumns (D, h, w) and CAM (K, h, w) in [0, 1].

    In a round the new map of a class is the cosine to its region less that to the background, where positive, over its maximum; it is the
    next round's CAM. With a `bank`, both are first mixed with what it recalls of the photo's classes keys (K,), the photo's own entries
    (those of number `photo`) excepted. A class whose region is empty keeps its map.
    """
    columns = F.normalize(columns, dim=0)
    for number in range(1, rule.rounds + 1):
        regions, ground = photo_regions(columns, cam, sure=rule.sure, background=rule.background / number)
        empty = ~regions.any(dim=1)
        if bank is not None and len(cam):
            regions = torch.stack([_mix(region, cls, rule, bank, photo) for region, cls in zip(regions, keys, strict=True)])
            ground = _mix(ground, -1, rule, bank, photo)
        drawn = torch.tensordot(regions - ground, columns, dims=1).relu()
        drawn = drawn / drawn.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(drawn.dtype).tiny)
        cam = torch.where(empty[:, None, None], cam, drawn)
    return cam


def _mix(region: Tensor, cls: int, rule: RegionRule, bank: RegionBank, photo: int) -> Tensor:
    """A region of the photo and `rule.share` of what the bank recalls with it; one that is empty recalls nothing."""
    if not bool(region.any()):
        return region
    recalled = bank.recall(region, cls, photo=photo, temperature=rule.temperature)
    return F.normalize((1 - rule.share) * region + rule.share * recalled, dim=0)
