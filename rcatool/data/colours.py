"""Photos whose red and blue are swapped, as a program leaves them that takes BGR for RGB.

In photos of the world green leans to yellow (leaves in the sun) and red to pink (skin, cloth); green that leans to cyan and blue that leans
to violet are rare. Swapped red and blue turn the one into the other. Neither sky nor light decides: orange and blue count for nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_GRID = 64  # pixels a side that are looked at
_COLOURED = 25  # grey levels between the strongest and the weakest channel: below, a hue is noise
_TELLING = 0.005  # share of a photo's pixels with one of the four hues: below, it has no say
_FEWEST = 10  # photos that tell
_TIMES = 2  # as many pixels of rare hues as of common ones
_MOST = 2 / 3  # of the photos that tell


@dataclass(frozen=True)
class Hues:
    """Shares of a photo's pixels: of hues that photos have (`common`) and that they have with red and blue swapped (`rare`)."""

    common: float
    rare: float


def hues(image: np.ndarray) -> Hues:
    """The hues of a photo, uint8 (H, W, 3) RGB, by every n-th of its pixels."""
    height, width = image.shape[:2]
    few = image[:: max(height // _GRID, 1), :: max(width // _GRID, 1)].astype(np.int16)
    red, green, blue = few[..., 0], few[..., 1], few[..., 2]
    coloured = few.max(-1) - few.min(-1) > _COLOURED
    yellow_green, pink = (green > red) & (red > blue), (red > blue) & (blue > green)
    cyan_green, violet = (green > blue) & (blue > red), (blue > red) & (red > green)
    common, rare = (float((coloured & (one | other)).mean()) for one, other in ((yellow_green, pink), (cyan_green, violet)))
    return Hues(common, rare)


class ColourCount:
    """What the photos say together."""

    def __init__(self) -> None:
        self._photos = self._rare_photos = 0
        self._common = self._rare = 0.0

    def add(self, found: Hues) -> None:
        """Count one photo."""
        if found.common + found.rare > _TELLING:
            self._photos += 1
            self._rare_photos += found.rare > found.common
            self._common += found.common
            self._rare += found.rare

    def document(self) -> dict[str, Any]:
        """The counts as JSON values: photos that tell, those of them with more rare hues than common ones, mean shares of both."""
        photos = max(self._photos, 1)
        shares = {"common": round(self._common / photos, 6), "rare": round(self._rare / photos, 6)}
        return {"photos": self._photos, "rare_photos": self._rare_photos, **shares}


def swapped(document: Mapping[str, Any]) -> str:
    """The line that says that red and blue are swapped in the photos of a census, if they seem to be."""
    found = document.get("colours")
    if found is None:  # the census of an earlier version
        return ""
    photos, rare_photos, common, rare = (found[name] for name in ("photos", "rare_photos", "common", "rare"))
    if photos < _FEWEST or rare < _TIMES * common or rare_photos < _MOST * photos:
        return ""
    return (
        f"red and blue seem to be swapped (BGR saved as RGB?): {rare_photos} of {photos} photos that tell have more cyan-green and violet, "
        "which photos hardly have, than yellow-green and pink"
    )
