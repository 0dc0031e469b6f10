"""By which rule COCO's annotations become a mask, and what is known of the rules behind public mask sets.

COCO publishes objects, not label maps, and no rule is agreed on: scores on "COCO 2014" depend on what is done where objects
overlap and with crowds. Known, from the scripts themselves:

* `coco2voc`: github.com/alicranck/coco2voc, which the READMEs of AFA, ToCo and SeCo name. The smaller `area` wins, of equal ones
  the earlier annotation; crowds are objects. It writes official ids (1..90) and no mask for a photo without annotations.
* `coco2voc-border`: its option since 2023: from the smallest object on, 255 within 3 pixels around each, over smaller ones too.
* `recam`: mscoco/annToMask.py of github.com/zhaozhengChen/ReCAM, which SIPE's author names, too (SIPE#13). Later annotations
  over earlier ones; crowds are left out, so they are background. Ids 1..80.

Not known: how the archives were made that EPS, RIB (the same file is linked by AFA, CLIP-ES and ToCo), SeCo, DuPL, SFC, L2G and
PMM (official ids, WeakTr#20) offer for download. They can be used as they are; nothing here claims to reproduce them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter

from rcatool.data.labels import IGNORE
from rcatool.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """How annotations become a mask."""

    overlap: str = "small-over-large"  # by the annotations' `area`, of equal ones the earlier on top; annotation-order: the later on top
    crowd: str = "object"  # an object like others; background: left out; ignore: 255 where no object is
    void: int = 0  # pixels of 255 around each object

    @property
    def name(self) -> str:
        """A name for a folder of masks made by this rule."""
        return f"{self.overlap}-crowd-{self.crowd}" + (f"-void-{self.void}" if self.void else "")


VARIANTS = {
    "coco2voc": Rule(),
    "coco2voc-border": Rule(void=3),
    "recam": Rule(overlap="annotation-order", crowd="background"),
}
UNKNOWN = (
    "afa", "clip-es", "cti", "dupl", "eps", "excel", "fma-wsss", "l2g", "more", "pmm", "rib", "seco", "sfc", "toco", "weaktr", "weclip",
)  # fmt: skip


def variant(name: str) -> Rule:
    """Return the rule of a public mask set; ConfigError where there is none of that name, or its rule is not known."""
    if name in VARIANTS:
        return VARIANTS[name]
    known = f"the known ones are {', '.join(VARIANTS)}"
    if name.lower() in UNKNOWN:
        message = f"--variant {name}: by which rule the masks were made that it was scored on is not known; {known}"
        raise ConfigError(message, "take its archive of masks as it is: --masks DIR")
    raise ConfigError(f"--variant: {name!r} is not known; {known}")


def layers(area: np.ndarray, crowd: np.ndarray, rule: Rule) -> list[int]:
    """Return the indices of the annotations that are painted, the topmost first; `area` float and `crowd` bool are (n,)."""
    order = list(range(len(area)))[::-1] if rule.overlap == "annotation-order" else [int(i) for i in np.argsort(area, kind="stable")]
    if rule.crowd == "object":
        return order
    objects = [i for i in order if not crowd[i]]
    return objects + [i for i in order if crowd[i]] if rule.crowd == "ignore" else objects


def paint(regions: Sequence[tuple[np.ndarray, int]], size: tuple[int, int], *, void: int) -> np.ndarray:
    """Return a mask, uint8 (H, W), of regions, bool (H, W), with their values, the topmost first; 0 where none is.

    With `void`, pixels at most that far (in both directions) from an object are 255, also over those that lie above it.
    """
    mask = np.zeros(size, np.uint8, order="F")  # as regions lie in memory, which come from runs down the columns
    for pixels, value in regions:
        mask[pixels & (mask == 0)] = value
        if void and value != IGNORE:
            mask[maximum_filter(pixels, size=2 * void + 1, mode="nearest") & ~pixels] = IGNORE
    return np.ascontiguousarray(mask)
