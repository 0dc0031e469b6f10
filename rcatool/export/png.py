"""Label maps as PNGs: with the palette (the values are the classes), or as RGB pictures in its colours."""

from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from rcatool import console
from rcatool.data.labels import palette, write_classes
from rcatool.export.place import new_folder
from rcatool.export.source import Item, Source, read_label
from rcatool.export.work import for_each
from rcatool.files import atomic_write


def main(source: Source, out: Path, *, rgb: bool = False, force: bool = False) -> None:
    """Write OUT/<id>.png, and the class table as OUT/classes.json and OUT/classes.txt (one name a line, from value 1 on)."""
    with new_folder(out, force=force, keep=source.folders) as folder:
        for _ in for_each(partial(_write, folder=folder, rgb=rgb), source, task="export png"):
            pass
        write_classes(folder / "classes.json", source.classes)
        atomic_write(folder / "classes.txt", "".join(f"{name}\n" for name in source.classes.names))
    console.log(f"export: {len(source.items)} {'RGB' if rgb else 'palette'} PNGs in {out}")


def encode(label: np.ndarray, *, rgb: bool = False) -> bytes:
    """A label map uint8 (H, W) as an 8-bit PNG with the VOC palette, or in its colours; equal maps give equal bytes."""
    image = Image.fromarray(label)
    image.putpalette(palette())
    buffer = BytesIO()
    (image.convert("RGB") if rgb else image).save(buffer, format="PNG")
    return buffer.getvalue()


def _write(item: Item, *, folder: Path, rgb: bool) -> None:
    atomic_write(folder / f"{item.id}.png", encode(read_label(item), rgb=rgb))
