"""The region memory on the page: the crops of RUN/memory.png, which `train-cls` and `rca inspect memory` draw, taken apart again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rcatool.config import Config
from rcatool.data.photos import read_image
from rcatool.errors import DataError, RcaError
from rcatool.region_picture import LAYOUT
from rcatool.report.galleries import Budget
from rcatool.report.panels import data_uri
from rcatool.run import Run

NAME = "memory.png"
MOST_CROPS = 240  # on a page
MOST_BYTES = 1_200_000  # of them
QUALITY = 72
_TO_A_PROTOTYPE = 3  # crops at most


@dataclass(frozen=True)
class Crop:
    """A region of a photo: data URI, alternative text, width, height, caption."""

    uri: str
    alt: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class Owner:
    """A class: what its memory holds, and of each prototype a heading and its nearest regions."""

    title: str
    columns: Sequence[tuple[str, Sequence[Crop]]]


def has_prototypes(config: Config) -> bool:
    """Whether the classifier of a run with these settings has prototypes when it is trained."""
    settings = config.memory
    return config.cls.method != "cam" and settings.prototypes > 0 and settings.prototypes_start < config.cls.epochs


def prototypes(run: Run, budget: Budget) -> list[Owner]:
    """What RUN/memory.png shows of the present network; empty without one, or where it is of another network."""
    path = run.root / NAME
    try:
        if not path.is_file():
            return []
        about, blocks = _layout(path)
        if about != run.result_digest("train-cls"):
            return []
        pixels = read_image(path)
        most = max(1, min(_TO_A_PROTOTYPE, MOST_CROPS // max(1, sum(len(block["columns"]) for block in blocks))))
        columns = max(1, MOST_CROPS // (most * max(1, len(blocks))))
        room = Budget(min(budget.left, MOST_BYTES))
        found = [_owner(block, pixels, room, (columns, most)) for block in blocks]
        budget.left -= min(budget.left, MOST_BYTES) - room.left
        return [owner for owner in found if owner.columns]
    except RcaError as error:
        budget.broken.append(error.message)
        return []


def _layout(path: Any) -> tuple[str, list[dict[str, Any]]]:
    """What the picture was made of and its blocks; neither where it has no layout, as those of earlier versions. DataError if broken."""
    try:
        with Image.open(path) as picture:
            text = picture.info.get(LAYOUT)
        document = {"about": "", "blocks": []} if text is None else json.loads(text)
        blocks = [
            {
                "title": str(block["title"]),
                "columns": [(str(column["heading"]), [_box(tile) for tile in column["tiles"]]) for column in block["columns"]],
            }
            for block in document["blocks"]
        ]  # fmt: skip
        return str(document["about"]), blocks
    except (OSError, UnidentifiedImageError, ValueError, KeyError, TypeError, RecursionError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a picture of the region memory ({error})", "rca inspect memory draws it") from error


def _box(tile: Sequence[Any]) -> tuple[int, int, int, int, str]:
    left, top, width, height = (int(value) for value in tile[:4])
    if min(left, top) < 0 or min(width, height) < 1:
        raise ValueError("a crop lies outside of it")
    return left, top, width, height, str(tile[4])


def _owner(block: dict[str, Any], pixels: np.ndarray, room: Budget, most: tuple[int, int]) -> Owner:
    columns = []
    for heading, tiles in block["columns"][: most[0]]:
        crops = []
        for left, top, width, height, caption in tiles[: most[1]]:
            part = pixels[top : top + height, left : left + width]
            if part.shape[:2] != (height, width):
                raise DataError(f"{NAME}: a crop lies outside of it", "rca inspect memory draws it anew")
            uri = data_uri(Image.fromarray(part), QUALITY)
            if room.spend(len(uri)):
                name = block["title"].partition(":")[0]
                crops.append(Crop(uri, f"a region of {name}: likeness and photo {caption}", width, height, caption))
        if crops:
            columns.append((heading, crops))
    return Owner(block["title"], columns)
