"""Learned affinities: labels, loss and networks. Oracles: literal loops in double precision, hand-made maps, mirror images."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rcatool.data.labels import IGNORE
from rcatool.models.backbones import build_backbone
from rcatool.models.frozen import OnFrozenBackbone
from rcatool.pseudo import LabelRule, Photo
from rcatool.refine import propagate
from rcatool.refine.affinity import AffinityNet, cosine_affinity
from rcatool.refine.affinity_labels import AffinityRule, affinity_label
from rcatool.refine.affinity_loss import affinity_loss, pair_kinds
from rcatool.refine.irn import BoundaryNet
from rcatool.refine.pairs import half_plane_offsets, path

OFFSETS = half_plane_offsets(4)


def network(kind: type[Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return kind(build_backbone("tiny", output_stride=16))


def pairs_of(label: Tensor) -> list[tuple[int, int, int, int, int, int]]:
    """Every pair on the grid, with the labels of its ends: (offset, b, y, x, near, far)."""
    batch, height, width = label.shape
    return [
        (p, b, y, x, int(label[b, y, x]), int(label[b, y + dy, x + dx]))
        for p, (dy, dx) in enumerate(OFFSETS) for b in range(batch) for y in range(height) for x in range(width)
        if 0 <= y + dy < height and 0 <= x + dx < width
    ]  # fmt: skip


@pytest.fixture
def label() -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).choice([0, 1, 5, IGNORE], (2, 5, 6), p=[0.4, 0.3, 0.1, 0.2]))


def test_kinds_of_pairs_by_loop(label: Tensor) -> None:
    kinds = pair_kinds(label, OFFSETS)
    expected = {name: torch.zeros(2, len(OFFSETS), 5, 6, dtype=torch.bool) for name in ("background", "object", "different")}
    for p, b, y, x, near, far in pairs_of(label):
        if IGNORE not in (near, far):
            name = "different" if near != far else "object" if near else "background"
            expected[name][b, p, y, x] = True
    assert list(kinds) == list(expected)
    for name, mask in expected.items():
        assert mask.any()
        assert torch.equal(kinds[name], mask), name


def test_loss_by_loop(label: Tensor) -> None:
    affinity = torch.rand((2, len(OFFSETS), 5, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    costs: dict[str, list[float]] = {"background": [], "object": [], "different": []}
    for p, b, y, x, near, far in pairs_of(label):
        a = float(affinity[b, p, y, x])
        if IGNORE in (near, far):
            continue
        if near != far:
            costs["different"].append(-math.log(1 + 1e-5 - a))
        else:
            costs["object" if near else "background"].append(-math.log(a + 1e-5))
    means = {name: sum(values) / len(values) for name, values in costs.items()}
    found = affinity_loss(affinity, label, OFFSETS)
    assert {name: float(found[f"loss_{name}"]) for name in means} == pytest.approx(means)
    assert float(found["loss"]) == pytest.approx(means["background"] / 4 + means["object"] / 4 + means["different"] / 2)


def test_loss_of_perfect_affinities_and_of_nothing(label: Tensor) -> None:
    kinds = pair_kinds(label, OFFSETS)
    perfect = (kinds["background"] | kinds["object"]).double()
    assert float(affinity_loss(perfect, label, OFFSETS)["loss"]) == pytest.approx(0, abs=2e-5)
    nothing = affinity_loss(perfect.requires_grad_(), torch.full_like(label, IGNORE), OFFSETS)["loss"]
    nothing.backward()
    assert (nothing.item(), perfect.grad.abs().max().item()) == (0, 0)


def test_label_is_read_at_the_cells() -> None:
    """A label of 8 x 8 pixels for a grid of 2 x 2 cells: the same loss as for the label at the cells' middles."""
    fine = torch.full((1, 8, 8), IGNORE)
    fine[0, 2::4, 2::4] = torch.tensor([[0, 1], [1, 1]])
    affinity = torch.rand((1, len(OFFSETS), 2, 2), generator=torch.Generator().manual_seed(1))
    coarse = affinity_loss(affinity, torch.tensor([[[0, 1], [1, 1]]]), OFFSETS)
    assert float(affinity_loss(affinity, fine, OFFSETS)["loss"]) == float(coarse["loss"]) > 0


def rule(background: str, first: float, second: float) -> AffinityRule:
    def one(value: float) -> LabelRule:
        return LabelRule(background=background, bg_threshold=value, bg_power=value, crf="none", crf_params=None, confidence=0.0)

    return AffinityRule(one(first), one(second))


