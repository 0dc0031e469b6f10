"""COCO 2014 as its archives unpack: ROOT/train2014, ROOT/val2014 and ROOT/annotations/instances_{train,val}2014.json.

Classes are the categories in ascending order of their official ids, so that mask values are 1..80; tags are those of all
annotations of a photo, crowds too (as in the tag lists of AFA, EPS and ReCAM). The field's lists hold the photos with at least
one annotation: 82,081 of 82,783 for training and 40,137 of 40,504 for val (EPS, AFA, L2G and CLIP-ES; RIB takes all).
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcatool.data.coco_json import Instances, read_instances
from rcatool.data.coco_paint import Progress, Source, make_masks, mask_name
from rcatool.data.coco_rule import Rule
from rcatool.data.json_window import CHUNK
from rcatool.data.labels import IGNORE, MAX_CLASSES, ClassInfo, class_to_mask, read_mask
from rcatool.data.manifest import Dataset, Sample, below, draft, first_few
from rcatool.errors import ConfigError, DataError

SPLITS = {"train": "train2014", "val": "val2014"}
CATEGORIES = 80
OFFICIAL = {"train": {"all": 82_783, "annotated": 82_081}, "val": {"all": 40_504, "annotated": 40_137}}
MASKS = "rcatool-masks"  # below the data set's folder
LEFT_OUT = {
    "polygons_without_area": "polygons of less than 3 points were left out of masks",
    "annotations_without_pixel": "annotations cover no pixel in masks",
}
_LOOKED_AT = 200  # ready masks whose values are compared with the tags
_NUMBER = re.compile(r"(?:.*_)?0*(\d+)$")  # the number of a photo at the end of a mask's name


@dataclass(frozen=True)
class Masks:
    """Path of the mask of each photo that has one, below data.root, by the photo's file name; and what there is to say."""

    path_of: Mapping[str, str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coco:
    """What the two files of annotations say, by split."""

    info: ClassInfo
    official_ids: tuple[int, ...]  # of the classes
    sources: dict[str, Source]
    photos: str  # annotated or all


def read(root: Path, *, photos: str, progress: Progress) -> Coco:
    """Read the annotations of the data set in `root`; `photos` is annotated or all.

    ConfigError where the folders are not there, DataError for a file of annotations that cannot be used.
    """
    files = {split: root / "annotations" / f"instances_{folder}.json" for split, folder in SPLITS.items()}
    for folder in SPLITS.values():
        if not (root / folder).is_dir():
            raise ConfigError(f"data.root: {root} has no folder {folder}", "expected train2014, val2014 and annotations, as COCO unpacks")
    found = {}
    with progress("reading annotations", sum(-(-path.stat().st_size // CHUNK) for path in files.values() if path.exists())) as bar:
        for split, path in files.items():
            found[split] = read_instances(path, bar.advance)
    first, *others = found.values()
    for other in others:
        if other.categories != first.categories:
            raise DataError(f"{other.path}: its categories are not those of {first.path}")
    ids = tuple(sorted(first.categories))
    info = ClassInfo(tuple(first.categories[category] for category in ids))
    sources = {split: _source(instances, root / SPLITS[split], ids, photos) for split, instances in found.items()}
    return Coco(info, ids, sources, photos)


def _source(instances: Instances, folder: Path, ids: Sequence[int], photos: str) -> Source:
    numbers = np.asarray(instances.photo_ids, np.int64)
    order = np.argsort(numbers)
    photo_of = order[np.searchsorted(numbers[order], np.asarray(instances.annotations.image_id))]
    wanted = np.unique(photo_of) if photos == "annotated" else np.arange(len(numbers))
    return Source(instances, folder, wanted, photo_of, np.searchsorted(ids, np.asarray(instances.annotations.category_id)))


def make(coco: Coco, root: Path, folder: Path, *, rule: Rule, workers: int, progress: Progress) -> Masks:
    """Make the masks of all photos in FOLDER, which is below `root`; see `make_masks` for errors."""
    start = below(folder, root)
    counts = make_masks(folder, coco.sources, rule, workers=workers, progress=progress)
    path_of = {
        name: f"{start}/{split}/{mask_name(name)}" for split, source in coco.sources.items() for name in source.instances.names
    }
    warnings = [f"{counts[name]} {text} ({folder})" for name, text in LEFT_OUT.items() if counts[name]]
    note = f"masks: made in {folder} (overlap {rule.overlap}, crowd {rule.crowd}, void ring {rule.void} pixels)"
    return Masks(path_of, (note,), tuple(warnings))


def take(coco: Coco, root: Path, folder: Path) -> Masks:
    """Take the masks in FOLDER (below `root`) or its folders, told by the number at the end of their names.

    ConfigError where FOLDER is none, DataError where two masks are of one photo, or the values are official ids (1..90).
    """
    if not folder.is_dir():
        raise ConfigError(f"data.masks: {folder} is not a folder")
    by_number: dict[int, Path] = {}
    for path in sorted(folder.rglob("*.png")):
        match = _NUMBER.fullmatch(path.stem)
        if match is None:
            continue
        earlier = by_number.setdefault(int(match[1]), path)
        if earlier != path:
            raise DataError(f"{path} and {earlier} are masks of one photo, number {match[1]}", "name the folder of one set of masks")
    found = [source.instances for source in coco.sources.values()]
    path_of = {
        name: below(by_number[number], root)
        for instances in found for number, name in zip(instances.photo_ids, instances.names, strict=True) if number in by_number
    }  # fmt: skip
    _check_ids(coco, root, path_of)
    return Masks(path_of, (f"masks: {folder}, made elsewhere, by a rule that is not known here",))


def _check_ids(coco: Coco, root: Path, path_of: Mapping[str, str]) -> None:
    """DataError where ready masks are of official ids: compared with the tags, as most values mean something either way."""
    votes = {"contiguous": 0, "official": 0}
    for split in coco.sources:
        tagged = [(name, tags) for name, tags in _tags(coco.sources[split]).items() if tags and name in path_of]
        for name, tags in tagged[:: max(1, len(tagged) // _LOOKED_AT)]:
            mask = read_mask(root / path_of[name], num_classes=MAX_CLASSES)
            values = set(np.unique(mask).tolist()) - {0, IGNORE}
            here, there = (values <= ids for ids in ({class_to_mask(c) for c in tags}, {coco.official_ids[c] for c in tags}))
            votes["contiguous"] += here and not there
            votes["official"] += there and not here
    if votes["official"] > votes["contiguous"]:
        ids = coco.official_ids
        raise DataError(
            f"data.masks: the masks hold official ids ({ids[0]}..{ids[-1]}), expected 1..{len(ids)} in the order of these: of the photos"
            f" looked at, {votes['official']} fit their tags only as official ids, {votes['contiguous']} only as 1..{len(ids)}",
            "masks of coco2voc can be made with the right ids: --variant coco2voc instead of --masks",
        )


def find(coco: Coco, root: Path, masks: Masks, *, tune_fraction: float) -> Dataset:
    """Return the photos with their tags and masks; `tune_fraction` of the training photos, told by their names, are tune's."""
    samples: list[Sample] = []
    for split, source in coco.sources.items():
        folder = below(source.photos, root)
        for name, tags in _tags(source).items():
            stem = mask_name(name).removesuffix(".png")
            part = "tune" if split == "train" and _share(stem) < tune_fraction else split
            samples.append(draft(stem, part, image=f"{folder}/{name}", mask=masks.path_of.get(name), classes=tags))
    twice = len(samples) - len({sample.id for sample in samples})
    if twice:
        raise DataError(f"{twice} photos have the name of another one, but for its ending or folder")
    if not any(sample.split == "train" for sample in samples):
        raise DataError(f"{coco.sources['train'].instances.path}: no training photo is left (data.tune_fraction is {tune_fraction})")
    lines = [_count_line(split, len(source.wanted), coco.photos) for split, source in coco.sources.items()]
    odd = [line for line, is_odd in lines if is_odd]
    if coco.info.num_classes != CATEGORIES:
        odd.append(f"{coco.info.num_classes} categories; COCO has {CATEGORIES}")
    missing = [sample.id for sample in samples if sample.mask is None]
    if missing:
        odd.append(f"{len(missing)} photos have no mask: {first_few(missing)}")
    return Dataset(
        coco.info, samples, notes=(*(line for line, is_odd in lines if not is_odd), *masks.notes), warnings=(*odd, *masks.warnings)
    )


def _count_line(split: str, count: int, photos: str) -> tuple[str, bool]:
    """Return a line on the photos of a split, and whether they are not as many as in the official data set."""
    what = "photos with an annotation" if photos == "annotated" else "photos, with or without an annotation"
    official = OFFICIAL[split][photos]
    return f"{split}: {count} {what}; the official {SPLITS[split]} has {official}", count != official


def _tags(source: Source) -> dict[str, list[int]]:
    """Return the class indices of each photo that is wanted, by file name."""
    pairs = np.unique(np.stack([source.photo_of, source.classes]), axis=1)
    bounds = np.searchsorted(pairs[0], source.wanted), np.searchsorted(pairs[0], source.wanted, side="right")
    classes = pairs[1].tolist()
    names = (source.instances.names[place] for place in source.wanted)
    return {name: classes[start:end] for name, start, end in zip(names, *bounds, strict=True)}


def _share(image_id: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the id, so that photos keep their split when others come."""
    return int(hashlib.sha256(image_id.encode()).hexdigest()[:8], 16) / 2**32
