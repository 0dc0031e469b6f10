"""The pixels of one COCO annotation: polygons (filled by pycocotools) and run lengths, plain or compressed.

Everything is checked before it reaches the library, which trusts its input: a coordinate of 1e9 or NaN takes all memory, two
points are taken for a box, and runs that do not fill the picture leave what was in memory before.
"""

import re
from typing import Any

import numpy as np

from rcatool.data.json_source import shown
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
        raise ValueError(f"segmentation: {shown(segmentation)}, expected polygons or run lengths")
    elif segmentation.get("size") != list(size):
        raise ValueError(f"segmentation.size: {shown(segmentation.get('size'))}, expected {list(size)} as its image")
    else:
        counts = segmentation.get("counts")
    runs = _runs(counts)
    if sum(runs) != size[0] * size[1] or min(runs, default=0) < 0:
        raise ValueError(f"segmentation: the runs do not add up to {size[0]} x {size[1]} pixels")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(size[1], size[0]).T, dropped  # runs go down the columns


def _filled(polygons: list[Any], size: tuple[int, int]) -> tuple[Any, int]:
    """Return the run lengths of the union of some polygons, and how many were left out."""
    limit = _FARTHEST * max(size)
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise ValueError(f"segmentation: {shown(polygon)}, expected lists of numbers x1, y1, x2, y2, ...")
        for number in polygon:
            if type(number) not in (int, float) or not abs(number) <= limit:  # NaN is not, and a bool is an int to isinstance
                raise ValueError(f"segmentation: {shown(number)} is no coordinate in or near an image of {size[0]} x {size[1]} pixels")
    usable = [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
    dropped = len(polygons) - len(usable)
    if not usable:
        return [size[0] * size[1]], dropped
    mask_api = load_pycocotools()
    return mask_api.merge(mask_api.frPyObjects(usable, *size))["counts"].decode("ascii"), dropped


def _runs(counts: Any) -> list[int]:
    """Return the lengths of the runs outside and inside of the object in turn."""
    if isinstance(counts, list) and all(type(run) is int for run in counts):
        return counts
    if not isinstance(counts, str) or not _COMPRESSED.fullmatch(counts):
        raise ValueError("segmentation.counts: expected a list of run lengths, or text of COCO's kind")
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
    return runs


def load_pycocotools() -> Any:
    """Import pycocotools' masks; SetupError saying how to get it."""
    try:
        from pycocotools import mask as mask_api
    except ImportError as error:
        raise SetupError(f"COCO's polygons need pycocotools, which does not load ({error})", "pip install 'rcatool[coco]'") from error
    return mask_api
