"""DeepLab-v2 style segmentation: a dilated backbone and the sum of parallel dilated 3x3 convolutions (ASPP)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from rcatool.models.backbones import Backbone, build_backbone


class DeepLab(nn.Module):
    """Images (B, 3, H, W) -> logits (B, C + 1, h, w) at the backbone's output stride (spec 3.4)."""

    def __init__(self, backbone: Backbone, num_classes: int, *, aspp_rates: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = nn.ModuleList(
            nn.Conv2d(backbone.out_channels, num_classes + 1, 3, padding=rate, dilation=rate) for rate in aspp_rates
        )
        for branch in self.aspp:
            assert isinstance(branch, nn.Conv2d) and branch.bias is not None
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of background and the C classes, not upsampled."""
        features = self.backbone(images)
        logits: Tensor = self.aspp[0](features)
        for branch in list(self.aspp)[1:]:
            logits = logits + branch(features)
        return logits

    def heads(self) -> list[nn.Parameter]:
        """The parameters that start from nothing and take the heads' learning rate."""
        return list(self.aspp.parameters())


@dataclass(frozen=True)
class SegDesign:
    """All that determines a segmentation network but its weights and its number of classes."""

    backbone: str
    output_stride: int
    aspp_rates: tuple[int, ...]


def build_seg(design: SegDesign, num_classes: int) -> DeepLab:
    """The segmentation network of a design for background and `num_classes` classes, with random weights."""
    backbone = build_backbone(design.backbone, output_stride=design.output_stride)
    return DeepLab(backbone, num_classes, aspp_rates=design.aspp_rates)
