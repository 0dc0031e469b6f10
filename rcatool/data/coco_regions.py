"""The pixels of one COCO annotation: polygons (filled by pycocotools) and run lengths, plain or compressed.

Everything is checked before it reaches the library, which trusts its input: a coordinate of 1e9 or NaN takes all memory, two
points are taken for a box, and runs that do not fill the picture leave what was in memory before.
"""

import re
from typing import Any

import numpy as np

from rcatool.errors import SetupError

_COMPRESSED = re.compile("(?:[P-o]{0,5}[0-O])*")  # digits of 5 bits from `0` on; 32 more where another digit follows
_FARTHEST = 4  # sides of the photo: farther away, a coordinate is a mistake; a nearer one outside is cut off


def region(segmentation: Any, size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Return the pixels of an annotation, bool (H, W), and how many of its polygons were left out, as they have no area.

    Several polygons make one object, their union. ValueError saying what is wrong with the segmentation, SetupError where
    pycocotools is missing.
    """
    dropped = 0
    if isinstance(segmentation, list):
        counts, dropped = _filled(segmentation, size)
    elif not isinstance(segmentation, dict):
        raise ValueError(f"segmentation is {str(segmentation)[:40]!r}, expected polygons or run lengths")
    elif segmentation.get("size") != list(size):
        raise ValueError(f"run lengths for a photo of {str(segmentation.get('size'))[:40]} (H x W), but it has {list(size)}")
    else:
        counts = segmentation.get("counts")
    runs = _runs(counts)
    if runs.sum() != size[0] * size[1] or (runs < 0).any():
        raise ValueError(f"run lengths that do not add up to {size[0]} x {size[1]} pixels")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(size[1], size[0]).T, dropped  # runs go down the columns


def _filled(polygons: list[Any], size: tuple[int, int]) -> tuple[Any, int]:
    """Return the run lengths of the union of some polygons, and how many were left out."""
    usable = []
    for polygon in polygons:
        points = np.array(polygon) if isinstance(polygon, list) else np.array("")
        if points.size and (points.ndim != 1 or points.dtype.kind not in "if"):
            raise ValueError(f"polygon {str(polygon)[:40]!r}, expected numbers x1, y1, x2, y2, ...")
        if points.size and not np.abs(points).max() <= _FARTHEST * max(size):  # NaN is not
            raise ValueError(f"polygon {str(polygon)[:40]!r} has a point far outside of its photo of {size[0]} x {size[1]} pixels")
        if len(points) >= 6 and len(points) % 2 == 0:
            usable.append(points)
    dropped = len(polygons) - len(usable)
    if not usable:
        return [size[0] * size[1]], dropped
    mask_api = load_pycocotools()
    return mask_api.merge(mask_api.frPyObjects(usable, *size))["counts"].decode("ascii"), dropped


def _runs(counts: Any) -> np.ndarray:
    """Return run lengths, int64, outside and inside of the object in turn."""
    if isinstance(counts, list) and all(type(run) is int and 0 <= run < 2**31 for run in counts):
        return np.array(counts, np.int64)
    if not isinstance(counts, str) or not _COMPRESSED.fullmatch(counts):
        raise ValueError("run lengths that are neither a list of whole numbers nor text as COCO compresses them")
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        digit = character - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:  # negative
                value -= 1 << shift
            # From the fourth on, the difference to the run before last.
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return np.array(runs, np.int64)


def load_pycocotools() -> Any:
    """Import pycocotools' masks; SetupError saying how to get it."""
    try:
        from pycocotools import mask as mask_api
    except ImportError as error:
        raise SetupError(f"COCO's polygons need pycocotools, which does not load ({error})", "pip install 'rcatool[coco]'") from error
    return mask_api
