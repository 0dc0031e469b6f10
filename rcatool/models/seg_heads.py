"""The heads of DeepLab: v2's sum of dilated convolutions, v3+'s pyramid with image pooling and a decoder (spec 3.4).

The layers of the v3+ head are normalised by groups of channels within a photo (group norm), not over the batch: segmentation is trained
on few, large crops, of which batch statistics are noise; image pooling leaves one value per channel and photo, of which a batch of one
has no statistics at all; and nothing is remembered from training, so a head is the same on a crop, on a whole photo and in an average
of weights. `seg.freeze_bn` is about the backbone's batch norm, whose statistics are pretrained; a head has none to freeze.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.models.cpu_gradients import summed_convolutions

FINE_WIDTH = 48  # channels that the decoder leaves of the fine level, so that the pyramid's outweigh them
DROPOUT = 0.1


class SummedAspp(nn.Module):
    """Features (B, D, h, w) -> logits (B, L, h, w): the sum of a dilated 3x3 convolution for each rate (DeepLab-v2)."""

    needs_fine = False

    def __init__(self, in_channels: int, num_labels: int, *, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(in_channels, num_labels, 3, padding=rate, dilation=rate) for rate in rates)
        for branch in self.branches:
            _start_small(branch)

    def forward(self, features: Tensor) -> Tensor:
        return summed_convolutions(features, self.branches)  # type: ignore[arg-type]


class PooledAspp(nn.Module):
    """Features (B, D, h, w) -> (B, W, h, w): 1x1, dilated 3x3 and image pooling side by side, projected together (DeepLab-v3)."""

    def __init__(self, in_channels: int, width: int, *, rates: Sequence[int]) -> None:
        super().__init__()
        dilated = [conv_norm(in_channels, width, 3, rate) for rate in rates]
        self.branches = nn.ModuleList([conv_norm(in_channels, width, 1), *dilated])
        self.pooling = conv_norm(in_channels, width, 1)
        self.project = nn.Sequential(conv_norm((len(rates) + 2) * width, width, 1), nn.Dropout(DROPOUT))

    def forward(self, features: Tensor) -> Tensor:
        whole = self.pooling(features.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        pyramid: Tensor = self.project(torch.cat([*(branch(features) for branch in self.branches), whole], dim=1))
        return pyramid


class DecoderHead(nn.Module):
    """A fine level (B, D_f, H', W') and features (B, D, h, w) -> logits (B, L, H', W') (DeepLab-v3+)."""

    needs_fine = True

    def __init__(self, channels: tuple[int, int], num_labels: int, *, width: int, rates: Sequence[int]) -> None:
        """channels = (D_f, D); `width` is a multiple of 16."""
        super().__init__()
        self.aspp = PooledAspp(channels[1], width, rates=rates)
        self.fine = conv_norm(channels[0], FINE_WIDTH, 1)
        self.merge = nn.Sequential(conv_norm(width + FINE_WIDTH, width, 3), conv_norm(width, width, 3))
        self.classify = nn.Conv2d(width, num_labels, 1)
        _start_small(self.classify)

    def forward(self, fine: Tensor, features: Tensor) -> Tensor:
        pyramid = F.interpolate(self.aspp(features), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.classify(self.merge(torch.cat([pyramid, self.fine(fine)], dim=1)))
        return logits


def conv_norm(in_channels: int, out_channels: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, group norm and ReLU; groups of at least 4 channels, so that one cell has a variance."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(math.gcd(32, out_channels // 4), out_channels), nn.ReLU(inplace=True))


def _start_small(conv: nn.Module) -> None:
    """Initial values of the layers that give logits: normal of 0.01, biases 0."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
