"""One array out of a MATLAB 5 file: a field of a struct, as in SBD's masks.

Not scipy's reader: it crashed the process on damaged files, and reads the fields that nobody asked for. The format: elements
of a type, a length and content padded to 8 bytes; a matrix is an element made of elements (flags, dimensions, name, then its
content); an element may be deflated.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

MAX_INFLATED = 64 * 2**20  # bytes
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
INT8, INT32, MATRIX, DEFLATED = 1, 5, 14, 15
STRUCT = 2
NUMERIC = range(6, 16)  # classes of full (not sparse) matrices of numbers, double to uint64
COMPLEX = 0x800
VERSION = 0x0100
BROKEN = (ValueError, LookupError, StopIteration, OverflowError, struct.error, zlib.error)

Element = tuple[int, bytes]


def read_field(data: bytes, name: str, field: str) -> np.ndarray:
    """Return the matrix (H, W) of numbers in `field` of the struct `name` of a file's bytes; one of BROKEN where there is none."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or struct.unpack(f"{order}H", data[124:126])[0] != VERSION:
        raise ValueError("not a MATLAB 5 file")
    for kind, content in _elements(data[128:], order):
        if kind == DEFLATED:
            kind, content = next(_elements(_inflate(content), order))
        if kind == MATRIX:
            cls, dims, found, rest = _matrix(content, order)
            if found == name.encode() and cls & 0xFF == STRUCT and dims == (1, 1):
                return _numbers(_field(rest, field.encode(), order), order)
    raise ValueError(f"no struct {name} of one element")


def _elements(data: bytes, order: str) -> Iterator[Element]:
    """Yield type and content of the elements that `data` consists of; ValueError where one is longer than the rest."""
    place = 0
    while place + 8 <= len(data):
        kind, length = struct.unpack(f"{order}II", data[place : place + 8])
        start = place + 8
        if kind >> 16:  # a small one: type, length and up to 4 bytes of content in 8
            kind, length, start = kind & 0xFFFF, kind >> 16, place + 4
        if start + length > len(data) or (start == place + 4 and length > 4):
            raise ValueError("cut short")
        yield kind, data[start : start + length]
        place = start + length
        if kind != DEFLATED:
            place += -place % 8


def _inflate(content: bytes) -> bytes:
    inflated = zlib.decompressobj().decompress(content, MAX_INFLATED + 1)
    if len(inflated) > MAX_INFLATED:
        raise ValueError(f"it inflates to more than {MAX_INFLATED} bytes")
    return inflated


def _matrix(content: bytes, order: str) -> tuple[int, tuple[int, ...], bytes, Iterator[Element]]:
    """Return flags (with the class), dimensions and name of a matrix, and the elements after these."""
    parts = _elements(content, order)
    flags = int(np.frombuffer(next(parts)[1], f"{order}u4")[0])
    dims = np.frombuffer(next(parts)[1], f"{order}i4")
    return flags, tuple(dims.tolist()), next(parts)[1], parts


def _field(parts: Iterator[Element], field: bytes, order: str) -> bytes:
    """Return the matrix in `field` of a struct of one element."""
    length = int(np.frombuffer(next(parts)[1], f"{order}i4")[0])
    text = next(parts)[1]
    names = [text[i : i + length].split(b"\0")[0] for i in range(0, len(text), length)]
    for name, (kind, content) in zip(names, parts, strict=False):
        if name == field and kind == MATRIX:
            return content
    raise ValueError(f"no field {field.decode()}")


def _numbers(content: bytes, order: str) -> np.ndarray:
    """Return a full matrix of real numbers, (H, W), in whatever type it is stored."""
    flags, dims, _, parts = _matrix(content, order)
    kind, values = next(parts)
    if flags & 0xFF not in NUMERIC or flags & COMPLEX or kind not in NUMBERS or len(dims) != 2 or min(dims) < 0:
        raise ValueError("not a matrix of real numbers")
    return np.frombuffer(values, f"{order}{NUMBERS[kind]}").reshape(dims, order="F")
