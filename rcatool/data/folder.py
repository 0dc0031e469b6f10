"""Any folder of photos with tags from a CSV, JSON or class folders; the class names are the tags.

Masks are optional: MASKS/<path of the photo>.png, with value 0 for background, 255 for ignore, and 1, 2, ... for the classes
in the order of MASKS/classes.txt (one name a line), or sorted by name where there is no such file.
"""

import importlib.util
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from rcatool.data import tag_csv, tag_folders, tag_json
from rcatool.data.labels import ClassInfo
from rcatool.data.manifest import SPLITS, Dataset, Sample, below, draft, first_few
from rcatool.data.photo_files import HEIF_SUFFIXES, MASK_SUFFIXES, PHOTO_SUFFIXES, Files, Names, counted, describe, files_below
from rcatool.data.photo_ids import make_ids, split_of
from rcatool.data.photos import heif_reader_missing
from rcatool.data.tag_rows import Row
from rcatool.data.tags import read_text
from rcatool.errors import ConfigError, DataError

EXPECTED = 'lines like photo.jpg,cat;dog or JSON like {"photo.jpg": ["cat", "dog"]}'


@dataclass(frozen=True)
class Tags:
    """What a source of tags says: photo -> row, where that is, and photos that are copies of others."""

    rows: dict[str, Row]
    note: str
    lacking: str  # what a photo that it says nothing about is without
    copies: list[str]


@dataclass(frozen=True)
class Masks:
    """The masks of a folder: photo -> mask, and the files that are no photo's mask."""

    of: dict[str, Path]
    unused: list[str]
    others: str  # what lies there that is no PNG


def find(root: Path, *, images: str, tags: str, masks: str = "", val_fraction: float = 0.0, tune_fraction: float = 0.0) -> Dataset:
    """Find the photos below `images` that `tags` says something about, with their masks below `masks` (empty: none).

    `tags` is a file (CSV, or JSON by its suffix) or `folders`. All three are relative to `root` or absolute; photos and masks
    must be below `root`. Looks at names only. ConfigError for a folder that is not there, DataError (with the line or entry)
    for tags that cannot be used, SetupError for HEIF photos without the library that reads them.
    """
    if val_fraction + tune_fraction > 1:
        raise ConfigError(f"data.val_fraction {val_fraction} and data.tune_fraction {tune_fraction} are more than 1 together")
    folder, table, mask_folder = _places(root, images=images, tags=tags, masks=masks)
    files = files_below(folder, PHOTO_SUFFIXES, skip=mask_folder, ignore=table)
    if not files.wanted:
        others = f", but {describe(files.skipped)}" if files.skipped else ""
        raise DataError(f"{folder}: no photo ({', '.join(PHOTO_SUFFIXES)}) in this folder or below it{others}")
    source = _read_tags(table, folder, files.wanted)
    info = _classes(source.rows.values(), mask_folder)
    found = _find_masks(files.wanted, mask_folder)
    above = below(folder, root)
    splits = {"val_fraction": val_fraction, "tune_fraction": tune_fraction}
    samples, untagged = [], []
    for photo, image_id in sorted(make_ids(files.wanted).items()):
        row = source.rows.get(photo)
        if row is None:
            continue
        split = row.split or split_of(image_id, **splits)
        mask = found.of.get(photo)
        if not row.tags and (split == "train" or mask is None):
            untagged.append(photo)  # nothing to learn from, or nothing to score
            continue
        classes = [info.names.index(tag) for tag in row.tags]
        image = photo if above == "." else f"{above}/{photo}"
        samples.append(draft(image_id, split, image=image, mask=below(mask, root) if mask else None, classes=classes))
    if not any(sample.split == "train" for sample in samples):
        raise DataError(f"{table}: no row gives a training photo a tag")
    return Dataset(
        info, samples, notes=(source.note, *_mask_notes(samples, mask_folder, info)),
        warnings=(*_left_out(files, source, untagged), *_look_alike(info.names), *_unused_masks(found, mask_folder)),
        skipped=f"skipped below {folder}: {describe(files.skipped)}" if files.skipped else "",
    )  # fmt: skip


