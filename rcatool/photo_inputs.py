"""The photos that a person names on the command line: files, folders and patterns, each with the name that its results get."""

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from rcatool.data.photo_files import PHOTO_SUFFIXES, describe, files_below
from rcatool.errors import ConfigError


@dataclass(frozen=True)
class PhotoInput:
    """A photo and the name of its results: its path below the folder or pattern that it came from, with / and without suffix."""

    name: str
    path: Path


@dataclass(frozen=True)
class Found:
    """The photos in the order in which they were named, those of a folder sorted; `notes` say what was left out."""

    photos: list[PhotoInput]
    notes: list[str]


def find_photos(words: Sequence[str], out: Path) -> Found:
    """The photos that `words` name: a file, a folder (with all below it), or a pattern such as `photos/**/*.jpg`.

    What lies in the folder of results, `out`, is left out. A photo named twice is taken once. Raises ConfigError where nothing is
    there, two photos would have one name, or `out` is the folder of the photos.
    """
    photos: list[PhotoInput] = []
    notes: list[str] = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            found, said = _in_folder(path, out)
        elif path.exists():
            found, said = [PhotoInput(path.stem, path)], []
        elif glob.has_magic(word):
            found, said = _by_pattern(str(path), out), []
        else:
            raise ConfigError(f"{word}: no such file or folder", "rca predict photo.jpg, or a folder, or 'photos/*.jpg'")
        if not found:
            why = f" ({said[0]})" if said else ""
            raise ConfigError(f"{word}: no photo there{why}", f"photos end in {' '.join(PHOTO_SUFFIXES[:5])} ...")
        photos += found
        notes += said
    return Found(_unique(photos), notes)


def check_outputs(photos: Sequence[PhotoInput], outputs: Sequence[Path]) -> None:
    """ConfigError where one of the files to be written is one of the photos."""
    inputs = {os.path.realpath(photo.path) for photo in photos}
    hit = next((path for path in outputs if os.path.realpath(path) in inputs), None)
    if hit is not None:
        raise ConfigError(f"--out: {hit} is one of the photos, and would be overwritten", "choose another folder")


def _in_folder(folder: Path, out: Path) -> tuple[list[PhotoInput], list[str]]:
    inside, here = Path(os.path.realpath(out)), Path(os.path.realpath(folder))
    if inside == here:
        raise ConfigError(f"--out: {out} is the folder of the photos", f"--out {folder / 'masks'}")
    skip = folder / inside.relative_to(here) if inside.is_relative_to(here) else None
    files = files_below(folder, PHOTO_SUFFIXES, skip=skip)
    notes = []
    if files.unreadable:
        more = f" and {len(files.unreadable) - 1} more" if len(files.unreadable) > 1 else ""
        notes.append(f"{folder}: left out {files.unreadable[0]}{more}: pictures of kinds that cannot be read")
    others = Counter({kind: number for kind, number in files.skipped.items() if not kind.startswith("hidden")})
    if others:
        notes.append(f"{folder}: beside photos there are {describe(others)}")
    return [PhotoInput(os.path.splitext(name)[0], folder / name) for name in files.wanted], notes


def _by_pattern(pattern: str, out: Path) -> list[PhotoInput]:
    """The photos of a pattern; names are relative to the part of it that is no pattern."""
    parts = PurePath(pattern).parts
    fixed = Path(*parts[: next(place for place, part in enumerate(parts) if glob.has_magic(part))])
    results = Path(os.path.realpath(out))
    within = results != Path(os.path.realpath(fixed)) and results.is_relative_to(os.path.realpath(fixed))
    found = []
    for name in sorted(glob.glob(pattern, recursive=True)):
        path = Path(name)
        if not name.lower().endswith(PHOTO_SUFFIXES) or not path.is_file():
            continue
        if within and Path(os.path.realpath(path)).is_relative_to(results):
            continue
        found.append(PhotoInput(os.path.splitext(path.relative_to(fixed).as_posix())[0], path))
    return found


def _unique(photos: Sequence[PhotoInput]) -> list[PhotoInput]:
    """Each photo once; ConfigError where two have one name (where case does not count, as on some disks)."""
    taken: dict[str, PhotoInput] = {}
    for photo in photos:
        key = unicodedata.normalize("NFC", photo.name).casefold()
        other = taken.setdefault(key, photo)
        if os.path.realpath(other.path) != os.path.realpath(photo.path):
            raise ConfigError(
                f"{other.path} and {photo.path} would both be {photo.name}.png",
                "give one of them another name, or name the folder above both",
            )
    return list(taken.values())