def test_affinity_labels_by_hand() -> None:
    cam = np.array([[[0.0, 0.04, 0.1, 0.2], [0.3, 0.31, 0.6, 1.0]], [[0.0, 0.0, 0.2, 0.1], [0.1, 0.9, 0.5, 0.7]]], np.float32)
    keys = np.array([0, 6])
    found = affinity_label(Photo(keys, cam), rule("threshold", 0.3, 0.05))
    assert found.tolist() == [[0, 0, IGNORE, IGNORE], [IGNORE, 7, 1, 1]]
    # (1 - m)^4 > m below 0.276, (1 - m)^32 > m below 0.073.
    found = affinity_label(Photo(keys, cam), rule("power", 4, 32))
    assert found.tolist() == [[0, 0, IGNORE, IGNORE], [1, 7, 1, 1]]
    assert found.dtype == np.uint8
    unknown = affinity_label(Photo(keys[:0], cam[:0]), rule("power", 4, 32))  # nothing is known of a photo without maps
    assert unknown.tolist() == [[IGNORE] * 4] * 2


@pytest.mark.parametrize("size", [(64, 64), (65, 47)])
def test_affinity_net_by_loop(size: tuple[int, int]) -> None:
    net = network(AffinityNet)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    kept: list[Tensor] = []
    net.mix.register_forward_hook(lambda *values: kept.append(torch.nn.functional.elu(values[2])))
    found = net(images)
    height, width = -(-size[0] // 8), -(-size[1] // 8)
    assert found.shape == (2, 34, height, width)
    features = kept[0].detach().double()
    assert features.shape == (2, 448, height, width)
    for p, (dy, dx) in enumerate(half_plane_offsets(5)):
        for y in range(height - dy):
            for x in range(max(0, -dx), min(width, width - dx)):
                distance = (features[:, :, y, x] - features[:, :, y + dy, x + dx]).abs().mean(dim=1)
                torch.testing.assert_close(found[:, p, y, x].double(), (-distance).exp(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (65, 47)])
def test_boundary_net(size: tuple[int, int]) -> None:
    net = network(BoundaryNet)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    height, width = -(-size[0] // 4), -(-size[1] // 4)
    edge = net.logits(images).sigmoid().detach()
    assert edge.shape == (2, height, width)
    found = net(images).detach()
    assert found.shape == (2, 152, height, width)
    p = half_plane_offsets(10).index((3, -2))
    cells = path((3, -2))
    assert float(found[1, p, 4, 6]) == pytest.approx(1 - max(float(edge[1, 4 + y, 6 + x]) for y, x in cells), abs=1e-6)


def test_boundary_of_a_mirrored_photo_is_mirrored() -> None:
    net = network(BoundaryNet).eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    views = torch.cat([image, image.flip(-1)])
    edge, affinity = net.walkable(views)
    assert affinity.shape == (34, 16, 16)
    torch.testing.assert_close(net.walkable(views.flip(0))[0], edge.flip(-1))


@pytest.mark.parametrize("kind", [AffinityNet, BoundaryNet])
def test_only_the_heads_learn(kind: type[OnFrozenBackbone]) -> None:
    net = network(kind).train()
    assert not net.backbone.training
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.heads(), lr=0.1)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    label = torch.zeros(2, 64, 64, dtype=torch.long)
    label[:, :, 32:] = 1
    losses = []
    for _ in range(4):
        losses.append(affinity_loss(net(images), label, net.offsets)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("backbone."), name


def test_cosine_affinity_by_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(depth, 5, 6, generator=generator, dtype=torch.float32) for depth in (3, 7)]
    found = cosine_affinity(levels, OFFSETS, (5, 6))
    for p, (dy, dx) in enumerate(OFFSETS):
        for y in range(5 - dy):
            for x in range(max(0, -dx), min(6, 6 - dx)):
                cosines = [float(torch.cosine_similarity(f[:, y, x], f[:, y + dy, x + dx], dim=0)) for f in levels]
                assert float(found[p, y, x]) == pytest.approx(sum(max(c, 0) for c in cosines) / 2, abs=1e-6)


@pytest.mark.parametrize("way", ["features", "affinity", "boundary"])
def test_spread_maps_keep_size_sign_and_mirror(way: str) -> None:
    """The maps of a mirrored photo are the mirrored maps (what sees one view only is given a symmetric photo)."""
    net = network(AffinityNet if way == "affinity" else BoundaryNet).eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    image = image + image.flip(-1) if way == "affinity" else image
    maps = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(2))
    function = {"features": propagate.by_features, "affinity": propagate.by_affinity, "boundary": propagate.by_boundary}[way]
    source, more = (net.backbone, {"radius": 6}) if way == "features" else (net, {})

    def spread(views: Tensor, given: Tensor) -> Tensor:
        return function(source, views, given, beta=4.0, steps=8, **more)

    views = torch.cat([image, image.flip(-1)])
    found = spread(views, maps)
    assert found.shape == maps.shape
    assert found.min() >= 0
    assert found.max() <= maps.max() + 1e-6
    assert not torch.allclose(found, maps, atol=1e-2)
    torch.testing.assert_close(spread(views, 0.5 * maps), 0.5 * found)
    if way != "affinity":
        torch.testing.assert_close(spread(views.flip(0), maps.flip(-1)), found.flip(-1), rtol=1e-4, atol=1e-5)
