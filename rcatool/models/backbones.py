"""Classification networks made fully convolutional, at output stride 8 or 16: torchvision's, and ResNet-38."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
import torchvision
from torch import Tensor, nn

from rcatool.models.cpu_gradients import by_grids
from rcatool.models.resnet38 import ResNet38


class Body(Protocol):
    """What a backbone is made of: a module that maps images to its levels, and names its first layers."""

    def __call__(self, images: Tensor, *, fine: bool = False, last: bool = True) -> list[Tensor]: ...

    @property
    def early_layers(self) -> list[nn.Module]: ...


class Backbone(nn.Module):
    """A feature extractor: images (B, 3, H, W) float32, normalised, to features (B, D, ceil(H/s), ceil(W/s)).

    Features are not negative, but for those of timm, which are as the network makes them. `body` keeps the published
    parameter names, so published state dicts load by name.
    """

    def __init__(self, body: "Body", out_channels: int, output_stride: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels
        self.output_stride = output_stride

    def forward(self, images: Tensor) -> Tensor:
        return self.pyramid(images)[-1]

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Features from fine to coarse, (B, D_i, h_i, w_i): two earlier levels, the first at stride 8 or finer, then the last.

        A vision transformer's levels are all at the stride of its patches.
        """
        levels: list[Tensor] = self.body(images)
        return levels

    def earlier(self, images: Tensor) -> list[Tensor]:
        """The pyramid but for its last level; what only that one is made by is not computed."""
        levels: list[Tensor] = self.body(images, last=False)
        return levels

    def fine_and_last(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """A level at stride 4, or the finest where a network has none of that stride, and the last features."""
        levels = self.body(images, fine=True)
        return levels[0], levels[-1]

    @property
    def early_layers(self) -> list[nn.Module]:
        """The layers that may keep their pretrained weights (`cls.freeze_early`), in order.

        Those that the first level of the pyramid is made by; of ResNet-38 those that EPS keeps.
        """
        return self.body.early_layers


class _Features(nn.Module):
    """A torchvision network whose `features` are all there is, with a last ReLU where the network has none inside.

    Its output is what the layers in `taps` (places in `features`) return, and then the last features. The layer `fine` returns the
    level at stride 4.
    """

    def __init__(self, features: nn.Sequential, *, fine: int, taps: tuple[int, ...], last_relu: bool = False) -> None:
        super().__init__()
        self.features = features
        self.fine = fine
        self.taps = taps
        self.last_relu = last_relu

    def forward(self, images: Tensor, *, fine: bool = False, last: bool = True) -> list[Tensor]:
        taps = {self.fine, *self.taps} if fine else self.taps
        levels, features = [], images
        for place, layer in enumerate(self.features):
            features = layer(features)
            if place in taps:
                levels.append(features)
            if place == self.taps[-1] and not last:
                return levels
        return [*levels, torch.relu(features) if self.last_relu else features]

    @property
    def early_layers(self) -> list[nn.Module]:
        return list(self.features)[: self.taps[0] + 1]


class _ResNetTrunk(nn.Module):
    """The layers of a torchvision ResNet before its pooling, under their own names; its output is that of the last three (`fine`: four)."""

    def __init__(self, net: torchvision.models.ResNet) -> None:
        super().__init__()
        for name, layer in net.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, layer)

    def forward(self, images: Tensor, *, fine: bool = False, last: bool = True) -> list[Tensor]:
        levels, features = [], images
        for name, layer in self.named_children():
            if name == "layer4" and not last:
                break
            features = layer(features)
            if name in ("layer2", "layer3", "layer4") or (fine and name == "layer1"):
                levels.append(features)
        return levels

    @property
    def early_layers(self) -> list[nn.Module]:
        layers = dict(self.named_children())
        return [layer for name, layer in layers.items() if name not in ("layer3", "layer4")]


