"""PASCAL VOC layout: photos, lists, tags and masks of a VOCdevkit folder."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from rcatool.data.labels import VOC_CLASSES, ClassInfo
from rcatool.data.manifest import Dataset, Sample, below, draft, first_few
from rcatool.data.tags import read_text, read_text_tags, read_vector_tags, read_xml_tags
from rcatool.errors import ConfigError, DataError
from rcatool.files import is_path_safe

PACKAGED_LISTS = Path(__file__).parent / "lists" / "voc2012"
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")
FROM_MASKS = "masks"


def find(root: Path, *, lists: Mapping[str, str], tags: str = "", masks: str = "") -> Dataset:
    """Find the photos of `lists` (split -> name of a list; an empty name: no such split) with their tags and masks.

    `tags` is a file (relative to `root` or absolute), `masks` (read them from the masks) or empty (ROOT/tags.txt, else
    Annotations); `masks` is a folder or empty. Photos of the split `test` are for predicting only: neither tags nor masks of
    theirs are taken. Looks at names only, not into photos or masks. ConfigError for a list or folder that is not there,
    DataError for lists that overlap and for training photos without tags.
    """
    base = devkit(root)
    info, notes = _classes(base)
    ids, list_notes, warnings = _read_lists(base, lists)
    photos = _by_stem(base / "JPEGImages", PHOTO_SUFFIXES)
    mask_folder = _mask_folder(root, base, masks)
    mask_files = _by_stem(mask_folder, (".png",)) if mask_folder else {}
    taken, source = _read_tags(root, base, tags=tags, info=info, ids=ids)
    samples = []
    for image_id, split in ids.items():
        image = base / "JPEGImages" / photos.get(image_id, f"{image_id}.jpg")  # a missing photo is reported when it is opened
        has_mask = image_id in mask_files and split != "test"
        mask = below(mask_folder / mask_files[image_id], root) if mask_folder and has_mask else None
        classes = taken.get(image_id, ()) if split != "test" else ()
        samples.append(draft(image_id, split, image=below(image, root), mask=mask, classes=classes))
    if tags != FROM_MASKS:
        _check_tagged(samples, source)
    with_mask = sum(sample.mask is not None for sample in samples)
    where = f"masks: {mask_folder}, {with_mask} of {len(samples)} photos have one" if mask_folder else "masks: none"
    all_notes = (*notes, *list_notes, f"tags: {source}", where)
    return Dataset(info, samples, notes=all_notes, warnings=tuple(warnings), tags_from_masks=tags == FROM_MASKS)


def devkit(root: Path) -> Path:
    """Return the folder with JPEGImages at or below `root`; ConfigError where there is none."""
    base = find_devkit(root)
    if base is not None:
        return base
    if not root.is_dir():
        raise ConfigError(f"data.root: {root} is not a folder", "rca prepare voc --root DIR")
    raise ConfigError(f"data.root: {root} has no JPEGImages, nor VOC2012/JPEGImages, nor VOCdevkit/VOC2012/JPEGImages")


def find_devkit(root: Path) -> Path | None:
    """Return the folder with JPEGImages at or below `root`, if there is one."""
    places = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    return next((base for base in places if (base / "JPEGImages").is_dir()), None)


def _classes(base: Path) -> tuple[ClassInfo, list[str]]:
    """Return the names in ROOT/classes.txt, one a line, or those of VOC."""
    path = base / "classes.txt"
    if not path.exists():
        return ClassInfo(VOC_CLASSES), []
    names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    for name in names:
        if len(name.split()) > 1:
            raise DataError(f"{path}: class name {name!r} has a space in it, which separates names in tag files")
    return ClassInfo(names), [f"classes: {path} ({len(names)})"]


def _read_lists(base: Path, lists: Mapping[str, str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Return image id -> split, in the order of the lists, a line about each list, and one about each that is not the official one."""
    ids: dict[str, str] = {}
    notes, warnings = [], []
    for split, name in lists.items():
        if not name and split != "train":
            continue
        path = _list_path(base, name, setting=f"data.{split}_list")
        found = _read_list(path)
        both = [image_id for image_id in found if image_id in ids]
        if both:
            other = ids[both[0]]
            raise DataError(
                f"{len(both)} photos are in both data.{other}_list ({lists[other]}) and data.{split}_list ({name}): {first_few(both)}",
                f"choose lists that share no photo, e.g. --set data.{split}_list=NAME",
            )
        ids.update(dict.fromkeys(found, split))
        notes.append(f"{split}: {len(found)} photos, {'packaged list' if path.parent == PACKAGED_LISTS else 'list'} {path}")
        warnings += _unofficial(path, found)
    return ids, notes, warnings


