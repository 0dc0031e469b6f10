"""Batch norm over the whole batch where several processes have shares of it: their statistics are those of one process."""

import torch
from torch import Tensor, nn

from rcatool.errors import ConfigError
from rcatool.ranks import shared_sum, size


class SyncedBatchNorm(nn.BatchNorm2d):
    """As `nn.BatchNorm2d` of the batch of all processes together; the same parameters and buffers. Any device, shares of any size."""

    def forward(self, input: Tensor) -> Tensor:
        """Features (B, D, h, w); mean and variance in float32, the variance about the common mean."""
        if not self.training:
            return super().forward(input)
        wide = input.float()
        places = shared_sum(wide.new_full((), wide.numel() // wide.shape[1]))
        mean = shared_sum(wide.sum(dim=(0, 2, 3))) / places
        centred = wide - mean[:, None, None]
        variance = shared_sum(centred.square().sum(dim=(0, 2, 3))) / places
        self._remember(mean, variance * places / (places - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def sync_batch_norm(model: nn.Module, *, setting: str) -> None:
    """With several processes, let every batch norm of `model` that is trained see the whole batch; to be called in training mode.

    Raises ConfigError naming `setting`, which freezes them, for a kind that this is not known of.
    """
    if size() == 1:
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm  # parameters, buffers and their names stay
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SyncedBatchNorm) and module.training:
            raise ConfigError(f"{setting}: {type(module).__name__} cannot be trained in several processes", f"--set {setting}=true")
