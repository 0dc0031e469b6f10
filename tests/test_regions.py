"""Pseudo-regions: masks, masked average pooling and mix-up, against loops over pixels and by their properties."""

import pytest
import torch
from some_regions import existing, regions_of
from torch import Tensor

from rcatool.models.regions import Regions, mix_regions, pool_regions, region_masks

BATCH, CLASSES, WIDTH, HEIGHT, LENGTH = 3, 4, 5, 4, 6


def draw(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features (B, D, h, w), maps (B, C, h, w), both float64, and tags (B, C)."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(BATCH, WIDTH, HEIGHT, LENGTH, generator=generator, dtype=torch.float64)
    maps = torch.randn(BATCH, CLASSES, HEIGHT, LENGTH, generator=generator, dtype=torch.float64)
    return features, maps, (torch.rand(BATCH, CLASSES, generator=generator) < 0.6).float()


def pool_by_loop(features: Tensor, maps: Tensor, tags: Tensor) -> list[tuple[int, int, list[float]]]:
    """(image, class, mean feature where the map exceeds its mean), pixel by pixel."""
    found = []
    for b in range(len(tags)):
        for c in range(tags.shape[1]):
            values = [float(v) for v in maps[b, c].flatten()]
            inside = [i for i, v in enumerate(values) if v > sum(values) / len(values)]
            if tags[b, c] and inside:
                pixels = features[b].flatten(1)
                found.append((b, c, [sum(float(pixels[d, i]) for i in inside) / len(inside) for d in range(len(pixels))]))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_pooling_equals_a_loop(seed: int) -> None:
    features, maps, tags = draw(seed)
    regions = existing(pool_regions(features, region_masks(maps), tags))
    expected = pool_by_loop(features, maps, tags)
    assert list(zip(regions.image.tolist(), regions.cls.tolist(), strict=True)) == [(b, c) for b, c, _ in expected]
    torch.testing.assert_close(regions.features, torch.tensor([f for _, _, f in expected], dtype=torch.float64), rtol=0, atol=1e-12)


def test_pooling_a_constant_gives_the_constant() -> None:
    _, maps, tags = draw()
    constant = torch.arange(1.0, WIDTH + 1, dtype=torch.float64)
    regions = pool_regions(constant[:, None, None].expand(BATCH, WIDTH, HEIGHT, LENGTH), region_masks(maps), tags)
    torch.testing.assert_close(regions.features, constant.expand_as(regions.features), rtol=0, atol=1e-12)


def test_pooling_is_linear_in_features() -> None:
    features, maps, tags = draw()
    other, masks = draw(1)[0], region_masks(maps)

    def pooled(values: Tensor) -> Tensor:
        return pool_regions(values, masks, tags).features

    torch.testing.assert_close(pooled(2 * features - 3 * other), 2 * pooled(features) - 3 * pooled(other), rtol=0, atol=1e-12)


def test_pooling_does_not_depend_on_the_place_of_pixels() -> None:
    features, maps, tags = draw()
    order = torch.randperm(HEIGHT * LENGTH, generator=torch.Generator().manual_seed(3))

    def moved(values: Tensor) -> Tensor:
        return values.flatten(2)[..., order].view_as(values)

    expected = pool_regions(features, region_masks(maps), tags).features
    torch.testing.assert_close(pool_regions(moved(features), region_masks(moved(maps)), tags).features, expected, rtol=0, atol=1e-12)


def test_a_full_mask_gives_the_global_average() -> None:
    features, maps, tags = draw()
    regions = pool_regions(features, torch.ones_like(maps, dtype=torch.bool), tags)
    torch.testing.assert_close(regions.features, features.mean(dim=(2, 3))[regions.image], rtol=0, atol=1e-12)


def test_a_constant_map_has_no_region() -> None:
    features, maps, tags = draw()
    maps[0, 1], tags[0, 1] = 0.5, 1
    regions = pool_regions(features, region_masks(maps), tags)
    where = list(zip(regions.image.tolist(), regions.cls.tolist(), strict=True))
    assert where == [tuple(pair) for pair in tags.nonzero().tolist()]  # marked, not left out
    assert [pair for pair, exists in zip(where, regions.exists.tolist(), strict=True) if not exists] == [(0, 1)]
    assert regions.features.isfinite().all()
    nothing = pool_regions(features, region_masks(torch.zeros_like(maps)), tags)
    assert not nothing.exists.any()
    assert not nothing.features.any()


def test_a_class_is_pooled_the_same_whatever_else_is_in_the_image() -> None:
    features, maps, _ = draw()
    alone = torch.tensor([[0, 1, 0, 0]] * BATCH)
    both = torch.tensor([[1, 1, 0, 0]] * BATCH)
    masks = region_masks(maps)
    together = pool_regions(features, masks, both)
    assert torch.equal(together.features[together.cls == 1], pool_regions(features, masks, alone).features)


def test_mask_is_not_moved_by_shift_or_scale_of_the_map() -> None:
    _, maps, _ = draw()
    for changed in (maps + 3, maps - 5, 0.01 * maps, 70 * maps):
        assert torch.equal(region_masks(changed), region_masks(maps))


@pytest.mark.parametrize(
    ("settings", "values", "expected"),
    [
        ({}, [-4, 0, 2, 4], [0, 0, 1, 1]),
        ({"region_map": "relu"}, [-40, 0, 2, 4], [0, 0, 1, 1]),
        ({}, [-40, 0, 2, 4], [0, 1, 1, 1]),
        ({"region_threshold": "max", "region_theta": 0.5}, [-4, 1, 2, 4], [0, 0, 0, 1]),
        ({"region_threshold": "max", "region_theta": 0.25}, [-4, 1, 2, 4], [0, 0, 1, 1]),
        ({"region_threshold": "max", "region_theta": 0.0}, [-4, 1, 2, 4], [0, 1, 1, 1]),
        ({"region_threshold": "max", "region_theta": 0.5}, [-4, -3, -2, -1], [0, 0, 0, 0]),
        ({"region_map": "relu", "region_threshold": "max"}, [-4, -3, -2, -1], [0, 0, 0, 0]),
    ],
)
def test_masks_by_hand(settings: dict[str, str], values: list[float], expected: list[int]) -> None:
    assert region_masks(torch.tensor(values).float().view(1, 1, 2, 2), **settings).flatten().tolist() == [bool(e) for e in expected]


def test_softmax_masks_compare_the_classes() -> None:
    # Class 0 is 1 everywhere; what it is worth depends on class 1.
    maps = torch.tensor([[[[1.0, 1.0, 1.0]], [[-9.0, 1.0, 5.0]]]])
    assert region_masks(maps, region_map="softmax").flatten(2).tolist() == [[[True, False, False], [False, True, True]]]


def test_gradient_reaches_features_inside_the_mask_only() -> None:
    features, maps, tags = draw()
    features.requires_grad_()
    maps.requires_grad_()
    tags = torch.tensor([[1.0, 0, 0, 0]] * BATCH)
    masks = region_masks(maps)
    pool_regions(features, masks, tags).features.sum().backward()
    assert maps.grad is None
    inside = masks[:, :1].double()
    assert torch.equal(features.grad, (inside / inside.sum(dim=(2, 3), keepdim=True)).expand_as(features))


def test_autocast_does_not_round_the_pooled_features() -> None:
    features, maps, tags = draw()
    expected = pool_regions(features.float(), region_masks(maps), tags).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pool_regions(features.float(), region_masks(maps), tags).features, expected)


