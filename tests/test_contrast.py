"""The semantic contrast against a loop over regions, positives and negatives, and by its properties (float64)."""

import math

import pytest
import torch
from some_regions import mixed_of, regions_of
from torch import Tensor

from rcatool.models.regions import Mixed, mix_regions, region_contrast

TEMPERATURE = 0.3


def contrast_by_loop(mixed: Mixed, memory: Tensor, memory_cls: Tensor, temperature: float = TEMPERATURE) -> float:
    """Equation 4 for both classes of each anchor, weighted by omega and 1 - omega; terms without both kinds are left out."""
    total = counted = 0.0
    for r, anchor in enumerate(mixed.features):
        score = [math.exp(float(anchor @ m / (anchor.norm() * m.norm())) / temperature) for m in memory]
        omega = float(mixed.omega[r])
        for target, weight in ((int(mixed.cls[r]), omega), (int(mixed.partner[r]), 1 - omega)):
            positives = [s for s, cls in zip(score, memory_cls.tolist(), strict=True) if cls == target]
            negatives = [s for s, cls in zip(score, memory_cls.tolist(), strict=True) if cls != target]
            if positives and negatives:
                total += weight * sum(-math.log(s / (s + sum(negatives))) for s in positives) / len(positives)
                counted += weight
    return total / counted if counted else 0.0


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(features: Tensor, cls: list[int]) -> Mixed:
    """Anchors that are not mixed."""
    classes = torch.tensor(cls)
    return mixed_of(features, classes, classes, torch.ones(len(cls), dtype=features.dtype))


def example(seed: int = 0) -> tuple[Mixed, Tensor, Tensor]:
    """Six mixed anchors and a memory with 4, 1 and 2 entries of three classes."""
    regions = regions_of(randn(6, 5, seed=seed), torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([0, 1, 2, 0, 1, 1]))
    mixed = mix_regions(regions, mixup_beta=1.0, generator=torch.Generator().manual_seed(seed))
    return mixed, randn(7, 5, seed=seed + 100), torch.tensor([0, 0, 0, 0, 1, 2, 2])


