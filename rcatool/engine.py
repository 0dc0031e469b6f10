"""One epoch of training, the same for both networks; the epoch loop and the loss are the stage's.

Of several processes each sees its share of a batch, and their losses are that of the whole batch (`ranks`).
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rcatool.console import Bar
from rcatool.errors import TrainingError
from rcatool.files import write_error
from rcatool.optim import set_lr
from rcatool.ranks import average_gradients, rank, size
from rcatool.throughput import Waiting
from rcatool.world import World

LossFn = Callable[[tuple[Tensor, ...]], dict[str, Tensor]]


class TrainLog:
    """log.jsonl of a training step: one object per `every` steps with each scalar's mean since the last, over the steps that had it."""

    def __init__(self, path: Path, *, every: int, mirror: Callable[[dict[str, Any]], object] | None = None) -> None:
        """Append to `path`; `mirror` takes each object, too."""
        self.path, self.every, self._mirror = path, every, mirror
        self.last: dict[str, float] = {}  # the means of the last line
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        self._steps = 0

    def add(self, scalars: dict[str, Tensor]) -> bool:
        """Take the losses of a step (detached, still on the device); returns whether a line is due."""
        for name, value in scalars.items():
            self._sums[name] = self._sums.get(name, value.new_zeros(())) + value
            self._counts[name] += 1
        self._steps += 1
        return self._steps >= self.every

    def flush(self, **fields: Any) -> dict[str, float]:
        """Write one line with the means and `fields`, and return the means."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self.write(**fields, **means)
        self.last = means
        self._sums, self._steps = {}, 0
        self._counts.clear()
        return means

    def write(self, **fields: Any) -> None:
        """Append one object, in the first process. Raises `SetupError` if the disk is full."""
        if rank() > 0:
            return
        entry = {key: round(v, 6) if isinstance(v, float) else v for key, v in fields.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise write_error(self.path, error) from error
        if self._mirror is not None:
            self._mirror(entry)


def train_one_epoch(
    model: nn.Module,
    loss_fn: LossFn,
    loader: Iterable[tuple[Tensor, ...]],
    optimizer: torch.optim.Optimizer,
    *,
    schedule: tuple[int, Callable[[int], float]],
    world: World,
    log: TrainLog,
    bar: Bar,
    after_step: Callable[[], object] | None = None,
) -> None:
    """Train over `loader` once. `loss_fn` maps a batch to named losses, `loss` being what is minimised; of the batch, the images are on the
    device, the rest where the loader has put it, so that what can be known from it is known without waiting for a GPU.

    schedule = (steps done before this epoch, the factor of the learning rates at a step); `after_step` is called whenever the weights
    have changed. Raises `TrainingError` naming the step and the terms when the loss stops being finite (looked at once per log line, so
    that the device is not waited for).
    """
    done, rate = schedule
    waiting, note = Waiting(loader), ""
    for step, batch in enumerate(waiting, start=done):
        set_lr(optimizer, rate(step))
        images = batch[0].to(world.device, non_blocking=True, memory_format=torch.channels_last)
        with world.autocast():
            losses = loss_fn((images, *batch[1:]))
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        average_gradients(model)
        optimizer.step()
        if after_step is not None:
            after_step()
        last = step + 1 == done + len(loader)  # type: ignore[arg-type]
        if log.add({name: value.detach() for name, value in losses.items()}) or last:
            means = log.flush(step=step + 1, lr=optimizer.param_groups[0]["lr"], time=time.time(), waiting=round(waiting.share, 3))
            _check_finite(means, step)
            note = f"loss {means['loss']:.4f}{waiting.note}"
            waiting.restart()
        bar.advance(len(images) * size(), note=note)


def _check_finite(means: dict[str, float], step: int) -> None:
    bad = [f"{name}={value}" for name, value in means.items() if value - value != 0]
    if bad:
        raise TrainingError(
            f"the loss is not finite at step {step} ({', '.join(bad)})",
            hint="lower the learning rates (cls.lr, cls.head_lr; affinity.lr; seg.lr, seg.head_lr); training restarts from the last epoch",
        )
