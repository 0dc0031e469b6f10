"""Oracles: round trips, the text of the file, files removed by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rcatool.data import manifest
from rcatool.data.manifest import Sample
from rcatool.errors import ConfigError, DataError
from rcatool.files import is_path_safe

SAMPLE = Sample("b", "train", "img/b.jpg", None, (3, 4), (0, 2), 11, "0123456789abcdef")
paths = st.text(min_size=1, max_size=12).filter(
    lambda text: text[0] != "/" and ".." not in text and "\0" not in text and is_path_safe(text)
)
sample_lists = st.lists(
    st.builds(
        Sample,
        id=st.text(min_size=1, max_size=12).filter(is_path_safe),
        split=st.sampled_from(manifest.SPLITS),
        image=paths,
        mask=st.none() | paths,
        size=st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
        classes=st.sets(st.integers(0, 253), max_size=5).map(lambda found: tuple(sorted(found))),
        bytes=st.integers(1, 10**12),
        sha256=st.text("0123456789abcdef", min_size=16, max_size=16),
        mask_sha256=st.none() | st.text("0123456789abcdef", min_size=16, max_size=16),
        saliency=st.none() | paths,
        saliency_sha256=st.none() | st.text("0123456789abcdef", min_size=16, max_size=16),
    ),
    unique_by=lambda sample: sample.id,
    max_size=6,
    min_size=1,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(samples=sample_lists)
def test_round_trip_sorted(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("manifest") / "manifest.jsonl"
    manifest.write_manifest(path, samples)
    found = manifest.read_manifest(path)
    assert sorted(found, key=lambda sample: sample.id) == sorted(samples, key=lambda sample: sample.id)
    assert [(sample.split, sample.id) for sample in found] == sorted((sample.split, sample.id) for sample in samples)
    first = path.read_bytes()
    manifest.write_manifest(path, reversed(samples))
    assert path.read_bytes() == first
    for name in manifest.SPLITS:
        assert manifest.split(found, name) == [sample for sample in found if sample.split == name]


def test_a_line_is_plain_json(tmp_path: Path) -> None:
    manifest.write_manifest(tmp_path / "m", [SAMPLE, replace(SAMPLE, id="a", mask="m/a.png")])
    lines = (tmp_path / "m").read_text().splitlines()
    expected = {
        "id": "b",
        "split": "train",
        "image": "img/b.jpg",
        "size": [3, 4],
        "classes": [0, 2],
        "bytes": 11,
        "sha256": "0123456789abcdef",
    }
    assert json.loads(lines[1]) == expected
    assert json.loads(lines[0]) == {**expected, "id": "a", "mask": "m/a.png"}


def change(**fields: object) -> str:
    document = {"id": "x", "split": "val", "image": "x.jpg", "size": [1, 1], "classes": [0], "bytes": 1, "sha256": "0" * 16}
    return json.dumps({key: value for key, value in (document | fields).items() if value is not ...})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON .nested too deeply"),
        ("[]", "expected an object"),
        ("7" * 5000, "expected an object|not valid JSON|digits"),
        (change(id="b"), "id 'b' occurs twice"),
        (change(id="../b"), "id:"),
        (change(id=5), "id: 5"),
        (change(id=...), "id: missing"),
        (change(split="dev"), "split:"),
        (change(split=["val"]), "split:"),
        (change(image="/etc/passwd"), "image:"),
        (change(image="a/../../b"), "image:"),
        (change(image="a\0b"), "image:"),
        (change(image="a\ud800"), "image:"),
        (change(mask=None), "mask:"),
        (change(mask="../m.png"), "mask:"),
        (change(size=[1]), "size:"),
        (change(size=[0, 1]), "size:"),
        (change(size=[True, 1]), "size:"),
        (change(size=[1.0, 1]), "size:"),
        (change(classes=[3]), "classes: .3., expected sorted indices below 3"),
        (change(classes=[1, 0]), "classes:"),
        (change(classes=[1, 1]), "classes:"),
        (change(classes=[-1]), "classes:"),
        (change(classes=[True]), "classes:"),
        (change(classes="0"), "classes:"),
        (change(bytes=0), "bytes:"),
        (change(bytes="1"), "bytes:"),
        (change(sha256="0"), "sha256:"),
    ],
)
def test_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "manifest.jsonl"
    manifest.write_manifest(path, [SAMPLE])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=rf"manifest\.jsonl:2: .*({message})") as caught:
        manifest.read_manifest(path, num_classes=3)
    assert caught.value.hint == "rca prepare ... --force"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_no_manifest(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "manifest.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.jsonl"):
        manifest.read_manifest(tmp_path / "manifest.jsonl")


def test_check_images_by_bytes_and_never_masks(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    photos = [replace(SAMPLE, id=name, image=f"img/{name}.jpg", mask="nowhere/m.png") for name in "abc"]
    for photo in photos:
        (tmp_path / photo.image).write_bytes(b"12345678901")
    manifest.check_images(photos, tmp_path)
    (tmp_path / "img" / "b.jpg").write_bytes(b"123")
    with pytest.raises(DataError, match=r"b\.jpg: 3 bytes, expected 11$") as caught:
        manifest.check_images(photos, tmp_path)
    assert caught.value.hint == "rca prepare ... --force"
    (tmp_path / "img" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: No such file.*and 1 more photos of 3"):
        manifest.check_images(photos, tmp_path)


def test_below() -> None:
    assert manifest.below(Path("/data/a/b.jpg"), Path("/data")) == "a/b.jpg"
    with pytest.raises(ConfigError, match="outside of data.root"):
        manifest.below(Path("/other/b.jpg"), Path("/data"))
