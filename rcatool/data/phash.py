"""A perceptual hash: copies of a photo that were resized or encoded again differ in a few bits of it, other photos in many.

The signs of the 11 x 11 lowest frequencies (less the mean) of the photo as a grey 32 x 32 picture: 120 bits.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

SIDE = 32
FREQUENCIES = 11
BITS = FREQUENCIES**2 - 1
BANDS = 12  # of 10 bits
NEAR = BANDS - 1  # bits; so two near hashes agree in at least one band
FLAT = 2.0  # grey levels: standard deviation of the small picture below which a photo is as good as empty
_BLOCK = 1024  # rows compared at a time

_ROWS = np.arange(FREQUENCIES)[:, None]
_COSINES = np.cos(np.pi * (2 * np.arange(SIDE) + 1) * _ROWS / (2 * SIDE)).astype(np.float32)  # (11, 32)


def perceptual_hash(image: np.ndarray) -> bytes | None:
    """Return the hash of a photo, uint8 (H, W, 3), as 15 bytes; None for one that shows nothing (a single tone)."""
    grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    small = np.asarray(grey, np.float32)
    if small.std() < FLAT:
        return None
    signs = (_COSINES @ small @ _COSINES.T).ravel()[1:] > 0
    return np.packbits(signs).tobytes()


def distance(one: bytes, other: bytes) -> int:
    """Return the number of bits in which two hashes differ."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def near_pairs(hashes: list[bytes], groups: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (i, j, distance) for the hashes i < j of different groups (N,) that differ in at most NEAR bits, in order.

    Only hashes that agree in one of the bands are compared: at most NEAR different bits leave one of NEAR + 1 bands alone.
    """
    if not hashes:
        return []
    bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), -1), axis=1)  # (N, 120)
    signs = bits.astype(np.int8) * 2 - 1
    buckets = [rows for band in range(BANDS) for rows in _buckets(bits.reshape(len(bits), BANDS, -1)[:, band])]
    if sum(len(rows) ** 2 for rows in buckets) > len(hashes) ** 2:
        buckets = [np.arange(len(hashes))]  # photos so alike that the index would compare more pairs than there are
    found: dict[tuple[int, int], int] = {}
    for rows in buckets:
        for i, j, bits_apart in _near_in(rows, signs, groups):
            found[min(i, j), max(i, j)] = bits_apart
    return [(i, j, bits_apart) for (i, j), bits_apart in sorted(found.items())]


def _buckets(band: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows (indices) that are equal in a band, uint8 (N, bits), where there is more than one."""
    keys = band @ (1 << np.arange(band.shape[1]))
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order])) + 1
    yield from (rows for rows in np.split(order, starts) if len(rows) > 1)


def _near_in(rows: np.ndarray, signs: np.ndarray, groups: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield the near pairs of different groups within one bucket."""
    for group in np.unique(groups[rows])[:-1]:
        others = rows[groups[rows] > group]
        columns = signs[others].astype(np.float32).T
        mine = rows[groups[rows] == group]
        for start in range(0, len(mine), _BLOCK):
            block = mine[start : start + _BLOCK]
            agreement = signs[block].astype(np.float32) @ columns  # equal bits minus different bits
            near = np.argwhere(agreement >= BITS - 2 * NEAR)
            for a, b in near.tolist():
                yield int(block[a]), int(others[b]), int(BITS - agreement[a, b]) // 2