def identity_regions(image: list[int], cls: list[int]) -> Regions:
    """Regions with the unit vectors as features, so that a mixture shows who was mixed and how much."""
    return regions_of(torch.eye(len(image), dtype=torch.float64), torch.tensor(image), torch.tensor(cls))


def mix(regions: Regions, seed: int, beta: float = 8.0) -> tuple[Tensor, Tensor, Tensor]:
    """(omega (R,), position of the partner (R,), its class (R,)) read off the mixed features of unit vectors."""
    mixed = mix_regions(regions, mixup_beta=beta, generator=torch.Generator().manual_seed(seed))
    own = mixed.features.diagonal()
    others = mixed.features - torch.diag(own)
    partner = torch.where(others.sum(dim=1) > 0, others.argmax(dim=1), torch.arange(len(own)))
    assert torch.equal(mixed.cls, regions.cls)
    torch.testing.assert_close(mixed.omega, own, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed.features.sum(dim=1), torch.ones_like(own), rtol=0, atol=1e-12)
    assert (mixed.features != 0).sum(dim=1).max() <= 2
    return mixed.omega, partner, mixed.partner


def test_partners_are_of_another_image_and_class_and_all_are_drawn() -> None:
    regions = identity_regions([0, 0, 0, 1, 1, 2, 3, 3], [0, 1, 2, 0, 1, 2, 0, 3])
    allowed = {
        r: {s for s in range(8) if regions.image[s] != regions.image[r] and regions.cls[s] != regions.cls[r]} for r in range(8)
    }
    drawn: dict[int, set[int]] = {r: set() for r in range(8)}
    weights = []
    for seed in range(1300):  # 10400 draws
        omega, partner, partner_cls = mix(regions, seed)
        assert torch.equal(partner_cls, regions.cls[partner])
        weights.append(omega)
        for r, s in enumerate(partner.tolist()):
            drawn[r].add(s)
    assert drawn == allowed
    omega = torch.cat(weights)
    assert float(omega.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(omega.var()) == pytest.approx(1 / 68, rel=0.05)  # 1 / (4 (2 beta + 1))


@pytest.mark.parametrize(
    ("image", "cls", "beta", "mixed"),
    [
        ([0, 1], [0, 1], 8.0, [True, True]),
        ([0, 1], [0, 1], 0.0, [False, False]),
        ([0], [0], 8.0, [False]),
        ([0, 0, 0], [0, 1, 2], 8.0, [False, False, False]),  # one image
        ([0, 1, 2], [4, 4, 4], 8.0, [False, False, False]),  # one class
        ([0, 1, 1], [0, 0, 1], 8.0, [True, False, True]),
    ],
)
def test_a_region_without_partner_stays_as_it_is(image: list[int], cls: list[int], beta: float, mixed: list[bool]) -> None:
    regions = identity_regions(image, cls)
    omega, partner, partner_cls = mix(regions, 0, beta)
    assert [bool(w < 1) for w in omega] == mixed
    assert [p != r for r, p in enumerate(partner.tolist())] == mixed
    assert [a != b for a, b in zip(partner_cls.tolist(), cls, strict=True)] == mixed


def test_no_regions_mix_into_none() -> None:
    mixed = mix_regions(identity_regions([], []), mixup_beta=8.0, generator=torch.Generator())
    assert [len(part) for part in (mixed.features, mixed.cls, mixed.partner, mixed.omega)] == [0] * 4


def test_mixing_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    regions = identity_regions([0, 1, 2, 3], [0, 1, 2, 0])
    before = torch.get_rng_state()
    first, second, third = mix(regions, 5), mix(regions, 5), mix(regions, 6)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])
    assert torch.equal(torch.get_rng_state(), before)
