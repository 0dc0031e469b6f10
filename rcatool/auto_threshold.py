"""A constant background score from the CAMs alone, where no mask says which is best (`pseudo.background: auto`).

The highest map of a pixel is low on background and high on objects; its mean over all pixels of all photos lies between. Of the rules
that were tried (docs/refinement.md) it stays nearest to the best threshold over CAMs of different sharpness, with and without a CRF.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rcatool.cams import load_cam

NO_MAPS = 0.5  # where no photo has a map, any threshold will do


def mean_peak(cam: Path, size: tuple[int, int]) -> float | None:
    """Mean over the cells of a CAM file, of a photo of `size` (H, W), of the highest map; None where it has no maps.

    Raises DataError naming a broken file, as `load_cam`.
    """
    keys, maps = load_cam(cam, size=size)
    return float(maps.max(axis=0).mean()) if len(keys) else None


def choose_threshold(peaks: Iterable[float | None]) -> float:
    """The background threshold for the photos whose `mean_peak` are given, each counting the same, to three digits."""
    known = [peak for peak in peaks if peak is not None]
    return round(float(np.mean(known)), 3) if known else NO_MAPS
