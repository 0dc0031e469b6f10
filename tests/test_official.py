"""The released code's method: forward pass, contrast and memory against loops written out from its description (spec 2.3)."""

import math
from typing import Any

import pytest
import torch
from some_regions import mixed_of, regions_of
from torch import Tensor
from torch.nn import functional as F

from rcatool import config_io
from rcatool.config import Config
from rcatool.models.official import OfficialNet
from rcatool.models.official_loss import clamped_contrast, mix_with_any, pool_in_turn
from rcatool.models.regions import Mixed, mix_pairs, pool_regions, region_masks
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import cls_network, make_optimizer

CLASSES, SLOTS, PROTOTYPES = 3, 4, 2
TAGS = torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])


def config(**memory: Any) -> Config:
    made = Config().model_dump()
    made["cls"] |= {"method": "official", "backbone": "tiny", "weights": "none", "output_stride": 8, "head": "grouped", "head_width": 4}
    made["cls"] |= {"freeze_bn": False, "nesterov": True, "decay_all": True}
    made["memory"] |= {"size": SLOTS, "prototypes": PROTOTYPES, "momentum": 0.9, "confidence": 0.5, "contrast_weight": 0.01}
    made["memory"] |= {"contrast_start": 0} | memory
    return Config.model_validate(made)


def network(settings: Config) -> OfficialNet:
    torch.manual_seed(0)
    model = cls_network(settings, TAGS > 0, pretrained=False)
    assert isinstance(model, OfficialNet)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone"):
                parameter.mul_(8)  # maps that differ from pixel to pixel
    return model.eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(4, 3, 40, 32, generator=torch.Generator().manual_seed(5)), TAGS, torch.arange(4)


# ---- the network


def test_forward_equals_the_description_pixel_by_pixel() -> None:
    model = network(config())
    maps = model(batch()[0])
    x, prototypes = maps.features, model.memory.prototypes.flatten(0, 1)
    key = [model.key(q) for q in prototypes]
    value = [model.value(q) for q in prototypes]
    context = torch.zeros_like(x)
    for b, i, j in torch.cartesian_prod(*(torch.arange(n) for n in (len(x), *x.shape[2:]))).tolist():
        query = model.query.weight[:, :, 0, 0] @ x[b, :, i, j] + model.query.bias
        score = [query @ k / 10 * 20 for k in key]
        context[b, :, i, j] = sum(s * v for s, v in zip(score, value, strict=True))
    mixed = model.mix(torch.cat([x, model.attended(context)], dim=1))
    torch.testing.assert_close(maps.o, model.o_head(mixed), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps.p, model.p_head(x))