def common_root(images: Path, masks: Path | None = None) -> Path:
    """Return the folder that can be data.root for these folders."""
    folders = [os.path.abspath(folder) for folder in (images, masks) if folder is not None]
    return Path(os.path.commonpath(folders))


def _places(root: Path, *, images: str, tags: str, masks: str) -> tuple[Path, Path, Path | None]:
    """Return the folder of photos, the source of tags and the folder of masks; ConfigError where one is not there."""
    folder, table, mask_folder = (Path(os.path.normpath(root / name)) for name in (images, tags, masks))
    for setting, path in {"data.images": folder, "data.masks": mask_folder}.items():
        if not path.is_dir():
            raise ConfigError(f"{setting}: {path} is not a folder")
    if tags == tag_folders.WORD:
        table = folder
    elif not table.is_file():
        hint = "photos in one folder per class: --tags folders" if table.is_dir() else "rca prepare folder --images DIR --tags FILE"
        raise ConfigError(f"data.tags: {table} is not a file", hint)
    if masks and mask_folder == folder:
        raise ConfigError(f"data.masks and data.images are the same folder, {folder}")
    return folder, table, mask_folder if masks else None


def _read_tags(table: Path, folder: Path, photos: Sequence[str]) -> Tags:
    """Read the tags and find the photo of each row; DataError where they cannot be used, SetupError where a photo cannot be."""
    if table == folder:
        listed, copies = tag_folders.read_rows(folder, photos)
        rows = {row.image: row for row in listed}
        several = f"; {len(copies)} are copies of a photo with several tags" if copies else ""
        note = f"tags: the class folders in {folder}, with {len(rows) + len(copies)} of {counted(len(photos), 'photo')}{several}"
        lacking = "class folder"
    else:
        listed = list((tag_json if table.suffix.lower() in tag_json.SUFFIXES else tag_csv).read_rows(table))
        if not listed:
            raise DataError(f"{table}: no rows, expected {EXPECTED}")
        rows, copies = _match(listed, photos, table=table, folder=folder), []
        note = f"tags: {table}, with a row for {len(rows)} of {counted(len(photos), 'photo')} in {folder}"
        lacking = "row"
    if not any(row.tags for row in rows.values()):
        raise DataError(f"{table}: no row has a tag")
    if any(photo.lower().endswith(HEIF_SUFFIXES) for photo in rows) and importlib.util.find_spec("pillow_heif") is None:
        raise heif_reader_missing()
    return Tags(rows, note, lacking, copies)


def _match(rows: Iterable[Row], photos: Sequence[str], *, table: Path, folder: Path) -> dict[str, Row]:
    """Return photo -> row; DataError for rows without a photo, and for two rows of one."""
    names = Names(photos)
    matched: dict[str, Row] = {}
    missing = []
    for row in rows:
        photo = names.find(row.image)
        if photo is None:
            missing.append(row)
        elif photo in matched:
            first = f"{table.name}{matched[photo].place}"
            raise DataError(f"{table}{row.place}: {row.image!r} is there twice, first in {first}")
        else:
            matched[photo] = row
    if missing:
        row = missing[0]
        kind = "" if row.image.lower().endswith(PHOTO_SUFFIXES) else f" of a kind that can be read ({', '.join(PHOTO_SUFFIXES)})"
        more = f" (and {len(missing) - 1} more rows: {first_few([other.image for other in missing[1:]])})" if missing[1:] else ""
        close = _close(row.image, photos)
        hint = f"did you mean {close}?" if close else "image paths are relative to the folder of photos"
        if kind and row.place == ":1":
            hint = "the header of a CSV has to be image,tags or image,tags,split"
        raise DataError(f"{table}{row.place}: no photo {row.image!r}{kind} in {folder}{more}", hint)
    return matched


def _close(name: str, photos: Sequence[str]) -> str | None:
    """Return the photo that a name may have been meant for: same but for case, same but for folders, or similar."""
    for key in (str.casefold, lambda path: PurePosixPath(path).stem.casefold()):
        alike = [photo for photo in photos if key(photo) == key(name)]
        if alike:
            return alike[0]
    return next(iter(get_close_matches(name, photos, n=1)), None)


