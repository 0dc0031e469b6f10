"""`rca show`: the panels of one photo side by side as a PNG, titles above, class names below."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rcatool import console
from rcatool.config import Config
from rcatool.data.manifest import Sample
from rcatool.errors import DataError
from rcatool.files import atomic_save
from rcatool.overlay import INK, PAPER, with_legend
from rcatool.report.panels import Album, Panel, colours, draw_panels, missing_panels, name_of, open_album, present_in
from rcatool.run import Run

LONG_SIDE = 400  # pixels of a panel
GAP, TEXT = 8, 15  # pixels
SOFT = (90, 90, 90)


def show(run: Run, config: Config, photo_id: str, out: Path | None = None) -> tuple[Image.Image, Path]:
    """Write the strip of a photo to `out` (None: RUN/show/<id>.png), say in the log what is missing, and return it and its path.

    Raises DataError for an id that the run does not have, or a file that cannot be read.
    """
    album = open_album(run, config)
    sample = find(album, photo_id)
    picture = draw_strip(album, sample, draw_panels(album, sample, long_side=LONG_SIDE))
    for title, command in missing_panels(album, sample).items():
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
    large, font = ImageFont.load_default(TEXT + 3), ImageFont.load_default(TEXT)
    top = 4 * GAP + 2 * TEXT
    row = Image.new("RGB", (GAP + sum(panel.image.width + GAP for panel in panels), top + panels[0].image.height + GAP), PAPER)
    pen, left = ImageDraw.Draw(row), GAP
    pen.text((GAP, GAP), _cut(pen, f"{sample.id}  ({sample.split})", large, row.width - 2 * GAP), INK, large)
    for panel in panels:
        pen.text((left, top - TEXT - GAP), _cut(pen, panel.title, font, panel.image.width), SOFT, font)
        row.paste(panel.image, (left, top))
        left += panel.image.width + GAP
    table = colours()
    return with_legend(row, [(name_of(album, value), table[value]) for value in present_in(panels)] or [("no class", None)])


def _cut(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The beginning of a text that fits."""
    while text and pen.textlength(text, font) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text
