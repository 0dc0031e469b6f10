"""A trained backbone that only gives features, to a small network that learns from them."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck

from rcatool.models.backbones import Backbone
from rcatool.models.cpu_gradients import DilatedDepthwise

M = TypeVar("M", bound=nn.Module)


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


def fold_batch_norm(model: M) -> M:
    """Draw batch norm into the convolutions before it, in place, of a network in eval mode that is only to be asked from now on.

    Its numbers change by rounding; a mobilenet takes a quarter less time. Only where the one is sure to follow the other: in a
    sequence of layers, and in torchvision's bottlenecks.
    """
    for module in list(model.modules()):
        names = list(module._modules)
        pairs: list[tuple[str, str]] = []
        if isinstance(module, Bottleneck):
            pairs = [(f"conv{number}", f"bn{number}") for number in (1, 2, 3)]
        elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            pairs = list(zip(names, names[1:], strict=False))
        for first, second in pairs:
            conv, norm = module._modules[first], module._modules[second]
            if type(conv) in (nn.Conv2d, DilatedDepthwise) and type(norm) is nn.BatchNorm2d and not norm.training:
                module._modules[first], module._modules[second] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return model

