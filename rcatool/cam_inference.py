"""Multi-scale inference: many views of one photo become one set of maps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.world import World


def merge_views(view_maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Average maps of several scales at `size`: each (1 or 2, C, h, w), the second being of the mirrored photo -> (C, H, W).

    Scales count alike; float32.
    """
    total = None
    for maps in view_maps:
        maps = maps.float()
        # Both directions before the size, as both are linear; reversed with channels last, where a row is in one piece.
        merged = maps[0] if len(maps) == 1 else (maps[0] + maps[1].permute(1, 2, 0).flip(1).permute(2, 0, 1)) / 2
        if merged.shape[-2:] != size:
            merged = F.interpolate(merged[None], size=size, mode="bilinear", align_corners=False)[0]
        total = merged if total is None else total + merged
    assert total is not None, "no scale"
    return total / len(view_maps) if len(view_maps) > 1 else total


def merge_levels(outputs: Sequence[Sequence[Tensor]], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Merge what each view of a photo gave, output by output, each at its size: one (C, H, W) float32 per output."""
    return [merge_views(maps, size) for maps, size in zip(zip(*outputs, strict=True), sizes, strict=True)]


@torch.inference_mode()
def infer_together(
    forward: Callable[[Tensor], Sequence[Tensor]], photos: Sequence[Sequence[Tensor]], *, world: World
) -> list[list[list[Tensor]]]:
    """Run `forward` on the views (1 or 2, 3, H_s, W_s) of photos of one size, those of a scale together: by photo, view and output."""
    found: list[list[list[Tensor]]] = [[] for _ in photos]
    for views in zip(*photos, strict=True):
        images = torch.cat([view.to(world.device, non_blocking=True) for view in views]) if len(views) > 1 else views[0]
        with world.autocast():
            outputs = forward(images.to(world.device, non_blocking=True, memory_format=torch.channels_last))
        for own, *parts in zip(found, *(output.split(len(views[0])) for output in outputs), strict=True):
            own.append(parts)
    return found