@pytest.mark.parametrize("training", [False, True])
def test_a_forward_pass_changes_nothing(training: bool) -> None:
    model = network(config()).train(training)
    model.backbone.eval()  # whose batch norm counts, as any other's
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(batch()[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_memory_and_prototypes_start_as_noise_that_counts() -> None:
    memory = network(config(size=500, prototypes=10)).memory
    assert bool(memory.prototype_valid.all())
    assert bool((memory.visits > 0).all())
    for noise in (memory.bank, memory.prototypes):
        assert abs(float(noise.mean())) < 0.02
        assert float(noise.std()) == pytest.approx(1, abs=0.02)


def test_rates_of_the_released_code() -> None:
    settings = config()
    model = network(settings)
    optimizer = make_optimizer(model, settings.cls.model_copy(update={"lr": 1e-3, "head_lr": 1e-2, "weight_decay": 5e-4}))
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        extra = name.startswith(("p_head", "o_head", "contrast_features"))
        rate = (1e-2 if extra else 1e-3) * (2 if name.endswith("bias") else 1)
        group = found[id(parameter)]
        assert (group["lr"], group["weight_decay"], group["nesterov"]) == (rate, 5e-4, True), name
    assert found[id(model.contrast_features[1].weight)]["lr"] == 1e-2  # a batch norm's scale counts as a weight
    assert len(found) == len(list(model.parameters()))


# ---- regions


def masks_by_loop(p: Tensor) -> Tensor:
    share = p.softmax(dim=1)
    return torch.stack([torch.stack([one > one.mean() for one in image]) for image in share])


def memory_by_loop(model: OfficialNet, maps: Any, tags: Tensor, settings: Config) -> Tensor:
    """The bank after a batch, image by image and class by class, the features being overwritten on the way (D5)."""
    bank = model.memory.bank.clone().view(CLASSES, SLOTS, -1)
    next_slot = [0] * CLASSES
    score = maps.o.mean(dim=(2, 3)).sigmoid()
    masks = masks_by_loop(maps.p)
    for b in range(len(tags)):
        x = maps.features[b].clone()
        for c in range(CLASSES):
            if tags[b, c] != 1 or not score[b, c] > settings.memory.confidence:
                continue
            x = x * masks[b, c]
            embedding = x.sum(dim=(1, 2)) / masks[b, c].sum()
            slot = bank[c, next_slot[c]]
            bank[c, next_slot[c]] = slot * settings.memory.momentum + embedding * (1 - settings.memory.momentum)
            next_slot[c] = (next_slot[c] + 1) % SLOTS
    return bank.flatten(0, 1)


@pytest.mark.parametrize("written", [0, 3, 7])
def test_memory_after_a_batch_equals_the_loop(written: int) -> None:
    model = network(config())
    images, tags, _ = batch()
    with torch.no_grad():
        maps = model(images)
        levels = [*maps.o.mean(dim=(2, 3)).sigmoid()[tags > 0].sort(descending=True).values.tolist(), 0.0]
        settings = config(confidence=levels[written])
        expected = memory_by_loop(model, maps, tags, settings)
        step(model, settings)
    torch.testing.assert_close(model.memory.bank, expected, rtol=1e-4, atol=1e-5)
    assert int((model.memory.visits - 1).sum()) == written


def test_a_later_class_is_pooled_from_what_earlier_masks_left() -> None:
    features = torch.tensor([[[[1.0, 2, 4, 8]]]])
    masks = torch.tensor([[[[1, 1, 0, 0]], [[0, 1, 1, 1]]]]).bool()
    both = torch.ones(1, 2)
    stored = torch.tensor([[True, True]])
    assert pool_in_turn(features, masks, both, stored=stored).features.flatten().tolist() == pytest.approx([1.5, 2 / 3])
    only_second = torch.tensor([[False, True]])
    assert pool_in_turn(features, masks, both, stored=only_second).features[1].tolist() == [pytest.approx(14 / 3)]
    assert pool_regions(features, masks, both).features[1].tolist() == [pytest.approx(14 / 3)]  # without the bug


# ---- contrast


def contrast_by_loop(mixed: Mixed, image: Tensor, bank: Tensor, temperature: float) -> float:
    """Sum over images of the mean over their regions; each positive with its own clamped denominator (D11, D12)."""
    labels = [c for c in range(CLASSES) for _ in range(SLOTS)]
    per_image: dict[int, list[float]] = {}
    for r, anchor in enumerate(mixed.features):
        logit = [float(anchor @ m / anchor.norm() / m.norm()) / temperature for m in bank]
        top = max(logit)
        loss = 0.0
        for target, weight in ((int(mixed.cls[r]), float(mixed.omega[r])), (int(mixed.partner[r]), 1 - float(mixed.omega[r]))):
            others = sum(math.exp(z - top) for z, label in zip(logit, labels, strict=True) if label != target)
            own = [z - top for z, label in zip(logit, labels, strict=True) if label == target]
            loss += weight * sum(math.log(max(others + math.exp(z), 1e-4)) - z for z in own) / len(own)
        per_image.setdefault(int(image[r]), []).append(loss)
    return sum(sum(losses) / len(losses) for losses in per_image.values())


def example(seed: int, *, width: int = 5) -> tuple[Mixed, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(5, width, generator=generator, dtype=torch.float64)
    regions = regions_of(features, torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 1, 0, 1, 2]))
    partner = torch.randint(5, (5,), generator=generator)
    omega = torch.rand(5, generator=generator, dtype=torch.float64)
    bank = torch.randn(CLASSES * SLOTS, width, generator=generator, dtype=torch.float64)
    return mix_pairs(regions, partner, omega), regions.image, bank


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_contrast_equals_the_loop(seed: int, temperature: float) -> None:
    mixed, image, bank = example(seed)
    found = clamped_contrast(mixed, image, bank, num_classes=CLASSES, temperature=temperature)
    assert float(found) == pytest.approx(contrast_by_loop(mixed, image, bank, temperature), abs=1e-9)


def test_far_negatives_are_clamped_as_in_the_released_code() -> None:
    # Positives at cosine 1 and 0, negatives at -0.6: Eq. 4 gives 1.03 for the second, the clamp 5.08 (spec D12).
    anchor = torch.tensor([[1.0, 0]], dtype=torch.float64)
    far = torch.tensor([[-0.6, 0.8]], dtype=torch.float64)
    bank = torch.cat([torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64).repeat(250, 1), far.repeat(9500, 1)])
    cls, omega = torch.tensor([0]), torch.ones(1, dtype=torch.float64)
    found = clamped_contrast(mixed_of(anchor, cls, cls, omega), torch.tensor([0]), bank, num_classes=20, temperature=0.07)
    first = math.log(1 + 9500 * math.exp(-1.6 / 0.07))
    assert float(found) == pytest.approx((first + 5.0755) / 2, abs=1e-3)


