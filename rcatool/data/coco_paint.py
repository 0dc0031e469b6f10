"""A folder of masks made from COCO's annotations: which are there, which are missing, and the making of those on all cores."""

import json
import mmap
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import ExifTags, Image

from rcatool.data.coco_json import Instances
from rcatool.data.coco_regions import load_pycocotools, region
from rcatool.data.coco_rule import Rule, layers, paint
from rcatool.data.labels import IGNORE, class_to_mask, write_mask
from rcatool.data.photos import BOMBS, DECODE_ERRORS, TURNS
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.files import atomic_write, plain, read_json, remove_leftovers
from rcatool.lock import exclusive
from rcatool.pool import parallel_map

FORMAT = 1  # of the painting: masks of another one are made anew
RECORD = "masks.json"
BATCH = 64  # photos in one call of a worker process

# By EXIF orientation, what turns a photo's stored pixels into those that are shown.
_MARKS = (b"Exif", b"eXIf", b"tiff:Orientation")  # without any of these a photo is not turned; Pillow takes ten times as long to say so


class _Bar(Protocol):
    def advance(self, n: int = 1, note: str = "") -> None: ...


Progress = Callable[[str, int], AbstractContextManager[_Bar]]


@dataclass(frozen=True)
class Source:
    """What the masks of a split are made from."""

    instances: Instances
    photos: Path  # folder
    wanted: np.ndarray  # (n,) places in the lists of the instances' photos
    photo_of: np.ndarray  # (annotations,) place of the photo
    classes: np.ndarray  # (annotations,) class index


@dataclass(frozen=True)
class _Batch:
    """What a worker process paints: the annotations of photo i are rows `starts[i]` to `starts[i + 1]`."""

    json_path: Path
    photos: Path
    masks: Path
    names: list[str]
    sizes: list[tuple[int, int]]  # (H, W)
    starts: np.ndarray  # (photos + 1,)
    value: np.ndarray  # mask value
    crowd: np.ndarray  # bool
    area: np.ndarray  # float64
    offset: np.ndarray  # bytes into the file
    length: np.ndarray


def make_masks(folder: Path, sources: Mapping[str, Source], rule: Rule, *, workers: int, progress: Progress) -> dict[str, int]:
    """Make the masks that are not there yet, FOLDER/SPLIT/<stem of the photo>.png; return what the folder's record counts.

    Masks that were finished when a process was stopped are kept. ConfigError where the folder holds anything else, or masks
    made otherwise; DataError for an annotation that cannot be painted; SetupError where the folder cannot be written, or
    pycocotools is missing.
    """
    settings = {"format": FORMAT, "rule": asdict(rule), "json": {split: source.instances.sha256 for split, source in sources.items()}}
    record = _read_record(folder, settings)
    batches = [batch for split, source in sources.items() for batch in _batches(source, folder / split)]
    if not batches:
        return _counts(record)
    load_pycocotools()
    try:
        with exclusive(folder / ".lock"):
            # From now on the folder is known to be ours.
            atomic_write(folder / RECORD, json.dumps({**settings, **_counts(record)}))
            remove_leftovers(folder.rglob("*.tmp"))
            counts = _paint_all(batches, rule, workers=workers, progress=progress)
            for name, count in _counts(record).items():
                counts[name] += count
            atomic_write(folder / RECORD, json.dumps({**settings, **counts}))
            return counts
    except SetupError as error:
        if not error.message.startswith(str(folder)):
            raise
        raise SetupError(error.message, "make room there, or name another folder for the masks: --masks-out DIR") from error


def mask_name(photo: str) -> str:
    """Return the name of a photo's mask."""
    return f"{os.path.splitext(photo)[0]}.png"


