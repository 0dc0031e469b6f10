"""Stage 1 learns: a few hundred steps on sixteen images, which it may learn by heart; and switches that turn RCA off do so to the bit."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result
from tiny_run import TinyRun, assign, record
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.config import Config
from rcatool.data.manifest import split
from rcatool.run import Run
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import cls_network, load_cls, make_optimizer, read_data
from rcatool.stages.train_cls import validate
from rcatool.world import World

BY_HEART = ("cls.epochs=40", "cls.flip=false", "cls.color_jitter=0", "cls.resize_square=true", "cam.scales=[1.0]")


def test_maps_beat_those_of_random_weights(rca: Callable[..., Result], undisturbed: TinyRun, tmp_path: Path) -> None:
    # Of the plain CAM; that RCA's are above it is in test_shapes_gain, on enough images to say so.
    miou = {}
    for name, settings in {"random": ("cls.epochs=1", "cls.lr=1e-9", "cls.head_lr=1e-9"), "trained": BY_HEART}.items():
        run = undisturbed.copy(tmp_path / name, until="train-cls")
        for command in (["train-cls", *assign("cls.method=cam", *settings)], ["make-pseudo"], ["eval", "--json"]):
            done = rca(*command, "--run", run)
            assert done.code == 0, done.err
        miou[name] = json.loads(done.out)["cam"]["miou"]
    assert miou["trained"] > miou["random"] + 0.03
    assert training_map(tmp_path / "trained") > 0.95


def test_rca_learns_the_tags(rca: Callable[..., Result], undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    assert rca("train-cls", *assign(*BY_HEART), "--run", run).code == 0
    assert training_map(run) > 0.95


def training_map(run: Path) -> float:
    """mAP of the tags of the training images."""
    here = Run(run)
    config, (classes, samples) = here.read_config(), read_data(here)
    world = World(torch.device("cpu"), None)
    found = validate(
        load_cls(here, config, world), split(samples, "train"), Path(config.data.root), classes.num_classes, config=config, world=world
    )
    assert found is not None
    return found


def test_without_contrast_and_aggregation_the_memory_changes_nothing() -> None:
    # The same weights and batches, trained with a memory that is written and with one that is not: equal to the bit.
    tags = torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]])
    ends = []
    for confidence in (0.0, 1.0):
        made = Config().model_dump()
        made["cls"] |= {"backbone": "tiny", "weights": "none", "output_stride": 8, "freeze_bn": False}
        made["memory"] |= {"contrast_weight": 0.0, "prototypes": 0, "confidence": confidence}
        config = Config.model_validate(made)
        torch.manual_seed(0)
        model = cls_network(config, tags > 0, pretrained=False).train()
        optimizer = make_optimizer(model, config.cls)
        for step in range(5):
            images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))
            state = StepState(3, torch.Generator().manual_seed(1), Intake(torch.zeros(3, dtype=torch.long)))
            loss = step_loss(model, (images, tags, torch.arange(4)), config, state)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append({name: value.clone() for name, value in model.named_parameters()})
        assert bool((model.memory.visits > 0).any()) == (confidence == 0)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def literal_cam(features: nn.Module, heads: list[Tensor], images: Tensor, tags: Tensor) -> Tensor:
    """The loss of a plain CAM with two linear heads on the same features, the second of which has an input of zeros, too."""
    maps = features(images)
    p = F.conv2d(maps, heads[0]).mean(dim=(2, 3))
    o = F.conv2d(torch.cat([torch.zeros_like(maps), maps], dim=1), heads[1]).mean(dim=(2, 3))
    return F.multilabel_soft_margin_loss(o, tags) + 0.4 * F.multilabel_soft_margin_loss(p, tags)


def test_without_contrast_and_aggregation_it_is_a_plain_cam_to_the_bit() -> None:
    # Against a training without any memory, written out with torch alone.
    tags = torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]])
    made = Config().model_dump()
    made["cls"] |= {"backbone": "tiny", "weights": "none", "output_stride": 8, "freeze_bn": False, "p_weight": 0.4}
    made["memory"] |= {"contrast_weight": 0.0, "prototypes": 0, "confidence": 0.0}
    config = Config.model_validate(made)
    torch.manual_seed(0)
    model = cls_network(config, tags > 0, pretrained=False).train()
    features = copy.deepcopy(model.backbone)
    heads = [nn.Parameter(head.detach().clone()) for head in model.heads()]
    optimizer = make_optimizer(model, config.cls)
    groups = {1: [], 2: []}
    for parameter in features.parameters():
        groups[1 if parameter.ndim > 1 else 2].append(parameter)
    lr, head_lr, decay = config.cls.lr, config.cls.head_lr, config.cls.weight_decay
    plain = torch.optim.SGD(
        [
            {"params": groups[1], "lr": lr, "weight_decay": decay},
            {"params": groups[2], "lr": 2 * lr, "weight_decay": 0},
            {"params": heads, "lr": head_lr, "weight_decay": decay},
        ],
        momentum=config.cls.momentum,
    )
    for step in range(6):
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        state = StepState(3, torch.Generator().manual_seed(1), Intake(torch.zeros(3, dtype=torch.long)))
        loss = step_loss(model, (images, tags, torch.arange(4)), config, state)["loss"]
        expected = literal_cam(features, heads, images, tags)
        assert torch.equal(loss, expected), step
        for one, found in ((optimizer, loss), (plain, expected)):
            one.zero_grad()
            found.backward()
            one.step()
    assert bool((model.memory.visits > 0).any())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), [*features.parameters(), *heads], strict=True))


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2, 3]), (2, [2, 3])])
def test_tags_are_measured_as_often_as_told(
    rca: Callable[..., Result], undisturbed: TinyRun, tmp_path: Path, every: int, expected: list[int]
) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    assert rca("train-cls", "--run", run, *assign("cls.epochs=3", f"cls.validate_every={every}")).code == 0
    lines = [json.loads(line) for line in (run / "train-cls" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line.get("val_map") is not None] == expected
    assert (record(run, "train-cls")["info"]["val_map"] is None) == (every == 0)
    weights = torch.load(run / "train-cls" / "final.pt", weights_only=True)["model"]
    same = torch.load(undisturbed.path / "train-cls" / "final.pt", weights_only=True)["model"]
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
