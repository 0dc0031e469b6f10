"""Affinities of neighbouring cells from features: learned (AffinityNet, spec 3.5), or the classifier's own, without training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.models.backbones import Backbone
from rcatool.models.frozen import OnFrozenBackbone, cells
from rcatool.refine.pairs import Offset, far_ends, half_plane_offsets

STRIDE = 8  # pixels per cell
RADIUS = 5  # cells
_BLOCK = 64  # columns
REDUCED = (64, 128, 256)  # channels that each level of the backbone is reduced to


class AffinityNet(OnFrozenBackbone):
    """Each level reduced by a 1x1 convolution, all joined and mixed by another: features f, affinity exp(-mean |f_i - f_j|)."""

    stride = STRIDE
    offsets = half_plane_offsets(RADIUS)

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.reduce = nn.ModuleList(
            nn.Conv2d(width, reduced, 1, bias=False) for width, reduced in zip(self.widths, REDUCED, strict=True)
        )
        self.mix = nn.Conv2d(sum(REDUCED), sum(REDUCED), 1, bias=False)
        for layer in self.reduce:
            nn.init.kaiming_normal_(layer.weight)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> affinities (B, P, ceil(H / 8), ceil(W / 8)) in (0, 1] of the pairs within radius 5."""
        size = cells(images, self.stride)
        levels = [
            F.interpolate(F.elu(layer(level)), size=size, mode="bilinear", align_corners=False)
            for layer, level in zip(self.reduce, self.pyramid(images), strict=True)
        ]
        features = F.elu(self.mix(torch.cat(levels, dim=1))).float()
        return torch.stack([_closeness(features, offset) for offset in self.offsets], dim=1)


def _closeness(features: Tensor, offset: Offset) -> Tensor:
    return (-(features - far_ends(features, offset, outside=0.0)).abs().mean(dim=1)).exp()


def cosine_affinity(levels: Sequence[Tensor], offsets: Sequence[Offset], size: tuple[int, int]) -> Tensor:
    """Mean over feature levels (D_i, h_i, w_i) of the cosine of two cells, where positive: (P, h, w) on a grid of `size`.

    Offsets go down, or to the right, as those of `half_plane_offsets`.
    """
    total = torch.zeros((len(offsets), *size), device=levels[0].device)
    for level in levels:
        resized = F.interpolate(level[None].float(), size=size, mode="bilinear", align_corners=False)[0]
        total += _products(F.normalize(resized, dim=0), offsets).clamp_(0, 1).div_(len(levels))
    return total


def _products(unit: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """Scalar products (P, h, w) of each cell of unit (D, h, w) with its other end, 0 where that is off the grid.

    A row of cells with all of the row dy below is one matrix product, of which the offsets (dy, dx) are the diagonals: a quarter of the
    time of a sum for each offset. In blocks of columns, so that a wide photo costs no more than its cells do.
    """
    (_, height, width), reach = unit.shape, max((abs(dx) for _, dx in offsets), default=0)
    rows = F.pad(unit, (reach, reach)).permute(1, 2, 0).contiguous()  # (h, reach + w + reach, D)
    found = unit.new_zeros(len(offsets), height, width)
    below: dict[int, list[tuple[int, int]]] = {}
    for number, (dy, dx) in enumerate(offsets):
        below.setdefault(dy, []).append((number, dx + reach))
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        for dy, places in below.items():
            if dy >= height:
                continue
            with torch.autocast(unit.device.type, enabled=False):  # which would compare in half precision
                near = rows[: height - dy, reach + start : reach + stop] @ rows[dy:, start : stop + 2 * reach].transpose(1, 2)
            for number, diagonal in places:
                found[number, : height - dy, start:stop] = near.diagonal(diagonal, 1, 2)
    return found