def _dilate(modules: Iterable[nn.Module], rate: int, *, unstride_at: int = 0) -> None:
    """Set 3x3 convolutions to `rate`; with `unstride_at`, the first strided one becomes stride 1 at that (older) rate.

    The convolution that lost its stride still reads the grid of its input; only those behind it have to skip.
    """
    for module in modules:
        for conv in module.modules():
            if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (3, 3):
                continue
            here = rate
            if unstride_at and conv.stride == (2, 2):
                here, unstride_at, conv.stride = unstride_at, 0, (1, 1)
            conv.dilation = conv.padding = (here, here)


def _keep_borders(modules: Iterable[nn.Module]) -> None:
    """Let pools of 2 keep an odd last row and column, so that sizes are ceil(H/s) as with strided convolutions."""
    for module in modules:
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and module.kernel_size == 2:
            module.ceil_mode = True


def _vgg16(output_stride: int) -> tuple[nn.Module, int]:
    layers = list(torchvision.models.vgg16(weights=None).features)[:-1]  # without pool5
    _keep_borders(layers)
    if output_stride == 8:
        layers[23] = nn.MaxPool2d(3, stride=1, padding=1)  # pool4
        _dilate(layers[24:], 2)
    return _Features(nn.Sequential(*layers), fine=15, taps=(15, 22)), 512  # relu3_3, relu4_3


def _resnet(build: Callable[..., torchvision.models.ResNet], output_stride: int) -> tuple[nn.Module, int]:
    net = build(weights=None, replace_stride_with_dilation=[False, output_stride == 8, True])
    return _ResNetTrunk(net), 2048


def _mobilenet_v2(output_stride: int) -> tuple[nn.Module, int]:
    features = torchvision.models.mobilenet_v2(weights=None).features
    if output_stride == 8:
        _dilate(features[7:14], 2, unstride_at=1)
    rate = 16 // output_stride
    _dilate(features[14:18], 2 * rate, unstride_at=rate)
    by_grids(features[7:18])
    return _Features(features, fine=3, taps=(6, 13)), 1280


def _densenet169(output_stride: int) -> tuple[nn.Module, int]:
    features = torchvision.models.densenet169(weights=None).features
    _keep_borders(features.modules())
    features.transition3.pool = nn.Identity()
    if output_stride == 8:
        features.transition2.pool = nn.Identity()
        _dilate([features.denseblock3], 2)
    _dilate([features.denseblock4], 16 // output_stride * 2)
    return _Features(features, fine=4, taps=(6, 8), last_relu=True), 1664  # dense blocks 1 (fine), 2 and 3


def _tiny(output_stride: int) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = []
    widths, strides = (3, 24, 48, 96, 96), (2, 2, 2, output_stride // 8)
    for width_in, width_out, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False), nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]
    return _Features(nn.Sequential(*layers), fine=5, taps=(5, 8)), 96


_BUILDERS: dict[str, Callable[[int], tuple[nn.Module, int]]] = {
    "vgg16": _vgg16,
    "resnet50": lambda stride: _resnet(torchvision.models.resnet50, stride),
    "resnet101": lambda stride: _resnet(torchvision.models.resnet101, stride),
    "mobilenet_v2": _mobilenet_v2,
    "densenet169": _densenet169,
    "resnet38": lambda stride: (ResNet38(stride), 4096),
    "tiny": _tiny,
}


def build_backbone(name: str, *, output_stride: int) -> Backbone:
    """Build a randomly initialised backbone by its setting's name, at output stride 8 or 16.

    `timm:NAME` is a network of timm, at its own stride where it cannot be dilated. VGG16 at stride 8 follows the dilated layout
    of the WSSS literature (spec 2.2); ResNets dilate as torchvision does.
    """
    if name.startswith("timm:"):
        from rcatool.models.timm_networks import build_timm  # which needs a library that is not always there

        return Backbone(*build_timm(name.removeprefix("timm:"), output_stride))
    body, out_channels = _BUILDERS[name](output_stride)
    return Backbone(body, out_channels, output_stride)


def freeze_batch_norm(model: nn.Module) -> None:
    """Put every batch norm of `model` in eval mode and take its affine parameters out of training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):  # timm's norms with activation are kinds of these
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)


def freeze(modules: Iterable[nn.Module]) -> None:
    """Take all parameters of `modules` out of training, and put their batch norm in eval mode."""
    for module in modules:
        freeze_batch_norm(module)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
