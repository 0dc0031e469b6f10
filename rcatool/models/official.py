"""The network of the released code (spec 2.2, 2.3), to compare with: same forward pass, on one device.

It departs from the paper in many ways (spec 2.5), on purpose here: attention without a softmax between learned projections
(D1-D3), a memory that starts as noise and is only ever averaged into (D4), a contrast in features of its own (D6), noise for
prototypes until the first k-means (D10). What a training step adds is in `official_loss`.
"""

import torch
from torch import Tensor, nn

from rcatool.models.backbones import Backbone
from rcatool.models.heads import HeadKind
from rcatool.models.rca_net import Maps
from rcatool.models.region_memory import RegionMemory, build_memory

ATTENTION_SCALE = 2.0  # the code divides by the 10 prototypes of a class and multiplies by 20 (D2)


class OfficialNet(nn.Module):
    """F = backbone(I); P = head(F); O = heads(mix([F, A])), A the attention of F on the prototypes."""

    def __init__(self, backbone: Backbone, num_classes: int, memory: RegionMemory, *, head: HeadKind) -> None:
        super().__init__()
        width = backbone.out_channels
        self.num_classes = num_classes
        self.backbone = backbone
        self.memory = memory
        self.p_head = head.build(width, num_classes, separate=False)
        self.o_head = head.build(width, num_classes, separate=True)
        self.contrast_features = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1)
        )
        self.query = nn.Conv2d(width, width, 1)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.attended = nn.Conv2d(width, width, 1)
        self.mix = nn.Conv2d(2 * width, width, 1)
        for layer in (*self.contrast_features, self.query, self.attended, self.mix):
            if isinstance(layer, nn.Conv2d):  # biases and linear layers keep torch's own start
                nn.init.normal_(layer.weight, std=0.01)

    def forward(self, images: Tensor) -> Maps:
        """Images (B, 3, H, W) float32, normalised -> maps at the backbone's output stride."""
        pyramid = self.backbone.pyramid(images)
        features = pyramid[-1]
        context = self.attended(self._attend(features, self.memory.valid_prototypes))
        mixed = self.mix(torch.cat([features, context], dim=1))
        return Maps(pyramid, self.p_head(features), self.o_head(mixed))

    def _attend(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """Scores of projected pixels and prototypes (M, D), as they are, times the projected prototypes: (B, D, h, w)."""
        query = self.query(features).flatten(2).transpose(1, 2)  # (B, hw, D)
        share = query @ self.key(prototypes).T * ATTENTION_SCALE
        return (share @ self.value(prototypes)).transpose(1, 2).reshape(features.shape)

    def heads(self) -> list[nn.Parameter]:
        """What the code trains at the heads' rate: both heads and the contrast's features; the attention is not among them."""
        modules = (self.p_head, self.o_head, self.contrast_features)
        return [parameter for module in modules for parameter in module.parameters()]


def noise_memory(tags: Tensor, width: int, *, size: int, prototypes: int) -> RegionMemory:
    """A ring of `size` slots per class that counts as written although it is standard normal noise, prototypes too (D4, D10).

    tags (n, C) give the number of classes.
    """
    memory = build_memory(tags, width, design="ring-ema", size=size, prototypes=prototypes)
    memory.bank.normal_()
    memory.visits.fill_(1)
    memory.prototypes.normal_()
    memory.prototype_valid.fill_(True)
    memory.list_prototypes()
    return memory
