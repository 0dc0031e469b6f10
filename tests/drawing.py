"""Three ways to fill a polygon that are not ours, and a plain one that is nobody's: the centre of each pixel, even or odd."""

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask


def fill_pillow(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    """As LabelMe fills a polygon: Pillow, with the outline."""
    image = Image.new("L", (shape[1], shape[0]))
    ImageDraw.Draw(image).polygon([tuple(point) for point in points.tolist()], outline=1, fill=1)
    return np.array(image) > 0


def fill_coco(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    """As COCO's own code fills a polygon."""
    codes = coco_mask.frPyObjects([points.ravel().tolist()], shape[0], shape[1])
    return np.asarray(coco_mask.decode(coco_mask.merge(codes))) > 0


def fill_centres(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    """A pixel is inside where a line from its centre to the right crosses the border an odd number of times."""
    inside = np.zeros(shape, dtype=bool)
    for y in range(shape[0]):
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                crossing = x0 + (y + 0.5 - y0) / (y1 - y0) * (x1 - x0)
                inside[y] ^= np.arange(shape[1]) + 0.5 < crossing
    return inside


FILLS = {"pillow": fill_pillow, "coco": fill_coco, "centres": fill_centres}
