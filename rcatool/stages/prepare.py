"""A data set on disk -> manifest.jsonl and classes.json, after a look into every file."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rcatool import console
from rcatool.config import Config
from rcatool.data import coco, folder, manifest, shapes, voc
from rcatool.data.labels import IGNORE, ClassInfo, mask_to_class, read_classes, read_image, read_mask, write_classes
from rcatool.data.manifest import SPLITS, Dataset, Sample
from rcatool.errors import ConfigError, DataError
from rcatool.files import atomic_write, sha256_file
from rcatool.pool import parallel_map, worker_count
from rcatool.run import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

PROBLEMS = "prepare-problems.txt"
SHOWN = 20  # problems on the terminal; all of them are in the file


@dataclass(frozen=True)
class Checked:
    """What a look into one photo and its mask found."""

    sample: Sample
    in_mask: tuple[int, ...] | None  # classes with a pixel; None without a mask
    problems: tuple[str, ...] = ()


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
        return
    dataset = _find(root, config)
    for line in dataset.notes:
        console.log(line)
    for line in dataset.warnings:
        console.warn(line)
    # Nothing of an earlier result is put aside before the new one is known to be good.
    checked = _check(dataset, root, workers=worker_count(config.runtime.workers))
    problems = [problem for one in checked for problem in one.problems] + _duplicates(checked, across=True)
    if problems:
        _fail(problems, run.root / PROBLEMS)
    step = run.begin("prepare", config, force=force)
    assert step is not None, "a step that was not current a moment ago"
    samples = [one.sample for one in checked]
    manifest.write_manifest(step.path / "manifest.jsonl", samples)
    write_classes(step.path / "classes.json", dataset.info)
    run.commit(step, {"photos": dict(Counter(sample.split for sample in samples)), "notes": [*dataset.notes, *dataset.warnings]})
    (run.root / PROBLEMS).unlink(missing_ok=True)
    for line in _oddities(checked, dataset):
        console.warn(line)
    console.print_result(_summary(samples, dataset.info))


def _generate(root: Path, config: Config) -> None:
    data = config.data
    counts = {"train": data.shapes_train, "val": data.shapes_val}
    with console.progress("generating images", sum(counts.values())) as bar:
        workers = worker_count(config.runtime.workers)
        made = shapes.generate(root, counts, size=data.shapes_size, seed=data.shapes_seed, workers=workers, bar=bar.advance)
    console.log(f"shapes: {made} images generated in {root}" if made else f"shapes: the images in {root} are up to date")


def _find(root: Path, config: Config) -> Dataset:
    data = config.data
    if data.dataset == "folder":
        return folder.find(root, images=data.images, tags=data.tags, masks=data.masks, val_fraction=data.val_fraction)
    if data.dataset == "coco":
        return _find_coco(root, config)
    lists = {"train": data.train_list, "val": data.val_list, "tune": data.tune_list}
    return voc.find(root, lists=lists, tags=data.tags, masks=data.masks)


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
    return coco.find(found, root, masks, tune_fraction=data.coco_tune_fraction)


def _check_unmoved(run: Run, root: Path) -> None:
    """Check that the photos are where data.root, which may have changed, says."""
    folder_of_step = run.dir("prepare")
    info = read_classes(folder_of_step / "classes.json")
    samples = manifest.read_manifest(folder_of_step / "manifest.jsonl", num_classes=info.num_classes)
    manifest.check_images(samples, root)
    console.log(f"prepare: all {len(samples)} photos are in {root}, with the number of bytes they had")


def _check(dataset: Dataset, root: Path, *, workers: int) -> list[Checked]:
    look = partial(look_into, root=root, num_classes=dataset.info.num_classes, tags_from_masks=dataset.tags_from_masks)
    with console.progress("checking photos", len(dataset.samples)) as bar:
        return list(parallel_map(look, dataset.samples, workers=workers, bar=bar.advance, chunk=16))


def look_into(sample: Sample, *, root: Path, num_classes: int, tags_from_masks: bool) -> Checked:
    """Decode a photo and its mask; the result carries what is wrong with them, if anything is."""
    problems = []
    in_mask = None
    path = root / sample.image
    try:
        height, width = read_image(path).shape[:2]
        sample = replace(sample, size=(height, width), bytes=path.stat().st_size, sha256=sha256_file(path)[:16])
    except DataError as error:
        problems.append(error.message)
    if sample.mask is not None:
        try:
            mask = read_mask(root / sample.mask, num_classes=num_classes, size=None if problems else sample.size)
            values = np.flatnonzero(np.bincount(mask.ravel(), minlength=IGNORE + 1)[1:IGNORE]) + 1
            in_mask = tuple(mask_to_class(values).tolist())
        except DataError as error:
            problems.append(error.message)
    if tags_from_masks and not problems:
        sample = replace(sample, classes=in_mask or ())
        if sample.split == "train" and not in_mask:
            problems.append(f"{path}: no {'object in its mask' if sample.mask else 'mask'} to take tags from")
    return Checked(sample, in_mask, tuple(problems))


def _duplicates(checked: Iterable[Checked], *, across: bool) -> list[str]:
    """Return a line for each photo that is there twice: in two splits (`across`), or within one."""
    first: dict[str, Sample] = {}
    lines = []
    for one in checked:
        earlier = first.setdefault(one.sample.sha256, one.sample) if one.sample.sha256 else one.sample
        if earlier is not one.sample and (earlier.split != one.sample.split) == across:
            lines.append(f"{one.sample.image} ({one.sample.split}) is the same photo as {earlier.image} ({earlier.split})")
    return lines


def _fail(problems: Sequence[str], path: Path) -> None:
    """Show the first problems, write all of them to a file, and raise a DataError with their number."""
    atomic_write(path, "".join(f"{problem}\n" for problem in problems))
    for problem in problems[:SHOWN]:
        console.warn(problem)
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    raise DataError(f"{count} in the data set, first: {problems[0]}", f"read the complete list in {path}")


def _oddities(checked: Sequence[Checked], dataset: Dataset) -> list[str]:
    """Return what is strange but no error: equal photos in a split, tags that do not match masks, classes without photos."""
    lines = _duplicates(checked, across=False)
    tagged = [(set(one.sample.classes), set(one.in_mask)) for one in checked if one.in_mask is not None and one.sample.classes]
    without_pixel = sum(not tags <= seen for tags, seen in tagged)
    without_tag = sum(not seen <= tags for tags, seen in tagged)
    if without_pixel:
        lines.append(f"{without_pixel} of {len(tagged)} photos with a mask have a tag without a pixel")
    if without_tag:
        lines.append(f"{without_tag} of {len(tagged)} photos with a mask have pixels of a class they are not tagged with")
    in_train = {c for one in checked if one.sample.split == "train" for c in one.sample.classes}
    unseen = [name for c, name in enumerate(dataset.info.names) if c not in in_train]
    if unseen:
        lines.append(f"no training photo has the tag {' or '.join(map(repr, unseen))}")
    return lines


def _summary(samples: Sequence[Sample], info: ClassInfo) -> "RenderableType":
    """Return a table of photos by split and class."""
    splits = [name for name in SPLITS if any(sample.split == name for sample in samples)]
    tags = Counter((sample.split, c) for sample in samples for c in sample.classes)
    rows = [[name, *(str(tags[split, c]) for split in splits)] for c, name in enumerate(info.names)]
    rows.append(["photos", *(str(sum(sample.split == split for sample in samples)) for split in splits)])
    rows.append(["with mask", *(str(sum(sample.split == split and sample.mask is not None for sample in samples)) for split in splits)])
    return console.table("photos", ["class", *splits], rows)
