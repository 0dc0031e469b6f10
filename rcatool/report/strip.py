"""`rca show`: the panels of one photo side by side as a PNG, titles and scores above, the legend below."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rcatool import console
from rcatool.config import Config
from rcatool.data.manifest import Sample
from rcatool.errors import DataError
from rcatool.files import atomic_save
from rcatool.overlay import GREY, INK, PAPER
from rcatool.report.panels import HEAT, MADE, MAPS, Album, Panel, colours, draw_panels, missing_panels, name_of, open_album, present_in
from rcatool.run import Run
from rcatool.score_tables import percent

LONG_SIDE, SMALLEST = 400, 280  # pixels of a panel: at most; of a smaller photo
MARGIN, GAP = 20, 12  # pixels around the strip and between panels
TITLE, TEXT = 22, 17  # pixels of the letters
HEAD = MARGIN + TITLE + 2 * GAP + TEXT + GAP // 2  # pixels above the panels
SOFT = (96, 96, 96)
SCALE = 96  # pixels of the colour scale of CAMs


def show(run: Run, config: Config, photo_id: str, out: Path | None = None, *, predict: bool = False) -> tuple[Image.Image, Path]:
    """Write the strip of a photo to `out` (None: RUN/show/<id>.png), say in the log what is missing, and return it and its path.

    predict: let the segmentation network look at the photo now where `eval` did not. Raises DataError for an id that the run does not
    have, or a file that cannot be read, StageError where there is no network to predict with.
    """
    album = open_album(run, config)
    sample = find(album, photo_id)
    missing = missing_panels(album, sample)
    extra = {}
    if predict and not (run.root / MADE["seg"][1] / f"{sample.id}.png").is_file():
        from rcatool.stages import predict_one

        extra["seg"] = predict_one.main(run, config, sample)
        missing.pop(MADE["seg"][0], None)
    picture = draw_strip(album, sample, draw_panels(album, sample, long_side=LONG_SIDE, smallest=SMALLEST, extra=extra))
    for title, command in missing.items():
        console.log(f"show: no {title} of this {sample.split} photo yet; {command} makes it")
    path = run.root / "show" / f"{sample.id}.png" if out is None else out
    atomic_save(path, lambda file: picture.save(file, format="PNG"))
    return picture, path


def find(album: Album, photo_id: str) -> Sample:
    """The photo with this id. Raises DataError with the ids that come nearest."""
    sample = album.samples.get(photo_id) or album.samples.get(Path(photo_id).stem)  # or a file's name
    if sample is None:
        close = get_close_matches(photo_id, album.samples, n=3)
        first = ", ".join([*album.samples][:3])
        hint = f"did you mean {' or '.join(close)}?" if close else f"ids look like {first}"
        raise DataError(f"{photo_id}: no such photo in {album.run.root}", hint)
    return sample


def draw_strip(album: Album, sample: Sample, panels: Sequence[Panel]) -> Image.Image:
    """The panels in a row, RGB."""
    width = 2 * MARGIN + sum(panel.image.width + GAP for panel in panels) - GAP
    legend = _legend(album, panels, width)
    below = HEAD + panels[0].image.height + GAP
    strip = Image.new("RGB", (width, below + legend.height + MARGIN // 2), PAPER)
    pen, left = ImageDraw.Draw(strip), MARGIN
    large, font = ImageFont.load_default(TITLE), ImageFont.load_default(TEXT)
    split = f"   {sample.split} photo"
    name = _cut(pen, sample.id, large, width - 2 * MARGIN - round(pen.textlength(split, font)))
    line = MARGIN + TITLE
    pen.text((left, line), name, INK, large, anchor="ls")
    pen.text((left + round(pen.textlength(name, large)), line), split, SOFT, font, anchor="ls")
    for panel in panels:
        score = "" if panel.miou is None else f"{percent(panel.miou)} %"
        room = panel.image.width - round(pen.textlength(score, font)) - GAP
        pen.text((left, HEAD - GAP // 2), _cut(pen, panel.title, font, room), INK, font, anchor="ls")
        pen.text((left + panel.image.width, HEAD - GAP // 2), score, SOFT, font, anchor="rs")
        strip.paste(panel.image, (left, HEAD))
        left += panel.image.width + GAP
    strip.paste(legend, (0, below))
    return strip


def _legend(album: Album, panels: Sequence[Panel], width: int) -> Image.Image:
    """The colours of the classes, the scale of CAMs and what the numbers are, in as many rows as they need."""
    font, row, table = ImageFont.load_default(TEXT), 2 * TEXT, colours()
    entries = [(name_of(album, value), Image.new("RGB", (TEXT, TEXT), table[value])) for value in present_in(panels)]
    entries = entries or [("no class", None)]
    if any(panel.title in {MADE[kind][0] for kind in MAPS} for panel in panels):
        entries.append(("CAM, 0 to 1", _scale()))
    if any(panel.miou is not None for panel in panels):
        entries.append(("% mIoU of this photo", None))
    pen = ImageDraw.Draw(panels[0].image)
    places, left, top = [], MARGIN, 0
    for words, swatch in entries:
        words = _cut(pen, words, font, width - 2 * MARGIN - SCALE - GAP)
        length = (swatch.width + GAP // 2 if swatch else 0) + round(pen.textlength(words, font))
        if left > MARGIN and left + length > width - MARGIN:
            left, top = MARGIN, top + row
        places.append((left, top, words, swatch))
        left += length + 2 * GAP
    legend = Image.new("RGB", (width, top + row), PAPER)
    pen = ImageDraw.Draw(legend)
    for left, top, words, swatch in places:
        if swatch is not None:
            legend.paste(swatch, (left, top + row // 2 - TEXT // 2))
            pen.rectangle((left, top + row // 2 - TEXT // 2, left + swatch.width, top + row // 2 + TEXT // 2), outline=GREY)
            left += swatch.width + GAP // 2
        pen.text((left, top + row // 2), words, INK if swatch else SOFT, font, anchor="lm")
    return legend


def _scale() -> Image.Image:
    colours_of_heat = Image.fromarray(HEAT.astype(np.uint8)[None])
    return colours_of_heat.resize((SCALE, TEXT), Image.Resampling.BILINEAR)


def _cut(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The beginning of a text that fits."""
    while text and pen.textlength(text, font) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text
