"""SGD parameter groups and the poly learning-rate schedule."""

from collections.abc import Iterable

import torch
from torch import nn


def sgd(
    model: nn.Module, heads: Iterable[nn.Parameter], *, lr: float, head_lr: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """SGD over the trainable parameters of `model`: backbone at `lr`, `heads` at `head_lr`, biases at twice that, undecayed.

    The factor 2 and the missing decay on biases are the field's custom (spec 3.4). Each group remembers its starting
    rate as `initial_lr`. Batch-norm parameters count as biases.
    """
    head_ids = {id(parameter) for parameter in heads}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in head_ids, parameter.ndim < 2), []).append(parameter)
    return torch.optim.SGD(
        [
            {
                "params": parameters,
                "lr": (head_lr if head else lr) * (2 if bias else 1),
                "initial_lr": (head_lr if head else lr) * (2 if bias else 1),
                "weight_decay": 0.0 if bias else weight_decay,
            }
            for (head, bias), parameters in groups.items()
        ],
        momentum=momentum,
    )


def poly(step: int, total: int, power: float) -> float:
    """Factor of the learning rate at `step` of `total`: (1 - step / total) ^ power."""
    return (1 - min(step, total) / total) ** power


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate to `factor` of its start."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
