"""The losses of both trainings against explicit formulas, and the switches that must reproduce a simpler method."""

from typing import Any

import pytest
import torch
from some_regions import mixed_of
from torch import Tensor
from torch.nn import functional as F

from rcatool.config import Config
from rcatool.models.rca_net import RcaNet
from rcatool.models.regions import pool_regions, region_contrast, region_masks
from rcatool.models.seg_loss import seg_loss
from rcatool.stages.cls_loss import Intake, StepState, rca_loss
from rcatool.stages.networks import cls_network

CLASSES = 3
TAGS = torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]])


def config(**memory: Any) -> Config:
    made = Config().model_dump()
    made["cls"] |= {"backbone": "tiny", "weights": "none", "output_stride": 8, "p_weight": 0.4}
    made["memory"] |= {"contrast_weight": 0.5, "confidence": 0.0, "prototypes": 2} | memory
    return Config.model_validate(made)


def network(settings: Config, seed: int = 0) -> RcaNet:
    """A network over the four photos of TAGS, in eval mode so that a forward pass does not depend on the batch."""
    torch.manual_seed(seed)
    model = cls_network(settings, TAGS > 0, pretrained=False).eval()
    with torch.no_grad():
        for head in model.heads():
            head.mul_(30)  # scores that differ
    return model


def batch(photos: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    rows = torch.tensor(photos)
    return images[rows], TAGS[rows], rows


def loss(
    model: RcaNet, settings: Config, *, contrast: bool, data: tuple[Tensor, Tensor, Tensor] | None = None, probe: bool = False
) -> dict[str, Tensor]:
    """In the last epoch before the contrast starts, or in its first."""
    epoch = settings.memory.contrast_start - (not contrast)
    state = StepState(epoch, torch.Generator().manual_seed(1), Intake(torch.zeros(CLASSES, dtype=torch.long)), probe=probe)
    return rca_loss(model, data or batch(), settings, state)


def multilabel(score: Tensor, tags: Tensor) -> Tensor:
    """Mean over classes and photos of the cross entropy of a sigmoid."""
    p = score.double().sigmoid()
    return -(tags * p.log() + (1 - tags) * (1 - p).log()).mean()


def test_terms_without_contrast() -> None:
    settings = config()
    model = network(settings)
    images, tags, _ = batch()
    maps = model(images)
    found = loss(model, settings, contrast=False)
    main, first = multilabel(maps.o.mean(dim=(2, 3)), tags), multilabel(maps.p.mean(dim=(2, 3)), tags)
    assert set(found) == {"loss", "loss_o", "loss_p"}
    for name, expected in (("loss_o", main), ("loss_p", first), ("loss", main + 0.4 * first)):
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-6, msg=name)


def test_the_contrast_is_against_the_memory_before_this_batch() -> None:
    settings = config(mixup_beta=0.0)
    model = network(settings)
    assert float(loss(model, settings, contrast=True)["loss_contrast"].detach()) == 0  # nothing was stored yet
    bank, bank_cls = (part.clone() for part in model.memory.valid_entries)
    assert bank_cls.tolist() == TAGS.nonzero()[:, 1].tolist()
    images, tags, _ = batch()
    maps = model(images)
    regions = pool_regions(maps.features, region_masks(maps.p), tags)
    torch.testing.assert_close(bank, regions.features)
    plain = mixed_of(regions.features, regions.cls, regions.cls, torch.ones(len(regions.cls)))
    expected = region_contrast(plain, bank, bank_cls, temperature=settings.memory.temperature)
    found = loss(model, settings, contrast=True)
    torch.testing.assert_close(found["loss_contrast"], expected)
    torch.testing.assert_close(found["loss"], found["loss_o"] + 0.4 * found["loss_p"] + 0.5 * expected)


def test_memory_takes_the_regions_of_confident_tags() -> None:
    model = network(config())
    images, tags, _ = batch()
    score = model(images).o.mean(dim=(2, 3)).sigmoid().detach()
    level = float(score[tags > 0].median())
    settings = config(confidence=level)
    loss(model, settings, contrast=False)
    written = {(int(p), int(c)) for p, c in tags.nonzero() if model.memory.visits[model.memory.slots[p, c]] > 0}
    assert written == {(int(p), int(c)) for p, c in tags.nonzero() if float(score[p, c]) > level}
    assert 0 < len(written) < int(tags.sum())


