"""Dilated convolutions whose gradient a CPU takes long for, computed in another way where one is wanted (docs/performance.md).

The values are those of torch's convolutions but for rounding; without gradients, and on a GPU, torch's own are used.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DilatedDepthwise(nn.Conv2d):
    """A depthwise 3x3 convolution of stride 1 and any dilation d, as one without dilation on the d x d grids that it sees apart."""

    @classmethod
    def like(cls, conv: nn.Conv2d) -> "DilatedDepthwise":
        """The same convolution, its parameters included."""
        made = cls(
            conv.in_channels, conv.out_channels, 3, padding=conv.padding, dilation=conv.dilation, groups=conv.groups,  # type: ignore[arg-type]
            bias=conv.bias is not None, device="meta",  # nothing is drawn for it
        )  # fmt: skip
        made.weight, made.bias = conv.weight, conv.bias
        return made

    def forward(self, input: Tensor) -> Tensor:
        if not _is_slow(input, self.weight):
            return super().forward(input)
        (height, width), rate = input.shape[-2:], self.dilation[0]
        grids = F.pad(input.permute(0, 2, 3, 1), (0, 0, 0, -width % rate, 0, -height % rate))
        grids = grids.unflatten(2, (-1, rate)).unflatten(1, (-1, rate)).permute(2, 4, 0, 1, 3, 5)  # (d, d, B, h / d, w / d, C)
        found = F.conv2d(grids.flatten(0, 2).permute(0, 3, 1, 2), self.weight, self.bias, padding=1, groups=self.groups)
        found = found.permute(0, 2, 3, 1).reshape(grids.shape).permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)
        return found.permute(0, 3, 1, 2)[:, :, :height, :width]


def by_grids(modules: Iterable[nn.Module]) -> None:
    """Replace the dilated depthwise convolutions in `modules` by `DilatedDepthwise`."""
    for parent in [each for module in modules for each in module.modules()]:
        for name, conv in parent.named_children():
            if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels == conv.out_channels > 1 and conv.dilation[0] > 1:
                assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), conv.dilation)
                setattr(parent, name, DilatedDepthwise.like(conv))


def summed_convolutions(features: Tensor, branches: Iterable[nn.Conv2d]) -> Tensor:
    """The sum of 3x3 convolutions (D -> L) of several dilations, each padded by its own: (B, D, h, w) -> (B, L, h, w).

    For the gradient on a CPU as one product of features and all taps that meet the map, whose results are shifted and added up: in
    float32, as a convolution adds up its taps.
    """
    branches = list(branches)
    if not _is_slow(features, branches[0].weight):
        found: Tensor = branches[0](features)
        for branch in branches[1:]:
            found = found + branch(features)
        return found
    height, width = features.shape[-2:]
    taps = [(branch, i, j) for branch in branches for i in range(3) for j in range(3) if _meets(branch, i, j, height, width)]
    weight = torch.cat([branch.weight[:, :, i, j] for branch, i, j in taps])  # (T L, D)
    parts = F.linear(features.permute(0, 2, 3, 1), weight)
    total = sum(branch.bias for branch in branches if branch.bias is not None)
    for (branch, i, j), part in zip(taps, parts.to(torch.promote_types(parts.dtype, torch.float32)).chunk(len(taps), dim=3), strict=True):
        down, right = ((tap - 1) * branch.dilation[0] for tap in (i, j))
        total = total + F.pad(part, (0, 0, -right, right, -down, down))
    assert isinstance(total, Tensor)
    return total.permute(0, 3, 1, 2)


def _meets(branch: nn.Conv2d, i: int, j: int, height: int, width: int) -> bool:
    """Whether a tap sees anything but padding."""
    return abs(i - 1) * branch.dilation[0] < height and abs(j - 1) * branch.dilation[1] < width


def _is_slow(features: Tensor, weight: Tensor) -> bool:
    return features.device.type == "cpu" and torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad)
