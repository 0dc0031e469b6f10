"""A data set on disk -> manifest.jsonl, classes.json and summary.json, after a look into every file."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rcatool import console
from rcatool.config import Config
from rcatool.data import coco, coco_masks, folder, manifest, shapes, tag_folders, voc
from rcatool.data.census import Census, Look, oddities
from rcatool.data.colours import hues
from rcatool.data.labels import read_classes, read_mask, write_classes
from rcatool.data.manifest import Dataset, Sample
from rcatool.data.mask_digest import content_digest
from rcatool.data.mismatch import mismatches
from rcatool.data.phash import perceptual_hash
from rcatool.data.photo_files import PHOTO_SUFFIXES, files_below
from rcatool.data.photos import has_more_pictures, read_image
from rcatool.data.saliency import add_saliency, read_saliency
from rcatool.errors import ConfigError, DataError
from rcatool.files import atomic_write, sha256_file
from rcatool.pool import parallel_map, worker_count
from rcatool.run import Run

PROBLEMS = "prepare-problems.txt"
SHOWN = 20  # problems on the terminal; all of them are in the file
UNCHOSEN = (
    "the settings are the defaults, with rates for many classes on a GPU; for photos of your own add --config own-photos, "
    "or --config own-photos-cpu where there is no GPU"
)
CHUNK = 16  # photos that a process is sent at a time


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Check every file of the data set and write the run's manifest; DataError with a list of what is wrong with it."""
    root = Path(config.data.root)
    if not root.is_absolute():
        raise ConfigError(f"data.root is {config.data.root!r}, expected the absolute path of the data set's folder")
    if config.data.dataset == "shapes":
        _generate(root, config)
    if not force and run.state("prepare", config).kind == "current":
        run.begin("prepare", config)  # says that it is up to date
        _check_unmoved(run, root)
        if config.data.tags == tag_folders.WORD:
            console.log("prepare: photos that came since then are not noticed, --force looks again")
        return
    dataset = _find(root, config)
    for line in dataset.notes:
        console.log(line)
    for line in dataset.warnings:
        console.warn(line)
    # Nothing of an earlier result is put aside before the new one is known to be good.
    census, samples, problems = Census(dataset.info), [], []
    for look in _look(dataset, root, workers=worker_count(config.runtime.workers)):
        samples.append(look.sample)
        problems += look.problems
        if not look.problems:
            census.add(look)
    problems += _in_two_splits(samples)
    if problems:
        _fail(problems, run.root / PROBLEMS)
    document = census.document()
    step = run.begin("prepare", config, force=force)
    assert step is not None, "a step that was not current a moment ago"
    manifest.write_manifest(step.path / "manifest.jsonl", samples)
    write_classes(step.path / "classes.json", dataset.info)
    atomic_write(step.path / "summary.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    run.commit(step, {"photos": dict(Counter(sample.split for sample in samples)), "notes": [*dataset.notes, *dataset.warnings]})
    (run.root / PROBLEMS).unlink(missing_ok=True)
    _say(dataset, document, config)


def _say(dataset: Dataset, document: Mapping[str, Any], config: Config) -> None:
    """What a person should know of the data set, and of settings that do not suit it."""
    for line in (*mismatches(document), *oddities(document)):
        console.warn(line)
    if dataset.skipped:
        console.log(dataset.skipped)
    if config.data.dataset == "folder" and config.cls == Config().cls:
        console.log(UNCHOSEN)


def _generate(root: Path, config: Config) -> None:
    data = config.data
    counts = {"train": data.shapes_train, "val": data.shapes_val}
    with console.progress("generating images", sum(counts.values())) as bar:
        workers = worker_count(config.runtime.workers)
        made = shapes.generate(root, counts, size=data.shapes_size, seed=data.shapes_seed, workers=workers, bar=bar.advance)
    console.log(f"shapes: {made} images generated in {root}" if made else f"shapes: the images in {root} are up to date")


def _find(root: Path, config: Config) -> Dataset:
    dataset, folder = _find_photos(root, config), config.data.saliency
    if not folder:
        return dataset
    return replace(dataset, samples=add_saliency(dataset.samples, root, folder=folder, images=config.data.images))


def _find_photos(root: Path, config: Config) -> Dataset:
    data = config.data
    if data.dataset == "folder":
        drawn = data.masks.lower().endswith(".json") and (root / data.images).is_dir()
        masks = _draw(root, config) if drawn else data.masks
        fractions = {"val_fraction": data.val_fraction, "tune_fraction": data.tune_fraction}
        return folder.find(root, images=data.images, tags=data.tags, masks=masks, **fractions)
    if data.dataset == "coco":
        return _find_coco(root, config)
    lists = {"train": data.train_list, "val": data.val_list, "tune": data.tune_list, "test": data.test_list}
    return voc.find(root, lists=lists, tags=data.tags, masks=data.masks)


def _draw(root: Path, config: Config) -> str:
    """Draw the masks of a JSON file; the folder they are in, relative to `root`."""
    source = root / config.data.masks
    target = coco_masks.folder_of(source)
    photos = files_below(root / config.data.images, PHOTO_SUFFIXES, skip=target).wanted
    with console.progress("drawing masks", len(photos)) as bar:
        drawn = coco_masks.draw(source, photos, workers=worker_count(config.runtime.workers), bar=bar.advance)
    console.log(f"masks: {drawn} drawn in {target}" if drawn else f"masks: those in {target} are up to date")
    return manifest.below(target, root)


def _find_coco(root: Path, config: Config) -> Dataset:
    """Read the annotations, and take the masks that are given, or make those that are missing."""
    data = config.data
    found = coco.read(root / data.images, photos=data.coco_photos, progress=console.progress)
    if data.masks:
        masks = coco.take(found, root, root / data.masks)
    else:
        rule = coco.Rule(data.coco_overlap, data.coco_crowd, data.coco_void)
        target = root / (data.coco_masks or Path(data.images, coco.MASKS, rule.name))
        masks = coco.make(found, root, target, rule=rule, workers=worker_count(config.runtime.workers), progress=console.progress)
    return coco.find(found, root, masks, tune_fraction=data.tune_fraction)


def _check_unmoved(run: Run, root: Path) -> None:
    """Check that the photos are where data.root, which may have changed, says."""
    folder_of_step = run.dir("prepare")
    info = read_classes(folder_of_step / "classes.json")
    samples = manifest.read_manifest(folder_of_step / "manifest.jsonl", num_classes=info.num_classes)
    manifest.check_images(samples, root)
    console.log(f"prepare: all {len(samples)} photos are in {root}, with the number of bytes they had")


def _look(dataset: Dataset, root: Path, *, workers: int) -> Iterator[Look]:
    look = partial(look_into, root=root, num_classes=dataset.info.num_classes, tags_from_masks=dataset.tags_from_masks)
    with console.progress("checking photos", len(dataset.samples)) as bar:
        yield from parallel_map(look, dataset.samples, workers=workers, bar=bar.advance, chunk=CHUNK)


def look_into(sample: Sample, *, root: Path, num_classes: int, tags_from_masks: bool) -> Look:
    """Decode a photo and its mask; the result carries what is wrong with them, if anything is."""
    problems = []
    look = Look(sample)
    path = root / sample.image
    try:
        image = read_image(path)
        height, width = image.shape[:2]
        sample = replace(sample, size=(height, width), bytes=path.stat().st_size, sha256=sha256_file(path)[:16])
        look = Look(sample, hash=perceptual_hash(image), hues=hues(image), more_pictures=has_more_pictures(path))
    except DataError as error:
        problems.append(error.message)
    if sample.mask is not None:
        try:
            mask = read_mask(root / sample.mask, num_classes=num_classes, size=None if problems else sample.size)
            sample = replace(sample, mask_sha256=sha256_file(root / sample.mask)[:16])
            counts = np.bincount(mask.ravel())
            pixels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
            look = replace(look, pixels=pixels, mask_digest=content_digest(mask))
        except DataError as error:
            problems.append(error.message)
    if sample.saliency is not None and not problems:
        try:
            read_saliency(root / sample.saliency, sample.size)
            sample = replace(sample, saliency_sha256=sha256_file(root / sample.saliency)[:16])
        except DataError as error:
            problems.append(error.message)
    if tags_from_masks and not problems:
        sample = replace(sample, classes=tuple(sorted(look.in_mask or ())))
        if sample.split == "train" and not sample.classes:
            problems.append(f"{path}: no {'object in its mask' if sample.mask else 'mask'} to take tags from")
    return replace(look, sample=sample, problems=tuple(problems))


def _in_two_splits(samples: Sequence[Sample]) -> list[str]:
    """Return a line for each photo that is in another split, too, byte for byte."""
    first: dict[str, Sample] = {}
    lines = []
    for sample in samples:
        earlier = first.setdefault(sample.sha256, sample) if sample.sha256 else sample
        if earlier.split != sample.split:
            lines.append(f"{sample.image} ({sample.split}) is the same photo as {earlier.image} ({earlier.split})")
    return lines


def _fail(problems: Sequence[str], path: Path) -> None:
    """Show the first problems, write all of them to a file, and raise a DataError with their number."""
    atomic_write(path, "".join(f"{problem}\n" for problem in problems))
    for problem in problems[:SHOWN]:
        console.warn(problem)
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    raise DataError(f"{count} in the data set, first: {problems[0]}", f"read the complete list in {path}")
