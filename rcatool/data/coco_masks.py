"""Masks drawn from annotations in COCO's style: polygons and run lengths become palette PNGs beside the JSON file.

The rule: larger objects first, so that smaller ones lie over them (of equal ones the later lies above); a crowd is ignore
where no object covers it; a category's mask value is its place in the order of ids, from 1.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from rcatool.data.coco_file import CocoFile, CocoImage, is_coco, parse_coco
from rcatool.data.json_source import load_json, shown
from rcatool.data.labels import IGNORE, MAX_CLASSES, class_to_mask, write_mask
from rcatool.data.photo_files import Names
from rcatool.data.tag_rows import make_row
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.files import atomic_write, read_json, sha256_file
from rcatool.pool import parallel_map

FORMAT = 1  # of the drawing: masks of another one are drawn anew
RECORD = "drawn.json"
# COCO's compressed counts: digits of base 32, of which `P` to `o` say that more follow.
COMPRESSED = re.compile("([P-o]{0,6}[0-O])*")
FARTHEST = 4  # sides of the image: a point farther away is a mistake (a nearer one outside is cut off)


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
    layers: list[tuple[int, int, list[int]]] = []  # ignore first, then by falling area
    for index, entry in image.annotations:
        place = f"annotations[{index}]"
        runs = _runs(f"{place}.segmentation", entry.get("segmentation"), (height, width))
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(f"{place}.iscrowd: {shown(crowd)}, expected 0 or 1")
        area = sum(runs[1::2])
        layers.append((-1, IGNORE, runs) if crowd else (-area, values[entry["category_id"]], runs))
    layers.sort(key=lambda layer: (layer[1] != IGNORE, layer[0]))
    mask = np.zeros((width, height), np.uint8)  # runs go down the columns
    for _, value, runs in layers:
        mask.reshape(-1)[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = value
    return np.ascontiguousarray(mask.T)


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


def _runs(place: str, segmentation: Any, size: tuple[int, int]) -> list[int]:
    """Return lengths of runs outside and inside of an object in turn, down the columns; ValueError where they do not fit `size`."""
    if isinstance(segmentation, list) and segmentation:
        runs = _expanded(_filled(place, segmentation, size))
    elif isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise ValueError(f"{place}.size: {shown(segmentation.get('size'))}, expected {list(size)} as its image")
        counts = segmentation.get("counts")
        if isinstance(counts, str) and COMPRESSED.fullmatch(counts):
            runs = _expanded(counts)
        elif isinstance(counts, list) and all(type(run) is int for run in counts):
            runs = counts
        else:
            raise ValueError(f"{place}.counts: expected a list of run lengths, or text of COCO's kind")
    else:
        raise ValueError(f"{place}: {shown(segmentation) if segmentation else 'empty or missing'}, expected polygons or run lengths")
    if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError(f"{place}: the runs do not add up to {size[0]} x {size[1]} pixels")
    return runs


def _filled(place: str, polygons: list[Any], size: tuple[int, int]) -> str:
    """Return the compressed counts of the union of some polygons, as pycocotools fills them."""
    limit = FARTHEST * max(size)
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"{place}: expected lists of at least 3 points, x1, y1, x2, y2, ...")
        for number in polygon:
            if type(number) not in (int, float) or not abs(number) <= limit:
                raise ValueError(f"{place}: {shown(number)} is no coordinate in or near an image of {size[0]} x {size[1]} pixels")
    try:
        from pycocotools import mask as mask_api
    except ImportError as error:
        raise SetupError("polygons need the library pycocotools, which is not installed", "pip install 'rcatool[coco]'") from error
    counts: bytes = mask_api.merge(mask_api.frPyObjects(polygons, *size))["counts"]
    return counts.decode("ascii")


def _expanded(counts: str) -> list[int]:
    """Return run lengths from COCO's compressed counts: digits of 5 bits, lowest first; from the fourth on, differences."""
    runs: list[int] = []
    value = shift = 0
    for letter in counts:
        digit = ord(letter) - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:  # more digits follow
            continue
        if digit & 16:  # a negative number
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
