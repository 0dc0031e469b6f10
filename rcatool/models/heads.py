"""The heads that turn features into class maps: one linear layer, or the deep heads of the released code."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONVS = (0, 2, 4, 6)  # places of the convolutions in a deep head


def linear_head(in_channels: int, num_classes: int) -> nn.Conv2d:
    """The paper's head: 1x1, free of bias, so that a class's score is exactly the mean of its map."""
    head = nn.Conv2d(in_channels, num_classes, 1, bias=False)
    nn.init.normal_(head.weight, std=0.01)
    return head


def deep_head(in_channels: int, out_channels: int, *, width: int) -> nn.Sequential:
    """Three 3x3 convolutions with ReLU of `width` channels, then 1x1 (spec 2.2)."""
    head = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, out_channels, 1),
    )
    for place in CONVS:  # biases keep torch's own start, as in the released code
        nn.init.normal_(head[place].weight, std=0.01)  # type: ignore[arg-type]
    return head


class SeparateHeads(nn.ModuleList):
    """A deep head for each class: (B, D, h, w) -> (B, C, h, w).

    A GPU takes all of them at once, `grouped`: 4 launches instead of 4 C, with the same numbers and gradients. A CPU takes one
    after the other, which is a quarter faster there.
    """

    def __init__(self, in_channels: int, num_classes: int, *, width: int) -> None:
        super().__init__(deep_head(in_channels, 1, width=width) for _ in range(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        if features.device.type != "cpu":
            return self.grouped(features)
        return torch.cat([head(features) for head in self], dim=1)

    def grouped(self, features: Tensor) -> Tensor:
        """All heads as one: the first convolution makes every head's channels, the others have a group for each head."""
        for place in CONVS:
            weight, bias = (torch.cat(self._parts(place, name)) for name in ("weight", "bias"))
            groups, last = 1 if place == 0 else len(self), place == CONVS[-1]
            features = F.conv2d(features, weight, bias, padding=0 if last else 1, groups=groups)
            features = features if last else features.relu_()
        return features

    def _parts(self, place: int, name: str) -> Sequence[Tensor]:
        return [getattr(head[place], name) for head in self]  # type: ignore[index]


@dataclass(frozen=True)
class HeadKind:
    """`1x1`, or `grouped`: deep heads with hidden layers of `width` channels, one for P, one for each class for O."""

    kind: str = "1x1"
    width: int = 512

    def build(self, in_channels: int, num_classes: int, *, separate: bool) -> nn.Module:
        """A head from features to class maps; `separate` (O) counts for deep heads only."""
        if self.kind == "1x1":
            return linear_head(in_channels, num_classes)
        if separate:
            return SeparateHeads(in_channels, num_classes, width=self.width)
        return deep_head(in_channels, num_classes, width=self.width)


LINEAR = HeadKind()
