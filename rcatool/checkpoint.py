"""Training state on disk: tensors and plain values only, written atomically, read without executing pickles."""

import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rcatool.errors import DataError
from rcatool.files import atomic_save, plain

# What torch's restricted unpickler raises on a broken or foreign file; the odd ones come from flipped bytes.
_BROKEN = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, MemoryError,
    struct.error, pickle.UnpicklingError,
)  # fmt: skip


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values to `path`, whole or not at all."""
    atomic_save(path, lambda file: torch.save(state, file))


def load_state(path: Path) -> dict[str, Any]:
    """Read a dict written by `save_state` (or any plain state dict) onto the CPU.

    Raises `DataError` naming the file if it is missing, broken, or holds anything but tensors and plain values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of other programs, which are read or refused all the same
            state = torch.load(plain(path), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _BROKEN as error:  # torch's own message can be a number, or say how to execute the file all the same
        raise DataError(f"{path}: not a readable checkpoint (not whole, or holding more than tensors and plain values)") from error
    if not isinstance(state, dict):
        raise DataError(f"{path}: holds {type(state).__name__}, expected a dict")
    return state


def save_training(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, *, extra: nn.Module | None = None
) -> None:
    """Write what training needs to go on after `epoch` epochs; `extra` holds what a training keeps beside its network."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    save_state(path, state | ({"extra": extra.state_dict()} if extra is not None else {}))


def resume_training(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, extra: nn.Module | None = None
) -> int:
    """Fill model, optimizer and `extra` from `path`, if it is there, and return the number of epochs they have seen.

    Raises `DataError` if the file is broken or belongs to another training.
    """
    if not path.exists():
        return 0
    hint = "delete it, or run again with --force"
    try:
        state = load_state(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if extra is not None:
            extra.load_state_dict(state["extra"])
        return int(state["epoch"])
    except DataError as error:
        raise DataError(error.message, hint) from error
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a checkpoint of this training", hint) from error
