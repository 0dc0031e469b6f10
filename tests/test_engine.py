"""The training loop against one written out with torch alone; log lines; losses that are not finite; devices."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rcatool.checkpoint import resume_training, save_training
from rcatool.engine import TrainLog, train_one_epoch
from rcatool.errors import SetupError, TrainingError
from rcatool.optim import poly, sgd
from rcatool.world import World, make_world

WORLD = World(torch.device("cpu"), None)
POWER = 0.9
Batch = tuple[Tensor, Tensor, Tensor]


class CountingBar:
    """A progress bar that remembers what it was told."""

    def __init__(self) -> None:
        self.count = 0
        self.notes: list[str] = []

    def advance(self, n: int = 1, note: str = "") -> None:
        self.count += n
        self.notes += [note] if note else []


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(images)).mean(dim=(2, 3))
        return scores


def batches(epoch: int, count: int = 5) -> list[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    sizes = [4] * (count - 1) + [2]  # the last batch is smaller
    return [
        (torch.randn(n, 3, 6, 6, generator=generator), torch.randint(2, (n,), generator=generator), torch.arange(n)) for n in sizes
    ]


class Setup:
    """A network, its optimizer and a log in a folder."""

    def __init__(self, folder: Path, *, every: int = 2) -> None:
        self.model = WORLD.place(Net())
        self.optimizer = sgd(self.model, self.model.head.parameters(), lr=0.05, head_lr=0.1, momentum=0.9, weight_decay=1e-3)
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.bar = TrainLog(folder / "log.jsonl", every=every), CountingBar()
        self.poison: int | None = None  # step whose loss is not a number
        self.steps = 0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        if self.steps == self.poison:
            loss = loss * float("nan")
        self.steps += 1
        return {"loss": loss, "twice": 2 * loss}

    def train(self, epoch: int, epochs: int = 3) -> None:
        data = batches(epoch)
        schedule = (epoch * len(data), lambda step: poly(step, epochs * len(data), POWER))
        train_one_epoch(self.model, self.loss, data, self.optimizer, schedule=schedule, world=WORLD, log=self.log, bar=self.bar)

    def lines(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in self.log.path.read_text().splitlines()]


def values(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_two_epochs_equal_a_loop_of_torchs(tmp_path: Path) -> None:
    ours = Setup(tmp_path)
    for epoch in range(2):
        ours.train(epoch, epochs=2)
    model = Net()
    groups = [
        {"params": [model.body[0].weight], "lr": 0.05, "weight_decay": 1e-3},
        {"params": [model.body[0].bias, *model.body[1].parameters()], "lr": 0.1, "weight_decay": 0},
        {"params": [model.head.weight], "lr": 0.1, "weight_decay": 1e-3},
        {"params": [model.head.bias], "lr": 0.2, "weight_decay": 0},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=10, power=POWER)
    losses = []
    for images, targets, _ in batches(0) + batches(1):
        loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    for key, value in values(ours.model).items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-4, atol=1e-5, msg=key)
    # A line per two steps and one at the end of each epoch, with the mean since the last.
    spans = [(0, 2), (2, 4), (4, 5), (5, 7), (7, 9), (9, 10)]
    assert [line["step"] for line in ours.lines()] == [end for _, end in spans]
    assert [line["loss"] for line in ours.lines()] == pytest.approx([sum(losses[a:b]) / (b - a) for a, b in spans], abs=1e-4)
    assert [line["twice"] for line in ours.lines()] == pytest.approx([2 * line["loss"] for line in ours.lines()], abs=1e-5)
    assert ours.bar.count == sum(len(images) for images, _, _ in batches(0) + batches(1))
    assert ours.bar.notes[-1] == f"loss {ours.lines()[-1]['loss']:.4f}"


@pytest.mark.parametrize("stop", [1, 2])
def test_resumed_training_is_the_same_bit_for_bit(stop: int, tmp_path: Path) -> None:
    whole = Setup(tmp_path / "whole")
    for epoch in range(3):
        whole.train(epoch)
    first = Setup(tmp_path / "parts")
    for epoch in range(stop):
        first.train(epoch)
    save_training(tmp_path / "last.pt", first.model, first.optimizer, stop)
    second = Setup(tmp_path / "parts")
    with torch.no_grad():
        second.model.head.weight.fill_(7)
    start = resume_training(tmp_path / "last.pt", second.model, second.optimizer)
    assert start == stop
    for epoch in range(start, 3):
        second.train(epoch)
    expected = values(whole.model)
    assert all(torch.equal(value, expected[key]) for key, value in values(second.model).items())


def test_same_seed_same_course(tmp_path: Path) -> None:
    first, second = Setup(tmp_path / "a", every=1), Setup(tmp_path / "b", every=1)
    for setup in (first, second):
        setup.train(0)
    assert [line["loss"] for line in first.lines()] == [line["loss"] for line in second.lines()]


@pytest.mark.parametrize(("poison", "every", "noticed"), [(0, 1, 1), (2, 2, 4), (4, 100, 5)])
def test_a_loss_that_is_not_finite_stops_training(poison: int, every: int, noticed: int, tmp_path: Path) -> None:
    setup = Setup(tmp_path, every=every)
    setup.poison = poison
    with pytest.raises(TrainingError, match=r"loss is not finite at step \d+ \(loss=nan, twice=nan\)") as caught:
        setup.train(0)
    assert setup.steps == noticed  # at the next line of the log
    assert "cls.lr" in str(caught.value.hint)


def test_log_takes_lines_of_its_own(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.jsonl", every=2)
    assert [log.add({"a": torch.tensor(value)}) for value in (1.0, 2.0)] == [False, True]
    assert log.flush(step=2) == {"a": 1.5}
    log.write(epoch=1, val_map=None)
    assert not log.add({"a": torch.tensor(5.0)})
    assert log.flush(step=3) == {"a": 5.0}
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [{"step": 2, "a": 1.5}, {"epoch": 1, "val_map": None}, {"step": 3, "a": 5.0}]


@pytest.mark.parametrize(
    ("device", "message"),
    [("toaster", "'toaster' is not a device"), ("meta", "'meta' is not supported"), ("cuda:99", "no CUDA device 'cuda:99'")],
)
def test_devices_that_are_not_there(device: str, message: str) -> None:
    with pytest.raises(SetupError, match=rf"runtime\.device: .*{message}"):
        make_world(device=device, precision="auto")


@pytest.mark.parametrize(("precision", "dtype"), [("auto", None), ("fp32", None), ("bf16", torch.bfloat16)])
def test_precision_on_a_cpu(precision: str, dtype: torch.dtype | None) -> None:
    world = make_world(device="cpu", precision=precision)
    assert world == World(torch.device("cpu"), dtype)
    with world.autocast():
        assert nn.functional.linear(torch.ones(1, 2), torch.ones(1, 2)).dtype == (dtype or torch.float32)
    assert world.describe() == {"device": "cpu"}
