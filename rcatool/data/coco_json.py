"""COCO's instances_*.json, read once and piece by piece: photos, categories, and where each annotation lies in the file.

The two files of 2014 hold some 900,000 polygons, which as Python objects would take gigabytes. Of an annotation we keep a few
numbers and its place; the process that paints a mask reads the polygons from there (`coco_paint`).
"""

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rcatool.data.json_window import Window
from rcatool.errors import DataError
from rcatool.files import is_path_safe, plain

LARGEST_PHOTO = 2**28  # pixels


@dataclass
class Annotations:
    """Numbers of all annotations, a column each, in the order of the file."""

    id: "array[int]" = field(default_factory=lambda: array("q"))
    image_id: "array[int]" = field(default_factory=lambda: array("q"))
    category_id: "array[int]" = field(default_factory=lambda: array("q"))
    crowd: "array[int]" = field(default_factory=lambda: array("b"))
    area: "array[float]" = field(default_factory=lambda: array("d"))
    offset: "array[int]" = field(default_factory=lambda: array("q"))  # bytes
    length: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass
class Instances:
    """What we keep of a file; the photos' columns are in the order of the file."""

    path: Path
    sha256: str = ""
    categories: dict[int, str] = field(default_factory=dict)  # official id -> name
    photo_ids: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # file names
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (H, W)
    annotations: Annotations = field(default_factory=Annotations)


def read_instances(path: Path, bar: Callable[[int], object] | None = None) -> Instances:
    """Read a file like instances_train2014.json; `bar(1)` is called for each `CHUNK` bytes.

    DataError naming the file, and the photo or annotation, where it is missing, cut short, no JSON, or holds an id twice, a
    file name with a folder in it, an annotation of an unknown photo or category, or a number that cannot be what it should.
    """
    try:
        with open(plain(path), "rb") as handle:
            return _read(path, Window(handle, bar))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (the annotations)", "unpack annotations_trainval2014.zip in the data set's folder") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except RecursionError as error:
        raise DataError(f"{path}: not valid JSON (lists in lists without end)") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _read(path: Path, window: Window) -> Instances:
    """Go through the file's object once; ValueError saying what is wrong."""
    found = Instances(path)
    keep: dict[str, Callable[[Any, int, int], None]] = {
        "images": lambda item, *_: _keep_photo(found, item),
        "annotations": lambda item, *place: _keep_annotation(found.annotations, item, *place),
        "categories": lambda item, *_: _keep_category(found.categories, item),
    }
    missing = set(keep)
    window.expect("{")
    while window.next() != "}":
        key, *_ = window.value()
        window.expect(":")
        if key not in keep:
            window.value()
        elif key not in missing:
            raise ValueError(f"a second list of {key}")
        else:
            missing.remove(key)
            _keep_all(window, key, keep[key])
        if window.expect(",}") == "}":
            break
    if missing:
        raise ValueError(f"no list of {' or '.join(sorted(missing))}, expected the instances_*.json of COCO")
    if window.next():
        raise ValueError(f"something after the end of the JSON, at byte {window.start + window.at}")
    _check(found)
    found.sha256 = window.digest.hexdigest()
    return found


def _keep_all(window: Window, key: str, keep: Callable[[Any, int, int], None]) -> None:
    for item, offset, length in window.items():
        if not isinstance(item, dict):
            raise ValueError(f"{str(item)[:40]!r} in the list of {key}, expected objects")
        try:
            keep(item, offset, length)
        except ValueError as error:
            raise ValueError(f"{key}, id {_shown(item, 'id')}: {error}") from error


def _keep_photo(found: Instances, item: dict[str, Any]) -> None:
    photo_id, name = _integer(item, "id"), _text(item, "file_name")
    if not is_path_safe(name):
        raise ValueError(f"file_name is {_shown(item, 'file_name')}, expected the plain name of a photo")
    height, width = _integer(item, "height", smallest=1), _integer(item, "width", smallest=1)
    if height * width > LARGEST_PHOTO:
        raise ValueError(f"{height} x {width} pixels, expected at most {LARGEST_PHOTO}")
    found.photo_ids.append(photo_id)
    found.names.append(name)
    found.sizes.append((height, width))


def _keep_annotation(annotations: Annotations, item: dict[str, Any], offset: int, length: int) -> None:
    annotations.id.append(_integer(item, "id"))
    annotations.image_id.append(_integer(item, "image_id"))
    annotations.category_id.append(_integer(item, "category_id"))
    crowd, area = item.get("iscrowd", 0), item.get("area")
    if type(crowd) is not int or crowd not in (0, 1):
        raise ValueError(f"iscrowd is {_shown(item, 'iscrowd')}, expected 0 or 1")
    if not isinstance(area, (int, float)) or isinstance(area, bool) or not 0 <= area <= LARGEST_PHOTO:
        raise ValueError(f"area is {_shown(item, 'area')}, expected a number of pixels")
    annotations.crowd.append(crowd)
    annotations.area.append(area)
    annotations.offset.append(offset)
    annotations.length.append(length)


def _keep_category(categories: dict[int, str], item: dict[str, Any]) -> None:
    category_id = _integer(item, "id")
    if category_id in categories:
        raise ValueError("this id occurs twice")
    categories[category_id] = _text(item, "name")


def _check(found: Instances) -> None:
    """What can only be known at the end of the file; ValueError."""
    for what, ids in {"image": found.photo_ids, "annotation": found.annotations.id}.items():
        unique, counts = np.unique(np.asarray(ids, np.int64), return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"{what} {unique[counts > 1][0]} occurs twice")
    twice = [name for name, count in Counter(found.names).items() if count > 1]
    if twice:
        raise ValueError(f"file_name {twice[0]} occurs twice")
    known = {"image": found.photo_ids, "category": list(found.categories)}
    for what, column in {"image": found.annotations.image_id, "category": found.annotations.category_id}.items():
        unknown = np.flatnonzero(~np.isin(np.asarray(column), np.asarray(known[what], np.int64)))
        if len(unknown):
            more = f" (and {len(unknown) - 1} more like it)" if len(unknown) > 1 else ""
            first = unknown[0]
            raise ValueError(f"annotation {found.annotations.id[first]} is of {what} {column[first]}, which is not in the file{more}")


def _integer(item: dict[str, Any], key: str, *, smallest: int = 0) -> int:
    value = item.get(key)
    if type(value) is not int or not smallest <= value < 2**62:  # a bool is an int to isinstance
        raise ValueError(f"{key} is {_shown(item, key)}, expected a whole number{f' from {smallest}' if smallest else ''}")
    return value


def _text(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is {_shown(item, key)}, expected text")
    return value


def _shown(item: dict[str, Any], key: str) -> str:
    """A value in a message."""
    return repr(item[key])[:80] if key in item else "missing"
