"""Class probabilities of a whole photo from a segmentation network."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rcatool.cam_inference import infer_together, merge_levels
from rcatool.errors import DataError
from rcatool.world import World


def photo_probabilities(model: nn.Module, views: Sequence[Tensor], size: tuple[int, int], *, world: World) -> Tensor:
    """Softmax averaged over the views (1 or 2, 3, H_s, W_s) of one photo, at its size: (C + 1, H, W) float32 on the device.

    DataError where a value is not finite.
    """
    return next(batch_probabilities(model, [views], size, world=world))


@torch.inference_mode()
def batch_probabilities(
    model: nn.Module, photos: Sequence[Sequence[Tensor]], size: tuple[int, int], *, world: World
) -> Iterator[Tensor]:
    """The same of photos of one size, whose views go through the network together; one after the other, in order."""
    for outputs in infer_together(lambda images: [model(images).float().softmax(dim=1)], photos, world=world):
        merged = merge_levels(outputs, [size])[0]
        if not bool(torch.isfinite(merged).all()):
            hint = "train again: rca train-seg --force, with a lower seg.lr"
            raise DataError("the segmentation network's output is not finite", hint)
        yield merged


def best_class(probabilities: Tensor) -> np.ndarray:
    """Label map (H, W) uint8: the class of the highest of probabilities (C + 1, H, W)."""
    return probabilities.argmax(dim=0).to(torch.uint8).cpu().numpy()
