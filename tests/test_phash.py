"""Oracles: copies made with Pillow, hashes compared one by one, real photos that are all different."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcatool.data import phash, shapes
from rcatool.data.photos import read_image


def scene(seed: int, size: tuple[int, int] = (150, 200)) -> Image.Image:
    """A picture of soft blobs, as unlike the next one as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": smaller,
    "a thumbnail": lambda image: image.resize((64, 48)),
    "encoded again": lambda image: jpeg(image, 30),
    "both": lambda image: jpeg(smaller(image), 50),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


def hash_of(image: Image.Image) -> bytes:
    found = phash.perceptual_hash(np.asarray(image))
    assert found is not None
    return found


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_near_and_another_picture_is_not(change: str) -> None:
    for seed in range(20):
        assert phash.distance(hash_of(scene(seed)), hash_of(COPIES[change](scene(seed)))) <= phash.NEAR
        assert phash.distance(hash_of(scene(seed)), hash_of(COPIES[change](scene(seed + 100)))) > 2 * phash.NEAR


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_tone_has_no_hash(level: int) -> None:
    noise = np.random.default_rng(0).integers(0, 3, (60, 80, 3))
    assert phash.perceptual_hash(np.clip(level + noise, 0, 255).astype(np.uint8)) is None


def one_by_one(hashes: list[bytes], groups: np.ndarray) -> list[tuple[int, int, int]]:
    pairs = ((i, j) for j in range(len(hashes)) for i in range(j) if groups[i] != groups[j])
    found = ((i, j, sum((a ^ b).bit_count() for a, b in zip(hashes[i], hashes[j], strict=True))) for i, j in pairs)
    return sorted(pair for pair in found if pair[2] <= phash.NEAR)


@pytest.mark.parametrize("alike", [False, True])
def test_the_index_finds_what_comparing_all_finds(alike: bool) -> None:
    """Hashes with neighbours at every distance about the threshold; `alike`: all in one bucket of most bands."""
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2, (60, phash.BITS))
    if alike:
        bits[:, : phash.BITS - 20] = 0
    copies = bits.repeat(4, axis=0)
    for row in copies:
        row[rng.choice(phash.BITS, int(rng.integers(0, phash.NEAR + 3)), replace=False)] ^= 1
    hashes = [np.packbits(row).tobytes() for row in np.concatenate([bits, copies])]
    groups = rng.integers(0, 3, len(hashes))
    found = phash.near_pairs(hashes, groups)
    assert found == one_by_one(hashes, groups)
    assert len({distance for _, _, distance in found}) == phash.NEAR + 1


def test_no_hashes_and_one_group() -> None:
    assert phash.near_pairs([], np.array([])) == []
    assert phash.near_pairs([hash_of(scene(0))] * 3, np.zeros(3, int)) == []


def test_generated_images_do_not_look_the_same() -> None:
    images = [shapes.render("train", index, size=64, seed=0)[0] for index in range(60)]
    hashes = [phash.perceptual_hash(image) for image in images]
    assert phash.near_pairs([code for code in hashes if code is not None], np.arange(60)) == []
    assert None not in hashes


def test_real_photos(voc_part: Path) -> None:
    """No two of these are near, though any two may be; each is near its own copy."""
    paths = sorted((voc_part / "VOC2012" / "JPEGImages").glob("*.jpg"))[::9]
    photos = [Image.fromarray(read_image(path)) for path in paths]
    hashes = [hash_of(photo) for photo in photos]
    assert phash.near_pairs(hashes, np.arange(len(hashes))) == []
    for photo, code in zip(photos[::4], hashes[::4], strict=True):
        assert phash.distance(code, hash_of(jpeg(smaller(photo), 60))) <= phash.NEAR
