"""A tree like COCO 2014's, with the full number of tiny photos, no two alike, and a few small objects on each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = (24, 32)  # H, W
SPLITS = {"train2014": (82_783, 82_081), "val2014": (40_504, 40_137)}  # photos, and those of them that have annotations
ABSENT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of the official ids 1..90
IDS = [number for number in range(1, 91) if number not in ABSENT]


def make_coco_tree(folder: Path) -> list[str]:
    """Write photos and annotations as the archives unpack; return the arguments of `rca prepare`."""
    if not (folder / "annotations").exists():
        categories = [{"id": number, "name": f"category {number}", "supercategory": "thing"} for number in IDS]
        first = 1
        for split, (photos, annotated) in SPLITS.items():
            (folder / split).mkdir(parents=True)
            images = [_write_photo(folder / split, split, first + n) for n in range(photos)]
            annotations = [each for image in images[:annotated] for each in _annotations(image["id"])]
            first += photos
            (folder / f"{split}.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        (folder / "annotations").mkdir()  # last: a tree that was not finished is not used again
        for split in SPLITS:
            (folder / f"{split}.json").rename(folder / "annotations" / f"instances_{split}.json")
    return ["coco", "--root", str(folder)]


def _write_photo(folder: Path, split: str, number: int) -> dict[str, Any]:
    name = f"COCO_{split}_{number:012d}.jpg"
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(SIDE[::-1], Image.Resampling.BICUBIC).save(folder / name, quality=90)
    return {"id": number, "file_name": name, "height": SIDE[0], "width": SIDE[1], "license": 1}


def _annotations(number: int) -> list[dict[str, Any]]:
    """From 1 to 7 objects; that of every hundredth photo is a crowd."""
    objects: list[dict[str, Any]] = []
    for place in range(1 + number % 7):
        x, y, side = 1.5 + 4 * place, 2.25 + number % 9, 3 + (number + place) % 8
        box = [x, y, x + side, y, x + side, y + side, x + side / 2, y + side + 1, x, y + side]
        objects.append({"segmentation": [box], "iscrowd": 0, "area": side * side + side / 2})
    if number % 100 == 0:
        counts = [200, 24, 100, 24, SIDE[0] * SIDE[1] - 348]
        objects[0] = {"segmentation": {"counts": counts, "size": list(SIDE)}, "iscrowd": 1, "area": 48}
    return [
        {"id": 10 * number + place, "image_id": number, "category_id": IDS[(number + 3 * place) % 80], "bbox": [0, 0, 1, 1], **each}
        for place, each in enumerate(objects)
    ]
