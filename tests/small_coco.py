"""COCO 2014 in small: two folders of tiny photos and hand-made annotations, written with Pillow and json alone."""

import json
from pathlib import Path
from typing import Any

from small_voc import make_photo

OFFICIAL_IDS = [*range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70, *range(72, 83), *range(84, 91)]
SIZE = (12, 16)  # H, W
JSON = {"train": "coco/annotations/instances_train2014.json", "val": "coco/annotations/instances_val2014.json"}


def box(x: float, y: float, width: float, height: float) -> list[float]:
    """The polygon of a box; with whole numbers its pixels are exactly those from (x, y) on, width x height of them."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def annotation(number: int, image: int, category: int, segmentation: Any, area: float, crowd: int = 0) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "area": area, "iscrowd": crowd}


def photo_name(split: str, number: int) -> str:
    return f"COCO_{split}2014_{number:012d}.jpg"


def document(split: str, numbers: list[int], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """What an instances_*.json says."""
    return {
        "info": {"description": "small"},
        "images": [{"id": n, "file_name": photo_name(split, n), "height": SIZE[0], "width": SIZE[1], "license": 1} for n in numbers],
        "licenses": [{"id": 1, "name": "none", "url": ""}],
        "annotations": annotations,
        "categories": [{"id": number, "name": f"thing {number}", "supercategory": "thing"} for number in OFFICIAL_IDS],
    }


# Photo 9 has a large person (1) with a small dog (18) in front and, later in the file, a crowd of people over part of both;
# photo 25 a toothbrush (90), photo 30 nothing; photo 42 of val a bear (23).
TRAIN = [
    annotation(1, 9, 18, [box(2, 2, 4, 4)], 16),
    annotation(2, 9, 1, [box(1, 1, 10, 8)], 80),
    annotation(3, 25, 90, [box(0, 0, 3, 3), box(8, 8, 3, 3)], 18),
    annotation(900, 9, 1, {"size": [12, 16], "counts": [96, 96]}, 96, crowd=1),
]
VAL = [annotation(4, 42, 23, [box(4, 0, 8, 12)], 96)]


def make_coco(base: Path) -> Path:
    """Write the data set."""
    for split, numbers, annotations in (("train", [9, 25, 30], TRAIN), ("val", [42, 73], VAL)):
        for number in numbers:
            make_photo(base / f"{split}2014" / photo_name(split, number), number, SIZE)
        path = base / "annotations" / f"instances_{split}2014.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document(split, numbers, annotations)))
    return base
