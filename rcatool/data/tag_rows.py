"""What every source of tags yields: one row for each photo, checked and written in one way."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rcatool.data.manifest import SCORED_SPLITS
from rcatool.errors import DataError
from rcatool.files import plain

MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Row:
    """What a source says about one photo."""

    place: str  # where in the source, to be put after its path: `:3` for a line, `: entry 3` for an element of a list
    image: str  # path relative to the folder of photos, with /
    tags: tuple[str, ...]  # in the order of the source, each once
    split: str | None  # None: the source does not say


def make_row(place: str, *, image: str, tags: Iterable[str], split: str | None) -> Row:
    """Check and normalise what a source says; ValueError saying what is wrong with it."""
    if split is not None and split.lower() not in SCORED_SPLITS:
        raise ValueError(f"split {_short(split)}, expected one of {', '.join(SCORED_SPLITS)}, or nothing")
    cleaned = (clean_tag(tag) for tag in tags)
    return Row(place, _relative(image), tuple(dict.fromkeys(tag for tag in cleaned if tag)), split.lower() if split else None)


def clean_tag(text: str) -> str:
    """Return a tag in composed Unicode (NFC) with single spaces; ValueError where it is not printable."""
    tag = unicodedata.normalize("NFC", " ".join(text.split()))
    if not tag.isprintable():
        raise ValueError(f"tag {_short(tag)}, expected printable text")
    return tag


def read_source(path: Path) -> str:
    """Read a source of tags as UTF-8 text; DataError with file and line where it is none, or is too large."""
    hint = "save it as UTF-8 text" if "js" in path.suffix.lower() else "save it as CSV (UTF-8)"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: more than {MAX_BYTES >> 20} MiB, too large for a file of tags")
        data = plain(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}:{line}: a NUL byte, expected UTF-8 text", hint)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 text ({error.reason})", hint) from error


def _relative(image: str) -> str:
    """Return a path below the folder of photos, written with /."""
    path = PurePosixPath(image.replace("\\", "/"))
    if not path.parts:
        raise ValueError("no image")
    if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        raise ValueError(f"{_short(image)}: expected a path below the folder of photos")
    if image.encode(errors="ignore").decode() != image:
        raise ValueError(f"{_short(image)}: half of a letter, expected Unicode text")
    return path.as_posix()


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "...")
