"""Oracle: documents written by hand, and Python's json module."""

import json
from pathlib import Path
from typing import Any

import pytest

from rcatool.data import tag_json, tag_rows
from rcatool.data.tag_rows import Row
from rcatool.errors import DataError

COCO = {
    "images": [{"id": 5, "file_name": "a.jpg"}, {"id": "x", "file_name": "sub/b.jpg"}, {"id": 6, "file_name": "c.jpg"}],
    "categories": [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}],
    "annotations": [
        {"image_id": 5, "category_id": 1}, {"image_id": 5, "category_id": 2, "iscrowd": 1}, {"image_id": 5, "category_id": 1},
        {"image_id": "x", "category_id": 2},
    ],
}  # fmt: skip


def read(tmp_path: Path, content: Any, name: str = "tags.json") -> list[Row]:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return list(tag_json.read_rows(path))


def test_photo_to_tags(tmp_path: Path) -> None:
    assert read(tmp_path, {"a.jpg": ["cat", " traffic  light ", "cat"], "sub\\b.jpg": []}) == [
        Row(': "a.jpg"', "a.jpg", ("cat", "traffic light"), None), Row(': "sub\\\\b.jpg"', "sub/b.jpg", (), None),
    ]  # fmt: skip


def test_list_of_objects(tmp_path: Path) -> None:
    entries = [
        {"image": "a.jpg", "tags": ["cat"], "split": "VAL", "width": 3},
        {"image": "b.jpg", "tags": ["x;y"], "split": None},
        {"image": "c.jpg", "tags": [], "split": ""},
    ]
    rows = [("a.jpg", ("cat",), "val"), ("b.jpg", ("x;y",), None), ("c.jpg", (), None)]
    assert read(tmp_path, entries) == [Row(f": entry {n}", *row) for n, row in enumerate(rows, start=1)]
    lines = "\ufeff" + "\r\n\n".join(map(json.dumps, entries))
    for name in ("tags.jsonl", "tags.NDJSON"):
        assert read(tmp_path, lines, name) == [Row(f":{n}", *row) for n, row in zip((1, 3, 5), rows, strict=True)]


def test_coco(tmp_path: Path) -> None:
    assert read(tmp_path, COCO) == [
        Row(": images[0]", "a.jpg", ("cat", "dog"), None), Row(": images[1]", "sub/b.jpg", ("dog",), None),
        Row(": images[2]", "c.jpg", (), None),
    ]  # fmt: skip


def coco(**changes: Any) -> str:
    return json.dumps(COCO | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"tags\.json:1: not valid JSON \(Expecting value\)"),
        ('{"a.jpg": ["cat"],\n "b.jpg" ["dog"]}', r"tags\.json:2: not valid JSON \(Expecting ':' delimiter\)"),
        ('{"a.jpg": ["cat"]}\n{"b.jpg": ["dog"]}', r"tags\.json:2: not valid JSON \(Extra data\)"),
        ("[" * 100_000, r"tags\.json: not valid JSON \(nested too deeply\)"),
        ('{"a.jpg": ["cat"], "a.jpg": ["dog"]}', 'the key "a.jpg" occurs twice'),
        ('{"a.jpg": [NaN]}', "NaN is no number of JSON"),
        ('{"a.jpg": [' + "9" * 5000 + "]}", "not valid JSON"),
        ('"cat"', r'tags\.json: "cat", expected \{"photo\.jpg"'),
        ('{"a.jpg": "cat"}', '"a.jpg" has "cat" in place of a list of tags'),
        ('{"a.jpg": ["cat", 7]}', '"a.jpg": tag 7, expected text'),
        ('{"a.jpg": [["cat"]]}', '"a.jpg": tag a list, expected text'),
        ('{"a.jpg": ["\\u001b[31mcat"]}', '"a.jpg": tag .*expected printable text'),
        ('{"a.jpg": ["\\ud800"]}', "expected printable text"),
        ('{"../a.jpg": ["cat"]}', r'"\.\./a\.jpg": .*expected a path below'),
        ('{"": ["cat"]}', '"": no image'),
        ("[3]", r"tags\.json: entry 1: 3, expected an object like"),
        ('[{"image": "a.jpg", "tags": ["x"]}, {"tags": ["cat"]}]', "entry 2: image: missing, expected text"),
        ('[{"image": 3, "tags": ["cat"]}]', "entry 1: image: 3, expected text"),
        ('[{"image": "a.jpg"}]', r'entry 1: tags: missing, expected a list like \["cat", "dog"\]'),
        ('[{"image": "a.jpg", "tags": "cat"}]', 'entry 1: tags: "cat", expected a list'),
        ('[{"image": "a.jpg", "tags": [], "split": 3}]', "entry 1: split: 3, expected text"),
        ('[{"image": "a.jpg", "tags": [], "split": "test"}]', "entry 1: split 'test', expected one of train, val, tune"),
        (coco(categories=3), "categories: 3, expected a list"),
        (json.dumps({k: v for k, v in COCO.items() if k != "categories"}), "categories: missing, expected a list"),
        (coco(categories=[{"id": 1, "name": " "}]), r"categories\[0\]\.name: expected text"),
        (coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), r"categories\[1\]\.id: 1 occurs twice"),
        (coco(categories=[{"id": 1}]), r"categories\[0\]\.name: missing"),
        (coco(images=["a.jpg"]), r'images\[0\]: "a.jpg", expected an object'),
        (coco(images=[{"id": True, "file_name": "a.jpg"}]), r"images\[0\]\.id: true, expected a number or text"),
        (coco(images=[{"id": 5, "file_name": 3}]), r"images\[0\]\.file_name: 3"),
        (coco(images=[*COCO["images"], {"id": 6, "file_name": "d.jpg"}]), r"images\[3\]\.id: 6 occurs twice"),
        (coco(images=COCO["images"][:1]), r'annotations\[3\]\.image_id: "x" is not the id of an image'),
        (coco(annotations=[{"image_id": 5, "category_id": 3}]), r"annotations\[0\]\.category_id: 3 is not the id of a category"),
        (coco(annotations=[{"image_id": 5}]), r"annotations\[0\]\.category_id: missing"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"image": "a.jpg", "tags": []}\n\n{"image":', r"tags\.jsonl:3: not valid JSON \(Expecting value at column 10\)"),
        ('{"image": "a.jpg", "tags": []}\n[]', r"tags\.jsonl:2: a list, expected an object"),
        ("[" * 100_000, r"tags\.jsonl:1: nested too deeply"),
        ('{"image": "a.jpg", "image": "b.jpg", "tags": []}', r'tags\.jsonl:1: the key "image" occurs twice'),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, "tags.jsonl")


def test_json_lines_under_another_name_are_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, '{"image": "a.jpg", "tags": []}\n{"image": "b.jpg", "tags": []}')
    assert caught.value.hint == "a file with one JSON object a line has to be named .jsonl"


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_rows, "MAX_BYTES", 5)
    with pytest.raises(DataError, match="too large for a file of tags"):
        read(tmp_path, {"a.jpg": []})
