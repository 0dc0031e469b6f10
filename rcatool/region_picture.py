"""One picture of many regions: crops of photos, the region bright and the rest dim, in columns under headings.

Its PNG says in a text of its own where each crop lies, so that a page can take it apart again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from rcatool.data.photos import read_image

CELL, GAP, LINE = (120, 90), 6, 18  # pixels: width and height of a crop, space around it, height of a line of text
MARGIN = 0.06  # of the photo's size, kept around a region
DIM = 0.3  # brightness outside of a region
LAYOUT = "rcatool-layout"  # the name of the text
PAPER, INK, GREY, BOX = (255, 255, 255), (20, 20, 20), (110, 110, 110), (255, 208, 0)


@dataclass(frozen=True)
class Tile:
    """A region of a photo: its mask (h, w) bool over the whole photo at any resolution, and a caption."""

    photo: Path
    mask: np.ndarray
    caption: str


@dataclass(frozen=True)
class Block:
    """A title and columns of tiles, each with a heading."""

    title: str
    columns: Sequence[tuple[str, Sequence[Tile]]]

    @property
    def rows(self) -> int:
        """The tiles of the longest column."""
        return max((len(tiles) for _, tiles in self.columns), default=0)

    @property
    def height(self) -> int:
        """Pixels."""
        return GAP + LINE + (LINE if self.columns else 0) + self.rows * (CELL[1] + LINE)


def draw_blocks(blocks: Sequence[Block], advance: Callable[[int], object]) -> Image.Image:
    """The blocks one below the other, RGB; `advance` is told of each tile. Raises DataError for a photo that cannot be read.

    Its `info[LAYOUT]` is a list of {title, columns: [{heading, tiles: [[left, top, width, height, caption]]}]}.
    """
    width = GAP + max(4, *(len(block.columns) for block in blocks)) * (CELL[0] + GAP)
    picture = Image.new("RGB", (width, sum(block.height for block in blocks) + GAP), PAPER)
    top, layout = 0, []
    for block in blocks:
        layout.append({"title": block.title, "columns": _draw_block(picture, block, top, advance)})
        top += block.height
    picture.info[LAYOUT] = layout
    return picture


def save_picture(picture: Image.Image, file: BinaryIO, *, about: str) -> None:
    """Write a picture of `draw_blocks` as PNG, with its layout and a word `about` what it was made of."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt(LAYOUT, json.dumps({"about": about, "blocks": picture.info[LAYOUT]}), zip=True)
    picture.save(file, format="PNG", pnginfo=text)


def _draw_block(picture: Image.Image, block: Block, top: int, advance: Callable[[int], object]) -> list[dict[str, Any]]:
    """Draw a block and return where its tiles are, by column."""
    pen = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(14), ImageFont.load_default(11)
    pen.line((0, top, picture.width, top), fill=GREY)
    _text(pen, (GAP, top + 2), block.title, large, picture.width - GAP)
    columns = []
    for number, (heading, tiles) in enumerate(block.columns):
        boxes: list[list[object]] = []
        left, y = GAP + number * (CELL[0] + GAP), top + GAP + LINE
        _text(pen, (left, y), heading, small, CELL[0], GREY)
        for row, tile in enumerate(tiles):
            y = top + GAP + 2 * LINE + row * (CELL[1] + LINE)
            image = tile_image(tile)
            place = (left + (CELL[0] - image.width) // 2, y + (CELL[1] - image.height) // 2)
            picture.paste(image, place)
            boxes.append([*place, *image.size, tile.caption])
            _text(pen, (left, y + CELL[1] + 1), tile.caption, small, CELL[0], GREY)
            advance(1)
        columns.append({"heading": heading, "tiles": boxes})
    return columns


def tile_image(tile: Tile) -> Image.Image:
    """The crop around a tile's region, at most as large as CELL, with the region's box; dim outside of the region."""
    photo = Image.fromarray(read_image(tile.photo))
    box = region_box(tile.mask, photo.size)
    pad_x, pad_y = round(MARGIN * photo.width), round(MARGIN * photo.height)
    crop = (max(0, box[0] - pad_x), max(0, box[1] - pad_y), min(photo.width, box[2] + pad_x), min(photo.height, box[3] + pad_y))
    scale = min(CELL[0] / (crop[2] - crop[0]), CELL[1] / (crop[3] - crop[1]))
    size = (max(1, round((crop[2] - crop[0]) * scale)), max(1, round((crop[3] - crop[1]) * scale)))
    image = photo.resize(size, Image.Resampling.BILINEAR, box=crop, reducing_gap=2.0)
    cells = (tile.mask.shape[1] / photo.width, tile.mask.shape[0] / photo.height)
    where = tuple(value * cells[place % 2] for place, value in enumerate(crop))
    mask = Image.fromarray(tile.mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR, box=where)
    image = Image.composite(image, image.point(lambda value: int(DIM * value)), mask.point(lambda value: 255 * (value > 127)))
    x, y = (round((edge - crop[place % 2]) * scale) for place, edge in enumerate(box[:2]))
    right, bottom = (round((edge - crop[place % 2]) * scale) - 1 for place, edge in enumerate(box[2:]))
    ImageDraw.Draw(image).rectangle((x, y, max(x, right), max(y, bottom)), outline=BOX)
    return image


def region_box(mask: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The least box (left, top, right, bottom) in pixels around a mask (h, w) bool over a photo of `size` (W, H); all of it if empty."""
    if not mask.any():
        return (0, 0, *size)
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    across, down = size[0] / mask.shape[1], size[1] / mask.shape[0]
    return (
        round(columns[0] * across), round(rows[0] * down), round((columns[-1] + 1) * across), round((rows[-1] + 1) * down)
    )  # fmt: skip


def _text(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int,
    fill: tuple[int, int, int] = INK,
) -> None:  # fmt: skip
    """Text that is cut where it would leave its `width`."""
    while text and pen.textlength(text, font) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    pen.text(place, text, fill, font)
