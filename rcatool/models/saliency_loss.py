"""Supervision by saliency maps (EPS): where the classes that stand out are, together, is where the map says something is."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.ranks import size, total


def saliency_loss(maps: Tensor, tags: Tensor, saliency: Tensor, *, overlap: float, share: float) -> Tensor:
    """Mean squared difference of saliency (B, H, W) in [0, 1] and what the maps (B, C + 1, h, w), background last, make of it.

    A class of tags (B, C) is foreground if more than `overlap` of its pixels (share above 0.5 in the softmax over channels) are salient
    (above 0.5); else it counts as background. The estimate is `share` x foreground + (1 - share) x (1 - background). Computed
    in float32 at the maps' size, saliency by nearest neighbour (EPS, CVPR 2021; spec 3.2).
    """
    shares = maps.float().softmax(dim=1)
    classes, ground = shares[:, :-1], shares[:, -1]
    salient = F.interpolate(saliency.float()[:, None], size=maps.shape[-2:], mode="nearest")[:, 0]
    inside = (classes > 0.5).float()
    covered = (inside * (salient > 0.5)[:, None]).sum(dim=(2, 3)) / (inside.sum(dim=(2, 3)) + 1e-4)
    present = tags > 0
    stands_out = present & (covered > overlap)
    foreground = torch.einsum("bchw,bc->bhw", classes, stands_out.float())
    background = ground + torch.einsum("bchw,bc->bhw", classes, (present & ~stands_out).float())
    errors = (share * foreground + (1 - share) * (1 - background) - salient).square()
    return errors.mean() if size() == 1 else total(errors.sum()) / total(errors.new_full((), errors.numel()))
