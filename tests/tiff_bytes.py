"""A TIFF by the book, uncompressed, of any sample type: what Pillow itself cannot write."""

import struct
from collections.abc import Mapping

import numpy as np

SHORT, LONG = 3, 4
CODES = {SHORT: "H", LONG: "I"}


def tiff(pixels: np.ndarray, *, photometric: int, order: str = "<", planar: bool = False, tags: Mapping[int, int] | None = None) -> bytes:
    """The bytes of a TIFF of `pixels` (H, W) or (H, W, C); `tags` are further short ones, or others than usual."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    planes = [pixels[..., c] for c in range(channels)] if planar else [pixels]
    strips = [np.ascontiguousarray(plane, pixels.dtype.newbyteorder(order)).tobytes() for plane in planes]
    sample = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    offsets = [8 + sum(map(len, strips[:index])) for index in range(len(strips))]
    found: dict[int, tuple[int, list[int]]] = {
        256: (LONG, [width]), 257: (LONG, [height]), 258: (SHORT, [8 * pixels.itemsize] * channels), 259: (SHORT, [1]),
        262: (SHORT, [photometric]), 273: (LONG, offsets), 277: (SHORT, [channels]), 278: (LONG, [height]),
        279: (LONG, [len(strip) for strip in strips]), 284: (SHORT, [2 if planar else 1]), 339: (SHORT, [sample] * channels),
    }  # fmt: skip
    found |= {tag: (SHORT, [value] * (channels if tag in (258, 339) else 1)) for tag, value in (tags or {}).items()}
    body = b"".join(strips)
    body += bytes(len(body) % 2)
    entries, far = b"", b""
    start = 8 + len(body)
    for tag, (kind, values) in sorted(found.items()):
        value = struct.pack(order + CODES[kind] * len(values), *values)
        if len(value) > 4:
            value, far = struct.pack(f"{order}I", start + 2 + 12 * len(found) + 4 + len(far)), far + value
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
    directory = struct.pack(f"{order}H", len(found)) + entries + bytes(4) + far
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start) + body + directory