def _classes(rows: Iterable[Row], mask_folder: Path | None) -> ClassInfo:
    """Return the class names: in the order of MASKS/classes.txt where that is there, else sorted."""
    tags = sorted({tag for row in rows for tag in row.tags})
    path = mask_folder / "classes.txt" if mask_folder else None
    if path is None or not path.is_file():
        return ClassInfo(tuple(tags))
    names = [" ".join(line.split()) for line in read_text(path).splitlines() if line.strip()]
    if names and names[0] == "background":
        names = names[1:]
    unknown = [tag for tag in tags if tag not in names]
    if unknown:
        raise DataError(f"{path}: no line for {len(unknown)} of the tags: {first_few(unknown)}")
    return ClassInfo(tuple(names))


def _find_masks(photos: Sequence[str], folder: Path | None) -> Masks:
    """Find the mask of each photo that has one which cannot be meant for another photo."""
    if folder is None:
        return Masks({}, [], "")
    files = files_below(folder, MASK_SUFFIXES)
    mask_of = {photo: str(PurePosixPath(photo).with_suffix(".png")) for photo in photos}
    wanted = Counter(mask_of.values())
    names = Names(files.wanted)
    found = {photo: names.find(mask) for photo, mask in mask_of.items() if wanted[mask] == 1}
    of = {photo: mask for photo, mask in found.items() if mask is not None}
    pictures = Counter({kind: count for kind, count in files.skipped.items() if kind.startswith(".")})
    pictures.update({"picture": len(files.unreadable)})
    return Masks({photo: folder / mask for photo, mask in of.items()}, sorted(set(files.wanted) - set(of.values())), describe(+pictures))


def _mask_notes(samples: Sequence[Sample], mask_folder: Path | None, info: ClassInfo) -> list[str]:
    """Return lines on what can be scored."""
    splits = [split for split in SPLITS if any(sample.split == split for sample in samples)]
    notes = []
    if mask_folder:
        values = ", ".join(f"{value} {name}" for value, name in enumerate(["background", *info.names][:6]))
        notes.append(f"masks: {mask_folder}, with values {values}{', ...' if info.num_classes > 5 else ''}")
    for split in splits:
        chosen = [sample for sample in samples if sample.split == split]
        notes.append(f"{split}: {counted(len(chosen), 'photo')}, {sum(sample.mask is not None for sample in chosen)} with a mask")
    if not any(sample.split == "train" and sample.mask for sample in samples):
        notes.append("no training photo has a mask: `rca eval` cannot score CAMs and pseudo labels")
    if not any(sample.split == "val" and sample.mask for sample in samples):
        notes.append("no val photo has a mask: `rca eval` cannot score the segmentation network")
    return notes


def _left_out(files: Files, source: Tags, untagged: Sequence[str]) -> list[str]:
    """Return lines on pictures that are not taken."""
    without_row = sorted(set(files.wanted) - set(source.rows) - set(source.copies))
    lines = []
    if without_row:
        lines.append(f"left out: {counted(len(without_row), 'photo')} without a {source.lacking}: {first_few(without_row)}")
    if untagged:
        lines.append(f"left out: {counted(len(untagged), 'photo')} whose row has no tags: {first_few(untagged)}")
    if files.unreadable:
        lines.append(f"left out: {counted(len(files.unreadable), 'picture')} that cannot be read: {first_few(files.unreadable)}")
    return lines


def _look_alike(names: Sequence[str]) -> list[str]:
    """Return a line for each group of names that differ in case, spaces or punctuation only."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[re.sub(r"[\W_]", "", name).casefold() or name].append(name)
    return [f"class names that look alike are kept apart: {', '.join(map(repr, group))}" for group in groups.values() if len(group) > 1]


def _unused_masks(found: Masks, folder: Path | None) -> list[str]:
    lines = []
    if found.unused:
        lines.append(f"not used: {counted(len(found.unused), 'mask')} of no photo, or of several: {first_few(found.unused)}")
    if found.others:
        lines.append(f"not used: {found.others} below {folder}, as masks have to be PNG files")
    return lines
