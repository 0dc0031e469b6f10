"""Affinities from class boundaries (the semantic part of IRN, spec 3.6): two cells belong together if no boundary lies between them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.models.backbones import Backbone
from rcatool.models.frozen import OnFrozenBackbone, cells
from rcatool.refine.pairs import half_plane_offsets, path_maxima

WIDTH = 32  # channels of each level in the boundary branch
GROUPS = 4  # of its group norms
STRIDE = 4  # pixels per cell
TRAINING_RADIUS, WALK_RADIUS = 10, 5  # cells


class BoundaryNet(OnFrozenBackbone):
    """A boundary map from all levels of the backbone, and a fine one from the photo itself, since theirs begin at stride 8."""

    stride = STRIDE
    offsets = half_plane_offsets(TRAINING_RADIUS)
    walk_offsets = half_plane_offsets(WALK_RADIUS)

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.fine = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, 2, 1, bias=False), nn.GroupNorm(GROUPS, WIDTH), nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 3, 2, 1, bias=False), nn.GroupNorm(GROUPS, WIDTH), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, WIDTH, 1, bias=False), nn.GroupNorm(GROUPS, WIDTH), nn.ReLU(inplace=True))
            for width in self.widths
        )
        self.boundary = nn.Conv2d(WIDTH * (1 + len(self.widths)), 1, 1)

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits of a boundary (B, ceil(H / 4), ceil(W / 4))."""
        size = cells(images, self.stride)
        levels = [self.fine(images)]
        for layer, level in zip(self.reduce, self.pyramid(images), strict=True):
            levels.append(F.interpolate(layer(level), size=size, mode="bilinear", align_corners=False))
        return self.boundary(torch.cat(levels, dim=1))[:, 0].float()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> affinities (B, P, h, w) in [0, 1] of the pairs within radius 10: 1 - highest boundary between."""
        return 1 - path_maxima(self.logits(images).sigmoid(), self.offsets)

    @torch.inference_mode()
    def walkable(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Boundary (h, w) and affinities (P, h, w) within radius 5 of a photo, views (2, 3, H, W), the second one mirrored."""
        logits = self.logits(views)
        edge = ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()
        return edge, 1 - path_maxima(edge[None], self.walk_offsets)[0]
