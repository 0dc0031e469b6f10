"""Oracles: pictures written byte by byte, EXIF's own table of orientations, arithmetic on pixels."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from tiff_bytes import tiff

from rcatool.data.photos import has_more_pictures, image_size, read_image
from rcatool.errors import DataError, SetupError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
GREY_TIFF, RGB_TIFF = 1, 2  # photometric interpretations
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
LOSSLESS = {"png": {}, "bmp": {}, "tif": {}, "webp": {"lossless": True}}


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG by the book; each row starts with filter type 0."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def pixels(path: Path) -> list[tuple[int, ...]]:
    """The first row of a photo."""
    array = read_image(path)
    assert (array.dtype, array.ndim, array.shape[2]) == (np.uint8, 3, 3)
    assert array.flags.writeable  # torch.from_numpy warns otherwise
    return [tuple(pixel) for pixel in array[0].tolist()]


# ---- upright

PLACES: dict[int, Callable[[int, int, int, int], tuple[int, int]]] = {
    # EXIF: where the 0th row and the 0th column are seen -> where the stored pixel (r, c) of an (h, w) picture is seen
    1: lambda r, c, h, w: (r, c),  # top, left
    2: lambda r, c, h, w: (r, w - 1 - c),  # top, right
    3: lambda r, c, h, w: (h - 1 - r, w - 1 - c),  # bottom, right
    4: lambda r, c, h, w: (h - 1 - r, c),  # bottom, left
    5: lambda r, c, h, w: (c, r),  # left, top
    6: lambda r, c, h, w: (c, h - 1 - r),  # right, top
    7: lambda r, c, h, w: (w - 1 - c, h - 1 - r),  # right, bottom
    8: lambda r, c, h, w: (w - 1 - c, r),  # left, bottom
}


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    height, width = stored.shape[:2]
    shown = np.zeros((height, width, 3) if orientation < 5 else (width, height, 3), np.uint8)
    for r in range(height):
        for c in range(width):
            shown[PLACES[orientation](r, c, height, width)] = stored[r, c]
    return shown


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", PLACES)
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = NOISE[:3, :5]
    Image.fromarray(stored).save(tmp_path / f"p.{suffix}", exif=exif(orientation), **LOSSLESS[suffix])
    assert np.array_equal(read_image(tmp_path / f"p.{suffix}"), upright(stored, orientation))
    assert image_size(tmp_path / f"p.{suffix}") == upright(stored, orientation).shape[:2]


@pytest.mark.parametrize("orientation", PLACES)
def test_exif_orientation_of_a_jpeg(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(NOISE).save(tmp_path / "plain.jpg")
    Image.fromarray(NOISE).save(tmp_path / "turned.jpg", exif=exif(orientation))
    assert np.array_equal(read_image(tmp_path / "turned.jpg"), upright(read_image(tmp_path / "plain.jpg"), orientation))


@pytest.mark.parametrize("orientation", PLACES)
def test_grey_16_bit_tiff_is_turned(tmp_path: Path, orientation: int) -> None:
    stored = NOISE[:3, :5, 0]
    data = tiff(stored.astype(np.uint16) * 257, photometric=GREY_TIFF, tags={274: orientation})
    expected = upright(stored[..., None].repeat(3, axis=2), orientation)
    assert np.array_equal(read_image(written(tmp_path / "p.tif", data)), expected)


@pytest.mark.parametrize("strange", [0, 9, 65535])
def test_orientations_that_do_not_exist(tmp_path: Path, strange: int) -> None:
    Image.fromarray(NOISE).save(tmp_path / "p.png", exif=exif(strange))
    assert np.array_equal(read_image(tmp_path / "p.png"), NOISE)


def test_broken_metadata_do_not_matter(tmp_path: Path) -> None:
    row = b"\0" + NOISE[0].tobytes()
    for extra in ((b"eXIf", b"garbage"), (b"eXIf", b"MM\0*\xff\xff\xff\xff"), (b"iCCP", b"x\0\0garbage")):
        path = written(tmp_path / "p.png", png(20, 1, 8, 2, row, extra))
        assert np.array_equal(read_image(path), NOISE[:1]), extra
    Image.fromarray(NOISE).save(tmp_path / "plain.jpg")
    Image.fromarray(NOISE).save(tmp_path / "p.jpg", exif=b"Exif\0\0garbage", icc_profile=b"garbage")
    assert np.array_equal(read_image(tmp_path / "p.jpg"), read_image(tmp_path / "plain.jpg"))


# ---- depth

DEEP = np.array([[0, 257, 32768, 65535]], np.uint16)
SCALED = [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]  # x / 257


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("grey.png", png(4, 1, 16, 0, b"\0" + DEEP.byteswap().tobytes()), SCALED),
        ("grey.tif", tiff(DEEP, photometric=GREY_TIFF), SCALED),
        ("grey-motorola.tif", tiff(DEEP, photometric=GREY_TIFF, order=">"), SCALED),
        ("white-is-zero.tif", tiff(DEEP, photometric=0), [(255,) * 3, (254,) * 3, (127,) * 3, (0,) * 3]),
        ("white-is-zero-8.tif", tiff(np.array([[0, 1, 255]], np.uint8), photometric=0), [(255,) * 3, (254,) * 3, (0,) * 3]),
        ("transparent-grey.png", png(4, 1, 16, 0, b"\0" + DEEP.byteswap().tobytes(), (b"tRNS", b"\0\0")), [WHITE, *SCALED[1:]]),
        ("1-bit.png", png(3, 1, 1, 0, b"\0\xa0"), [WHITE, (0,) * 3, WHITE]),
        ("2-bit.png", png(4, 1, 2, 0, b"\0\x1b"), [(0,) * 3, (85,) * 3, (170,) * 3, WHITE]),
        ("4-bit-palette.png", png(2, 1, 4, 3, b"\0\x01", (b"PLTE", bytes([*RED, *BLUE]))), [RED, BLUE]),
    ],
)  # fmt: skip
def test_grey_values_are_scaled_not_clipped(tmp_path: Path, name: str, data: bytes, expected: list[tuple[int, ...]]) -> None:
    assert pixels(written(tmp_path / name, data)) == expected


def test_12_bit_tiff(tmp_path: Path) -> None:
    # Two pixels of 12 bits in three bytes: 0x000, 0xfff.
    data = tiff(np.array([[0x00, 0x0F, 0xFF]], np.uint8), photometric=GREY_TIFF, tags={258: 12, 256: 2, 257: 1})
    assert pixels(written(tmp_path / "p.tif", data)) == [(0,) * 3, WHITE]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour(tmp_path: Path, order: str, channels: int) -> None:
    stored = RNG.integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    if channels == 4:
        stored[..., 3] = 65535  # opaque
    tags = {338: 2} if channels == 4 else {}
    files = [written(tmp_path / "p.tif", tiff(stored, photometric=RGB_TIFF, order=order, tags=tags))]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in stored)
    files.append(written(tmp_path / "p.png", png(7, 5, 16, 2 if channels == 3 else 6, rows)))
    for path in files:
        assert np.abs(read_image(path) - stored[..., :3] / 257).max() <= 1  # Pillow takes the higher byte


def test_planes_apart(tmp_path: Path) -> None:
    assert np.array_equal(read_image(written(tmp_path / "p.tif", tiff(NOISE, photometric=RGB_TIFF, planar=True))), NOISE)
    with pytest.raises(DataError, match="16-bit pixels in separate planes"):  # Pillow reads garbage without a word
        read_image(written(tmp_path / "p.tif", tiff(NOISE.astype(np.uint16), photometric=RGB_TIFF, planar=True)))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.zeros((2, 2), np.float32), "float pixels; expected 8 or 16 bits"),
        (np.zeros((2, 2), np.float64), "TIFF of an unusual kind"),
        (np.zeros((2, 2, 3), np.float32), "TIFF of an unusual kind"),
        (np.zeros((2, 2), np.int32), "32-bit pixels; expected 8 or 16 bits"),
        (np.full((2, 2), 9, np.uint32), "32-bit pixels"),
        (np.full((2, 2), 9, np.int16), "signed 16-bit pixels"),
        (np.zeros((2, 2, 7), np.uint8), "TIFF of an unusual kind"),
    ],
)
def test_values_without_a_known_range(tmp_path: Path, stored: np.ndarray, message: str) -> None:
    data = tiff(stored, photometric=GREY_TIFF if stored.ndim == 2 else RGB_TIFF)
    with pytest.raises(DataError, match=rf"p\.tif: .*{message}"):
        read_image(written(tmp_path / "p.tif", data))


def test_the_decoder_has_no_word_of_its_own(tmp_path: Path) -> None:
    # Pillow logs this one as well; in this process pytest would catch it.
    written(tmp_path / "p.tif", tiff(np.zeros((2, 2, 7), np.uint8), photometric=RGB_TIFF))
    imports = "import sys; from pathlib import Path; from rcatool.data.photos import DataError, image_size, read_image"
    code = f"{imports}\ntry: read_image(Path(sys.argv[1]))\nexcept DataError: pass"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "p.tif"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- transparency and colour


def palette_with_hole() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([*RED, *BLUE])
    image.info["transparency"] = 1
    return image


def of_inks(*inks: int, size: int = 1) -> Image.Image:
    return Image.merge("CMYK", [Image.new("L", (size, size), ink) for ink in inks])


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.fromarray(np.array([[7, 200]], np.uint8)), "bmp", [(7,) * 3, (200,) * 3]),
        (Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)), "png", [RED, WHITE]),
        (Image.fromarray(np.array([[[0, 0, 0, 51]]], np.uint8)), "png", [(204,) * 3]),
        (Image.fromarray(np.array([[[0, 0, 0, 51]]], np.uint8)), "tif", [(204,) * 3]),
        (Image.merge("LA", [Image.new("L", (1, 1), 10), Image.new("L", (1, 1), 0)]), "png", [WHITE]),
        (palette_with_hole(), "png", [RED, WHITE]),
        (palette_with_hole(), "gif", [RED, WHITE]),
        (Image.new("1", (2, 1), 1), "png", [WHITE] * 2),
        (Image.new("1", (2, 1), 1), "tif", [WHITE] * 2),
        (Image.new("RGB", (1, 2), BLUE), "webp", None),
        (of_inks(0, 255, 255, 0), "tif", [RED]),
        (of_inks(0, 0, 0, 255), "tif", [(0, 0, 0)]),
    ],
)
def test_modes_become_rgb(tmp_path: Path, image: Image.Image, suffix: str, expected: list[tuple[int, int, int]] | None) -> None:
    image.save(tmp_path / f"p.{suffix}")
    found = pixels(tmp_path / f"p.{suffix}")
    assert expected is None or found == expected


def test_transparent_colour_of_a_png_without_alpha(tmp_path: Path) -> None:
    data = png(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 4, 5, 6]), (b"tRNS", struct.pack(">3H", 1, 2, 3)))
    assert pixels(written(tmp_path / "p.png", data)) == [WHITE, (4, 5, 6)]


def test_premultiplied_grey(tmp_path: Path) -> None:
    data = tiff(np.array([[[50, 100], [0, 0]]], np.uint8), photometric=GREY_TIFF, tags={338: 1})
    (grey, *_), white = pixels(written(tmp_path / "p.tif", data))
    assert abs(grey - (50 + 155)) <= 1  # its share is in the value already; the rest is white
    assert white == WHITE


@pytest.mark.parametrize("inks", [(0, 255, 255, 0), (255, 0, 0, 0), (0, 0, 0, 255), (0, 0, 0, 0)])
def test_cmyk_jpeg(tmp_path: Path, inks: tuple[int, int, int, int]) -> None:
    cyan, magenta, yellow, black = inks
    of_inks(*inks, size=16).save(tmp_path / "p.jpg", quality=100)
    data = (tmp_path / "p.jpg").read_bytes()
    assert b"Adobe" in data  # whose inks are stored the other way round
    expected = [(255 - ink) * (255 - black) // 255 for ink in (cyan, magenta, yellow)]
    assert np.abs(read_image(tmp_path / "p.jpg").astype(int) - expected).max() <= 3

# ---- several pictures in a file


@pytest.mark.parametrize("name", ["p.gif", "p.png", "p.webp", "p.tif"])
def test_the_first_picture_of_several(tmp_path: Path, name: str) -> None:
    first, second = Image.new("RGB", (4, 3), RED), Image.new("RGB", (4, 3), BLUE)
    options = LOSSLESS.get(name[2:], {})
    first.save(tmp_path / name, save_all=True, append_images=[second], **options)
    first.save(tmp_path / f"alone-{name}", **options)
    assert set(pixels(tmp_path / name)) == {RED}
    assert has_more_pictures(tmp_path / name)
    assert not has_more_pictures(tmp_path / f"alone-{name}")


def test_previews_in_a_jpeg_do_not_count(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "p.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (4, 3))])
    Image.fromarray(NOISE).save(tmp_path / "plain.jpg")
    assert not has_more_pictures(tmp_path / "p.jpg")
    assert np.array_equal(read_image(tmp_path / "p.jpg"), read_image(tmp_path / "plain.jpg"))


# ---- HEIF


def write_heic(path: Path, array: np.ndarray, **options: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the HEIF library is not installed")
    image = pillow_heif.from_pillow(Image.fromarray(array))
    if "orientation" in options:
        image.info["exif"] = exif(options["orientation"]).tobytes()
    image.save(path, quality=-1, chroma=444)


@pytest.mark.parametrize("orientation", PLACES)
def test_heic(tmp_path: Path, orientation: int) -> None:
    stored = np.kron(NOISE[:4, :6], np.ones((16, 16, 1), np.uint8))
    write_heic(tmp_path / "p.HEIC", stored, orientation=orientation)
    found = read_image(tmp_path / "p.HEIC")
    assert np.abs(found.astype(int) - upright(stored, orientation)).max() <= 2  # YCbCr of 8 bits
    assert not has_more_pictures(tmp_path / "p.HEIC")
    assert "HEIF" not in Image.OPEN  # nothing of Pillow is changed for others
    (tmp_path / "p.jpg").write_bytes((tmp_path / "p.HEIC").read_bytes())  # as some phones and shops name them
    assert np.array_equal(read_image(tmp_path / "p.jpg"), found)


def test_heic_with_alpha(tmp_path: Path) -> None:
    stored = np.zeros((32, 32, 4), np.uint8)
    stored[:16, :, 3] = 255
    write_heic(tmp_path / "p.heic", stored)
    found = read_image(tmp_path / "p.heic")
    assert found[:14].max() <= 2
    assert found[18:].min() >= 253


def test_heic_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = written(tmp_path / "p.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(SetupError, match="need the library pillow-heif") as caught:
        read_image(path)
    assert caught.value.hint == "pip install 'rcatool[heic]'"


# ---- what is refused


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif", "lzw.tif", "heic"])
def test_a_file_cut_short_is_whole_or_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    big = np.kron(NOISE, np.ones((4, 4, 1), np.uint8))
    if suffix == "heic":
        write_heic(path, big)
    else:
        Image.fromarray(big).save(path, **({"compression": "tiff_lzw"} if suffix == "lzw.tif" else {}))
    data, whole = path.read_bytes(), read_image(path)
    refused = 0
    for end in [0, 1, 11, 20, *range(len(data) // 20, len(data), len(data) // 20), len(data) - 40, len(data) - 1]:
        path.write_bytes(data[:end])
        try:
            found = read_image(path)
        except DataError:
            refused += 1
        else:
            assert np.array_equal(found, whole), end  # what is missing was none of the picture
    assert refused >= 20


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif", "heic"])
def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    if suffix == "heic":
        write_heic(path, NOISE)
    else:
        Image.fromarray(NOISE).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", NOISE.shape[0] * NOISE.shape[1])
    read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", NOISE.shape[0] * NOISE.shape[1] - 1)
    with pytest.raises(DataError, match="more than 239 pixels, refused"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", r"not an image \(.*\): the file is empty"),
        (b"a note", r"not an image \(JPEG, PNG, BMP, GIF, WEBP, TIFF and HEIF can be read\)"),
        (b"<html>404</html>", "a web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "a PostScript file"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "an AVIF picture"),
        (b"\0\0\0\x1cftypisom\0\0\0\0isommp42", "a video"),
        (b"\xff\x0a" + bytes(20), "a JPEG XL picture"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"8BPS" + bytes(30), "a Photoshop file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, not the photo"),
        (b"\x89PNG\r\n\x1a\n", "a broken PNG"),
        (b"\xff\xd8\xff", "a broken JPEG"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (png(60_000, 60_000, 8, 2, b""), "pixels, refused"),
        (png(12_000, 9_000, 8, 2, b""), "pixels, refused"),
    ],
)
def test_files_that_are_no_photos_are_called_what_they_are(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "2007_000001.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"2007_000001\.jpg: .*{message}") as caught:
        read_image(path)
    assert "\n" not in caught.value.message


def test_a_folder_in_the_place_of_a_photo(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(tmp_path)


def test_real_photos_as_pillow_reads_them(voc_part: Path) -> None:
    for path in sorted((voc_part / "VOC2012" / "JPEGImages").iterdir())[:5]:
        with Image.open(path) as image:
            assert np.array_equal(read_image(path), np.array(image.convert("RGB")))
