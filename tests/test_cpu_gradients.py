"""Convolutions with a gradient of our own against torch's."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.models import cpu_gradients
from rcatool.models.backbones import build_backbone
from rcatool.models.cpu_gradients import DilatedDepthwise, by_grids, summed_convolutions

Images = Callable[[Tensor], Tensor]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(function: Images, features: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """What comes out, and the gradients of a sum of it, weighted by noise, in the features and the parameters."""
    features = features.clone().requires_grad_()
    out = function(features)
    weight = randn(*out.shape, seed=7).to(out.dtype)
    return [out, *torch.autograd.grad((out * weight).sum(), [features, *parameters])]


def close(found: list[Tensor], expected: list[Tensor]) -> None:
    assert [one.shape for one in found] == [one.shape for one in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 5), (3, 3)])
@pytest.mark.parametrize("rate", [2, 3, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_a_depthwise_convolution_by_grids_is_the_convolution(size: tuple[int, int], rate: int, bias: bool) -> None:
    conv = nn.Conv2d(6, 6, 3, padding=rate, dilation=rate, groups=6, bias=bias).double()
    ours = DilatedDepthwise.like(conv)
    features, parameters = randn(2, 6, *size), list(conv.parameters())
    assert [id(parameter) for parameter in ours.parameters()] == [id(parameter) for parameter in parameters]
    close(gradients(ours, features, parameters), gradients(conv, features, parameters))
    with torch.no_grad():
        assert torch.equal(ours(features), conv(features))


@pytest.mark.parametrize("size", [(16, 16), (7, 9), (1, 5)])
@pytest.mark.parametrize("rates", [(6, 12, 18, 24), (1, 2), (3,)])
def test_the_sum_of_convolutions_is_their_sum(size: tuple[int, int], rates: tuple[int, ...]) -> None:
    branches = nn.ModuleList(nn.Conv2d(5, 4, 3, padding=rate, dilation=rate) for rate in rates).double()
    features, parameters = randn(2, 5, *size), list(branches.parameters())

    def ours(images: Tensor) -> Tensor:
        return summed_convolutions(images, branches)

    def plain(images: Tensor) -> Tensor:
        return torch.stack([branch(images) for branch in branches]).sum(dim=0)

    close(gradients(ours, features, parameters), gradients(plain, features, parameters))
    with torch.no_grad():
        torch.testing.assert_close(ours(features), plain(features))


def test_in_half_precision_the_sum_is_as_close_as_torch_is() -> None:
    branches = nn.ModuleList(nn.Conv2d(256, 21, 3, padding=rate, dilation=rate) for rate in (6, 12, 18))
    features = randn(2, 256, 20, 20).float()
    exact = torch.stack([branch(features) for branch in branches]).sum(dim=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = summed_convolutions(features, branches)
        with torch.no_grad():
            theirs = summed_convolutions(features, branches)
    errors = [float((found - exact).detach().square().mean()) for found in (ours, theirs)]
    assert 0 < errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_mobilenet_has_them_and_is_the_same_network(output_stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    ours = build_backbone("mobilenet_v2", output_stride=output_stride)
    drawn = torch.rand(1)
    monkeypatch.setattr("rcatool.models.backbones.by_grids", lambda _: None)
    torch.manual_seed(0)
    plain = build_backbone("mobilenet_v2", output_stride=output_stride)
    assert torch.equal(drawn, torch.rand(1))  # no random number more is drawn
    state = ours.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    kinds = [type(module) for module in ours.modules() if isinstance(module, nn.Conv2d) and module.dilation[0] > 1]
    assert kinds == [DilatedDepthwise] * {8: 10, 16: 3}[output_stride]
    images = randn(2, 3, 70, 90)
    for model in (ours, plain):
        model.double().eval()
    parameters = [list(model.parameters()) for model in (ours, plain)]
    found = [gradients(model, images, own) for model, own in zip((ours, plain), parameters, strict=True)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8 * float(other.detach().abs().max()))


def test_a_depthwise_convolution_of_another_kind_is_refused() -> None:
    with pytest.raises(AssertionError):
        by_grids([nn.Sequential(nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4))])


def test_without_a_gradient_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "linear", None)
    monkeypatch.setattr(cpu_gradients.F, "pad", None)
    branches = nn.ModuleList([nn.Conv2d(5, 4, 3, padding=2, dilation=2)])
    depthwise = DilatedDepthwise.like(nn.Conv2d(5, 5, 3, padding=2, dilation=2, groups=5))
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            depthwise(torch.zeros(1, 5, 6, 6))
            summed_convolutions(torch.zeros(1, 5, 6, 6), branches)
    with pytest.raises(TypeError):
        depthwise(torch.zeros(1, 5, 6, 6))
