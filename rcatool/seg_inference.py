"""Class probabilities of a whole photo from a segmentation network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rcatool.cam_inference import infer_views
from rcatool.errors import DataError
from rcatool.world import World


def photo_probabilities(model: nn.Module, views: Sequence[Tensor], size: tuple[int, int], *, world: World) -> Tensor:
    """Softmax averaged over the views (1 or 2, 3, H_s, W_s) of one photo, at its size: (C + 1, H, W) float32 on the device.

    DataError where a value is not finite.
    """

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return logits.float().softmax(dim=1)

    merged = infer_views(forward, views, size, world=world)
    if not bool(torch.isfinite(merged).all()):
        raise DataError("the segmentation network's output is not finite", hint="train again: rca train-seg --force, with a lower seg.lr")
    return merged
