"""Masks drawn from annotations in COCO's style: polygons and run lengths become palette PNGs beside the JSON file.

The rule: larger objects first, so that smaller ones lie over them (of equal ones the later lies above); a crowd is ignore
where no object covers it; a category's mask value is its place in the order of ids, from 1.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from rcatool.data.coco_file import CocoFile, CocoImage, is_coco, parse_coco
from rcatool.data.coco_regions import region
from rcatool.data.json_source import load_json, shown
from rcatool.data.labels import IGNORE, MAX_CLASSES, class_to_mask, write_mask
from rcatool.data.photo_files import Names
from rcatool.data.tag_rows import make_row
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.files import atomic_write, read_json, remove_leftovers, sha256_file
from rcatool.pool import parallel_map

FORMAT = 1  # of the drawing: masks of another one are drawn anew
RECORD = "drawn.json"


@dataclass(frozen=True)
class Job:
    """One mask to draw; `values` is category id -> mask value."""

    source: Path
    image: CocoImage
    values: dict[int | str, int]
    target: Path


def folder_of(source: Path) -> Path:
    """Return the folder that the masks of a JSON file are drawn into."""
    return source.with_name(f"{source.stem}-masks")


def draw(source: Path, photos: Sequence[str], *, workers: int = 1, bar: Callable[[int], object] | None = None) -> int:
    """Draw a mask for each of `photos` (paths below their folder) that is an image of `source`; return how many.

    Nothing is drawn where the masks of that file are there already. DataError (with the place in the file) for what cannot be
    drawn, SetupError where that takes pycocotools, ConfigError where the folder holds anything else.
    """
    folder = folder_of(source)
    document = load_json(source)
    try:
        if not is_coco(document):
            raise ValueError("expected an object with lists of images, categories and annotations")
        coco = parse_coco(document)
        names = _class_names(coco)
        jobs = _jobs(source, coco, names, photos)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error
    if not jobs:
        raise DataError(f"{source}: none of its {len(coco.images)} images is one of the {len(photos)} photos")
    settings = {"format": FORMAT, "source": source.name, "sha256": sha256_file(source)}
    if _is_there(folder, settings, jobs):
        return 0
    try:
        atomic_write(folder / RECORD, json.dumps({**settings, "done": False}))  # from now on the folder is known to be ours
    except SetupError as error:
        hint = f"masks are drawn beside {source.name}: copy it to where you may write, and name that copy"
        raise SetupError(error.message, hint) from error
    remove_leftovers(folder.rglob("*.tmp"))
    for path in set(folder.rglob("*.png")) - {job.target for job in jobs}:
        path.unlink()  # of an earlier version of the file
    for _ in parallel_map(_draw_one, jobs, workers=workers, bar=bar):
        pass
    atomic_write(folder / "classes.txt", "".join(f"{name}\n" for name in names))
    atomic_write(folder / RECORD, json.dumps({**settings, "done": True}))
    return len(jobs)


def paint(image: CocoImage, values: dict[int | str, int]) -> np.ndarray:
    """Return the mask of an image, uint8 (H, W), by the rule of this module; ValueError saying what cannot be drawn."""
    height, width = (_side(image, key) for key in ("height", "width"))
    if height * width > (Image.MAX_IMAGE_PIXELS or 0):
        raise ValueError(f"images[{image.index}]: {height} x {width} pixels, more than {Image.MAX_IMAGE_PIXELS}, refused")
    layers: list[tuple[int, int, np.ndarray]] = []  # ignore first, then by falling area
    for index, entry in image.annotations:
        place = f"annotations[{index}]"
        pixels = _pixels(place, entry.get("segmentation"), (height, width))
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(f"{place}.iscrowd: {shown(crowd)}, expected 0 or 1")
        layers.append((-1, IGNORE, pixels) if crowd else (-int(pixels.sum()), values[entry["category_id"]], pixels))
    layers.sort(key=lambda layer: (layer[1] != IGNORE, layer[0]))
    mask = np.zeros((height, width), np.uint8)
    for _, value, pixels in layers:
        mask[pixels] = value
    return mask


def _pixels(place: str, segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of an annotation, bool (H, W); unlike in COCO's own files, a polygon that is none is a mistake."""
    if not segmentation:
        raise ValueError(f"{place}.segmentation: empty or missing, expected polygons or run lengths")
    try:
        pixels, dropped = region(segmentation, size)
    except ValueError as error:
        raise ValueError(f"{place}.{error}") from error
    if dropped:
        raise ValueError(f"{place}.segmentation: expected lists of at least 3 points, x1, y1, x2, y2, ...")
    return pixels


def _class_names(coco: CocoFile) -> list[str]:
    names = list(dict.fromkeys(coco.categories.values()))
    if "background" in names:
        raise ValueError("a category is called background: what no annotation covers is background, remove it")
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{len(names)} categories: expected at most {MAX_CLASSES}, as masks have 8 bits")
    return names


def _jobs(source: Path, coco: CocoFile, names: list[str], photos: Sequence[str]) -> list[Job]:
    values = {key: class_to_mask(names.index(name)) for key, name in coco.categories.items()}
    known = Names(photos)
    jobs: dict[Path, Job] = {}
    for image in coco.images:
        photo = known.find(make_row("", image=image.file_name, tags=(), split=None).image)
        if photo is None:
            continue
        target = folder_of(source) / PurePosixPath(photo).with_suffix(".png")
        if target in jobs:
            other = jobs[target].image
            raise ValueError(f"images[{image.index}] and images[{other.index}] would both have the mask {target.name}")
        jobs[target] = Job(source, image, values, target)
    return list(jobs.values())


def _is_there(folder: Path, settings: dict[str, object], jobs: Sequence[Job]) -> bool:
    record = folder / RECORD
    if not record.exists():
        # A process that was killed at its first write leaves a temporary file.
        if folder.exists() and (not folder.is_dir() or any(path.suffix != ".tmp" for path in folder.iterdir())):
            raise ConfigError(f"data.masks: {folder} holds something that was not drawn from {settings['source']}", "move it away")
        return False
    done = read_json(record, "what the masks were drawn from") == {**settings, "done": True}
    return done and all(job.target.is_file() for job in jobs)


def _draw_one(job: Job) -> None:
    try:
        mask = paint(job.image, job.values)
    except ValueError as error:
        raise DataError(f"{job.source}: {error}") from error
    write_mask(job.target, mask)


def _side(image: CocoImage, key: str) -> int:
    value = image.entry.get(key)
    if type(value) is not int or value < 1:
        raise ValueError(f"images[{image.index}].{key}: {shown(value) if key in image.entry else 'missing'}, expected a number of pixels")
    return value
