"""A trained backbone that only gives features, to a small network that learns from them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rcatool.models.backbones import Backbone


class OnFrozenBackbone(nn.Module):
    """A network whose `backbone` neither learns nor takes part in the gradient; what a subclass adds, does."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        with torch.inference_mode():
            self.widths = [level.shape[1] for level in backbone.pyramid(torch.zeros(1, 3, 32, 32))]

    def train(self, mode: bool = True) -> "OnFrozenBackbone":
        """As of any module, but the backbone's batch norm stays as it is."""
        super().train(mode)
        self.backbone.eval()
        return self

    def pyramid(self, images: Tensor) -> Sequence[Tensor]:
        """The backbone's levels, from fine to coarse, without gradient."""
        with torch.no_grad():
            return self.backbone.pyramid(images)

    def heads(self) -> list[nn.Parameter]:
        """What is trained."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def cells(images: Tensor, stride: int) -> tuple[int, int]:
    """Size of the grid of images (B, 3, H, W) with `stride` pixels per cell: ceil(H / stride), ceil(W / stride)."""
    return -(-images.shape[-2] // stride), -(-images.shape[-1] // stride)
