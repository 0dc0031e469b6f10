"""Weight files of other programs, read without executing anything in them: PyTorch, safetensors, and MXNet's parameter lists."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcatool.checkpoint import load_state
from rcatool.errors import DataError
from rcatool.files import plain

# MXNet: a list of arrays, then a list of their names; all numbers little-endian (the layout of NDArray::Save).
_LIST_MAGIC = 0x112
_ARRAY_MAGICS = {0xF993FAC8: 1, 0xF993FAC9: 2, 0xF993FACA: 3}  # before 1, the number of dimensions stood where the magic is
_TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
_MOST_DIMENSIONS = 8
# What a checkpoint may hold its state dict under.
_NESTED = ("state_dict", "model", "model_state_dict")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU.

    A PyTorch checkpoint may hold them under `state_dict` or `model`, with `module.` before each name. Raises `DataError`
    naming the file if it is missing, broken, or holds anything else.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file", hint="weights are imagenet, none, or the path of a state dict")
    if is_mxnet(path):
        return read_mxnet(path)
    state: Any = _read_safetensors(path) if path.suffix == ".safetensors" else load_state(path)
    state = next((state[key] for key in _NESTED if isinstance(state.get(key), Mapping)), state)
    if not state or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise DataError(f"{path}: not a state dict (names to tensors)")
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix): value for key, value in state.items()}


def is_mxnet(path: Path) -> bool:
    """Whether a file starts like MXNet's list of arrays."""
    try:
        with plain(path).open("rb") as file:
            return file.read(16) == _LIST_MAGIC.to_bytes(8, "little") + bytes(8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_mxnet(path: Path) -> dict[str, Tensor]:
    """The arrays of an MXNet parameter file by name (`arg:conv1a_weight`). Raises `DataError` naming the file if it is broken."""
    try:
        reader = _Reader(np.memmap(path, np.uint8, "r"))
        reader.whole(8), reader.whole(8)
        arrays = [_array(reader) for _ in range(reader.count(least=4))]
        names = [bytes(reader.take(reader.whole(8))).decode() for _ in range(reader.count(least=8))]
        if len(names) != len(arrays) or len(set(names)) < len(names):
            raise ValueError(f"{len(arrays)} arrays with {len(set(names))} names")
        if reader.left:
            raise ValueError(f"{reader.left} bytes too many")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{path}: not a whole MXNet parameter file ({error})") from error
    return dict(zip(names, arrays, strict=True))


class _Reader:
    """Takes pieces off the front of some bytes; ValueError where there are not as many."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.place = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def take(self, size: int) -> np.ndarray:
        if size > self.left:
            raise ValueError(f"it ends at byte {len(self.data)}, {size - self.left} too early")
        self.place += size
        return self.data[self.place - size : self.place]

    def whole(self, size: int) -> int:
        return int.from_bytes(self.take(size).tobytes(), "little")

    def count(self, *, least: int) -> int:
        """The number of things that follow, each of `least` bytes at the least."""
        count = self.whole(8)
        if count * least > self.left:
            raise ValueError(f"it speaks of {count} arrays or names, for which it is too short")
        return count


def _array(reader: _Reader) -> Tensor:
    """One array: what it is stored as, shape, device, type of its numbers, numbers."""
    magic = reader.whole(4)
    version = _ARRAY_MAGICS.get(magic, 0)
    if version >= 2 and reader.whole(4) != 0:
        raise ValueError("a sparse array")
    dimensions = reader.whole(4) if version else magic
    if not 0 < dimensions <= _MOST_DIMENSIONS:
        raise ValueError(f"an array of {dimensions} dimensions")
    shape = [reader.whole(8 if version else 4) for _ in range(dimensions)]
    reader.take(8)  # the device that the array was on
    kind = reader.whole(4)
    if kind >= len(_TYPES):
        raise ValueError(f"numbers of the unknown type {kind}")
    dtype = np.dtype(_TYPES[kind])
    numbers = reader.take(math.prod(shape) * dtype.itemsize)
    return torch.from_numpy(np.frombuffer(numbers.tobytes(), dtype).reshape(shape).copy())


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    return read_safetensors(path)[0]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and the texts in its header. Raises `DataError` naming the file if it is broken."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(plain(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error})") from error


def safetensors_bytes(state: Mapping[str, Tensor], texts: Mapping[str, str] | None = None) -> bytes:
    """Some tensors as a safetensors file, with `texts` in its header."""
    from safetensors.torch import save

    return save({key: value.contiguous() for key, value in state.items()}, dict(texts) if texts else None)
