"""Aggregation and the classification network: attention against explicit forms, heads, and switches that must not matter."""

import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.models.backbones import Backbone
from rcatool.models.rca_net import RcaNet
from rcatool.models.region_memory import RegionMemory, aggregate, build_memory

WIDTH, CLASSES = 6, 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(values: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, hw, D)."""
    return values.flatten(2).transpose(1, 2)


def attend(features: Tensor, prototypes: Tensor, attention: str, temperature: float) -> Tensor:
    """softmax(F Q^T / temperature) Q, pixel by pixel: (B, hw, D)."""
    out = torch.zeros_like(rows(features))
    if attention == "centred":
        features, prototypes = features - prototypes.mean(dim=0)[:, None, None], prototypes - prototypes.mean(dim=0)
    for b in range(len(features)):
        for i, pixel in enumerate(rows(features)[b]):
            score = torch.stack([pixel @ q / (pixel.norm() * q.norm() if attention != "dot" else 1) for q in prototypes])
            weight = (score / temperature).exp()
            out[b, i] = (weight[:, None] * prototypes).sum(dim=0) / weight.sum()
    return out


@pytest.mark.parametrize("attention", ["cosine", "centred", "dot"])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_aggregation_equals_a_loop(attention: str, temperature: float) -> None:
    features, prototypes = randn(2, WIDTH, 3, 4), randn(7, WIDTH, seed=1)
    context = aggregate(features, prototypes, attention=attention, attention_temperature=temperature)
    assert context.shape == features.shape
    torch.testing.assert_close(rows(context), attend(features, prototypes, attention, temperature), rtol=0, atol=1e-10)


def test_dot_aggregation_is_torchs_attention() -> None:
    features, prototypes = randn(2, WIDTH, 3, 4), randn(7, WIDTH, seed=1)
    context = aggregate(features, prototypes, attention="dot", attention_temperature=2.0)
    keys = prototypes.expand(2, -1, -1)
    torch.testing.assert_close(rows(context), F.scaled_dot_product_attention(rows(features), keys, keys, scale=0.5), rtol=0, atol=1e-10)


@pytest.mark.parametrize("attention", ["cosine", "dot"])
def test_weights_are_shares(attention: str) -> None:
    # With the unit vectors as prototypes the context is the row of weights itself.
    share = rows(aggregate(randn(2, WIDTH, 3, 4), torch.eye(WIDTH).double(), attention=attention, attention_temperature=0.07))
    assert share.min() >= 0
    torch.testing.assert_close(share.sum(dim=2), torch.ones(2, 12, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["cosine", "dot"])
def test_context_lies_among_the_prototypes(attention: str) -> None:
    features, prototypes = randn(2, WIDTH, 3, 4), randn(7, WIDTH, seed=1)
    context = rows(aggregate(features, prototypes, attention=attention, attention_temperature=0.3))
    assert (context >= prototypes.amin(dim=0) - 1e-12).all()
    assert (context <= prototypes.amax(dim=0) + 1e-12).all()
    assert context.norm(dim=2).max() <= prototypes.norm(dim=1).max() + 1e-12
    equal = aggregate(features, prototypes[:1].expand(7, -1), attention=attention, attention_temperature=0.3)
    torch.testing.assert_close(rows(equal), prototypes[0].expand(2, 12, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["cosine", "dot"])
def test_temperature_goes_from_the_mean_to_the_nearest(attention: str) -> None:
    features, prototypes = randn(1, WIDTH, 3, 4), randn(7, WIDTH, seed=1)
    flat = aggregate(features, prototypes, attention=attention, attention_temperature=1e12)
    torch.testing.assert_close(rows(flat)[0], prototypes.mean(dim=0).expand(12, -1), rtol=0, atol=1e-9)
    sharp = aggregate(features, prototypes, attention=attention, attention_temperature=1e-6)
    keys = F.normalize(prototypes, dim=1) if attention == "cosine" else prototypes
    torch.testing.assert_close(rows(sharp)[0], prototypes[(rows(features)[0] @ keys.T).argmax(dim=1)], rtol=0, atol=1e-9)


def test_order_of_prototypes_and_place_of_pixels_do_not_matter() -> None:
    features, prototypes = randn(2, WIDTH, 3, 4), randn(7, WIDTH, seed=1)
    expected = aggregate(features, prototypes, attention="cosine", attention_temperature=0.3)
    shuffled = aggregate(features, prototypes.flip(0), attention="cosine", attention_temperature=0.3)
    torch.testing.assert_close(shuffled, expected, rtol=0, atol=1e-12)
    turned = aggregate(features.flip(-1), prototypes, attention="cosine", attention_temperature=0.3)
    torch.testing.assert_close(turned, expected.flip(-1), rtol=0, atol=1e-12)


def test_centred_attention_does_not_see_what_all_share() -> None:
    features, prototypes, shared = randn(2, WIDTH, 3, 4), randn(7, WIDTH, seed=1), 5 * randn(WIDTH, seed=2)
    expected = aggregate(features, prototypes, attention="centred", attention_temperature=0.3)
    shifted = aggregate(features + shared[:, None, None], prototypes + shared, attention="centred", attention_temperature=0.3)
    torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-12)
    alike = aggregate(features, prototypes[:1].expand(4, -1), attention="centred", attention_temperature=0.3)
    assert alike.abs().max() < 1e-12


def test_no_prototypes_no_context() -> None:
    assert torch.equal(
        aggregate(randn(1, WIDTH, 2, 2), torch.zeros(0, WIDTH), attention="cosine", attention_temperature=0.07),
        torch.zeros(1, WIDTH, 2, 2, dtype=torch.float64),
    )


class OneLevel(nn.Sequential):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [super().forward(images)]


def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(OneLevel(nn.Conv2d(3, WIDTH, 8, stride=8), nn.ReLU()), WIDTH, 8)


def memory(*, filled: bool) -> RegionMemory:
    bank = build_memory(torch.ones(4, CLASSES).bool(), WIDTH, design="instance-ema", size=1, prototypes=2)
    if filled:
        bank.bank.copy_(randn(12, WIDTH, seed=3))
        bank.visits.fill_(1)
        bank.refresh_prototypes(seed=0, iterations=5)
    return bank


def images() -> Tensor:
    return randn(2, 3, 24, 32).float()


def test_score_is_the_mean_of_the_map() -> None:
    # The head is 1x1 and free of bias: pooling the map and classifying the pooled feature are the same.
    net = RcaNet(backbone(), CLASSES, memory(filled=True))
    maps = net(images())
    pooled = maps.features.mean(dim=(2, 3))
    torch.testing.assert_close(maps.p.mean(dim=(2, 3)), pooled @ net.p_head.weight.flatten(1).T)
    assert [name for name, _ in net.named_parameters() if "bias" in name] == ["backbone.body.0.bias"]
    assert maps.p.shape == maps.o.shape == (2, CLASSES, 3, 4)


def test_o_is_the_head_of_context_and_features() -> None:
    net = RcaNet(backbone(), CLASSES, memory(filled=True), attention="dot", attention_temperature=0.7)
    maps = net(images())
    context = aggregate(maps.features, net.memory.valid_prototypes, attention="dot", attention_temperature=0.7)
    weight = net.o_head.weight.flatten(1)
    expected = torch.einsum("cd,bdhw->bchw", weight[:, :WIDTH], context) + torch.einsum("cd,bdhw->bchw", weight[:, WIDTH:], maps.features)
    torch.testing.assert_close(maps.o, expected)
    assert maps.final is maps.o
    assert {id(p) for p in net.heads()} == {id(net.p_head.weight), id(net.o_head.weight)}


def test_before_prototypes_o_depends_on_features_only() -> None:
    net = RcaNet(backbone(), CLASSES, memory(filled=False))
    before = net(images()).o
    with torch.no_grad():
        net.o_head.weight[:, :WIDTH] = 1e6  # the weights of the context
    assert torch.equal(net(images()).o, before)


def test_prototypes_that_do_not_exist_have_no_share() -> None:
    bank = memory(filled=True)
    net = RcaNet(backbone(), CLASSES, bank, attention_temperature=0.5)
    all_there = net(images()).o
    bank.prototype_valid[1] = bank.prototype_valid[2, 1] = False
    bank.list_prototypes()
    outside = ~bank.prototype_valid
    found = []
    for garbage in (0.0, 1e6):
        bank.prototypes[outside] = garbage
        found.append(net(images()).o)
    assert torch.equal(*found)
    assert not torch.allclose(found[0], all_there)
    bank.bank.fill_(1e6)  # the memory itself takes no part in a forward pass
    assert torch.equal(net(images()).o, found[0])


def test_without_memory_it_is_the_plain_network() -> None:
    net = RcaNet(backbone(), CLASSES)
    maps = net(images())
    assert maps.o is None
    assert maps.final is maps.p
    assert [id(p) for p in net.heads()] == [id(net.p_head.weight)]
    # The first map is the same with the memory, which takes its random numbers after it.
    assert torch.equal(RcaNet(backbone(), CLASSES, memory(filled=True))(images()).p, maps.p)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_feature_scale_weighs_the_features_against_the_context(scale: float) -> None:
    net = RcaNet(backbone(), CLASSES, memory(filled=True), feature_scale=scale)
    maps = net(images())
    width = maps.features.shape[1]
    context, features = net.o_head.weight[:, :width, 0, 0], net.o_head.weight[:, width:, 0, 0]
    aggregated = aggregate(maps.features, net.memory.valid_prototypes, attention="cosine", attention_temperature=0.07)
    expected = torch.einsum("cd,bdhw->bchw", context, aggregated) + scale * torch.einsum("cd,bdhw->bchw", features, maps.features)
    torch.testing.assert_close(maps.o, expected)


@pytest.mark.parametrize("training", [False, True])
def test_forward_changes_nothing(training: bool) -> None:
    net = RcaNet(backbone(), CLASSES, memory(filled=True)).train(training)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net(images())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_memory_takes_no_gradient_and_heads_do() -> None:
    net = RcaNet(backbone(), CLASSES, memory(filled=True))
    net(images()).final.sum().backward()
    assert net.o_head.weight.grad.abs().min() > 0
    assert all(buffer.grad is None for buffer in net.memory.buffers())
    assert not any("memory" in name for name, _ in net.named_parameters())


def test_a_saved_network_gives_the_same_map() -> None:
    net, other = RcaNet(backbone(), CLASSES, memory(filled=True)), RcaNet(backbone(), CLASSES, memory(filled=False))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    assert not torch.equal(other(images()).o, net(images()).o)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(images()).o, net(images()).o)