def test_gradient_reaches_the_backbone_through_each_term() -> None:
    settings = config()
    model = network(settings)
    loss(model, settings, contrast=True)  # fills the memory
    for name in ("loss_o", "loss_p", "loss_contrast"):
        model.zero_grad()
        loss(model, settings, contrast=True)[name].backward()
        gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
        assert any(g.abs().max() > 0 for g in gradients), name
        assert all(g.isfinite().all() for g in gradients)
        heads = {"loss_o": model.o_head, "loss_p": model.p_head}
        for key, head in heads.items():
            assert (head.weight.grad is not None and head.weight.grad.abs().max() > 0) == (key == name)


def test_contrast_of_weight_zero_changes_no_gradient() -> None:
    settings = config(contrast_weight=0.0)
    gradients = []
    for contrast in (False, True):
        model = network(settings)
        loss(model, settings, contrast=contrast)
        model.zero_grad()
        loss(model, settings, contrast=contrast)["loss"].backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_plain_cam_is_the_p_term_alone() -> None:
    settings = config()
    made = settings.model_dump()
    made["cls"] |= {"method": "cam"}
    plain_settings = Config.model_validate(made)
    plain, rca = network(plain_settings), network(settings)
    found = loss(plain, plain_settings, contrast=True)
    assert set(found) == {"loss", "loss_o"}
    assert torch.equal(found["loss"], found["loss_o"])
    assert torch.equal(found["loss"], loss(rca, settings, contrast=False)["loss_p"])


def test_without_prototypes_o_learns_as_a_plain_cam_does() -> None:
    # Context off: the feature half of O gets the gradient that a plain head with its weights would get.
    settings = config(prototypes=0)
    model = network(settings)
    maps = model(batch()[0])
    loss(model, settings, contrast=False)["loss_o"].backward()
    width = model.backbone.out_channels
    head = model.o_head.weight[:, width:].detach().clone().requires_grad_()
    F.multilabel_soft_margin_loss(F.conv2d(maps.features.detach(), head).mean(dim=(2, 3)), TAGS).backward()
    torch.testing.assert_close(model.o_head.weight.grad[:, width:], head.grad)
    assert torch.equal(model.o_head.weight.grad[:, :width], torch.zeros_like(head))


@pytest.mark.parametrize("design", ["instance-ema", "fifo", "ring-ema"])
def test_loss_is_reproducible_for_each_design(design: str) -> None:
    settings = config(design=design, size=3)
    courses = []
    for _ in range(2):
        model = network(settings)
        course = [loss(model, settings, contrast=True)["loss"].detach() for _ in range(3)]
        courses.append(torch.stack([*course, model.memory.bank.sum()]))
    assert torch.equal(*courses)
    assert courses[0].isfinite().all()


def test_ten_steps_in_bfloat16_keep_the_loss_of_float32() -> None:
    settings = config(contrast_weight=0.05)
    courses, mains = [], []
    for half in (False, True):
        model, course = network(settings), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(10):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                found = loss(model, settings, contrast=True)
            assert {value.dtype for value in found.values()} == {torch.float32}
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
            course.append(float(found["loss"].detach()))
            mains.append(float(found["loss_o"].detach()))
        assert model.memory.bank.dtype == torch.float32
        courses.append(course)
    assert courses[0] != courses[1]
    assert mains[9] < 0.95 * mains[0]  # it does learn
    assert courses[1] == pytest.approx(courses[0], rel=1e-2)


def test_entries_that_were_never_written_are_not_contrasted() -> None:
    settings = config(confidence=0.5, mixup_beta=0.0)
    courses = []
    for garbage in (0.0, 1e6):
        model = network(settings)
        model.memory.bank.fill_(garbage)
        model.memory.prototypes.fill_(garbage)
        courses.append([loss(model, settings, contrast=True)["loss"].detach() for _ in range(3)])
        assert 0 < int((model.memory.visits > 0).sum()) < len(model.memory.visits)
    assert torch.equal(*map(torch.stack, courses))
    assert torch.stack(courses[0]).isfinite().all()