def _read_record(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the folder's record, empty where there is none; ConfigError where other masks are there."""
    path = folder / RECORD
    if not path.exists():
        # A process that was killed at its first write leaves a lock and a temporary file.
        if folder.exists() and (not folder.is_dir() or any(each.suffix != ".tmp" and each.name != ".lock" for each in folder.iterdir())):
            raise ConfigError(f"{folder} holds something that is not a folder of masks made here", "choose another: --masks-out DIR")
        return {}
    record = read_json(path, "how the masks were made")
    if not isinstance(record, dict) or any(type(count) is not int for count in _counts(record).values()):
        raise DataError(f"{path}: not the record of a folder of masks", "choose another folder: --masks-out DIR")
    for key, what in {"format": "by another version of the program", "rule": "by another rule", "json": "from other annotations"}.items():
        if record.get(key) != settings[key]:
            found = f"{json.dumps(record.get(key))[:160]}, not {json.dumps(settings[key])[:160]}"
            hint = "choose another folder with --masks-out DIR, or remove this one"
            raise ConfigError(f"{folder}: its masks were made {what}: {found}", hint)
    return record


def _counts(record: dict[str, Any]) -> dict[str, int]:
    return {name: record.get(name, 0) for name in ("made", "polygons_without_area", "annotations_without_pixel")}


def _batches(source: Source, folder: Path) -> list[_Batch]:
    """Return what is to be done for the masks that are missing in `folder`."""
    there = _finished(folder)
    found, columns = source.instances, source.instances.annotations
    missing = np.array([place for place in source.wanted if mask_name(found.names[place]) not in there], np.int64)
    order = np.argsort(source.photo_of, kind="stable")
    bounds = np.searchsorted(source.photo_of[order], np.arange(len(found.names) + 1))
    batches = []
    for first in range(0, len(missing), BATCH):
        places = missing[first : first + BATCH]
        rows = np.concatenate([order[bounds[place] : bounds[place + 1]] for place in places])
        batches.append(_Batch(
            found.path, source.photos, folder, [found.names[place] for place in places], [found.sizes[place] for place in places],
            np.concatenate([[0], np.cumsum(bounds[places + 1] - bounds[places])]), class_to_mask(source.classes[rows]),
            *(np.asarray(column)[rows] for column in (columns.crowd, columns.area, columns.offset, columns.length)),
        ))  # fmt: skip
    return batches


def _finished(folder: Path) -> set[str]:
    """Return the names of the masks in `folder`; an empty file is what a loss of power leaves."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.name.endswith(".png") and entry.stat().st_size}


def _paint_all(batches: Sequence[_Batch], rule: Rule, *, workers: int, progress: Progress) -> dict[str, int]:
    counts = _counts({})
    with progress("making masks", sum(len(batch.names) for batch in batches)) as bar:
        for found in parallel_map(partial(_paint_batch, rule=rule), batches, workers=workers):
            bar.advance(found["made"])
            counts = {name: count + found[name] for name, count in counts.items()}
    return counts


def _paint_batch(batch: _Batch, *, rule: Rule) -> dict[str, int]:
    """Write the masks of some photos."""
    counts = _counts({"made": len(batch.names)})
    with open(batch.json_path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for name, size, start, end in zip(batch.names, batch.sizes, batch.starts, batch.starts[1:], strict=False):
            regions = []
            for row in start + np.array(layers(batch.area[start:end], batch.crowd[start:end] == 1, rule), int):
                part = text[batch.offset[row] : batch.offset[row] + batch.length[row]]
                pixels, dropped = _region(batch.json_path, part, size)
                counts["polygons_without_area"] += dropped
                counts["annotations_without_pixel"] += not pixels.any()
                ignored = batch.crowd[row] and rule.crowd == "ignore"
                regions.append((pixels, IGNORE if ignored else int(batch.value[row])))
            mask = paint(regions, size, void=rule.void)
            write_mask(batch.masks / mask_name(name), _as_shown(mask, batch.photos / name), flush=False)
    return counts


def _region(path: Path, text: bytes, size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Return the pixels of an annotation, which is `text` in the file `path`; DataError naming it."""
    try:
        annotation = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: changed while it was read ({error})") from error
    try:
        return region(annotation.get("segmentation"), size)
    except ValueError as error:
        raise DataError(f"{path}: annotation {annotation['id']}: {error}") from error


def _as_shown(mask: np.ndarray, photo: Path) -> np.ndarray:
    """Return a mask turned as the photo is when its EXIF rotation is applied.

    Annotations count in stored pixels (what annotated COCO knew nothing of EXIF), unless the size that they state is the turned one.
    """
    try:
        data = plain(photo).read_bytes()
        if not any(mark in data for mark in _MARKS):
            return mask
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
                stored, orientation = (image.height, image.width), image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, *DECODE_ERRORS, *BOMBS):
        return mask  # the look into every photo, later, says what is wrong with this one
    if orientation not in TURNS or mask.shape != stored:
        return mask
    return np.array(Image.fromarray(mask).transpose(TURNS[orientation]))
