"""Oracles: tables written by hand, Pillow, NumPy's own rotations, round trips."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image

from rcatool.data import labels
from rcatool.errors import DataError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG by the book; each row starts with filter type 0."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("value", "rgb"),
    [
        (0, (0, 0, 0)),
        (1, (128, 0, 0)),
        (2, (0, 128, 0)),
        (3, (128, 128, 0)),
        (4, (0, 0, 128)),
        (8, (64, 0, 0)),
        (15, (192, 128, 128)),
        (20, (0, 64, 128)),
        (255, (224, 224, 192)),
    ],
)
def test_palette_is_vocs(value: int, rgb: tuple[int, int, int]) -> None:
    assert tuple(labels.palette()[3 * value : 3 * value + 3]) == rgb
    assert len(labels.palette()) == 768


def test_palette_is_the_one_of_real_masks(voc_part: Path) -> None:
    with Image.open(next((voc_part / "VOC2012" / "SegmentationClassAug").iterdir())) as image:
        assert image.getpalette()[: 3 * 21] == labels.palette(21)


def test_voc_classes_are_alphabetical_and_twenty() -> None:
    assert len(labels.VOC_CLASSES) == 20
    assert list(labels.VOC_CLASSES) == sorted(labels.VOC_CLASSES)
    assert (labels.VOC_CLASSES[7], labels.VOC_CLASSES[14]) == ("cat", "person")


def test_mask_value_is_class_plus_one() -> None:
    assert (labels.class_to_mask(0), labels.class_to_mask(19), labels.mask_to_class(20)) == (1, 20, 19)
    assert labels.class_to_mask(np.array([0, 4], np.uint16)).tolist() == [1, 5]
    assert labels.mask_to_class(labels.class_to_mask(np.arange(254))).tolist() == list(range(254))
    for value in (0, 255):
        with pytest.raises(AssertionError):
            labels.mask_to_class(value)


@settings(max_examples=30, deadline=None)
@given(mask=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_mask_round_trip(mask: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("masks") / "m.png"
    labels.write_mask(path, mask)
    with Image.open(path) as image:  # what any other program sees
        assert image.mode == "P"
        assert np.array_equal(np.array(image), mask)
    assert np.array_equal(labels.read_mask(path, num_classes=254), mask)
    first = path.read_bytes()
    labels.write_mask(path, mask.copy(order="F"))
    assert path.read_bytes() == first


def test_read_mask_takes_grey_and_few_colours(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [3, 0, 255]], np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert np.array_equal(labels.read_mask(tmp_path / "grey.png", num_classes=3, size=(2, 3)), values)
    small = Image.fromarray(values % 4)
    small.putpalette([9, 9, 9] * 4)
    small.save(tmp_path / "two-bit.png", bits=2)
    assert (tmp_path / "two-bit.png").read_bytes()[24] == 2
    assert np.array_equal(labels.read_mask(tmp_path / "two-bit.png", num_classes=3), values % 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(2, 1, 8, 0, b"\0\1\4"), "mask value 4, expected 0..3 or 255"),
        (png(3, 1, 8, 0, b"\0\1\2\3"), r"1 x 3 \(H x W\), expected 1 x 2"),
        (png(2, 1, 4, 0, b"\0\x12"), "4-bit grey PNG"),
        (png(2, 1, 16, 0, b"\0\0\1\0\2"), "16-bit grey PNG"),
        (png(2, 1, 8, 2, b"\0" + bytes(6)), "8-bit RGB PNG"),
        (png(2, 1, 8, 6, b"\0" + bytes(8)), "8-bit RGBA PNG"),
        (png(2, 1, 8, 0, b"\0\1\2")[:45], "cannot be decoded"),
        (png(2, 1, 8, 0, b"\0"), "cannot be decoded"),
        (png(200, 9, 8, 0, bytes(range(201)) * 9)[:150], "truncated"),
        (png(60_000, 60_000, 8, 0, b""), "pixels, refused"),
        (b"", "not a PNG"),
        (b"GIF89a" + bytes(40), "not a PNG"),
        (None, "no such file"),
    ],
)
def test_read_mask_refuses(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "strange.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"strange\.png: .*{message}"):
        labels.read_mask(path, num_classes=3, size=(1, 2))


def test_classes_round_trip(tmp_path: Path) -> None:
    info = labels.ClassInfo(("Äpfel", "roter Wein", "猫"))
    labels.write_classes(tmp_path / "classes.json", info)
    assert labels.read_classes(tmp_path / "classes.json") == info
    assert info.num_classes == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("{", "not valid JSON"),
        ("[]", "list of class names"),
        ('{"names": [1]}', "list of class names"),
        ('{"names": ["a"], "ignore_index": 0}', "ignore_index is 0"),
        ('{"names": [], "ignore_index": 255}', "no class"),
        ('{"names": ["a", "a"], "ignore_index": 255}', "'a' occurs twice"),
        ('{"names": [" a"], "ignore_index": 255}', "without spaces"),
        ('{"names": ["a\\u001b[0m"], "ignore_index": 255}', "printable"),
    ],
)
def test_read_classes_refuses(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "classes.json").write_text(text)
    with pytest.raises(DataError, match=rf"classes\.json.*{message}"):
        labels.read_classes(tmp_path / "classes.json")


def test_number_of_classes_is_limited() -> None:
    labels.ClassInfo(tuple(map(str, range(254))))
    with pytest.raises(DataError, match="255 classes: expected at most 254"):
        labels.ClassInfo(tuple(map(str, range(255))))
