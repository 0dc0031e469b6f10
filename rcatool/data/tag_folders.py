"""Tags from where the photos lie: IMAGES/<class>/photo.jpg, or IMAGES/<split>/<class>/photo.jpg."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from rcatool.data.manifest import SCORED_SPLITS
from rcatool.data.tag_rows import Row, make_row
from rcatool.errors import DataError
from rcatool.files import sha256_file

WORD = "folders"  # stands in the place of a tag file
SPLIT_LIKE = (*SCORED_SPLITS, "training", "valid", "validation", "test", "testing")


def read_rows(folder: Path, photos: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Make a row of each photo in a class folder; return them, and the further copies of photos with several tags.

    `photos` are paths below `folder`. Files of one name and content in several class folders (of one split) are one photo
    with several tags; sub-folders of a class folder belong to it. Photos in no class folder get no row. DataError where there
    is no class folder, or a folder beside those of splits.
    """
    level = 1 if _has_splits(folder, photos) else 0  # where the class stands in a path
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for photo in sorted(photos):
        parts = PurePosixPath(photo).parts
        if len(parts) > level + 1:
            groups["".join(parts[:level]), unicodedata.normalize("NFC", "/".join(parts[level + 1 :]))].append(photo)
    rows, copies = [], []
    for (split, _), alike in groups.items():
        for first, *others in _by_content(folder, alike):
            classes = [PurePosixPath(photo).parts[level] for photo in (first, *others)]
            copies += others
            try:
                rows.append(make_row(f"/{first}", image=first, tags=classes, split=split or None))
            except ValueError as error:
                raise DataError(f"{folder / first}: {error}") from error
    if not rows:
        raise DataError(f"{folder}: no photo in a class folder, expected {folder.name}/CLASS/photo.jpg", "or name a file: --tags FILE")
    return rows, copies


def _has_splits(folder: Path, photos: Iterable[str]) -> bool:
    """Whether the folders at the top are splits, with the classes below them."""
    tops = {photo.partition("/")[0] for photo in photos if "/" in photo}
    if not tops or any(top.lower() not in SPLIT_LIKE for top in tops):
        return False
    strange = sorted(tops - set(SCORED_SPLITS))
    if strange:
        expected = f"folders {', '.join(SCORED_SPLITS)} or those of classes"
        raise DataError(f"{folder / strange[0]}: no split, expected {expected}", "rename or move it")
    return True


def _by_content(folder: Path, photos: Sequence[str]) -> list[list[str]]:
    """Group photos of equal bytes; only those of equal length are read."""
    if len(photos) == 1:
        return [list(photos)]
    by_size: dict[int, list[str]] = defaultdict(list)
    for photo in photos:
        by_size[_size(folder / photo)].append(photo)
    groups: dict[tuple[int, str], list[str]] = defaultdict(list)
    for size, alike in by_size.items():
        for photo in alike:
            groups[size, sha256_file(folder / photo) if len(alike) > 1 else ""].append(photo)
    return list(groups.values())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:  # a link that leads nowhere
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
