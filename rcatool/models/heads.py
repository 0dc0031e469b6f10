"""The heads that turn features into class maps: one linear layer, or the deep heads of the released code."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear_head(in_channels: int, num_classes: int) -> nn.Conv2d:
    """The paper's head: 1x1, free of bias, so that a class's score is exactly the mean of its map."""
    head = nn.Conv2d(in_channels, num_classes, 1, bias=False)
    nn.init.normal_(head.weight, std=0.01)
    return head


class DeepHead(nn.Sequential):
    """Three 3x3 convolutions with ReLU of `width` channels, then 1x1: (B, D, h, w) -> (B, C, h, w) (spec 2.2).

    With `separate`, every class has a stack of its own: the first convolution makes all stacks' channels at once, the others
    are grouped. The numbers and the gradients are those of C stacks in a loop, the parameters theirs, one after another.
    A CPU takes that loop, which is a fifth faster there; a GPU takes four launches instead of 4 C.
    """

    def __init__(self, in_channels: int, num_classes: int, *, width: int, separate: bool) -> None:
        groups = num_classes if separate else 1
        inner = groups * width
        super().__init__(
            nn.Conv2d(in_channels, inner, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1, groups=groups),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1, groups=groups),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, num_classes, 1, groups=groups),
        )
        self.groups = groups
        for layer in self:
            if isinstance(layer, nn.Conv2d):  # biases keep torch's own start, as in the released code
                nn.init.normal_(layer.weight, std=0.01)

    def forward(self, features: Tensor) -> Tensor:
        if self.groups == 1 or features.device.type != "cpu":
            return super().forward(features)
        layers = [layer for layer in self if isinstance(layer, nn.Conv2d)]
        weights = zip(*(layer.weight.chunk(self.groups) for layer in layers), strict=True)  # class by class
        biases = zip(*(layer.bias.chunk(self.groups) for layer in layers), strict=True)
        return torch.cat([_stack(features, *own) for own in zip(weights, biases, strict=True)], dim=1)


def _stack(features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        features = F.conv2d(features, weight, bias, padding=1).relu_()
    return F.conv2d(features, weights[-1], biases[-1])


@dataclass(frozen=True)
class HeadKind:
    """`1x1`, or `grouped`: stacks with hidden layers of `width` channels, one for P, one for each class for O."""

    kind: str = "1x1"
    width: int = 512

    def build(self, in_channels: int, num_classes: int, *, separate: bool) -> nn.Module:
        """A head from features to class maps; `separate` (O) counts for deep heads only."""
        if self.kind == "1x1":
            return linear_head(in_channels, num_classes)
        return DeepHead(in_channels, num_classes, width=self.width, separate=separate)


LINEAR = HeadKind()
