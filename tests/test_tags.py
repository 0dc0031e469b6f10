"""Oracles: files written by hand, in which what must be found is known; two formats that must say the same."""

import xml.sax.saxutils
from pathlib import Path

import numpy as np
import pytest
from small_voc import CAT, LISTS, PERSON, classes, make_voc

from rcatool.data import voc
from rcatool.data.labels import VOC_CLASSES
from rcatool.errors import DataError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "VOC2012")


def annotation(*names: str) -> str:
    rest = "<difficult>1</difficult><part><name>head</name></part>"
    objects = "".join(f"<object><name>{xml.sax.saxutils.escape(name)}</name>{rest}</object>" for name in names)
    return f"<annotation><filename>x.jpg</filename>{objects}</annotation>"


def annotate(base: Path, ids: tuple[str, ...] = ("a1", "a2", "a3"), text: str = annotation("person", "cat", "cat")) -> None:
    (base / "tags.txt").unlink()
    (base / "Annotations").mkdir()
    for image_id in ids:
        (base / "Annotations" / f"{image_id}.xml").write_text(text)


def test_a_vector_file_and_a_text_file_say_the_same(base: Path, tmp_path: Path) -> None:
    names = {"a1": ["dog", "car"], "a2": ["aeroplane"], "a3": ["tvmonitor"], "b1": ["cat"], "b2": ["cat"]}
    np.save(tmp_path / "cls.npy", {key: np.array([float(name in found) for name in VOC_CLASSES], "f4") for key, found in names.items()})
    (tmp_path / "cls.txt").write_text("".join(f"{key}  {' '.join(found)}\r\n" for key, found in names.items()))
    expected = {key: tuple(sorted(VOC_CLASSES.index(name) for name in found)) for key, found in names.items()}
    assert classes(voc.find(base, lists=LISTS, tags=str(tmp_path / "cls.npy"))) == expected
    assert classes(voc.find(base, lists=LISTS, tags=str(tmp_path / "cls.txt"))) == expected
    assert classes(voc.find(base, lists=LISTS, tags="../cls.txt")) == expected


def test_annotations_with_difficult_objects_and_without_parts(base: Path) -> None:
    annotate(base)
    found = classes(voc.find(base, lists=LISTS))
    assert found == {"a1": (CAT, PERSON), "a2": (CAT, PERSON), "a3": (CAT, PERSON), "b1": (), "b2": ()}


BOMB = '<!DOCTYPE annotation [<!ENTITY a "person"><!ENTITY b "&a;&a;&a;">]>' + annotation("cat").replace("cat", "&b;")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + annotation("cat"), "document type"),
        ("<annotation>", "not a VOC"),
        ("", "not a VOC"),
        (annotation("unicorn"), "unknown class 'unicorn'"),
        (annotation("&cat;"), "unknown class"),
        ("<annotation><object><name>&cat;</name></object></annotation>", "not a VOC"),
        (annotation("cat" * 400_000), "too large"),
        ("<a>" * 100_000, "not a VOC"),
    ],
)
def test_annotations_that_are_refused(base: Path, text: str, message: str) -> None:
    annotate(base, text=text)
    with pytest.raises(DataError, match=rf"a1\.xml: .*{message}"):
        voc.find(base, lists=LISTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a1 cat\na2 Cat\n", r"tags\.txt:2: unknown class 'Cat'"),
        ("a1 cat\n\na1 dog\n", r"tags\.txt:3: a second line for a1"),
        ("a1 cat\n", r"2 training photos have no tags in .*tags\.txt: a2, a3"),
        ("a1 cat\na2\na3 dog\n", "1 training photos have no tags.*: a2"),
    ],
)
def test_tags_that_are_refused(base: Path, text: str, message: str) -> None:
    (base / "tags.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        voc.find(base, lists=LISTS)


@pytest.mark.parametrize("vector", [[1.0] * 19, [0.5] * 20, [float("nan")] * 20, [1e300] * 20])
def test_vectors_that_are_refused(base: Path, vector: list[float]) -> None:
    np.save(base / "cls.npy", {"a1": vector})
    with pytest.raises(DataError, match=r"cls\.npy: a1 has .* expected 20 of 0 or 1"):
        voc.find(base, lists=LISTS, tags="cls.npy")
