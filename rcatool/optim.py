"""SGD parameter groups and learning-rate schedules."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn


def sgd(
    model: nn.Module,
    heads: Iterable[nn.Parameter],
    *,
    lr: float,
    head_lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    decay_all: bool = False,
) -> torch.optim.SGD:
    """SGD over the trainable parameters of `model`: backbone at `lr`, `heads` at `head_lr`, biases at twice that, undecayed.

    The factor 2 and the missing decay on biases are the field's custom (spec 3.4). Each group remembers its starting
    rate as `initial_lr`. Batch-norm parameters count as biases; with `decay_all`, the released code's custom (spec 2.1),
    everything decays and a batch norm's scale counts as a weight.
    """
    head_ids = {id(parameter) for parameter in heads}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            bias = name.endswith("bias") if decay_all else parameter.ndim < 2
            groups.setdefault((id(parameter) in head_ids, bias), []).append(parameter)
    return torch.optim.SGD(
        [
            {
                "params": parameters,
                "lr": (head_lr if head else lr) * (2 if bias else 1),
                "initial_lr": (head_lr if head else lr) * (2 if bias else 1),
                "weight_decay": 0.0 if bias and not decay_all else weight_decay,
            }
            for (head, bias), parameters in groups.items()
        ],
        momentum=momentum,
        nesterov=nesterov,
    )


def poly(step: int, total: int, power: float, *, every: int = 1) -> float:
    """Factor of the learning rate at `step` of `total`: (1 - step / total) ^ power, renewed at every so many steps."""
    return (1 - min(step - step % every, total) / total) ** power


def step_decay(epoch: int, epochs: Sequence[int]) -> float:
    """Factor of the learning rate in `epoch`: a tenth for each of `epochs` that has come."""
    return float(0.1 ** sum(epoch >= point for point in epochs))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate to `factor` of its start."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
