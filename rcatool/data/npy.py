"""Reads `cls_labels.npy`, the tag file of most public repositories of the field, without running what is in it.

The file is a pickled dict, image id -> one number for each class. A pickle is a program that names functions to call,
so none is looked up here: the few names that NumPy writes lead to the stand-ins below, any other is refused.
"""

import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from rcatool.errors import DataError

MAX_BYTES = 256 * 2**20  # COCO's 123,287 photos x 80 classes take about 60 MiB
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
BROKEN = (pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, MemoryError, struct.error)


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


class _Array:
    """Stands for numpy.ndarray; `value` is the array, or the object that a 0-dimensional array of objects holds."""

    value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, content = state
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array without a type")
        if "O" in dtype.code:
            if not isinstance(content, list) or len(content) != 1:
                raise ValueError("an array of several objects")
            self.value = content[0]
            return
        raw = _encode(content, "latin1") if isinstance(content, str) else content  # str: written by Python 2
        self.value = np.frombuffer(raw, dtype=dtype.code).reshape(shape)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, content: bytes | str) -> Any:
    raw = _encode(content, "latin1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype=dtype.code)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"text encoded as {encoding!r}")
    return text.encode("latin-1")


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    """An unpickler that can reach the stand-ins only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return ALLOWED[module, name]


def read_tag_vectors(path: Path) -> dict[str, np.ndarray]:
    """Read image id -> one value for each class (float64, (C,)); DataError naming the file where it is anything else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: more than {MAX_BYTES >> 20} MiB, too large for a tag file")
        table = _read_dict(path.read_bytes())
        return {_text(key): _vector(value) for key, value in table.items()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except BROKEN as error:
        raise DataError(f"{path}: not a tag file of the form {{image id: one number for each class}} ({error})") from error


def _read_dict(data: bytes) -> dict[Any, Any]:
    """Return the dict that a .npy file's bytes hold; one of BROKEN where they hold anything else."""
    header = HEADER.match(data)
    if header is None:
        raise ValueError("not a .npy file of one object")
    program = data[header.end() :]
    _check_opcodes(program)
    found = _Reader(BytesIO(program), fix_imports=False, encoding="latin1").load()
    if not isinstance(found, _Array) or not isinstance(found.value, dict):
        raise ValueError("it holds no dict")
    return found.value


def _check_opcodes(program: bytes) -> None:
    """ValueError where a pickle does anything but build plain data."""
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name not in OPCODES:
            raise ValueError(f"it uses {opcode.name}, which is refused")
        # The unpickler reserves memory up to the highest place named.
        if opcode.name == "LONG_BINPUT" and (argument or 0) > len(program):
            raise ValueError("a place beyond the end of the file")


def _text(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    if not isinstance(key, str):
        raise ValueError(f"image id {key!r} is no text")
    return key


def _vector(value: object) -> np.ndarray:
    vector = np.asarray(value.value if isinstance(value, _Array) else value, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"a value of shape {vector.shape}")
    return vector
