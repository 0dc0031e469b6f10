"""YOLO segmentation, as Ultralytics reads it: photos, one text file of polygons for each, and data.yaml.

A line is a class number, from 0 for the first class, and a polygon's x y x y ... as shares of width and height. The format has
no holes; a hole is joined to the border by a cut.
"""

import os
import shutil
from functools import partial
from pathlib import Path

from rcatool import console
from rcatool.data.labels import mask_to_class
from rcatool.errors import ConfigError, DataError
from rcatool.export.outlines import Rule, outlines, report
from rcatool.export.place import new_folder
from rcatool.export.polygons import Segment
from rcatool.export.source import Item, Source
from rcatool.export.work import NOTHING, Tally, for_each
from rcatool.files import atomic_write, write_error
from rcatool.yaml_text import write_value

PHOTOS = ("copy", "link", "none")
_DIGITS = 7  # behind the point: a share of a width of 10,000 pixels is then right to a thousandth of a pixel


def main(source: Source, out: Path, *, rule: Rule, photos: str = "copy", force: bool = False) -> None:
    """Write OUT/labels/<split>/<id>.txt, OUT/images/<split>/<id>.jpg and OUT/data.yaml.

    `photos` copies the photos, links to them or leaves them out: the labels are looked for beside a folder named images, so
    a network can be trained from copies or links only. ConfigError where no photos are known, DataError for one that is gone.
    """
    assert photos in PHOTOS, photos
    if photos != "none" and any(item.photo is None for item in source.items):
        raise ConfigError("YOLO reads photos that lie beside their labels", "add --images DIR (or --photos none, for the labels alone)")
    total = NOTHING
    with new_folder(out, force=force, keep=source.folders) as folder:
        for tally in for_each(partial(_write, folder=folder, rule=rule, photos=photos), source, task="export yolo"):
            total += tally
        atomic_write(folder / "data.yaml", _data_yaml(source))
    report(total, str(out))


def _data_yaml(source: Source) -> str:
    """The description of the data set; its paths are relative to its own folder, which can be moved."""
    splits = list(dict.fromkeys(item.split for item in source.items))
    lines = []
    for key in ("train", "val"):
        part = key if key in splits else splits[0]
        if part != key:
            console.warn(f"export: there are no labels of {key} photos; data.yaml must have some, so it names those of {part} again")
        lines.append(f"{key}: images/{part}")
    lines += [f"{name}: images/{name}" for name in splits if name not in ("train", "val")]
    lines += ["names:", *(f"  {number}: {write_value(name)}" for number, name in enumerate(source.classes.names))]
    return "\n".join(lines) + "\n"


def _write(item: Item, *, folder: Path, rule: Rule, photos: str) -> Tally:
    size, found, tally = outlines(item, rule)
    text = "".join(_line(segment, size) for segment in found)
    atomic_write(folder / "labels" / item.split / f"{item.id}.txt", text)  # an empty file: a photo without objects
    if photos != "none":
        assert item.photo is not None
        _bring(item.photo, folder / "images" / item.split / f"{item.id}{item.photo.suffix.lower()}", link=photos == "link")
    return tally


def _line(segment: Segment, size: tuple[int, int]) -> str:
    shares = segment.points / (size[1], size[0])
    numbers = " ".join(f"{share:.{_DIGITS}f}" for share in shares.ravel().tolist())
    return f"{mask_to_class(segment.value)} {numbers}\n"


def _bring(photo: Path, target: Path, *, link: bool) -> None:
    if not photo.is_file():
        raise DataError(f"{photo}: no such file", "put the photo back, or export the labels alone: --photos none")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if link:
            os.symlink(os.path.realpath(photo), target)
        else:
            shutil.copyfile(photo, target)
    except OSError as error:
        raise write_error(target, error) from error
