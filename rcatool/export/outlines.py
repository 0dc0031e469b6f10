"""The outlines of one label, as the polygon formats take them, and a check of what they cover."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from rcatool import console
from rcatool.data.labels import IGNORE
from rcatool.export.polygons import Segment, segments
from rcatool.export.source import Item, read_label
from rcatool.export.work import Tally, count_ignored, warn_of_losses


@dataclass(frozen=True)
class Rule:
    """Regions below `min_area` pixels are left out, outlines simplified by up to `tolerance` pixels (0: exact)."""

    min_area: int = 1
    tolerance: float = 0.0


def outlines(item: Item, rule: Rule) -> tuple[tuple[int, int], list[Segment], Tally]:
    """Size (H, W) and regions of a label, the largest first, so that one drawn over another leaves both to be seen."""
    label = read_label(item)
    found = segments(label, range(1, item.num_classes + 1), min_area=rule.min_area, tolerance=rule.tolerance)
    found.sort(key=lambda segment: -segment.area)
    drawn = draw(found, label.shape)
    objects = np.where(label == IGNORE, 0, label)
    covered = sum(segment.area for segment in found)
    tally = Tally(
        segments=len(found),
        points=sum(len(segment.points) for segment in found),
        pixels=label.size,
        ignored=count_ignored(label),
        small=int(np.count_nonzero(objects)) - covered,
        same=int(np.count_nonzero((drawn == objects) & (objects > 0))),
        either=int(np.count_nonzero((drawn > 0) | (objects > 0))),
    )
    return (label.shape[0], label.shape[1]), found, tally


def draw(found: list[Segment], shape: tuple[int, ...]) -> np.ndarray:
    """A label map uint8 (H, W) painted from outlines, as the programs that read them do."""
    image = Image.new("L", (shape[1], shape[0]))
    brush = ImageDraw.Draw(image)
    for segment in found:
        brush.polygon([(x, y) for x, y in segment.points.tolist()], outline=segment.value, fill=segment.value)
    return np.asarray(image)


def report(tally: Tally, what: str) -> None:
    """Say what was written and how well the outlines cover the labels."""
    warn_of_losses(tally)
    iou = f"{100 * tally.same / tally.either:.2f} %" if tally.either else "-"
    console.log(f"export: {tally.photos} photos, {tally.segments} polygons, {tally.points} points in {what}; IoU with the labels {iou}")
