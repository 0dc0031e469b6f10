"""Tags in a CSV: image, tags and, where a header names it, split."""

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from rcatool.data.tag_rows import Row, make_row, read_source
from rcatool.errors import DataError

COLUMNS = ("image", "tags", "split")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV; DataError with file and line where one cannot be used."""
    columns = {"image": 0, "tags": 1}
    header_allowed = True
    for line, cells in _read_cells(path):
        if header_allowed and (named := _header(cells)):
            columns, header_allowed = named, False
            continue
        header_allowed = False
        try:
            yield _row(line, cells, columns)
        except ValueError as error:
            raise DataError(f"{path}:{line}: {error}") from error


def _read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row that is not blank."""
    reader = csv.reader(StringIO(read_source(path), newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV ({error})") from error


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
    if len(cells) == 1 and (";" in cells[0] or "\t" in cells[0]):
        raise ValueError("a single cell, expected image,tags with a comma between them, and ; or | between tags")
    cell = {name: cells[place] if place < len(cells) else "" for name, place in columns.items()}
    tags = cell["tags"].replace("|", ";").split(";")
    return make_row(f":{line}", image=cell["image"], tags=tags, split=cell.get("split") or None)
