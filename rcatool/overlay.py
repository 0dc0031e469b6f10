"""A photo with its label map laid over it: tinted classes, crisp outlines, and a legend below."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST = 480  # pixels of the long side: smaller photos are enlarged, so that there is room for the legend
TINT = 0.45  # share of the class's colour in what it covers
PAPER, INK, GREY = (255, 255, 255), (25, 25, 25), (150, 150, 150)


def draw_overlay(
    photo: np.ndarray, mask: np.ndarray, names: Sequence[str], colours: Sequence[tuple[int, int, int]], *, long_side: int
) -> Image.Image:
    """The picture of a photo uint8 (H, W, 3) and its mask uint8 (H, W): RGB, its photo at most `long_side` pixels long.

    `names` and `colours` are by mask value. Background is left as it is; the legend names the other classes, largest first, and the
    share that each takes.
    """
    height, width = mask.shape
    scale = min(long_side, max(SMALLEST, height, width)) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC))
    labels = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    picture = tinted(small, labels, colours)
    counts = np.bincount(mask.reshape(-1), minlength=len(names))
    present = sorted((value for value in range(1, len(names)) if counts[value]), key=lambda value: -counts[value])
    entries = [(f"{names[value]}  {_percent(counts[value] / mask.size)}", colours[value]) for value in present]
    return with_legend(Image.fromarray(picture), entries or [("background only", None)])


def tinted(photo: np.ndarray, labels: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """A photo uint8 (H, W, 3) under its label map uint8 (H, W): classes tinted and outlined in their `colours`, background as it is."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    covered, tint = (labels > 0)[..., None], table[labels]
    picture = np.where(covered, (photo * (1 - TINT) + tint * TINT).astype(np.uint8), photo)
    outlines = _outlines(labels, max(1, round(max(labels.shape) / 500)))[..., None]
    return np.where(outlines, np.maximum(tint, 255 - (255 - tint) // 2), picture).astype(np.uint8)


def _outlines(labels: np.ndarray, thickness: int) -> np.ndarray:
    """Where an object borders on another label: bool (H, W), on the object's side, `thickness` pixels wide."""
    found = np.zeros(labels.shape, bool)
    for shift in range(1, thickness + 1):
        down, across = labels[shift:] != labels[:-shift], labels[:, shift:] != labels[:, :-shift]
        found[shift:] |= down
        found[:-shift] |= down
        found[:, shift:] |= across
        found[:, :-shift] |= across
    return found & (labels > 0)


def with_legend(picture: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int] | None]]) -> Image.Image:
    """A strip below the picture: a swatch and a text for each entry, in as many rows as they need."""
    text = max(13, round(max(picture.size) / 50))
    font, row, gap = ImageFont.load_default(text), round(text * 1.7), text // 2
    places, left, top = [], gap, gap
    pen = ImageDraw.Draw(picture)
    for words, _ in entries:
        length = round(text + gap + pen.textlength(words, font) + 2 * gap)
        if left > gap and left + length > picture.width:
            left, top = gap, top + row
        places.append((left, top))
        left += length
    whole = Image.new("RGB", (picture.width, picture.height + top + row), PAPER)
    whole.paste(picture, (0, 0))
    pen = ImageDraw.Draw(whole)
    for (words, colour), (left, top) in zip(entries, places, strict=True):
        top += picture.height
        if colour is not None:
            pen.rectangle((left, top, left + text, top + text), fill=colour, outline=GREY)
        pen.text((left + (text + gap if colour else 0), top + text // 2), words, INK, font, anchor="lm")
    return whole


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
