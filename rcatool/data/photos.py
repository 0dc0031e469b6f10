"""Photos as arrays: every kind that can be read, one way to show it, and a clear word about the others."""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from rcatool.errors import DataError, SetupError
from rcatool.files import plain

# Only these decoders of Pillow are tried: some others start outside programs. HEIF is read by the library pillow-heif.
PHOTO_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
# What the decoders raise on a broken file, besides OSError.
DECODE_ERRORS = (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, RuntimeError, struct.error, zlib.error)
BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)

TURNS = {  # EXIF orientation -> what shows the photo upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
SIDEWAYS = (Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90)
BITS, PHOTOMETRIC, PLANAR = 258, 262, 284  # tags of TIFF
WHITE_IS_ZERO, SEPARATE_PLANES = 0, 2

# First bytes of files that are met under a photo's name, and what they are. `ftyp` files are told apart below.
FOREIGN = {
    b"\xff\x0a": "a JPEG XL picture", b"\0\0\0\x0cJXL ": "a JPEG XL picture", b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"8BPS": "a Photoshop file", b"%PDF": "a PDF", b"%!PS": "a PostScript file", b"<svg": "an SVG drawing", b"\x1a\x45\xdf\xa3": "a video",
    b"PK\x03\x04": "a zip archive", b"version https://git-lfs": "a pointer of Git LFS, not the photo (git lfs pull fetches it)",
    b"<!DOCTYPE html": "a web page, not a photo", b"<html": "a web page, not a photo",
    b"II*\0": "a TIFF of an unusual kind, or a broken one", b"MM\0*": "a TIFF of an unusual kind, or a broken one",
    b"\x89PNG": "a broken PNG", b"\xff\xd8\xff": "a broken JPEG", b"GIF8": "a broken GIF", b"RIFF": "a broken WebP",
}  # fmt: skip
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")

_NO_LOG = logging.NullHandler()  # Pillow logs what it also raises


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever Pillow raises on a file that is missing, broken or too large into a DataError naming it."""
    logging.getLogger("PIL").addHandler(_NO_LOG)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata of a photo that decodes
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise _foreign(path) from None
    except BOMBS as error:
        raise DataError(f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels, refused", "scale it down") from error
    except (OSError, *DECODE_ERRORS) as error:
        reason = error.strerror if isinstance(error, OSError) else None  # without the path, which is named already
        raise DataError(f"{path}: cannot be decoded ({reason or error})") from error


def read_image(path: Path) -> np.ndarray:
    """Read a photo as uint8 (H, W, 3) RGB with its EXIF rotation applied.

    Grey, CMYK, palette and 16-bit photos are converted (65535 becomes 255), transparent parts become white, of an animation
    or of several pages the first is taken; colour profiles are not applied. DataError naming the file where it is missing,
    truncated, not a photo, of a kind without a known range of values (float, signed, 32 bit) or absurdly large; SetupError
    for HEIF without the library that reads it.
    """
    with _opened(path) as image:
        return _pixels(image)


def image_pixels(image: Image.Image) -> np.ndarray:
    """What `read_image` returns, of a picture that Pillow has opened; DataError as there."""
    with decoding(Path(getattr(image, "filename", "") or f"the {image.mode} picture")):
        return _pixels(image)


def _pixels(image: Image.Image) -> np.ndarray:
    image.load()
    rgb = image if image.mode == "RGB" and not image.has_transparency_data and image.format != "TIFF" else _to_rgb(image)
    turn = TURNS.get(_orientation(image))
    return np.array(rgb if turn is None else rgb.transpose(turn))


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of what `read_image` returns, from a photo's header; DataError and SetupError as there."""
    with _opened(path) as image:
        if image.format == "TIFF":
            image.load()  # its size is known for certain only when it has been decoded, and turned
        turn = TURNS.get(_orientation(image))
        width, height = image.size
        return (width, height) if turn in SIDEWAYS else (height, width)


def has_more_pictures(path: Path) -> bool:
    """Whether a file holds an animation or several pages, of which `read_image` takes the first; DataError as there."""
    # A JPEG may hold more pictures, too, but those are previews and depth maps.
    with _opened(path) as image:
        return image.format in ("GIF", "PNG", "WEBP", "TIFF") and bool(getattr(image, "is_animated", False))


def heif_reader_missing() -> SetupError:
    """The error that says how to read HEIC and HEIF photos."""
    return SetupError("HEIC and HEIF photos need the library pillow-heif, which is not installed", "pip install 'rcatool[heic]'")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    # Pillow gets no name: it would map some TIFFs into memory, and show those with a rotation of 90 degrees as garbage.
    with decoding(path), open(plain(path), "rb") as file, _identified(file) as image:
        yield image


def _identified(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=PHOTO_FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        if file.read(12)[4:] not in [b"ftyp" + brand for brand in HEIF_BRANDS]:
            raise
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise heif_reader_missing() from error
    file.seek(0)
    # Not registered with Pillow, so that nobody else's Image.open changes.
    image: Image.Image = HeifImageFile(file)  # type: ignore[no-untyped-call]
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0):
        raise Image.DecompressionBombError
    return image


def _foreign(path: Path) -> DataError:
    """The error for a file that is no photo, with a word on what it is instead."""
    with open(path, "rb") as file:
        head = file.read(32)
    kind = next((kind for magic, kind in FOREIGN.items() if head.startswith(magic)), None)
    if head[4:8] == b"ftyp":
        kind = "an AVIF picture" if head[8:12] in AVIF_BRANDS else "a video"
    elif head[:4] == b"RIFF" and head[8:12] != b"WEBP":
        kind = "a video or sound"
    formats = f"{', '.join(PHOTO_FORMATS)} and HEIF can be read"
    if kind is None:
        return DataError(f"{path}: not an image ({formats}){': the file is empty' if not head else ''}")
    return DataError(f"{path}: not an image that can be read but {kind} ({formats})", "convert or replace it, or leave it out")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is still to be applied (TIFF and HEIF are turned by their decoders)."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, *DECODE_ERRORS):
        return 1  # broken metadata say nothing
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode of Pillow to RGB; ValueError where the range of the values is unknown."""
    if image.mode == "F":
        raise ValueError("float pixels; expected 8 or 16 bits")
    if isinstance(image, TiffImageFile):
        _check_tiff(image)
    if image.mode.startswith("I"):
        return _from_16_bits(image).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":  # premultiplied; has no direct way to RGBA
            image = image.convert("LA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _check_tiff(image: TiffImageFile) -> None:
    bits = image.tag_v2.get(BITS, (1,))
    if image.mode == "I":
        raise ValueError(f"{'32-bit' if bits[0] == 32 else 'signed 16-bit'} pixels; expected 8 or 16 bits without a sign")
    if image.tag_v2.get(PLANAR) == SEPARATE_PLANES and max(bits) > 8 and len(bits) > 1:
        raise ValueError("16-bit pixels in separate planes; save it with its channels interleaved")  # Pillow would read garbage


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Scale grey pixels of 16 bits (12 in some TIFFs) to 8; Pillow would clip them."""
    bits, white_is_zero = 16, False
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(BITS, (16,))[0]
        white_is_zero = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    full = 2**bits - 1
    values = np.asarray(image).astype(np.uint32)
    grey = ((values * 255 + full // 2) // full).astype(np.uint8)
    if white_is_zero:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)
