"""A running average of a network's weights: steadier than the last step's, and a teacher for the network itself."""

import copy

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """A copy of a network, in eval mode, whose weights are the exponential moving average of the network's.

    The decay at update t is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten. Running statistics of batch norm
    are averaged with the weights; counters are copied.
    """

    updates: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # stays on the CPU: read at every update

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model` after a step."""
        self.updates += 1
        done = int(self.updates)
        share = 1 - min(self.decay, (1 + done) / (10 + done))
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
            else:
                average.copy_(value)
