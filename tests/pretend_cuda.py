"""A GPU for machines without one: tensors that say they are on `cuda:0` and keep their values in main memory.

What a real one refuses is refused here, too: operands on two devices, `numpy()` of what was not brought back, a generator of another
device. For code without gradients; training has torch's meta device (test_no_waiting).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU = torch.device("cuda:0")
aten = torch.ops.aten
# Index tensors and, with index_put, values without dimensions may be on the CPU: torch moves them.
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default, aten._unsafe_index.Tensor}
_COPIES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}


class OnGpu(Tensor):
    """A tensor that is on the pretended GPU; `inner` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGpu":
        made: OnGpu = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=GPU
        )
        made.inner = inner
        return made

    def __init__(self, inner: Tensor) -> None: ...

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.inner!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return _WITHOUT_DRIVER.get(func, func)(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _get(one: Tensor, key: Any) -> Tensor:
    found = _inner(one)[_indices(one, key)]
    return OnGpu(found) if isinstance(one, OnGpu) else found


def _set(one: Tensor, key: Any, value: Any) -> None:
    if isinstance(value, Tensor) and value.dim() and isinstance(value, OnGpu) != isinstance(one, OnGpu):
        raise RuntimeError("an assignment between two devices")
    _inner(one)[_indices(one, key)] = _inner(value)


def _indices(one: Tensor, key: Any) -> Any:
    if not isinstance(one, OnGpu) and any(isinstance(index, OnGpu) for index in tree_flatten(key)[0]):
        raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
    return tree_map(_inner, key)


def _inner(one: Any) -> Any:
    return one.inner if isinstance(one, OnGpu) else one


def _to(one: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    return one.to(*args, **kwargs)


def _contiguous(one: Tensor, *, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    return one if one.is_contiguous(memory_format=memory_format) else one.clone(memory_format=memory_format)


# What torch does for Python before it hands an operation on: it would ask the driver for the device.
_WITHOUT_DRIVER: dict[Any, Callable[..., Any]] = {
    Tensor.__getitem__: _get, Tensor.__setitem__: _set, Tensor.to: _to, Tensor.__invert__: torch.bitwise_not, Tensor.nonzero: aten.nonzero,
    Tensor.__float__: lambda one: float(one.inner), Tensor.__int__: lambda one: int(one.inner),
    Tensor.__index__: lambda one: int(one.inner), Tensor.contiguous: _contiguous, Tensor.tolist: lambda one: one.inner.tolist(),
}  # fmt: skip


class _Factories(TorchDispatchMode):
    """Makes tensors on the pretended GPU where the code asks for `cuda`, and sees every operation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is aten._has_compatible_shallow_copy_type.default:
        return False  # so that Module.to makes parameters of our kind
    flat, shape = tree_flatten((args, kwargs))
    tensors = [one for one in flat if isinstance(one, Tensor)]
    there = [one for one in tensors if isinstance(one, OnGpu)]
    asked = next((one for one in flat if isinstance(one, torch.device)), None)
    goes_there = asked.type == "cuda" if asked is not None else bool(there)
    if func not in _COPIES:
        _check_one_device(func, args, tensors, there)
    if isinstance(generator := kwargs.get("generator"), torch.Generator) and goes_there != (generator.device.type == "cuda"):
        raise RuntimeError(f"{func}: expected a generator of the tensor's device, found one of {generator.device}")
    plain_args, plain_kwargs = tree_unflatten([_plain(one) for one in flat], shape)
    plain_kwargs.pop("pin_memory", None)
    found = func(*plain_args, **plain_kwargs)
    if func is aten.copy_.default:
        return args[0]
    if not goes_there:
        return found
    wrapped = tree_map(lambda one: OnGpu(one) if isinstance(one, Tensor) and not isinstance(one, OnGpu) else one, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


def _plain(one: Any) -> Any:
    return torch.device("cpu") if isinstance(one, torch.device) else _inner(one)


def _check_one_device(func: Any, args: Any, tensors: list[Tensor], there: list[OnGpu]) -> None:
    """RuntimeError as torch's, where an operation has operands on both devices and is none that moves them by itself."""
    if not there or len(there) == len(tensors):
        return
    here = [one for one in tensors if not isinstance(one, OnGpu) and one.dim()]
    if func in _INDEXING and isinstance(args[0], OnGpu):
        here = [one for one in here if not any(one is index for index in args[1] or ())]
    if here:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu")


def _made_and_moved(make: Callable[..., Tensor], data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
    if device is None or isinstance(data, OnGpu):
        return make(data, **kwargs)
    return make(data, **kwargs).to(device)


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The context in which torch finds one GPU."""
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True, "device_count": lambda: 1, "_lazy_init": lambda: None, "get_device_capability": lambda *_: (9, 0),
        "current_device": lambda: 0, "max_memory_allocated": lambda *_: 0, "reset_peak_memory_stats": lambda *_: None,
        "synchronize": lambda *_: None, "is_bf16_supported": lambda *_, **__: True, "get_device_name": lambda *_: "a pretended GPU",
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    for name in ("tensor", "as_tensor"):  # torch's own would ask the driver for the device
        monkeypatch.setattr(torch, name, partial(_made_and_moved, getattr(torch, name)))
    monkeypatch.setattr(Tensor, "pin_memory", lambda self, *_: self)
    with _Factories(), torch.inference_mode():
        yield
