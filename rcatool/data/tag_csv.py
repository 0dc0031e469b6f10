"""The CSV of `rca prepare folder`: image, tags and, where a header names it, split."""

import csv
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath

from rcatool.data.manifest import SCORED_SPLITS
from rcatool.errors import DataError

MAX_BYTES = 256 * 2**20
COLUMNS = ("image", "tags", "split")


@dataclass(frozen=True)
class Row:
    """One line about one photo."""

    line: int
    image: str  # path relative to the folder of photos, with /
    tags: tuple[str, ...]  # in the order of the cell, each once
    split: str | None  # None: the CSV does not say


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a CSV; DataError with file and line where one cannot be used."""
    rows: list[Row] = []
    seen: dict[str, int] = {}
    columns = {"image": 0, "tags": 1}
    header_allowed = True
    for line, cells in _read_cells(path):
        if header_allowed and (named := _header(cells)):
            columns, header_allowed = named, False
            continue
        header_allowed = False
        try:
            row = _row(line, cells, columns)
        except ValueError as error:
            raise DataError(f"{path}:{line}: {error}") from error
        if row.image in seen:
            raise DataError(f"{path}:{line}: {row.image} is already in line {seen[row.image]}")
        seen[row.image] = line
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no rows, expected lines like `photo.jpg,cat;dog`")
    return rows


def _read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row that is not blank."""
    reader = csv.reader(StringIO(_read_text(path), newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV ({error})") from error


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: more than {MAX_BYTES >> 20} MiB, too large for a CSV of tags")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}:{line}: a NUL byte, expected UTF-8 text", "save it as CSV (UTF-8)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 text ({error.reason})", "save it as CSV (UTF-8)") from error


def _header(cells: list[str]) -> dict[str, int] | None:
    """Return column name -> place if these cells are a header."""
    names = [cell.lower() for cell in cells]
    if "image" not in names or "tags" not in names:
        return None
    return {name: names.index(name) for name in COLUMNS if name in names}


def _row(line: int, cells: list[str], columns: dict[str, int]) -> Row:
    """Make a row of cells; ValueError saying what is wrong with them."""
    if "split" not in columns and len(columns) == 2 and len(cells) > 2 and set(columns.values()) == {0, 1}:
        raise ValueError(f"{len(cells)} cells, expected image,tags with tags separated by ; or |")
    cell = {name: cells[place] if place < len(cells) else "" for name, place in columns.items()}
    split = cell.get("split", "").lower() or None
    if split is not None and split not in SCORED_SPLITS:
        raise ValueError(f"split {cell['split']!r}, expected one of {', '.join(SCORED_SPLITS)}, or nothing")
    return Row(line, _relative(cell["image"]), _tags(cell["tags"]), split)


def _relative(image: str) -> str:
    """Return a path below the folder of photos, written with /."""
    path = PurePosixPath(image.replace("\\", "/"))
    if not path.parts:
        raise ValueError("no image")
    if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        raise ValueError(f"{image!r}: expected a path below the folder of photos")
    return path.as_posix()


def _tags(cell: str) -> tuple[str, ...]:
    tags = [unicodedata.normalize("NFC", " ".join(tag.split())) for tag in cell.replace("|", ";").split(";")]
    for tag in tags:
        if not tag.isprintable():
            raise ValueError(f"tag {tag!r}, expected printable text")
    return tuple(dict.fromkeys(tag for tag in tags if tag))
