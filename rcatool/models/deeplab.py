"""DeepLab: a dilated backbone and a head, on an image alone or on several sizes of it at once (spec 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.models.backbones import Backbone, build_backbone
from rcatool.models.seg_heads import DecoderHead, SummedAspp


class DeepLab(nn.Module):
    """Images (B, 3, H, W) -> logits (B, C + 1, h, w) of background and the C classes, not upsampled.

    At the backbone's output stride (v2) or at stride 4 (v3+). With `input_scales` the network also sees the images at these sizes, and
    of each pixel and class the highest logit counts.
    """

    def __init__(self, backbone: Backbone, head: SummedAspp | DecoderHead, *, input_scales: Sequence[float] = ()) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.input_scales = tuple(input_scales)

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images)[-1]

    def outputs(self, images: Tensor) -> list[Tensor]:
        """All logits that are trained: of the images, of each further size, and last the highest of these; or the first alone."""
        own = self._logits(images)
        if not self.input_scales:
            return [own]
        others, highest = [], own
        for scale in self.input_scales:
            size = [max(1, int(side * scale)) for side in images.shape[-2:]]
            logits = self._logits(F.interpolate(images, size=size, mode="bilinear", align_corners=False))
            others.append(logits)
            highest = torch.maximum(highest, F.interpolate(logits, size=own.shape[-2:], mode="bilinear", align_corners=False))
        return [own, *others, highest]

    def _logits(self, images: Tensor) -> Tensor:
        features = self.backbone.fine_and_last(images) if self.head.needs_fine else (self.backbone(images),)
        logits: Tensor = self.head(*features)
        return logits

    def heads(self) -> list[nn.Parameter]:
        """The parameters that start from nothing and take the heads' learning rate."""
        return list(self.head.parameters())


@dataclass(frozen=True)
class SegDesign:
    """All that determines a segmentation network but its weights and its number of classes."""

    backbone: str
    output_stride: int
    aspp_rates: tuple[int, ...]
    head: str = "deeplab-v2"  # or deeplab-v3+
    head_width: int = 256  # of deeplab-v3+
    input_scales: tuple[float, ...] = ()


def build_seg(design: SegDesign, num_classes: int) -> DeepLab:
    """The segmentation network of a design for background and `num_classes` classes, with random weights."""
    backbone = build_backbone(design.backbone, output_stride=design.output_stride)
    head: SummedAspp | DecoderHead
    if design.head == "deeplab-v2":
        head = SummedAspp(backbone.out_channels, num_classes + 1, rates=design.aspp_rates)
    else:
        channels = (_fine_channels(backbone), backbone.out_channels)
        head = DecoderHead(channels, num_classes + 1, width=design.head_width, rates=design.aspp_rates)
    return DeepLab(backbone, head, input_scales=design.input_scales)


@torch.no_grad()
def _fine_channels(backbone: Backbone) -> int:
    """Channels of the backbone's fine level, as a look at a small image tells; in eval mode, which leaves batch norm as it is."""
    fine, _ = backbone.eval().fine_and_last(torch.zeros(1, 3, 32, 32))
    backbone.train()
    return fine.shape[1]
