"""Reads the pickled dict inside a .npy file without running what is in it.

A pickle is a program that names functions to call, so none is looked up here: the few names that NumPy and torch write lead to
the stand-ins below, any other is refused.
"""

import math
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

# Versions 1 and 2 of the format, with the length of the description in 2 or 4 bytes.
HEADER = re.compile(
    rb"\x93NUMPY(\x01\x00..|\x02\x00....)\{'descr': '\|?O', 'fortran_order': (True|False), 'shape': \(\), ?\} *\n", re.DOTALL
)
PLAIN = re.compile(r"[|<>=]?(b1|[iu][1248]|f[248]|O8?)")
# Everything that protocols 2 to 4 need for dicts, lists, strings, numbers and arrays; not: INST, OBJ, NEWOBJ, PERSID, EXT.
OPCODES = frozenset(
    {
        "PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
        "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
        "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
        "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
        "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS",
    }
)  # fmt: skip
STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
STORAGE_MAGIC = 0x1950A86A20F9469CFC6C  # torch's mark of a storage saved by itself
BROKEN = (
    pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, MemoryError, RecursionError,
    struct.error,
)  # fmt: skip


class _Dtype:
    """Stands for numpy.dtype: the code of a plain number, or of an object."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not PLAIN.fullmatch(code):
            raise ValueError(f"values of type {code!r}")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, subarray, names, fields = state[1:5]
        if order not in ("|", "<", ">", "=") or (subarray, names, fields) != (None, None, None):
            raise ValueError("structured values")
        self.code = order + self.code.lstrip("|<>=")


class Array:
    """Stands for numpy.ndarray: `value` is the array, or the object that a 0-dimensional array of objects holds."""

    value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_column, content = state
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array without a type")
        if "O" in dtype.code:
            if not isinstance(content, list) or len(content) != 1:
                raise ValueError("an array of several objects")
            self.value = content[0]
            return
        raw = _encode(content, "latin1") if isinstance(content, str) else content  # str: written by Python 2
        self.value = np.frombuffer(raw, dtype=dtype.code).reshape(shape, order="F" if by_column else "C")


def _reconstruct(*_: object) -> Array:
    return Array()


def _scalar(dtype: _Dtype, content: bytes | str) -> Any:
    raw = _encode(content, "latin1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype=dtype.code)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"text encoded as {encoding!r}")
    return text.encode("latin-1")


def _storage(content: bytes) -> np.ndarray:
    """Stands for torch.storage._load_from_bytes: the numbers (n,) of a storage, which torch saves as five pickles and their bytes."""
    file = BytesIO(content)
    magic, _, about, place, names = [_load_storage_part(content, file) for _ in range(5)]
    kind, code, name, *_ = place
    if magic != STORAGE_MAGIC or kind != "storage" or names != [name] or not about.get("little_endian"):
        raise ValueError("a tensor stored in an unknown way")
    count, raw = int.from_bytes(file.read(8), "little"), file.read()
    values = np.frombuffer(raw, dtype=code)
    if len(values) != count:
        raise ValueError(f"a tensor of {count} values with the bytes of {len(values)}")
    return values


def _load_storage_part(content: bytes, file: BytesIO) -> Any:
    start = file.tell()
    for _ in pickletools.genops(file):  # one pickle after the other: this finds where it ends
        pass
    part = content[start : file.tell()]
    _check_opcodes(part, OPCODES | {"BINPERSID"})
    return _StorageReader(BytesIO(part), fix_imports=False).load()


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> np.ndarray:
    """Stands for torch._utils._rebuild_tensor_v2."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= len(storage)) or math.prod(size) > len(storage):
        raise ValueError("a tensor beyond its storage")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False).copy()


def _no_hooks(*arguments: object) -> dict[str, Any]:
    """Stands for collections.OrderedDict, which a tensor has for its (never stored) hooks."""
    if arguments:
        raise ValueError("an OrderedDict that is not empty")
    return {}


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("collections", "OrderedDict"): _no_hooks,
}


class _Reader(pickle.Unpickler):
    """An unpickler that can reach the stand-ins only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return ALLOWED[module, name]


class _StorageReader(pickle.Unpickler):
    """An unpickler that can reach the names of torch's storages only, and leaves the description of a storage as it is."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in ("torch", "torch.cuda") or name not in STORAGES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return STORAGES[name]

    def persistent_load(self, description: Any) -> Any:
        return description


def read_dict(data: bytes) -> dict[Any, Any]:
    """Return the dict that a .npy file's bytes hold; one of BROKEN where they hold anything else."""
    header = HEADER.match(data)
    if header is None:
        raise ValueError("not a .npy file of one object")
    program = data[header.end() :]
    _check_opcodes(program)
    found = _Reader(BytesIO(program), fix_imports=False, encoding="latin1").load()
    if not isinstance(found, Array) or not isinstance(found.value, dict):
        raise ValueError("it holds no dict")
    return found.value


def _check_opcodes(program: bytes, allowed: frozenset[str] = OPCODES) -> None:
    """ValueError where a pickle does anything but build plain data."""
    stack = _Stack()
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name not in allowed:
            raise ValueError(f"it uses {opcode.name}, which is refused")
        # The unpickler reserves memory up to the highest place named.
        if opcode.name == "LONG_BINPUT" and (argument or 0) > len(program):
            raise ValueError("a place beyond the end of the file")
        stack.follow(opcode, argument)


class _Stack:
    """What an unpickler would have on its stack, but for each value only whether it is a tuple.

    It finds tuples that are keys of a dict. To look a key up is to hash it, and that goes through all that is in a tuple: of a
    million tuples, one in the other, it crashes the process; of forty that hold the one before twice, it never ends.
    """

    def __init__(self) -> None:
        self._values: list[bool] = []
        self._marks: list[int] = []
        self._places: dict[int, bool] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do what an opcode does; ValueError where it makes a tuple a key, LookupError where it takes what is not there."""
        name = opcode.name
        if name == "MARK":
            self._marks.append(len(self._values))
        elif name in ("BINGET", "LONG_BINGET"):
            self._values.append(self._places[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._places[len(self._places) if argument is None else argument] = self._values[-1]
        else:
            taken = self._take(opcode)
            if (name == "SETITEM" and taken[1]) or (name == "SETITEMS" and any(taken[1::2])):
                raise ValueError("a tuple as the key of a dict")
            self._values += [name in ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")] * len(opcode.stack_after)

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[bool]:
        number = len(opcode.stack_before)
        place = len(self._values) - number
        if number and opcode.stack_before[-1] is pickletools.stackslice:  # all down to the last mark, and what is below that
            place = self._marks.pop() - (number - 2)
        if place < (self._marks[-1] if self._marks else 0):
            raise IndexError("it takes more than there is")
        taken = self._values[place:]
        del self._values[place:]
        return taken
