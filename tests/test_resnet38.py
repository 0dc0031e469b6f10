"""ResNet-38 against a forward pass written out by hand, and against its published numbers and names."""

import functools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.models.backbones import Backbone, build_backbone

# Every convolution of the network: name, width in, width out, kernel.
BASIC = [("2", 64, 128, 128, 3), ("3", 128, 256, 256, 3), ("4", 256, 512, 512, 6), ("5", 512, 512, 1024, 3)]
BOTTLENECKS = [("6", 1024, 512, 1024, 2048), ("7", 2048, 1024, 2048, 4096)]


def build(stride: int) -> Backbone:
    with torch.device("meta"):
        model = build_backbone("resnet38", output_stride=stride)
    return model.eval()


@functools.cache
def filled(stride: int) -> Backbone:
    """The network with values that keep activations in range."""
    model = build(stride).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.zero_()
        elif value.ndim > 1:
            value.uniform_(-1, 1, generator=generator).mul_((3 / value[0].numel()) ** 0.5)
        elif key.endswith(("running_var", "weight")):
            value.uniform_(0.5, 1.0, generator=generator)
        else:
            value.uniform_(-0.1, 0.1, generator=generator)
    return model


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def literal_forward(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The layers one after another, at output stride 8, from the values of the published names."""

    def bn_relu(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, mean, var, weight, bias, eps=1e-5))

    def basic(block: str, x: Tensor, stride: int, first: int, second: int) -> Tensor:
        active = bn_relu(f"{block}.bn_branch2a", x)
        shortcut = f"{block}.conv_branch1.weight"
        identity = F.conv2d(active, state[shortcut], stride=stride) if shortcut in state else x
        out = F.conv2d(active, state[f"{block}.conv_branch2a.weight"], stride=stride, padding=first, dilation=first)
        out = bn_relu(f"{block}.bn_branch2b1", out)
        return identity + F.conv2d(out, state[f"{block}.conv_branch2b1.weight"], padding=second, dilation=second)

    def bottleneck(block: str, x: Tensor) -> Tensor:
        active = bn_relu(f"{block}.bn_branch2a", x)
        out = F.conv2d(active, state[f"{block}.conv_branch2a.weight"])
        out = F.conv2d(bn_relu(f"{block}.bn_branch2b1", out), state[f"{block}.conv_branch2b1.weight"], padding=4, dilation=4)
        out = F.conv2d(bn_relu(f"{block}.bn_branch2b2", out), state[f"{block}.conv_branch2b2.weight"])
        return F.conv2d(active, state[f"{block}.conv_branch1.weight"]) + out

    x = F.conv2d(x, state["conv1a.weight"], padding=1)
    for block in ("b2", "b2_1", "b2_2", "b3", "b3_1", "b3_2", "b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5"):
        x = basic(block, x, 1 if "_" in block else 2, 1, 1)
    conv4 = bn_relu("b5.bn_branch2a", x)
    x = basic("b5", x, 1, 1, 2)
    x = basic("b5_2", basic("b5_1", x, 1, 2, 2), 1, 2, 2)
    conv5 = bn_relu("b6.bn_branch2a", x)
    x = bottleneck("b7", bottleneck("b6", x))
    return [conv4, conv5, bn_relu("bn7", x)]


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_parameters_are_those_counted_by_hand() -> None:
    weights = 3 * 64 * 9  # conv1a
    channels = 4096  # of batch norms: bn7
    for _, width, middle, out, count in BASIC:
        weights += width * middle * 9 + middle * out * 9 + width * out + (count - 1) * (out * middle * 9 + middle * out * 9)
        channels += width + (count - 1) * out + count * middle
    for _, width, first, second, out in BOTTLENECKS:
        weights += width * first + first * second * 9 + second * out + width * out
        channels += width + first + second
    model = build(8)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights + 2 * channels == 105_070_912
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len([conv for conv in convolutions if conv.kernel_size == (3, 3)]) == 1 + 2 * 15 + 2
    assert all(conv.bias is None for conv in convolutions)


def test_a_368_image_gives_46_cells_of_4096() -> None:
    levels = build(8).pyramid(torch.empty(1, 3, 368, 368, device="meta"))
    assert [tuple(level.shape[1:]) for level in levels] == [(512, 46, 46), (1024, 46, 46), (4096, 46, 46)]


@torch.inference_mode()
def test_forward_is_the_literal_one() -> None:
    model, images = filled(8), noise(1, 3, 33, 40)
    levels = model.pyramid(images)
    for level, expected in zip(levels, literal_forward(model.body.state_dict(), images), strict=True):
        assert expected.std() > 1e-3
        assert_near(level, expected)
    assert torch.equal(model(images), levels[-1])


@torch.inference_mode()
def test_the_dense_network_holds_the_strided_one() -> None:
    images = noise(1, 3, 33, 48)
    coarse = build(16).to_empty(device="cpu")
    coarse.load_state_dict(filled(8).state_dict(), assign=True)
    for fine, level in zip(filled(8).pyramid(images)[1:], coarse.pyramid(images)[1:], strict=True):
        assert_near(fine[..., ::2, ::2], level)


@pytest.mark.parametrize("stride", [8, 16])
def test_early_layers_are_those_that_eps_freezes(stride: int) -> None:
    model = build(stride)
    names = {name for name, module in model.body.named_children() if any(module is layer for layer in model.early_layers)}
    assert names == {"conv1a", "b2", "b2_1", "b2_2"}


def test_dropout_is_off_in_eval_and_on_in_training() -> None:
    rates = {name: module.p for name, module in build(8).body.named_modules() if isinstance(module, torch.nn.Dropout2d) and module.p}
    assert rates == {"b6.drop": 0.3, "b7.drop": 0.5}
