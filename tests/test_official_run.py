"""The released code's training as a run: schedule and order of photos reach it, it resumes exactly, and its maps become CAMs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result
from tiny_run import TinyRun, assign, digests

from rcatool.data.loaders import EpochBatches
from rcatool.run import Run
from rcatool.stages import train_cls

SETTINGS = assign(
    "cls.method=official", "cls.head=grouped", "cls.head_width=6", "cls.resize_square=true", "cls.shuffle=false", "cls.flip=false",
    "cls.nesterov=true", "cls.decay_all=true", "cls.schedule=step", "cls.step_epochs=[1,2]", "memory.size=5", "memory.momentum=0.9",
    "cls.lr=0.01", "cls.head_lr=0.02", "memory.confidence=0.4", "runtime.log_every=1",
)  # fmt: skip


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "train-cls" / "log.jsonl").read_text().splitlines()]


def test_a_run_and_its_resumption(
    rca: Callable[..., Result], undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = (undisturbed.copy(tmp_path / name, until="train-cls") for name in ("straight", "broken"))
    orders: list[bool] = []
    start = EpochBatches.__init__

    def remember(self: EpochBatches, *args: int, **options: bool) -> None:
        orders.append(options["shuffle"])
        start(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(EpochBatches, "__init__", remember)
        done = rca("make-pseudo", "--run", straight)
        assert done.code == 4  # there is no network yet
        assert rca("train-cls", "--run", straight, *SETTINGS).code == 0
    assert orders == [False]
    steps = [line for line in log_of(straight) if "lr" in line]
    rates = {round(line["lr"], 8) for line in steps}
    assert {round(rate * factor, 8) for rate in (0.01, 0.02) for factor in (1, 0.1, 0.01)} >= rates
    assert len(rates) == 3
    assert any("loss_contrast" in line for line in steps)
    memory = torch.load(straight / "train-cls" / "final.pt", weights_only=True)["model"]
    assert bool((memory["memory.visits"] > 1).any())
    assert rca("make-pseudo", "--run", straight).code == 0
    assert rca("inspect", "memory", "--run", straight, "--photos", "4").code == 0
    assert (straight / "memory.png").exists()

    validate, seen = train_cls.validate, []

    def stop(*args: object, **options: object) -> float | None:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return validate(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(train_cls, "validate", stop)
        assert rca("train-cls", "--run", broken, *SETTINGS).code == 130
    assert rca("train-cls", "--run", broken).code == 0
    assert digests(broken)["train-cls"] == digests(straight)["train-cls"]
    assert Run(broken).read_config().cls.method == "official"


def test_grouped_heads_in_the_method_itself(rca: Callable[..., Result], undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    settings = assign("cls.head=grouped", "cls.head_width=4", "cls.epochs=2", "cls.head_lr=0.02")
    assert rca("train-cls", "--run", run, *settings).code == 0
    state = torch.load(run / "train-cls" / "final.pt", weights_only=True)["model"]
    classes = len(json.loads((run / "prepare" / "classes.json").read_text())["names"])
    assert state[f"o_head.{classes - 1}.0.weight"].shape == (4, 2 * 96, 3, 3)
    assert f"o_head.{classes}.0.weight" not in state
    assert state["p_head.0.weight"].shape == (4, 96, 3, 3)
    assert rca("make-pseudo", "--run", run).code == 0
