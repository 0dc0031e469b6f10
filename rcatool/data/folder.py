"""Any folder of photos with a CSV of tags; the class names are the tags.

Masks are optional: MASKS/<path of the photo>.png, with value 0 for background, 255 for ignore, and 1, 2, ... for the classes
in the order of MASKS/classes.txt (one name a line), or sorted by name where there is no such file.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from rcatool.data.labels import ClassInfo
from rcatool.data.manifest import SPLITS, Dataset, Sample, below, draft, first_few
from rcatool.data.tag_csv import Row, read_rows
from rcatool.data.tags import read_text
from rcatool.errors import ConfigError, DataError
from rcatool.files import is_path_safe

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LONGEST_ID = 160  # bytes of UTF-8, with room for a digest


def find(root: Path, *, images: str, tags: str, masks: str = "", val_fraction: float = 0.0) -> Dataset:
    """Find the photos below `images` that the CSV `tags` has a row for, with their masks below `masks` (empty: none).

    All three are relative to `root` or absolute; photos and masks must be below `root`. Looks at names only. ConfigError
    for a folder that is not there, DataError (with the CSV's line) for rows that cannot be used.
    """
    folder, table, mask_folder = _places(root, images=images, tags=tags, masks=masks)
    photos = _files_below(folder, PHOTO_SUFFIXES, skip=mask_folder)
    rows = _match(read_rows(table), photos, table=table, folder=folder)
    if not any(row.tags for row in rows.values()):
        raise DataError(f"{table}: no row has a tag")
    info = _classes(rows.values(), mask_folder)
    mask_of = _masks(photos, mask_folder)
    ids = _ids(photos)
    samples, untagged = [], []
    for photo in sorted(rows):
        row = rows[photo]
        split = row.split or ("val" if _share(ids[photo]) < val_fraction else "train")
        mask = mask_of.get(photo)
        if not row.tags and (split == "train" or mask is None):
            untagged.append(photo)  # nothing to learn from, or nothing to score
            continue
        classes = [info.names.index(tag) for tag in row.tags]
        image = below(folder / photo, root)
        samples.append(draft(ids[photo], split, image=image, mask=below(mask, root) if mask else None, classes=classes))
    if not any(sample.split == "train" for sample in samples):
        raise DataError(f"{table}: no row gives a training photo a tag")
    left_out = _left_out(untagged, [photo for photo in photos if photo not in rows])
    notes = (f"tags: {table}, {len(rows)} of {len(photos)} photos in {folder} have a row", *_mask_notes(samples, mask_folder, info))
    return Dataset(info, samples, notes=notes, warnings=(*left_out, *_look_alike(info.names), *_unused_masks(mask_of, mask_folder)))


def common_root(images: Path, masks: Path | None = None) -> Path:
    """Return the folder that can be data.root for these folders."""
    folders = [os.path.abspath(folder) for folder in (images, masks) if folder is not None]
    return Path(os.path.commonpath(folders))


def _places(root: Path, *, images: str, tags: str, masks: str) -> tuple[Path, Path, Path | None]:
    """Return the folder of photos, the CSV and the folder of masks; ConfigError where one is not there."""
    folder, table, mask_folder = (Path(os.path.normpath(root / name)) for name in (images, tags, masks))
    for setting, path in {"data.images": folder, "data.masks": mask_folder}.items():
        if not path.is_dir():
            raise ConfigError(f"{setting}: {path} is not a folder")
    if not table.is_file():
        raise ConfigError(f"data.tags: {table} is not a file", "rca prepare folder --images DIR --tags FILE")
    if masks and mask_folder == folder:
        raise ConfigError(f"data.masks and data.images are the same folder, {folder}")
    return folder, table, mask_folder if masks else None


def _files_below(folder: Path, suffixes: Sequence[str], *, skip: Path | None = None) -> list[str]:
    """Return the files with one of `suffixes`, relative to `folder`, sorted; hidden ones are left out, and the folder `skip`."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(parent, name) != skip]
        for name in names:
            if not name.startswith(".") and name.lower().endswith(tuple(suffixes)):
                found.append(Path(parent, name).relative_to(folder).as_posix())
    return sorted(found)


def _match(rows: Iterable[Row], photos: Sequence[str], *, table: Path, folder: Path) -> dict[str, Row]:
    """Return photo -> row; DataError for rows without a photo."""
    # The same name can be written in two ways in Unicode: macOS keeps one on disk and people type the other.
    by_name = {unicodedata.normalize("NFC", photo): photo for photo in photos}
    matched: dict[str, Row] = {}
    missing = []
    for row in rows:
        photo = by_name.get(unicodedata.normalize("NFC", row.image))
        if photo is None:
            missing.append(row)
        else:
            matched[photo] = row
    if missing:
        row = missing[0]
        close = get_close_matches(row.image, photos, n=1)
        kind = "" if row.image.lower().endswith(PHOTO_SUFFIXES) else f" of a kind that can be read ({', '.join(PHOTO_SUFFIXES)})"
        more = f" (and {len(missing) - 1} more rows: {first_few([other.image for other in missing[1:]])})" if missing[1:] else ""
        hint = f"did you mean {close[0]}?" if close else "image paths are relative to the folder of photos"
        raise DataError(f"{table}:{row.line}: no photo {row.image!r}{kind} in {folder}{more}", hint)
    return matched


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


def _ids(photos: Sequence[str]) -> dict[str, str]:
    """Return photo -> id: its path without suffix, made safe for a file name; unique also where case does not count."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for photo in photos:
        name = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", os.path.splitext(photo)[0])).strip("-.")
        if len(name.encode(errors="replace")) > LONGEST_ID or not is_path_safe(name):
            name = f"photo-{_digest(photo)}"
        groups[name.casefold()].append((photo, name))
    ids = {}
    for group in groups.values():
        for photo, name in group:
            ids[photo] = name if len(group) == 1 else f"{name}-{_digest(photo)}"
    return ids


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _share(image_id: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the id, so that photos keep their split when others come."""
    return int(_digest(image_id), 16) / 2**32


def _masks(photos: Sequence[str], mask_folder: Path | None) -> dict[str, Path]:
    """Return photo -> mask, where there is one and it cannot be meant for another photo."""
    if mask_folder is None:
        return {}
    there = set(_files_below(mask_folder, (".png",)))
    mask_of = {photo: str(PurePosixPath(photo).with_suffix(".png")) for photo in photos}
    wanted = Counter(mask_of.values())
    return {photo: mask_folder / mask for photo, mask in mask_of.items() if mask in there and wanted[mask] == 1}


def _mask_notes(samples: Sequence[Sample], mask_folder: Path | None, info: ClassInfo) -> list[str]:
    """Return lines on what can be scored."""
    splits = [split for split in SPLITS if any(sample.split == split for sample in samples)]
    notes = []
    if mask_folder:
        values = ", ".join(f"{value} {name}" for value, name in enumerate(["background", *info.names][:6]))
        notes.append(f"masks: {mask_folder}, with values {values}{', ...' if info.num_classes > 5 else ''}")
    for split in splits:
        chosen = [sample for sample in samples if sample.split == split]
        notes.append(f"{split}: {len(chosen)} photos, {sum(sample.mask is not None for sample in chosen)} with a mask")
    if not any(sample.split == "train" and sample.mask for sample in samples):
        notes.append("no training photo has a mask: `rca eval` cannot score CAMs and pseudo labels")
    if not any(sample.split == "val" and sample.mask for sample in samples):
        notes.append("no val photo has a mask: `rca eval` cannot score the segmentation network")
    return notes


def _left_out(untagged: Sequence[str], without_row: Sequence[str]) -> list[str]:
    lines = []
    if without_row:
        lines.append(f"{len(without_row)} photos have no row and are left out: {first_few(without_row)}")
    if untagged:
        lines.append(f"{len(untagged)} photos have a row without tags and are left out: {first_few(untagged)}")
    return lines


def _look_alike(names: Sequence[str]) -> list[str]:
    """Return a line for each group of names that differ in case, spaces or punctuation only."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[re.sub(r"[\W_]", "", name).casefold() or name].append(name)
    return [f"class names that look alike are kept apart: {', '.join(map(repr, group))}" for group in groups.values() if len(group) > 1]


def _unused_masks(mask_of: dict[str, Path], mask_folder: Path | None) -> list[str]:
    if mask_folder is None:
        return []
    used = set(mask_of.values())
    unused = [name for name in _files_below(mask_folder, (".png",)) if mask_folder / name not in used]
    return [f"{len(unused)} masks belong to no photo, or could be of several: {first_few(unused)}"] if unused else []
