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
        if len(maps) == 2:
            maps = torch.stack([maps[0], maps[1].flip(-1)])
        resized = F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False).mean(dim=0)
        total = resized if total is None else total + resized
    assert total is not None, "no scale"
    return total / len(view_maps)


@torch.inference_mode()
def infer_levels(
    forward: Callable[[Tensor], Sequence[Tensor]], views: Sequence[Tensor], sizes: Sequence[tuple[int, int]], *, world: World
) -> list[Tensor]:
    """Run `forward` on each view (1 or 2, 3, H_s, W_s) of a photo and merge each of its outputs at its size.

    Returns one (C, H, W) float32 per output and size, on the device.
    """
    outputs = []
    for view in views:
        with world.autocast():
            outputs.append(forward(view.to(world.device, non_blocking=True, memory_format=torch.channels_last)))
    return [merge_views(maps, size) for maps, size in zip(zip(*outputs, strict=True), sizes, strict=True)]


def infer_views(forward: Callable[[Tensor], Tensor], views: Sequence[Tensor], size: tuple[int, int], *, world: World) -> Tensor:
    """The same for a `forward` with one output: (C, H, W) float32 on the device."""
    return infer_levels(lambda images: [forward(images)], views, [size], world=world)[0]
