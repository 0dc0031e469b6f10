"""Where the arithmetic runs: one device and its precision, passed explicitly to whoever computes."""

import contextlib
import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from rcatool import process
from rcatool.errors import SetupError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class World:
    """A device, the dtype of its autocast (None: float32 throughout), and whether only operations that repeat themselves are used."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    deterministic: bool = False

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The context that forward passes run in."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def place(self, model: M) -> M:
        """Move a network to the device, its weights in the layout that convolutions are fastest in (a third, on a CPU)."""
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def describe(self) -> dict[str, str | int]:
        """What a step's record says of the device: its name and, on CUDA, the most of its memory used so far, in MiB."""
        several: dict[str, str | int] = {"processes": process.size()} if process.size() > 1 else {}
        if self.device.type != "cuda":
            return {"device": str(self.device), **several}
        used = torch.cuda.max_memory_allocated(self.device) // 2**20
        return {"device": str(self.device), **several, "deterministic": self.deterministic, "peak_gpu_memory_mib": used}


def make_world(*, device: str, precision: str, deterministic: bool = False) -> World:
    """Resolve `runtime.device`, `runtime.precision` and `runtime.deterministic`; raises `SetupError` for a device that is not there.

    bf16 needs no loss scaling, hence `auto` takes it wherever the GPU computes it natively (capability 8 and up).
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and process.size() > 1:
        device = f"cuda:{process.local_rank()}"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise SetupError(f"runtime.device: {device!r} is not a device", hint="--device auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise SetupError(f"runtime.device: {device!r} is not supported", hint="--device auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise SetupError(f"runtime.device: no CUDA device {device!r} on this machine", hint="--device cpu, or see `rca doctor`")
    if chosen.type == "cuda" and process.size() > 1:
        if chosen.index != process.local_rank():
            raise SetupError(f"runtime.device: {device} for {process.local_size()} processes, each of which needs its own", "--device cuda")
        torch.cuda.set_device(chosen)
    bf16 = precision == "bf16" or (precision == "auto" and chosen.type == "cuda" and torch.cuda.get_device_capability(chosen)[0] >= 8)
    if deterministic and chosen.type == "cuda":
        only_deterministic()
    return World(chosen, torch.bfloat16 if bf16 else None, deterministic)


def only_deterministic() -> None:
    """Let this process use no CUDA operation whose bytes differ from call to call; one that has no other kind fails from now on.

    On a CPU there is nothing to switch off. It must come before the first product of matrices on the GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts; without it, it may add up in any order
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)
