"""Tags in JSON: photo -> tags, a list of objects, one object a line, or annotations in COCO's style."""

from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from rcatool.data.coco_file import coco_rows, is_coco
from rcatool.data.json_source import load_json, parse_json, shown
from rcatool.data.tag_rows import Row, make_row, read_source
from rcatool.errors import DataError

LINES_SUFFIXES = (".jsonl", ".ndjson")
SUFFIXES = (".json", *LINES_SUFFIXES)
EXPECTED = 'expected {"photo.jpg": ["cat", "dog"]}, [{"image": "photo.jpg", "tags": ["cat", "dog"]}] or annotations in COCO\'s style'


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a JSON file; DataError with file and line or entry where one cannot be used."""
    yield from _lines(path) if path.suffix.lower() in LINES_SUFFIXES else _document(path, load_json(path))


def _lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_source(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield _entry(f":{number}", parse_json(line))
        except JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not valid JSON ({error.msg} at column {error.colno})") from error
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from error


def _document(path: Path, document: Any) -> Iterator[Row]:
    if isinstance(document, list):
        for number, entry in enumerate(document, start=1):
            place = f": entry {number}"
            try:
                yield _entry(place, entry)
            except ValueError as error:
                raise DataError(f"{path}{place}: {error}") from error
        return
    if not isinstance(document, dict):
        raise DataError(f"{path}: {shown(document)}, {EXPECTED}")
    try:
        yield from coco_rows(document) if is_coco(document) else _mapping(document)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _mapping(document: dict[str, Any]) -> Iterator[Row]:
    for image, tags in document.items():
        if not isinstance(tags, list):
            raise ValueError(f"{shown(image)} has {shown(tags)} in place of a list of tags, {EXPECTED}")
        try:
            yield make_row(f": {shown(image)}", image=image, tags=_texts(tags), split=None)
        except ValueError as error:
            raise ValueError(f"{shown(image)}: {error}") from error


def _entry(place: str, entry: Any) -> Row:
    """Make a row of an object with image, tags and perhaps split; ValueError saying what is wrong with it."""
    if not isinstance(entry, dict):
        raise ValueError(f'{shown(entry)}, expected an object like {{"image": "photo.jpg", "tags": ["cat", "dog"]}}')
    for key, kind, meant in (("image", str, "text"), ("tags", list, 'a list like ["cat", "dog"]')):
        if not isinstance(entry.get(key), kind):
            raise ValueError(f"{key}: {shown(entry[key]) if key in entry else 'missing'}, expected {meant}")
    split = entry.get("split")
    if split is not None and not isinstance(split, str):
        raise ValueError(f"split: {shown(split)}, expected text")
    return make_row(place, image=entry["image"], tags=_texts(entry["tags"]), split=split or None)


def _texts(tags: list[Any]) -> list[str]:
    for tag in tags:
        if not isinstance(tag, str):
            raise ValueError(f"tag {shown(tag)}, expected text")
    return tags
