"""What is exported: the label PNGs of a run, or of any folder, with their photos and the names of the classes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcatool.data.labels import VOC_CLASSES, ClassInfo, read_classes, read_mask
from rcatool.data.manifest import Sample, first_few, read_manifest, split
from rcatool.data.photo_files import PHOTO_SUFFIXES
from rcatool.data.photos import image_size
from rcatool.data.tags import read_text
from rcatool.errors import ConfigError, DataError, StageError
from rcatool.files import is_path_safe
from rcatool.run import Run
from rcatool.steps import in_force, last_network


@dataclass(frozen=True)
class Item:
    """One label PNG (mask values: 0, 1..num_classes, 255) and what is known of its photo."""

    id: str  # names what is written
    label: Path
    num_classes: int
    split: str = "train"  # as in the manifest; a folder's photos are all `train`
    photo: Path | None = None
    name: str = ""  # of the photo, as the data set has it; empty where no photo is known
    size: tuple[int, int] | None = None  # (H, W) where that is known already
    hint: str | None = None  # what to do where the label's values are not those of the classes


@dataclass(frozen=True)
class Source:
    """The labels to export, sorted by split and id; `workers` processes read them; nothing is written into `folders`."""

    classes: ClassInfo
    items: list[Item]
    folders: tuple[Path, ...]
    workers: int = -1


@dataclass(frozen=True)
class _Kind:
    """Labels that a run has: where, made by which step, of which photos."""

    step: str
    below: str
    splits: tuple[str, ...]
    needs_tags: bool


KINDS: Mapping[str, _Kind] = {
    "predictions": _Kind("eval", "predictions", ("val", "tune", "test"), False),
    "pseudo": _Kind("make-pseudo/labels", "", ("train", "tune"), True),
    "pseudo_2": _Kind("make-pseudo/round-2", "", ("train", "tune"), True),
}


def from_run(run: Run, what: str) -> Source:
    """The predictions of the last network, the pseudo labels or the labels of the second round of a run (`what` is a key of KINDS).

    Raises StageError, naming what to type, where they are missing or stale, and DataError for a broken manifest.
    """
    kind = KINDS[what]
    config = run.read_config()
    if kind.step not in in_force(config):
        raise StageError(f"{run.root}: this run has no second round", f"rca train-seg --run {run.root} --set second.enabled=true")
    for step in (*([last_network(config)] if kind.step == "eval" else []), kind.step):
        run.require(step, config, by="export")
    info = read_classes(run.dir("prepare") / "classes.json")
    samples = read_manifest(run.dir("prepare") / "manifest.jsonl", num_classes=info.num_classes)
    folder, root = run.dir(kind.step) / kind.below, Path(config.data.root)

    def item(sample: Sample) -> Item:
        label = folder / f"{sample.id}.png"
        return Item(sample.id, label, info.num_classes, sample.split, root / sample.image, sample.image, sample.size)

    chosen = [item(s) for name in kind.splits for s in split(samples, name) if s.classes or not kind.needs_tags]
    if not chosen:
        raise DataError(f"{run.root}: the run has no photos in {' or '.join(kind.splits)}, so there are no {what} to export")
    return Source(info, chosen, (run.root, root), config.runtime.workers)


def from_folder(labels: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """The label PNGs of a folder, with the photos of the same names in `images`.

    The class names come from the file `classes`, else from classes.json or classes.txt among the labels, else they are VOC's.
    Raises ConfigError for a folder that is not there, DataError for names that cannot be used and for labels without a photo.
    """
    for option, folder in {"--labels": labels, "--images": images}.items():
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"{option}: {folder} is not a folder")
    info, hint = _read_names(labels, classes)
    found = _files(labels, (".png",))
    if not found:
        raise DataError(f"{labels}: no label PNG in this folder", "label PNGs lie in the folder itself, one for each photo")
    photos = _photos(found, labels, images) if images is not None else {}
    for image_id, names in found.items():
        if not is_path_safe(image_id):
            raise DataError(f"{labels}: {names[0]!r} cannot be the name of a photo on every system", "give the file another name")
    items = [
        Item(image_id, labels / names[0], info.num_classes, photo=photos.get(image_id), name=_name(photos.get(image_id)), hint=hint)
        for image_id, names in sorted(found.items())
    ]
    return Source(info, items, (labels, *([images] if images else [])))


def read_label(item: Item) -> np.ndarray:
    """The label map of an item, uint8 (H, W). Raises DataError naming the file: broken, of other values, or not of the photo's size."""
    size = item.size
    if size is None and item.photo is not None:
        size = image_size(item.photo)
    try:
        return read_mask(item.label, num_classes=item.num_classes, size=size)
    except DataError as error:
        raise DataError(error.message, error.hint or item.hint) from error


def _name(photo: Path | None) -> str:
    return photo.name if photo else ""


def _read_names(labels: Path, classes: Path | None) -> tuple[ClassInfo, str | None]:
    """The class names, and the hint for labels of other values."""
    beside = [path for path in (labels / "classes.json", labels / "classes.txt") if path.is_file()]
    path = classes or (beside[0] if beside else None)
    if path is None:
        return ClassInfo(VOC_CLASSES), "for other classes than VOC's, name a file with --classes FILE (one name a line)"
    if path.suffix.lower() == ".json":
        return read_classes(path), f"the classes are those of {path}"
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    try:
        return ClassInfo(tuple(names[1:] if names[:1] == ["background"] else names)), f"the classes are those of {path}"
    except DataError as error:
        raise DataError(f"{path}: {error.message}") from error


def _files(folder: Path, suffixes: Sequence[str]) -> dict[str, list[str]]:
    """Stem -> names of the files with one of `suffixes`, in the order of these; hidden files are left out."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes and not name.startswith("."):
            found.setdefault(stem, []).append(name)
    return {stem: sorted(names, key=lambda name: suffixes.index(os.path.splitext(name)[1].lower())) for stem, names in found.items()}


def _photos(found: Mapping[str, object], labels: Path, images: Path) -> dict[str, Path]:
    """Id -> photo. A photo and its label may lie in one folder, the label being the PNG."""
    is_same = labels.resolve() == images.resolve()
    there = _files(images, [suffix for suffix in PHOTO_SUFFIXES if suffix != ".png" or not is_same])
    missing = [image_id for image_id in found if image_id not in there]
    if missing:
        raise DataError(
            f"{images}: no photo for {len(missing)} of {len(found)} labels: {first_few(missing)}",
            "a photo has the name of its label PNG, with another suffix",
        )
    for image_id in found:
        if len(there[image_id]) > 1:
            raise DataError(f"{images}: several photos for one label: {', '.join(there[image_id])}", "leave one photo for each label")
    return {image_id: images / there[image_id][0] for image_id in found}