def loss(mixed: Mixed, memory: Tensor, memory_cls: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    return region_contrast(mixed, memory, memory_cls, temperature=temperature)


@pytest.mark.parametrize("classes", [[0, 0, 0, 0, 1, 2, 2], [0, 1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1, 2], [2] * 7, [5] * 7])
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop(seed: int, classes: list[int]) -> None:
    mixed, memory, _ = example(seed)
    memory_cls = torch.tensor(classes)
    assert float(loss(mixed, memory, memory_cls)) == pytest.approx(contrast_by_loop(mixed, memory, memory_cls), abs=1e-10)


@pytest.mark.parametrize("classes", [[0, -1, 0, -1, 1, 2, -1], [-1] * 7, [1, -1, -1, 1, 1, -1, 1]])
def test_entries_of_no_class_take_no_part(classes: list[int]) -> None:
    mixed, memory, _ = example()
    memory_cls = torch.tensor(classes)
    memory[memory_cls < 0] *= torch.tensor([0.0, 1e6, 1.0, -3.0, 0.0], dtype=torch.float64)
    written = memory_cls >= 0
    expected = contrast_by_loop(mixed, memory[written], memory_cls[written])
    assert float(loss(mixed, memory, memory_cls)) == pytest.approx(expected, abs=1e-10)


def test_equal_entries_give_the_logarithm_of_their_number() -> None:
    memory_cls = torch.arange(20).repeat_interleave(500)
    value = loss(plain(randn(3, 4), [0, 7, 19]), torch.ones(10000, 4, dtype=torch.float64), memory_cls, 0.07)
    assert float(value) == pytest.approx(math.log(1 + 19 * 500), abs=1e-9)
    assert float(value) == pytest.approx(9.159, abs=1e-3)


def test_lengths_order_and_rotation_do_not_matter() -> None:
    mixed, memory, memory_cls = example()
    expected = loss(mixed, memory, memory_cls)
    rotation = torch.linalg.qr(randn(5, 5, seed=9)).Q
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    longer = mixed_of(3 * mixed.features, mixed.cls, mixed.partner, mixed.omega)
    turned = mixed_of(mixed.features @ rotation, mixed.cls, mixed.partner, mixed.omega)
    for changed in (
        loss(longer, memory, memory_cls),
        loss(mixed, memory * torch.arange(1.0, 8)[:, None], memory_cls),
        loss(mixed, memory[order], memory_cls[order]),
        loss(turned, memory @ rotation, memory_cls),
    ):
        torch.testing.assert_close(changed, expected, rtol=0, atol=1e-12)


def test_mixed_loss_is_the_mixture_of_both_losses() -> None:
    memory, memory_cls = randn(6, 5, seed=1), torch.tensor([0, 0, 1, 1, 2, 2])
    anchor = randn(1, 5)
    first, second = (loss(plain(anchor, [cls]), memory, memory_cls) for cls in (0, 2))
    for omega in (0.0, 0.3, 1.0):
        weight = torch.tensor([omega], dtype=torch.float64)
        both = loss(mixed_of(anchor, torch.tensor([0]), torch.tensor([2]), weight), memory, memory_cls)
        swapped = loss(mixed_of(anchor, torch.tensor([2]), torch.tensor([0]), 1 - weight), memory, memory_cls)
        torch.testing.assert_close(both, omega * first + (1 - omega) * second, rtol=0, atol=1e-12)
        torch.testing.assert_close(swapped, both, rtol=0, atol=1e-12)


def test_without_mixing_it_is_the_plain_loss() -> None:
    regions = regions_of(randn(3, 5), torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))
    unmixed = mix_regions(regions, mixup_beta=0.0, generator=torch.Generator())
    _, memory, memory_cls = example()
    assert torch.equal(loss(unmixed, memory, memory_cls), loss(plain(regions.features, [0, 1, 2]), memory, memory_cls))


def test_terms_that_cannot_be_computed_do_not_count() -> None:
    _, memory, _ = example()
    memory_cls = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    known, unknown = randn(1, 5), randn(1, 5, seed=4)
    expected = loss(plain(known, [0]), memory, memory_cls)
    # An anchor of class 2, of which nothing is stored yet, changes nothing; nor does half an anchor.
    both = plain(torch.cat([known, unknown]), [0, 2])
    torch.testing.assert_close(loss(both, memory, memory_cls), expected, rtol=0, atol=1e-12)
    half = mixed_of(known, torch.tensor([0]), torch.tensor([2]), torch.tensor([0.4], dtype=torch.float64))
    torch.testing.assert_close(loss(half, memory, memory_cls), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [[], [0], [1], [0, 0, 0]])
@pytest.mark.parametrize("anchors", [0, 2])
def test_without_any_term_it_is_zero_with_a_finite_gradient(classes: list[int], anchors: int) -> None:
    features = randn(anchors, 5).requires_grad_()
    value = loss(plain(features, [0] * anchors), randn(len(classes), 5), torch.tensor(classes, dtype=torch.long))
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(features.grad, torch.zeros(anchors, 5, dtype=torch.float64))


def test_gradient() -> None:
    mixed, memory, memory_cls = example()
    anchors = mixed.features.clone().requires_grad_()
    memory.requires_grad_()

    def value(features: Tensor) -> Tensor:
        return loss(mixed_of(features, mixed.cls, mixed.partner, mixed.omega), memory, memory_cls)

    assert torch.autograd.gradcheck(value, (anchors,))
    value(anchors).backward()
    assert memory.grad is None
    along = (anchors.grad * anchors).sum(dim=1)  # a cosine does not change along the anchor
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-12)


