"""Red and blue that are swapped: found in every kind of photo, and no clean data set accused."""

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import Result
from PIL import Image

from rcatool.data.colours import ColourCount, hues, swapped
from rcatool.data.photos import read_image

Rca = Callable[..., Result]


def said(photos: list[np.ndarray]) -> str:
    count = ColourCount()
    for photo in photos:
        count.add(hues(photo))
    return swapped({"colours": count.document()})


def plain(hue: int, *, saturation: float = 0.5, value: float = 0.6) -> np.ndarray:
    """A photo of one hue, in degrees, as the standard library defines it."""
    colour = [round(255 * part) for part in colorsys.hsv_to_rgb(hue / 360, saturation, value)]
    return np.full((50, 70, 3), colour, np.uint8)


def test_hues_are_those_of_the_colour_circle() -> None:
    for hue in [*range(5, 60, 10), *range(65, 360, 10)]:  # never where two channels are equal
        found = hues(plain(hue))
        assert (found.common, found.rare) == (float(60 < hue < 120 or hue > 300), float(120 < hue < 180 or 240 < hue < 300)), hue
        assert hues(plain(hue, saturation=0.1)) == hues(plain(0, saturation=0))  # grey tells nothing
        other = hues(plain(hue)[..., ::-1])
        assert (other.common, other.rare) == (found.rare, found.common)


def test_shares_are_those_of_the_pixels() -> None:
    photo = np.concatenate([plain(90)[:, :64]] * 3 + [plain(150)[:, :64]], axis=1)  # (50, 256, 3): every fourth column is looked at
    assert (hues(photo).common, hues(photo).rare) == (0.75, 0.25)
    assert hues(np.zeros((1, 1, 3), np.uint8)).common == 0  # smaller than the grid


def test_how_many_photos_it_takes() -> None:
    assert said([plain(150)] * 9) == ""
    assert said([plain(150)] * 10).startswith("red and blue seem to be swapped (BGR saved as RGB?): 10 of 10 photos that tell")
    assert said([plain(150)] * 10 + [plain(0, saturation=0)] * 90) != ""  # grey photos have no say
    assert said([plain(150)] * 10 + [plain(90)] * 5) != ""
    assert said([plain(150)] * 10 + [plain(90)] * 6) == ""
    assert swapped({}) == ""  # a census of an earlier version


def test_real_photos_of_every_class(voc_part: Path) -> None:
    """Aeroplanes are shown against the sky and boats on the water: both are bluer than they are red."""
    folder = voc_part / "VOC2012"
    groups: dict[str, list[np.ndarray]] = {}
    for image_id, *names in map(str.split, (folder / "tags.txt").read_text().splitlines()):
        for name in names:
            if len(group := groups.setdefault(name, [])) < 50:
                group.append(read_image(folder / "JPEGImages" / f"{image_id}.jpg"))
    assert len(groups) == 20
    assert {name: said(photos) for name, photos in groups.items() if said(photos)} == {}
    missed = {name for name, photos in groups.items() if not said([photo[..., ::-1] for photo in photos])}
    assert missed <= {"tvmonitor"}, missed


def test_prepare_and_doctor_say_it(rca: Rca, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(12):
        photo = plain(90) + generator.integers(0, 30, (50, 70, 1), np.uint8)
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[..., ::-1]).save(tmp_path / "photos" / "ab"[number % 2] / f"p{number}.png")
    done = rca("prepare", "folder", "--run", "run", "--images", "photos", "--tags", "folders")
    assert done.code == 0, done.err
    assert done.err.count("red and blue seem to be swapped") == 1
    assert "red and blue seem to be swapped" in rca("doctor", "--run", "run").out
