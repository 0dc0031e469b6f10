"""Digests of masks by what they say, not by how the file was written: two people can compare one line."""

import hashlib
from collections.abc import Iterable

import numpy as np


def content_digest(mask: np.ndarray) -> str:
    """Return 16 hex digits of the SHA-256 of `HxW`, a line feed and the values of a mask, uint8 (H, W), row by row."""
    assert mask.dtype == np.uint8, mask.dtype
    height, width = mask.shape
    return hashlib.sha256(f"{height}x{width}\n".encode() + mask.tobytes()).hexdigest()[:16]


def set_digest(digests: Iterable[tuple[str, str]]) -> str:
    """Return 16 hex digits of the SHA-256 of the lines `<id> <digest>`, sorted; for (id, digest) of each mask of a set."""
    lines = "".join(f"{image_id} {digest}\n" for image_id, digest in sorted(digests))
    return hashlib.sha256(lines.encode("utf-8", errors="surrogateescape")).hexdigest()[:16]
