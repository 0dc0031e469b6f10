"""Annotations in COCO's style: one JSON object with lists of images, categories and annotations."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rcatool.data.json_source import shown
from rcatool.data.tag_rows import Row, clean_tag, make_row


@dataclass(frozen=True)
class CocoImage:
    """One entry of `images`: its place in that list, the photo's path, and all its annotations with their places."""

    index: int
    file_name: str
    entry: dict[str, Any]
    annotations: list[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class CocoFile:
    """A file whose lists fit together; `categories` is id -> name, in the order of the ids."""

    categories: dict[int | str, str]
    images: list[CocoImage]


def is_coco(document: object) -> bool:
    """Whether a JSON document is meant to be of this style."""
    return isinstance(document, dict) and all(isinstance(document.get(name), list) for name in ("images", "annotations"))


def parse_coco(document: dict[str, Any]) -> CocoFile:
    """Check ids, names and how they refer to each other; ValueError saying where they do not. Looks at no segmentation."""
    names: dict[int | str, str] = {}
    for place, entry in _entries(document, "categories"):
        name = clean_tag(_text(place, entry, "name"))
        if not name:
            raise ValueError(f"{place}.name: expected text")
        _add(names, _id(place, entry, "id"), name, place)
    of_image: dict[int | str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for index, (place, entry) in enumerate(_entries(document, "annotations")):
        if _id(place, entry, "category_id") not in names:
            raise ValueError(f"{place}.category_id: {shown(entry['category_id'])} is not the id of a category")
        of_image[_id(place, entry, "image_id")].append((index, entry))
    images: dict[int | str, CocoImage] = {}
    for index, (place, entry) in enumerate(_entries(document, "images")):
        image_id = _id(place, entry, "id")
        _add(images, image_id, CocoImage(index, _text(place, entry, "file_name"), entry, of_image.pop(image_id, [])), place)
    if of_image:
        image_id, ((index, _), *_) = next(iter(of_image.items()))
        raise ValueError(f"annotations[{index}].image_id: {shown(image_id)} is not the id of an image")
    return CocoFile({key: names[key] for key in sorted(names, key=_order)}, list(images.values()))


def coco_rows(document: dict[str, Any]) -> Iterator[Row]:
    """Yield a row for each image, tagged with the categories of its annotations, crowds too; ValueError as `parse_coco`."""
    coco = parse_coco(document)
    for image in coco.images:
        tags = [coco.categories[entry["category_id"]] for _, entry in image.annotations]
        yield make_row(f": images[{image.index}]", image=image.file_name, tags=tags, split=None)


def _entries(document: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = document.get(name)
    if not isinstance(entries, list):
        raise ValueError(f"{name}: {shown(entries) if name in document else 'missing'}, expected a list")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{name}[{index}]: {shown(entry)}, expected an object")
        yield f"{name}[{index}]", entry


def _id(place: str, entry: dict[str, Any], key: str) -> int | str:
    value = entry.get(key)
    if type(value) is int or isinstance(value, str):  # a bool is an int to isinstance
        return value
    raise ValueError(f"{place}.{key}: {shown(value) if key in entry else 'missing'}, expected a number or text")


def _text(place: str, entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{place}.{key}: {shown(value) if key in entry else 'missing'}, expected text")
    return value


def _add(table: dict[int | str, Any], key: int | str, value: object, place: str) -> None:
    if key in table:
        raise ValueError(f"{place}.id: {shown(key)} occurs twice")
    table[key] = value


def _order(key: int | str) -> tuple[bool, int, str]:
    return (False, key, "") if isinstance(key, int) else (True, 0, key)
