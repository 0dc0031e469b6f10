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
        (None, "file not found"),
    ],
)
def test_read_mask_refuses(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "strange.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"strange\.png: .*{message}"):
        labels.read_mask(path, num_classes=3, size=(1, 2))


TURNS = {  # EXIF orientation -> how the stored picture has to be turned
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "p.png", exif=exif)
    expected = TURNS[orientation](stored)
    assert np.array_equal(labels.read_image(tmp_path / "p.png"), expected)
    assert labels.image_size(tmp_path / "p.png") == expected.shape[:2]


def palette_with_hole() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([*RED, *BLUE])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16)), "png", [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]),
        (Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16)), "tif", [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]),
        (Image.fromarray(np.array([[7, 200]], np.uint8)), "bmp", [(7,) * 3, (200,) * 3]),
        (Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)), "png", [RED, (255,) * 3]),
        (Image.fromarray(np.array([[[0, 0, 0, 51]]], np.uint8)), "png", [(204,) * 3]),
        (Image.merge("LA", [Image.new("L", (1, 1), 10), Image.new("L", (1, 1), 0)]), "png", [(255,) * 3]),
        (Image.fromarray(np.array([[[0, 255, 255, 0], [0, 0, 0, 255]]], np.uint8), mode=None).convert("RGBA"), "png", None),
        (Image.merge("CMYK", [Image.new("L", (1, 1), ink) for ink in (0, 255, 255, 0)]), "tif", [RED]),
        (palette_with_hole(), "png", [RED, (255,) * 3]),
        (Image.new("1", (2, 1), 1), "png", [(255,) * 3] * 2),
        (Image.new("RGB", (1, 2), BLUE), "webp", None),
    ],
)
def test_modes_become_rgb(tmp_path: Path, image: Image.Image, suffix: str, expected: list[tuple[int, int, int]] | None) -> None:
    path = tmp_path / f"p.{suffix}"
    image.save(path)
    array = labels.read_image(path)
    assert (array.dtype, array.shape) == (np.uint8, (image.height, image.width, 3))
    assert array.flags.writeable  # torch.from_numpy warns otherwise
    if expected is not None:
        assert [tuple(pixel) for pixel in array[0].tolist()] == expected


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.merge("CMYK", [Image.new("L", (8, 8), ink) for ink in (0, 255, 255, 0)]).save(tmp_path / "p.jpg", quality=100)
    assert np.abs(labels.read_image(tmp_path / "p.jpg").astype(int) - RED).max() <= 3


def truncated_jpeg(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "file not found"),
        (lambda path: path.mkdir(), "cannot be decoded"),
        (lambda path: path.write_bytes(b""), "not an image"),
        (lambda path: path.write_text("<html>404</html>"), "not an image"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"), "not an image"),
        (truncated_jpeg, "truncated"),
        (lambda path: path.write_bytes(png(60_000, 60_000, 8, 2, b"")), "pixels, refused"),
        (lambda path: path.write_bytes(png(12_000, 9_000, 8, 2, b"")), "pixels, refused"),
        (lambda path: Image.fromarray(np.zeros((2, 2), np.float32)).save(path, format="TIFF"), "float pixels"),
        (lambda path: Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(path, format="TIFF"), "32-bit pixels"),
    ],
)
def test_read_image_refuses(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "2007_000001.jpg"
    make(path)
    with pytest.raises(DataError, match=rf"2007_000001\.jpg: .*{message}") as caught:
        labels.read_image(path)
    assert "\n" not in caught.value.message


def test_real_photos_as_pillow_reads_them(voc_part: Path) -> None:
    for path in sorted((voc_part / "VOC2012" / "JPEGImages").iterdir())[:5]:
        with Image.open(path) as image:
            assert np.array_equal(labels.read_image(path), np.array(image.convert("RGB")))
            assert labels.image_size(path) == (image.height, image.width)


def test_classes_round_trip(tmp_path: Path) -> None:
    info = labels.ClassInfo(("Äpfel", "roter Wein", "猫"))
    labels.write_classes(tmp_path / "classes.json", info)
    assert labels.read_classes(tmp_path / "classes.json") == info
    assert info.num_classes == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "missing"),
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
