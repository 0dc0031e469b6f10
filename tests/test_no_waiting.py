"""Training steps never wait for a GPU: whole epochs on torch's meta device, which has no values, so that whoever asks for one fails.

That is what makes a program wait for a GPU: a number read from it, or a shape that depends on numbers on it (`item`, `nonzero`, an
index of booleans, `cpu`).
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from test_processes import CLASSES, IMAGES, LABELS, PHOTOS, SALIENCY, TAGS, settings
from torch import Tensor, nn

from rcatool.engine import LossFn, train_one_epoch
from rcatool.models.average import WeightAverage
from rcatool.models.deeplab import build_seg
from rcatool.models.regions import pool_regions, region_masks
from rcatool.optim import sgd
from rcatool.refine.pairs import half_plane_offsets
from rcatool.stages.affinity_training import _loss_fn
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import cls_network, make_optimizer, seg_design
from rcatool.stages.seg_step import StepLoss, Teacher
from rcatool.world import World

META = World(torch.device("meta"), None)
VIEWS = torch.zeros(PHOTOS, 7, dtype=torch.long)


class NoLog:
    """A log that is due for no line until the epoch ends, and then reads nothing."""

    def add(self, scalars: dict[str, Tensor]) -> bool:
        assert all(value.device == META.device for value in scalars.values())
        return False

    def flush(self, **fields: Any) -> dict[str, float]:
        return {"loss": 0.0}

    def advance(self, n: int = 1, note: str = "") -> None:
        """As a bar."""


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for this device


def train(
    model: nn.Module, loss_fn: LossFn, optimizer: torch.optim.Optimizer, batch: list[Tensor], after: Callable[[], object] | None = None
) -> None:
    """Two steps, of which something is left: the parameters have been written to."""
    parts: Any = [[part[rows] for part in batch] for rows in (slice(0, 5), slice(5, None))]
    log: Any = NoLog()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter._version for parameter in trained]
    schedule = (0, lambda step: 0.5)
    train_one_epoch(model, loss_fn, parts, optimizer, schedule=schedule, world=META, log=log, bar=log, after_step=after)
    assert sum(parameter._version > was for parameter, was in zip(trained, before, strict=True)) > 4


@pytest.mark.parametrize("design", ["instance-ema", "fifo", "ring-ema"])
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("rca", {}),
        ("rca", {"projection": 4, "mixup_beta": 0.0, "region_map": "softmax", "region_threshold": "max"}),
        ("rca", {"attention": "dot", "temperature": 0.01, "prototypes_start": 0}),
        ("cam", {}),
        ("official", {}),
    ],
)
def test_a_step_of_train_cls_asks_the_device_for_nothing(method: str, changes: dict[str, Any], design: str) -> None:
    more = {"head": "grouped", "head_width": 4} if method == "official" else {"saliency_weight": 0.5 * ("projection" in changes)}
    config = settings(cls={"method": method, **more}, memory={"design": design, "size": 4, **changes})
    model = cls_network(config, TAGS, pretrained=False).train()
    if model.memory is not None:
        model.memory.visits.fill_(1)
        model.memory.bank.normal_()
        model.memory.refresh_prototypes(seed=0, iterations=2)
    model = META.place(model)
    intake = Intake(torch.zeros(CLASSES, dtype=torch.long, device="meta"))
    state = StepState(1, torch.Generator().manual_seed(1), intake, probe=method != "official")
    batch = [IMAGES, TAGS.float(), torch.arange(PHOTOS), VIEWS, SALIENCY]
    train(model, lambda part: step_loss(model, part, config, state), make_optimizer(model, config.cls), batch)


@pytest.mark.parametrize("noise", ["none", "confidence", "teacher", "gce"])
@pytest.mark.parametrize("loss", ["ce", "balanced"])
def test_a_step_of_train_seg_asks_the_device_for_nothing(noise: str, loss: str) -> None:
    config = settings(seg={"noise": noise, "loss": loss, "ema": 0.9})
    model = META.place(build_seg(seg_design(config.seg), CLASSES).train())
    average = WeightAverage(model, 0.9)
    allowed = torch.ones(PHOTOS, CLASSES + 1, dtype=torch.bool, device="meta")
    loss_fn = StepLoss(model, config.seg, Teacher(average, allowed) if noise == "teacher" else None, window=2)
    loss_fn.begin(config.seg.noise_start)
    batch = [IMAGES, LABELS, torch.arange(PHOTOS), *([SALIENCY] if noise == "confidence" else [])]
    train(model, loss_fn, make_optimizer(model, config.seg), batch, lambda: average.update(model))


def test_a_step_of_the_affinity_network_asks_the_device_for_nothing() -> None:
    model: Any = nn.Sequential(*(nn.Conv2d(width, 22, 3, padding=1) for width in (3, 22, 22)), nn.Sigmoid()).to("meta")
    model.offsets = half_plane_offsets(4)
    optimizer = sgd(model, [], lr=0.1, head_lr=0.1, momentum=0.9, weight_decay=0.0)
    train(model, _loss_fn(model), optimizer, [IMAGES, LABELS, torch.arange(PHOTOS)])


def test_whoever_asks_fails() -> None:
    """What the steps did before: tags that lie on the device have to be counted there."""
    features = torch.zeros(2, 5, 3, 3, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        pool_regions(features, region_masks(torch.zeros(2, CLASSES, 3, 3, device="meta")), TAGS[:2].to("meta"))