def test_maps_that_are_the_same_everywhere_have_no_region_and_no_nan() -> None:
    settings = config()
    model = network(settings)
    with torch.no_grad():
        model.p_head.weight.zero_()
    for _ in range(2):
        found = loss(model, settings, contrast=True)
        found["loss"].backward()
    assert float(found["loss_contrast"].detach()) == 0
    assert all(value.isfinite() for value in found.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert not model.memory.visits.any()


def seg_by_loop(logits: Tensor, label: Tensor) -> float:
    """Mean of -log softmax at the label's value, over pixels that are not 255."""
    full = F.interpolate(logits, size=label.shape[-2:], mode="bilinear", align_corners=False)
    terms = []
    for b, y, x in (label != 255).nonzero().tolist():
        values = full[b, :, y, x]
        terms.append(float(values.logsumexp(0) - values[label[b, y, x]]))
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
def test_seg_loss_equals_a_loop(ignored: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 4, 3, 4, generator=generator)
    label = torch.randint(4, (2, 9, 11), generator=generator)
    label[torch.rand(2, 9, 11, generator=generator) < ignored] = 255
    assert float(seg_loss(logits, label)) == pytest.approx(seg_by_loop(logits, label), abs=1e-5)


def test_seg_loss_of_pixels_to_ignore() -> None:
    logits = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(3), requires_grad=True)
    label = torch.full((1, 3, 3), 255)
    nothing = seg_loss(logits, label)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    logits.grad, label[0, 1, 2] = None, 3
    seg_loss(logits, label).backward()
    assert logits.grad.abs().sum(dim=1).nonzero().tolist() == [[0, 1, 2]]
    assert seg_loss(logits.detach().half(), label).dtype == torch.float32


def test_a_probe_measures_each_weighted_term_and_changes_nothing() -> None:
    settings = config(contrast_weight=0.3, mixup_beta=0.0)
    model = network(settings)
    loss(model, settings, contrast=False)  # fills the memory
    images, tags, _ = batch()
    bank, bank_cls = (part.clone() for part in model.memory.valid_entries)
    plain = loss(model, settings, contrast=True)
    plain["loss"].backward()
    expected_gradient = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.memory.bank[model.memory.visits > 0] = bank
    model.zero_grad()
    probed = loss(model, settings, contrast=True, probe=True)
    assert set(probed) - set(plain) == {"grad_o", "grad_p", "grad_contrast"}
    assert all(torch.equal(probed[name], plain[name]) for name in plain)
    probed["loss"].backward()
    found_gradient = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(found, expected) for found, expected in zip(found_gradient, expected_gradient, strict=True))

    features = model(images).features.detach().requires_grad_()  # the same terms by hand, from F on
    p = model.p_head(features)
    regions = pool_regions(features, region_masks(p), tags)
    anchors = mixed_of(regions.features, regions.cls, regions.cls, torch.ones(len(regions.cls)))
    by_hand = {
        "grad_p": 0.4 * F.multilabel_soft_margin_loss(p.mean(dim=(2, 3)), tags),
        "grad_contrast": 0.3 * region_contrast(anchors, bank, bank_cls, temperature=settings.memory.temperature),
    }
    for name, term in by_hand.items():
        norm = torch.autograd.grad(term, features, retain_graph=True)[0].norm()
        torch.testing.assert_close(probed[name].detach(), norm, rtol=1e-4, atol=1e-8, msg=name)


def test_through_a_projection_both_sides_are_compared_behind_it_and_the_memory_stays_in_front() -> None:
    settings = config(projection=2, mixup_beta=0.0)
    model = network(settings)
    assert model.projection is not None
    loss(model, settings, contrast=False)
    bank, bank_cls = (part.clone() for part in model.memory.valid_entries)
    assert bank.shape[1] == model.backbone.out_channels
    images, tags, _ = batch()
    maps = model(images)
    regions = pool_regions(maps.features, region_masks(maps.p), tags)
    weight = model.projection.weight
    anchors = mixed_of(regions.features @ weight.T, regions.cls, regions.cls, torch.ones(len(regions.cls)))
    found = loss(model, settings, contrast=True)
    expected = region_contrast(anchors, bank @ weight.T, bank_cls, temperature=settings.memory.temperature)
    torch.testing.assert_close(found["loss_contrast"], expected, rtol=1e-5, atol=1e-6)
    found["loss_contrast"].backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0
    assert any(parameter is weight for parameter in model.heads())


def test_intake_counts_what_was_found_and_stored() -> None:
    model, settings = network(config()), config(confidence=2 / 3)
    found = Intake(torch.zeros(CLASSES, dtype=torch.long))
    state = StepState(0, torch.Generator().manual_seed(1), found)
    rca_loss(model, batch(), settings, state)
    rca_loss(model, batch(), settings, state)
    assert found.found.tolist() == (2 * TAGS.sum(dim=0)).int().tolist()
    stored = torch.zeros(CLASSES).index_add_(0, model.memory.slot_class, model.memory.visits.float())
    assert found.stored.tolist() == stored.int().tolist()