def _unofficial(path: Path, found: list[str]) -> list[str]:
    """Return a line about a list of ROOT that has the name of an official one and some of its photos; with none it is other data."""
    packaged = PACKAGED_LISTS / path.name
    if path == packaged or not packaged.is_file():
        return []
    official = set(_read_list(packaged))
    shared = len(official.intersection(found))
    if shared == 0 or shared == len(found) == len(official):
        return []
    counts = f"{len(found)} photos; VOC's official {path.stem} has {len(official)}, {shared} of them are in this list"
    return [f"{path}: {counts}, so scores compare with no published ones"]


def _list_path(base: Path, name: str, *, setting: str) -> Path:
    folder = base / "ImageSets" / "Segmentation"
    for path in (folder / f"{name}.txt", PACKAGED_LISTS / f"{name}.txt"):
        if is_path_safe(name) and path.is_file():
            return path
    there = sorted({path.stem for path in (*folder.glob("*.txt"), *PACKAGED_LISTS.glob("*.txt"))})
    raise ConfigError(f"{setting}: no list {name!r} in {folder} or the package, expected one of {', '.join(there)}")


def _read_list(path: Path) -> list[str]:
    """Return the ids of a list: the first word of each line, or the stem where that is a path to a photo."""
    found: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        image_id = line.split()[0].rpartition("/")[2]
        stem, suffix = os.path.splitext(image_id)
        image_id = stem if suffix.lower() in PHOTO_SUFFIXES else image_id
        if not is_path_safe(image_id):
            raise DataError(f"{path}:{number}: {image_id!r} cannot be the name of a photo")
        if image_id in found:
            raise DataError(f"{path}:{number}: {image_id} is already in line {found[image_id]}")
        found[image_id] = number
    if not found:
        raise DataError(f"{path}: the list is empty")
    return list(found)


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Return stem -> file name for a folder's files; of several suffixes the first one of `suffixes` wins."""
    found: dict[str, tuple[int, str]] = {}
    for name in os.listdir(folder):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes:
            found[stem] = min(found.get(stem, (len(suffixes), "")), (suffixes.index(suffix.lower()), name))
    return {stem: name for stem, (_, name) in found.items()}


def _mask_folder(root: Path, base: Path, masks: str) -> Path | None:
    if masks:
        folder = next((folder for folder in (root / masks, base / masks) if folder.is_dir()), None)
        if folder is None:
            raise ConfigError(f"data.masks: {root / masks} is not a folder")
        return folder
    return next((base / name for name in MASK_FOLDERS if (base / name).is_dir()), None)


def _read_tags(root: Path, base: Path, *, tags: str, info: ClassInfo, ids: Iterable[str]) -> tuple[dict[str, list[int]], str]:
    """Return image id -> class indices, and where they come from."""
    if tags == FROM_MASKS:
        return {}, "from the masks"
    if tags:
        path = root / tags
        if not path.is_file():
            raise ConfigError(f"data.tags: {path} is not a file (a tag file, or `{FROM_MASKS}`)")
        return (read_vector_tags(path, info) if path.suffix == ".npy" else read_text_tags(path, info)), str(path)
    path = base / "tags.txt"
    if path.is_file():
        return read_text_tags(path, info), str(path)
    folder = base / "Annotations"
    if folder.is_dir():
        files = _by_stem(folder, (".xml",))
        return {image_id: read_xml_tags(folder / files[image_id], info) for image_id in ids if image_id in files}, str(folder)
    raise DataError(f"no tags: neither {path} nor {folder} is there", f"name a tag file with --tags FILE (or --tags {FROM_MASKS})")


def _check_tagged(samples: list[Sample], source: str) -> None:
    untagged = [sample.id for sample in samples if sample.split == "train" and not sample.classes]
    if untagged:
        message = f"{len(untagged)} training photos have no tags in {source}: {first_few(untagged)}"
        raise DataError(message, "name a tag file with --tags FILE")
