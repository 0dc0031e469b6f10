"""Parameter groups and the poly schedule, against torch's own."""

import pytest
import torch
from torch import nn

from rcatool.models.backbones import Backbone, build_backbone, freeze_batch_norm
from rcatool.models.deeplab import DeepLab, SegDesign, build_seg
from rcatool.models.rca_net import RcaNet
from rcatool.models.region_memory import build_memory
from rcatool.optim import poly, set_lr, sgd, step_decay

LR, HEAD_LR, DECAY = 0.01, 0.1, 1e-4


def make(model: DeepLab | RcaNet) -> torch.optim.SGD:
    return sgd(model, model.heads(), lr=LR, head_lr=HEAD_LR, momentum=0.9, weight_decay=DECAY)


def backbone() -> Backbone:
    return build_backbone("tiny", output_stride=16)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["deeplab", "plain cam", "rca"])
def test_every_trainable_parameter_is_in_the_right_group(kind: str, frozen: bool) -> None:
    memory = build_memory(torch.ones(2, 3).bool(), 96, design="fifo", size=2, prototypes=2) if kind == "rca" else None
    model = build_seg(SegDesign("tiny", 16, (1, 2)), 3) if kind == "deeplab" else RcaNet(backbone(), 3, memory)
    if frozen:
        freeze_batch_norm(model)
    optimizer = make(model)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)  # none twice
    assert found.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert frozen
            continue
        group, bias = found[id(parameter)], parameter.ndim == 1  # biases and batch norm
        rate = HEAD_LR if name.startswith(("head", "p_head", "o_head")) else LR
        assert (group["lr"], group["weight_decay"]) == (rate * (2 if bias else 1), 0 if bias else DECAY), name
        assert group["momentum"] == 0.9
        assert group["initial_lr"] == group["lr"]
    names = {name for name, p in model.named_parameters() if id(p) in found}
    assert any(name.endswith("bias") for name in names) == (kind == "deeplab" or not frozen)


def test_poly_by_hand() -> None:
    assert poly(0, 100, 0.9) == 1
    assert poly(50, 100, 0.9) == pytest.approx(0.5**0.9)
    assert poly(100, 100, 0.9) == poly(130, 100, 0.9) == 0
    assert [poly(step, 4, 1.0) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]


def test_poly_renewed_every_tenth_step() -> None:
    # deeplab-pytorch's rule as a loop: the rate stays what it is unless the step is a multiple of ten (spec 3.4).
    rate, rates = 0.0, []
    for step in range(95):
        if step % 10 == 0:
            rate = (1 - step / 95) ** 0.9
        rates.append(rate)
    assert [poly(step, 95, 0.9, every=10) for step in range(95)] == pytest.approx(rates, abs=1e-12)
    assert len(set(rates)) == 10
    assert [poly(step, 95, 0.9, every=1) for step in range(96)] == [poly(step, 95, 0.9) for step in range(96)]


@pytest.mark.parametrize("power", [0.5, 0.9, 2.0])
def test_schedule_is_torchs_polynomial(power: float) -> None:
    ours, theirs = (torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.2, "initial_lr": 0.2}]) for _ in range(2))
    schedule = torch.optim.lr_scheduler.PolynomialLR(theirs, total_iters=20, power=power)
    for step in range(20):
        set_lr(ours, poly(step, 20, power))
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        theirs.step()
        schedule.step()


def test_groups_keep_their_ratio() -> None:
    optimizer = make(build_seg(SegDesign("tiny", 16, (1,)), 3))
    before = [group["lr"] for group in optimizer.param_groups]
    for factor in (0.5, 0.1):  # of the start, not of the last rate
        set_lr(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == [factor * lr for lr in before]


@pytest.mark.parametrize("points", [(5, 10), (1,), ()])
def test_step_schedule_is_torchs(points: tuple[int, ...]) -> None:
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    schedule = torch.optim.lr_scheduler.MultiStepLR(theirs, milestones=list(points), gamma=0.1)
    for epoch in range(12):
        assert 0.2 * step_decay(epoch, points) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9)
        theirs.step()
        schedule.step()


def test_decay_of_everything_and_nesterov() -> None:
    model = RcaNet(backbone(), 3)
    optimizer = sgd(model, model.heads(), lr=LR, head_lr=HEAD_LR, momentum=0.9, weight_decay=DECAY, nesterov=True, decay_all=True)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        group = found[id(parameter)]
        rate = (HEAD_LR if name.startswith("p_head") else LR) * (2 if name.endswith("bias") else 1)
        assert (group["lr"], group["weight_decay"], group["nesterov"]) == (rate, DECAY, True), name
    assert any(name.endswith("weight") and p.ndim == 1 for name, p in model.named_parameters())  # of a batch norm
