"""Oracle: Python's csv writer; how a table is refused is in test_folder.py."""

import csv
import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcatool.data import tag_csv, tag_rows
from rcatool.data.tag_rows import Row
from rcatool.errors import DataError

cells = st.text(st.characters(categories=["L", "N", "Zs"], include_characters=",\"'\n-"), max_size=8)


@settings(max_examples=50, deadline=None)
@given(
    found=st.dictionaries(st.from_regex(r"[a-z,\" ]{0,5}[a-z]\.jpg", fullmatch=True), st.lists(cells, max_size=4), min_size=1, max_size=6)
)
def test_whatever_pythons_writer_quotes_is_read(found: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("csv") / "tags.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["tags", "image"])
        writer.writerows([";".join(words), name] for name, words in found.items())
    expected = {}
    for name, words in found.items():
        clean = [unicodedata.normalize("NFC", " ".join(word.split())) for word in words]
        expected[name.strip()] = tuple(dict.fromkeys(word for word in clean if word))
    if len(expected) == len(found):
        assert {row.image: row.tags for row in tag_csv.read_rows(path)} == expected


def test_row_knows_its_line(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("image,tags,split\n\na.jpg,x;y,val\n")
    assert list(tag_csv.read_rows(tmp_path / "tags.csv")) == [Row(":3", "a.jpg", ("x", "y"), "val")]


def test_a_table_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tags.csv").write_text("one.jpg,cat\n")
    monkeypatch.setattr(tag_rows, "MAX_BYTES", 5)
    with pytest.raises(DataError, match="too large"):
        list(tag_csv.read_rows(tmp_path / "tags.csv"))


def test_the_csv_limit_is_pythons_own() -> None:
    reader = csv.reader(io.StringIO("x" * 200_000))
    with pytest.raises(csv.Error):
        next(reader)