def test_partners_are_drawn_image_first_and_may_be_the_region_itself() -> None:
    count = 20_000
    image, cls = torch.tensor([0, 1, 1, 1]).repeat(count, 1).T, torch.tensor([0, 0, 1, 2])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.zeros(4, CLASSES)
    omegas = []
    for _ in range(200):
        regions = regions_of(torch.eye(4), image[:, 0], cls)
        mixed = mix_with_any(regions, mixup_beta=8.0, generator=generator)
        rest = mixed.features - mixed.omega[:, None] * regions.features
        partner = (rest / (1 - mixed.omega[:, None])).argmax(dim=1)
        assert torch.equal(mixed.partner, cls[partner])
        drawn += F.one_hot(partner, 4).sum(dim=0)[:, None] / 3
        omegas.append(mixed.omega)
    share = drawn[:, 0] / drawn[:, 0].sum()
    assert share.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6], abs=0.05)
    omega = torch.cat(omegas)
    assert float(omega.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(omega.var()) == pytest.approx(1 / 68, rel=0.15)


# ---- the step


def step(model: OfficialNet, settings: Config, epoch: int = 0) -> dict[str, Tensor]:
    state = StepState(epoch, torch.Generator().manual_seed(3), Intake(torch.zeros(CLASSES, dtype=torch.long)))
    return step_loss(model, batch(), settings, state)


def test_the_loss_is_the_sum_of_its_terms_and_the_contrast_is_against_the_memory_before() -> None:
    settings = config(contrast_weight=0.02)
    model = network(settings)
    images, tags, _ = batch()
    maps = model(images)
    bank = model.memory.bank.clone()
    anchors = pool_regions(model.contrast_features(maps.features), masks_by_loop(maps.p), tags)
    mixed = mix_with_any(anchors, mixup_beta=8.0, generator=torch.Generator().manual_seed(3))
    mixed = mixed_of(mixed.features.detach(), mixed.cls, mixed.partner, mixed.omega)
    expected = contrast_by_loop(mixed, anchors.image, bank, settings.memory.temperature)
    found = step(model, settings)
    assert not torch.equal(model.memory.bank, bank)
    assert float(found["loss_contrast"].detach()) == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(found["loss"], found["loss_o"] + 0.4 * found["loss_p"] + 0.02 * found["loss_contrast"])
    torch.testing.assert_close(found["loss_o"], F.multilabel_soft_margin_loss(maps.o.mean(dim=(2, 3)), tags))
    torch.testing.assert_close(found["loss_p"], F.multilabel_soft_margin_loss(maps.p.mean(dim=(2, 3)), tags))


def test_contrast_starts_late_and_reaches_the_backbone() -> None:
    settings = config(contrast_start=2)
    model = network(settings)
    assert "loss_contrast" not in step(model, settings, epoch=1)
    step(model, settings, epoch=2)["loss_contrast"].backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.contrast_features.parameters())
    assert model.memory.bank.grad is None


def test_without_a_region_there_is_no_contrast() -> None:
    none = torch.zeros(0, dtype=torch.long)
    anchors = torch.zeros(0, 5, requires_grad=True)
    mixed = mix_with_any(regions_of(anchors, none, none), mixup_beta=8.0, generator=torch.Generator())
    found = clamped_contrast(mixed, none, torch.ones(CLASSES * SLOTS, 5), num_classes=CLASSES, temperature=0.07)
    found.backward()
    assert float(found.detach()) == 0


def test_masks_are_those_of_the_loop() -> None:
    p = network(config())(batch()[0]).p
    assert torch.equal(region_masks(p, region_map="softmax"), masks_by_loop(p))


def test_what_the_preset_says() -> None:
    settings = config_io.read_config(config_io.find_preset("voc12-vgg16-official"))
    expected = {
        "cls.method": "official", "cls.backbone": "vgg16", "cls.output_stride": 8, "cls.head": "grouped", "cls.head_width": 512,
        "cls.epochs": 30, "cls.batch_size": 8, "cls.crop_size": 368, "cls.resize_square": True, "cls.flip": False, "cls.shuffle": False,
        "cls.color_jitter": 0.3, "cls.lr": 1e-3, "cls.head_lr": 1e-2, "cls.momentum": 0.9, "cls.nesterov": True, "cls.weight_decay": 5e-4,
        "cls.decay_all": True, "cls.schedule": "step", "cls.step_epochs": (5, 10), "cls.freeze_bn": False, "cls.p_weight": 0.4,
        "memory.size": 500, "memory.momentum": 0.99, "memory.confidence": 0.7, "memory.contrast_weight": 0.01,
        "memory.contrast_start": 2, "memory.temperature": 0.07, "memory.mixup_beta": 8.0, "memory.prototypes": 10,
        "memory.prototypes_start": 1, "cls.accumulate": "confidence",
        "cls.accumulate_threshold": 0.1, "cls.accumulate_start": 1, "cam.maps": "accumulated", "pseudo.rule": "conflict",
        "pseudo.background": "power", "pseudo.bg_power": 4.0, "pseudo.crf": "seed",
    }  # fmt: skip
    assert {name: config_io.get(settings, name) for name in expected} == expected
