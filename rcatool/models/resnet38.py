"""ResNet-38 (model A1 of Wu et al., "Wider or Deeper"): the wide pre-activation network of PSA, SEAM and EPS (spec 3.2).

Parameters have the names of the published PyTorch state dicts (`b4_1.conv_branch2a.weight`), so that those load by name.
"""

import torch
from torch import Tensor, nn

# Stage -> (blocks, widths of the convolutions of a block); stages 6 and 7 are bottlenecks.
_STAGES = {
    2: (3, (128, 128)),
    3: (3, (256, 256)),
    4: (6, (512, 512)),
    5: (3, (512, 1024)),
    6: (1, (512, 1024, 2048)),
    7: (1, (1024, 2048, 4096)),
}
_DROPOUT = {6: 0.3, 7: 0.5}
_BRANCHES = ("branch2a", "branch2b1", "branch2b2")


class _Block(nn.Module):
    """Two 3x3 convolutions, or 1x1 - 3x3 - 1x1, each after batch norm and ReLU, beside a shortcut.

    The first 3x3 reads the grid of its input, so it has the dilation `before`; the others have `dilation`.
    """

    def __init__(
        self, width_in: int, widths: tuple[int, ...], *, stride: int = 1, before: int = 1, dilation: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        width = width_in
        for place, (branch, kernel, width_out) in enumerate(zip(_BRANCHES, kernels, widths, strict=False)):
            rate = 1 if kernel == 1 else dilation if place else before
            conv = nn.Conv2d(width, width_out, kernel, 1 if place else stride, rate * (kernel // 2), rate, bias=False)
            self.add_module(f"bn_{branch}", nn.BatchNorm2d(width))
            self.add_module(f"conv_{branch}", conv)
            width = width_out
        self.later = _BRANCHES[1 : len(widths)]
        self.drop = nn.Dropout2d(dropout)
        if stride > 1 or width != width_in or len(widths) > 2:
            self.conv_branch1 = nn.Conv2d(width_in, width, 1, stride, bias=False)

    def activate(self, x: Tensor) -> Tensor:
        """ReLU(BN(x)), which all paths but an identity shortcut start from."""
        return torch.relu(self.bn_branch2a(x))

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """x (B, D, h, w) and its activation -> (B, D', h', w')."""
        out = self.conv_branch2a(active)
        for branch in self.later:
            out = torch.relu(getattr(self, f"bn_{branch}")(out))
            out = getattr(self, f"conv_{branch}")(self.drop(out))
        result: Tensor = out + (self.conv_branch1(active) if hasattr(self, "conv_branch1") else x)
        return result


class ResNet38(nn.Module):
    """Images (B, 3, H, W) -> levels of 512, 1024 and 4096 channels, each ReLU(BN); the first at stride 8, the last at `output_stride`."""

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        width, before = 64, 1
        strides = {2: 2, 3: 2, 4: 2, 5: output_stride // 8}
        dilations = {5: 2 if output_stride == 8 else 1, 6: 32 // output_stride, 7: 32 // output_stride}
        for stage, (count, widths) in _STAGES.items():
            dilation = dilations.get(stage, 1)
            for number in range(count):
                layout = {"stride": strides.get(stage, 1)} if number == 0 else {}
                # A bottleneck starts with a 1x1 convolution: its only 3x3 takes the stage's dilation.
                block = _Block(width, widths, before=before, dilation=dilation, dropout=_DROPOUT.get(stage, 0.0), **layout)
                self.add_module(f"b{stage}_{number}" if number else f"b{stage}", block)
                width, before = widths[-1], dilation
        self.bn7 = nn.BatchNorm2d(width)

    def forward(self, images: Tensor, *, fine: bool = False, last: bool = True) -> list[Tensor]:
        levels, x = [], self.conv1a(images)
        for name, block in self.named_children():
            if isinstance(block, _Block):
                active = block.activate(x)
                if name in ("b5", "b6") or (fine and name == "b4"):  # what stage 4 starts from is at stride 4
                    levels.append(active)
                if name == "b6" and not last:
                    return levels
                x = block(x, active)
        return [*levels, torch.relu(self.bn7(x))]

    @property
    def early_layers(self) -> list[nn.Module]:
        """The first convolution and stage 2, which EPS keeps as they are."""
        return [self.conv1a, *(block for name, block in self.named_children() if name.startswith("b2"))]
