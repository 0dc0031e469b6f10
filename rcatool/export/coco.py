"""COCO: one JSON for all photos, with run-length encoded masks (pycocotools).

Each photo has an annotation for every class in it, or for every connected region. Class numbers are the mask values, 1..C.
"""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from rcatool import __version__, console
from rcatool.data.labels import class_to_mask
from rcatool.errors import ConfigError, SetupError
from rcatool.export.place import check_free, move_aside
from rcatool.export.polygons import label_regions
from rcatool.export.source import Item, Source, read_label
from rcatool.export.work import NOTHING, Tally, count_ignored, for_each, warn_of_losses
from rcatool.files import atomic_save


def main(source: Source, out: Path, *, regions: bool = False, min_area: int = 1, force: bool = False) -> None:
    """Write the document `out`; with `regions`, an annotation is a 4-connected region of at least `min_area` pixels.

    Photo by photo: the memory does not grow with their number, but for a line about each. ConfigError where no photos are known,
    SetupError where pycocotools is missing.
    """
    _rle()
    if any(not item.name for item in source.items):
        raise ConfigError("a COCO document names its photos", "add --images DIR")
    if min_area > 1 and not regions:
        raise ConfigError(f"--min-area {min_area} is about connected regions", "add --regions")
    target = check_free(out, force=force, keep=source.folders)
    found = for_each(partial(annotate, regions=regions, min_area=min_area), source, task="export coco")
    document = _Document(source)

    def write(handle: BinaryIO) -> None:
        for line in document.lines(found):
            handle.write(line.encode())
        move_aside(target)  # only now that all is written

    atomic_save(target, write)
    warn_of_losses(document.total)
    console.log(f"export: {document.total.photos} photos, {document.total.segments} annotations in {out}")


def annotate(item: Item, *, regions: bool, min_area: int) -> tuple[tuple[int, int], list[dict[str, Any]], Tally]:
    """Size (H, W) of a label and its annotations, without the numbers that depend on other photos."""
    rle = _rle()
    label = read_label(item)
    numbers, value_of, areas = label_regions(label, range(1, item.num_classes + 1), min_area=min_area)
    if not regions:  # regions of a class are one
        numbers, value_of = np.asarray(value_of)[numbers], np.arange(item.num_classes + 1)
    chosen = [number for number in np.unique(numbers).tolist() if number]
    found = []
    for number in chosen:
        code = rle.encode(np.asfortranarray(numbers == number))
        found.append({
            "category_id": int(value_of[number]), "iscrowd": 0, "area": int(rle.area(code)), "bbox": rle.toBbox(code).tolist(),
            "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
        })  # fmt: skip
    objects = int(np.count_nonzero((label > 0) & (label <= item.num_classes)))
    tally = Tally(segments=len(found), pixels=label.size, ignored=count_ignored(label), small=objects - int(areas.sum()))
    return (label.shape[0], label.shape[1]), found, tally


class _Document:
    """The text of a COCO document, written as the annotations come."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.total = NOTHING

    def lines(self, found: Iterable[tuple[tuple[int, int], list[dict[str, Any]], Tally]]) -> Iterator[str]:
        """The annotations first, as they come; then the photos, whose sizes are known by then."""
        categories = [{"id": class_to_mask(i), "name": name, "supercategory": ""} for i, name in enumerate(self.source.classes.names)]
        yield f'{{"info": {_json({"description": f"rca export coco, rcatool {__version__}"})},\n"licenses": [],\n'
        yield f'"categories": {_json(categories)},\n"annotations": ['
        images = []
        for image_id, (item, ((height, width), annotations, tally)) in enumerate(zip(self.source.items, found, strict=True), start=1):
            images.append({"id": image_id, "file_name": item.name, "height": height, "width": width})
            for annotation in annotations:
                self.total += Tally(photos=0, segments=1)
                separator = "," if self.total.segments > 1 else ""
                yield f"{separator}\n{_json({'id': self.total.segments, 'image_id': image_id, **annotation})}"
            self.total += Tally(pixels=tally.pixels, ignored=tally.ignored, small=tally.small)
        yield '],\n"images": [' + ",".join(f"\n{_json(image)}" for image in images) + "]}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _rle() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise SetupError(f"export coco needs pycocotools ({error})", "pip install 'rcatool[coco]'") from error
    module: ModuleType = mask
    return module
