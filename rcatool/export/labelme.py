"""LabelMe: one JSON for each photo, with a polygon for each region of a class.

The format has polygons without holes; a hole is joined to the border by a cut, as its authors advise.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from rcatool.data.labels import mask_to_class
from rcatool.errors import ConfigError
from rcatool.export.outlines import Rule, outlines, report
from rcatool.export.place import new_folder
from rcatool.export.source import Item, Source
from rcatool.export.work import NOTHING, Tally, for_each
from rcatool.files import atomic_write

VERSION = "5.5.0"  # of LabelMe: the version whose files these are like


def main(source: Source, out: Path, *, rule: Rule, force: bool = False) -> None:
    """Write OUT/<id>.json, and OUT/labels.txt with the names of the classes, for LabelMe's option --labels.

    The photos stay where they are: their paths are written relative to OUT. ConfigError where no photos are known.
    """
    if any(item.photo is None for item in source.items):
        raise ConfigError("a LabelMe file names its photo", "add --images DIR")
    place = Path(os.path.realpath(out.expanduser()))
    total = NOTHING
    with new_folder(out, force=force, keep=source.folders) as folder:
        work = partial(_write, folder=folder, place=place, names=source.classes.names, rule=rule)
        for tally in for_each(work, source, task="export labelme"):
            total += tally
        names = ["__ignore__", "_background_", *source.classes.names]
        atomic_write(folder / "labels.txt", "".join(f"{name}\n" for name in names))
    report(total, str(out))


def _write(item: Item, *, folder: Path, place: Path, names: tuple[str, ...], rule: Rule) -> Tally:
    assert item.photo is not None
    (height, width), found, tally = outlines(item, rule)
    shapes = [
        {
            "label": names[mask_to_class(segment.value)],
            "points": segment.points.tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for segment in found
    ]
    document: dict[str, Any] = {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(os.path.relpath(os.path.abspath(item.photo), place)).as_posix(),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    atomic_write(folder / f"{item.id}.json", json.dumps(document, ensure_ascii=False) + "\n")
    return tally