def test_a_negative_more_costs_and_coming_closer_pays() -> None:
    _, memory, memory_cls = example()
    anchor = plain(randn(1, 5), [0])
    more = loss(anchor, torch.cat([memory, randn(1, 5, seed=8)]), torch.cat([memory_cls, torch.tensor([1])]))
    assert more > loss(anchor, memory, memory_cls) >= 0
    axes = torch.eye(3, dtype=torch.float64)  # positive x, negative z, the anchor turns from y to x
    steps = [loss(plain(a * axes[:1] + (1 - a) * axes[1:2], [0]), axes[[0, 2]], torch.tensor([0, 1])) for a in (0.0, 0.3, 0.6, 1.0)]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == 4


@pytest.mark.parametrize("seed", range(3))
def test_one_positive_and_one_negative_are_a_logistic(seed: int) -> None:
    memory, anchor = randn(2, 4, seed=seed), randn(1, 4, seed=seed + 50)
    positive, negative = torch.cosine_similarity(anchor, memory)
    expected = torch.nn.functional.softplus((negative - positive) / TEMPERATURE)
    torch.testing.assert_close(loss(plain(anchor, [0]), memory, torch.tensor([0, 1])), expected, rtol=0, atol=1e-12)


def test_far_negatives_are_not_clamped() -> None:
    # Positives at cosine 1 and 0, 9500 negatives at -0.6: a clamped denominator gives 5.07 for the second one.
    memory = torch.tensor([[1.0, 0.0], [0.0, 1.0]] + [[-0.6, -0.8]] * 9500, dtype=torch.float64)
    memory_cls = torch.tensor([0, 0] + [1] * 9500)
    each = [math.log1p(9500 * math.exp((-0.6 - s) / 0.07)) for s in (1, 0)]
    assert each[1] == pytest.approx(1.0295, abs=1e-4)
    value = loss(plain(torch.tensor([[2.0, 0.0]], dtype=torch.float64), [0]), memory, memory_cls, 0.07)
    assert float(value) == pytest.approx(sum(each) / 2, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_stable_at_low_temperature_and_precision(dtype: torch.dtype) -> None:
    mixed, memory, memory_cls = example()
    anchors = (1000 * mixed.features).to(dtype).requires_grad_()
    value = loss(mixed_of(anchors, mixed.cls, mixed.partner, mixed.omega.to(dtype)), memory.to(dtype), memory_cls, 0.01)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert anchors.grad.isfinite().all()


def test_autocast_does_not_round_similarities() -> None:
    mixed, memory, memory_cls = example()
    single = mixed_of(mixed.features.float(), mixed.cls, mixed.partner, mixed.omega.float())
    expected = loss(single, memory.float(), memory_cls, 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(single, memory.float(), memory_cls, 0.05), expected)


def test_mean_does_not_depend_on_how_a_batch_is_split() -> None:
    mixed, memory, memory_cls = example()
    whole, anchors = (mixed.features.clone().requires_grad_() for _ in range(2))
    parts = [slice(0, 2), slice(2, 6)]
    split = [mixed_of(anchors[p], mixed.cls[p], mixed.partner[p], mixed.omega[p]) for p in parts]
    mean = sum(len(part.cls) * loss(part, memory, memory_cls) for part in split) / len(mixed.cls)
    at_once = loss(mixed_of(whole, mixed.cls, mixed.partner, mixed.omega), memory, memory_cls)
    torch.testing.assert_close(mean, at_once, rtol=0, atol=1e-12)
    mean.backward()
    at_once.backward()
    torch.testing.assert_close(anchors.grad, whole.grad, rtol=0, atol=1e-12)


def test_a_memory_that_is_written_before_the_gradient_does_not_change_it() -> None:
    mixed, memory, memory_cls = example()
    gradients = []
    for spoil in (False, True):
        anchors, bank = mixed.features.clone().requires_grad_(), memory.clone()
        value = loss(mixed_of(anchors, mixed.cls, mixed.partner, mixed.omega), bank, memory_cls)
        if spoil:
            bank.normal_()
        (3 * value).backward()
        gradients.append(anchors.grad)
    assert torch.equal(*gradients)
    assert float(gradients[0].abs().sum()) > 0
