"""Training steps in three processes (gloo) against the same steps in one: memory, losses and parameters must come out the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from rcatool.config import Config
from rcatool.data.loaders import EpochBatches
from rcatool.models.accumulator import AccumulationRule, AttentionAccumulator
from rcatool.models.average import WeightAverage
from rcatool.models.deeplab import build_seg
from rcatool.ranks import average_gradients, collected, rank, share, share_of, size
from rcatool.refine.affinity_loss import affinity_loss
from rcatool.refine.pairs import half_plane_offsets
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import cls_network, freeze_layers, seg_design
from rcatool.stages.seg_step import StepLoss, Teacher

PROCESSES, PHOTOS, CLASSES, SIDE = 3, 8, 3, 32
BATCHES = ([0, 1, 2, 3, 4], [5, 6], [7, 0, 3, 6])  # shares of 1, 2 and 2 photos; of 0, 1 and 1; of 1, 1 and 2
TAGS = torch.rand(PHOTOS, CLASSES, generator=torch.Generator().manual_seed(3)) > 0.5
TAGS[:, 0] |= ~TAGS.any(dim=1)
Case = Callable[[], dict[str, Tensor]]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = random(PHOTOS, 3, SIDE, SIDE, seed=1)
SALIENCY = random(PHOTOS, SIDE, SIDE, seed=2).sigmoid()
LABELS = (random(PHOTOS, SIDE, SIDE, seed=4) * 2).abs().long().clamp(max=CLASSES)
LABELS[:, :5] = 255
VIEWS = torch.tensor([[SIDE, SIDE, 0, 0, 0, 0, 0]]).repeat(PHOTOS, 1)


def settings(**sections: dict[str, Any]) -> Config:
    made = Config().model_dump()
    for section in ("cls", "seg"):
        made[section] |= {"backbone": "tiny", "weights": "none", "freeze_bn": False}
    made["cls"] |= {"output_stride": 8, "p_weight": 0.4, "crop_size": SIDE}
    made["memory"] |= {"contrast_weight": 0.5, "confidence": 0.1, "prototypes": 2, "momentum": 0.5, "contrast_start": 0}
    made["seg"] |= {"aspp_rates": (1, 2)}
    for name, values in sections.items():
        made[name] |= values
    return Config.model_validate(made)


def steps(model: nn.Module, loss_fn: Callable[[list[Tensor]], dict[str, Tensor]], tensors: list[Tensor]) -> dict[str, Tensor]:
    """Three steps of SGD on the shares of the batches: the parameters, buffers and losses that come out."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    found = {}
    for number, batch in enumerate(BATCHES):
        mine = torch.tensor(list(share_of(batch)), dtype=torch.long)
        losses = loss_fn([tensor[mine] for tensor in tensors])
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        average_gradients(model)
        optimizer.step()
        found |= {f"{name} {number}": value.detach() for name, value in losses.items()}
    return found | {name: value.detach().clone() for name, value in model.state_dict().items()}


def cls_case(config: Config) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = cls_network(config, TAGS, pretrained=False).train()
    with torch.no_grad():
        for head in model.heads():
            head.mul_(20)  # scores that differ
    freeze_layers(model, config.cls)
    intake, generator = Intake(torch.zeros(CLASSES, dtype=torch.long)), torch.Generator().manual_seed(1)
    accumulator = AttentionAccumulator(TAGS, [(SIDE, SIDE)] * PHOTOS, stride=4)

    def accumulate(*arguments: Any, **where: Any) -> None:
        accumulator.update(*arguments, crop_size=SIDE, rule=AccumulationRule("confidence", 0.3), **where)

    def loss_fn(batch: list[Tensor]) -> dict[str, Tensor]:
        if model.memory is not None:
            model.memory.refresh_prototypes(seed=2, iterations=3)
        return step_loss(model, tuple(batch), config, StepState(1, generator, intake, probe=True, accumulate=accumulate))

    photos = torch.arange(PHOTOS)
    found = steps(model, loss_fn, [IMAGES, TAGS.float(), photos, VIEWS, SALIENCY])
    accumulator.share()
    return found | {"found": intake.found, "stored": intake.stored, "seen": accumulator.seen, "kept": accumulator.values // 8}


def seg_case(config: Config) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = build_seg(seg_design(config.seg), CLASSES).train()
    freeze_layers(model, config.seg)
    average = WeightAverage(model, 0.5)
    allowed = torch.cat([torch.ones(PHOTOS, 1, dtype=torch.bool), TAGS], dim=1)
    loss_fn = StepLoss(model, config.seg, Teacher(average, allowed), window=2)
    loss_fn.begin(config.seg.noise_start)

    def loss(batch: list[Tensor]) -> dict[str, Tensor]:
        average.update(model)
        return loss_fn(tuple(batch))

    return steps(model, loss, [IMAGES, LABELS, torch.arange(PHOTOS), SALIENCY])


def affinity_case() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model, offsets = nn.Conv2d(3, 24, 3, padding=1), half_plane_offsets(4)
    count = len(offsets)
    model = nn.Conv2d(3, count, 3, stride=4, padding=1)
    return steps(model, lambda batch: affinity_loss(model(batch[0]).sigmoid(), batch[1], offsets), [IMAGES, LABELS])


TEACHER = {"noise": "teacher", "ema": 0.5, "teacher_confidence": 0.0, "noise_start": 0}
CASES: dict[str, Case] = {
    "rca": lambda: cls_case(settings(memory={"projection": 4})),
    "saliency": lambda: cls_case(settings(cls={"saliency_weight": 0.5, "head": "grouped", "head_width": 16})),
    "official": lambda: cls_case(settings(cls={"method": "official"}, memory={"design": "ring-ema", "size": 4})),
    "seg": lambda: seg_case(settings(seg=TEACHER | {"loss": "balanced", "input_scales": (0.5,)})),
    "affinity": affinity_case,
}


def work(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=PROCESSES)
    torch.save({name: case() for name, case in CASES.items()}, f"{folder}/{number}.pt")
    order = list(collected((item**2 for item in share(range(1600))), 1600))
    torch.save({"order": order, "batches": [list(batch) for batch in EpochBatches(10, 4, 1)]}, f"{folder}/shares-{number}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three processes have written, <rank>.pt each."""
    made = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, args=(str(made),), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
    return made


@pytest.mark.parametrize("name", CASES)
def test_three_processes_do_what_one_does(name: str, folder: Path) -> None:
    expected = CASES[name]()
    moved = [value for key, value in expected.items() if key.endswith("weight")]
    assert all(torch.isfinite(value).all() for value in expected.values())
    assert len(moved) > 0
    for number in range(PROCESSES):
        found = torch.load(folder / f"{number}.pt", weights_only=True)[name]
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def test_shares_are_the_whole_in_order(folder: Path) -> None:
    shares = [torch.load(folder / f"shares-{number}.pt", weights_only=True) for number in range(PROCESSES)]
    assert all(one["order"] == [item**2 for item in range(1600)] for one in shares)  # more than are exchanged at a time
    for number, batch in enumerate(EpochBatches(10, 4, 1)):
        parts = [one["batches"][number] for one in shares]
        assert [key for part in parts for key in part if key is not None] == list(batch)


def test_one_process_is_alone() -> None:
    assert (rank(), size()) == (0, 1)
    assert share([1, 2, 3]) == [1, 2, 3]
    assert list(collected(iter("abc"), 3)) == ["a", "b", "c"]
