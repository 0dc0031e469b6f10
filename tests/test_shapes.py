"""Oracles: statistics that the purpose of the images demands, Pillow, a second run, `voc` as reader."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcatool.data import shapes, voc
from rcatool.errors import ConfigError

SIZE = 64


@pytest.fixture(scope="module")
def rendered() -> list[tuple[np.ndarray, np.ndarray]]:
    return [shapes.render("train", index, size=SIZE, seed=3) for index in range(120)]


def striking(photo: np.ndarray) -> np.ndarray:
    """Pixels of a saturated colour, which only heads have."""
    values = photo.astype(int)
    return values.max(axis=2) - values.min(axis=2) > 120


def test_equal_arguments_equal_image_and_others_another() -> None:
    photo, mask = shapes.render("train", 5, size=SIZE, seed=0)
    again, mask_again = shapes.render("train", 5, size=SIZE, seed=0)
    assert np.array_equal(photo, again)
    assert np.array_equal(mask, mask_again)
    for other in (("val", 5, SIZE, 0), ("train", 6, SIZE, 0), ("train", 5, SIZE, 1)):
        assert not np.array_equal(photo, shapes.render(other[0], other[1], size=other[2], seed=other[3])[0])


def test_arrays(rendered: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for photo, mask in rendered:
        assert (photo.shape, photo.dtype, mask.shape, mask.dtype) == ((SIZE, SIZE, 3), np.uint8, (SIZE, SIZE), np.uint8)
        assert 1 <= len(np.unique(mask)) - 1 <= 3
        assert mask.max() <= 4


def test_balance(rendered: list[tuple[np.ndarray, np.ndarray]]) -> None:
    share = np.mean([mask > 0 for _, mask in rendered])
    assert 0.08 < share < 0.4  # enough to find, and background is still most of the image
    images = [sum((mask == value).any() for _, mask in rendered) for value in (1, 2, 3, 4)]
    assert min(images) >= 30
    assert np.mean([len(np.unique(mask)) == 2 for _, mask in rendered]) > 0.4  # most have one class


def test_the_striking_part_is_small_and_inside_the_mask(rendered: list[tuple[np.ndarray, np.ndarray]]) -> None:
    inside = sum((striking(photo) & (mask > 0)).sum() for photo, mask in rendered)
    outside = sum((striking(photo) & (mask == 0)).sum() for photo, mask in rendered)
    objects = sum((mask > 0).sum() for _, mask in rendered)
    assert inside > 4 * outside  # tags can be read off it
    assert 0.04 < inside / objects < 0.3  # and it is far from all of the object


def test_colour_alone_does_not_find_bodies(rendered: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The best threshold on brightness or on one colour finds the object far worse than its mask does."""
    photos, truth = np.stack([photo for photo, _ in rendered]).astype(float), np.stack([mask > 0 for _, mask in rendered])
    best = 0.0
    for channel in (*np.moveaxis(photos, -1, 0), photos.mean(axis=-1)):
        for threshold in range(20, 240, 10):
            for found in (channel > threshold, channel <= threshold):
                best = max(best, (found & truth).sum() / (found | truth).sum())
    assert best < 0.35


def test_background_goes_with_the_class_more_often_than_not() -> None:
    """Mean background colour predicts the first class, from images of other indices, far above chance but not always."""

    def features(start: int) -> np.ndarray:
        pairs = [shapes.render("train", index, size=SIZE, seed=0) for index in range(start, start + 160)]
        return np.array([photo[mask == 0].mean(axis=0) / photo[mask == 0].mean() for photo, mask in pairs])

    known, asked = features(0), features(160)
    means = np.array([known[c::4].mean(axis=0) for c in range(4)])
    guess = ((asked[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    right = np.mean(guess == np.arange(160) % 4)
    assert 0.35 < right < 0.9


def test_generated_set_is_read_by_voc(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    assert shapes.generate(root, {"train": 8, "val": 3}, size=32, seed=1) == 11
    dataset = voc.find(root, lists={"train": "train", "val": "val"})
    assert dataset.info.names == shapes.CLASSES
    assert [sum(sample.split == split for sample in dataset.samples) for split in ("train", "val")] == [8, 3]
    for index, sample in enumerate(dataset.samples[:8]):
        photo, mask = shapes.render("train", index, size=32, seed=1)
        with Image.open(root / str(sample.mask)) as image:
            assert np.array_equal(np.array(image), mask)
        with Image.open(root / sample.image) as image:
            assert np.abs(np.array(image).astype(int) - photo).mean() < 12  # JPEG
        assert [c + 1 for c in sample.classes] == [value for value in np.unique(mask).tolist() if value]


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(root.rglob("*")) if path.is_file()}


def test_made_once_and_anew_when_settings_or_files_change(tmp_path: Path) -> None:
    counts = {"train": 4, "val": 2}
    assert shapes.generate(tmp_path, counts, size=32, seed=1) == 6
    before = snapshot(tmp_path)
    assert shapes.generate(tmp_path, counts, size=32, seed=1) == 0
    assert snapshot(tmp_path) == before
    (tmp_path / "JPEGImages" / "train_00002.jpg").unlink()
    assert shapes.generate(tmp_path, counts, size=32, seed=1) == 6
    assert {name: content for name, (_, content) in snapshot(tmp_path).items()} == {name: content for name, (_, content) in before.items()}
    assert shapes.generate(tmp_path, counts, size=32, seed=2) == 6
    assert snapshot(tmp_path)["JPEGImages/train_00000.jpg"][1] != before["JPEGImages/train_00000.jpg"][1]


def test_workers_make_the_same(tmp_path: Path) -> None:
    seen: list[int] = []
    shapes.generate(tmp_path / "one", {"train": 6, "val": 2}, size=32, seed=1)
    shapes.generate(tmp_path / "two", {"train": 6, "val": 2}, size=32, seed=1, workers=2, bar=seen.append)
    one, two = snapshot(tmp_path / "one"), snapshot(tmp_path / "two")
    assert {name: content for name, (_, content) in one.items()} == {name: content for name, (_, content) in two.items()}
    assert sum(seen) == 8


def test_continues_after_a_stop(tmp_path: Path) -> None:
    counts = {"train": 4, "val": 1}

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shapes.generate(tmp_path, counts, size=32, seed=1, bar=stop)
    assert shapes.generate(tmp_path, counts, size=32, seed=1) == 5


def test_never_writes_into_other_data(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(ConfigError, match="was not generated"):
        shapes.generate(tmp_path, {"train": 1, "val": 1}, size=32, seed=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="was not generated"):
        shapes.generate(tmp_path / "file", {"train": 1, "val": 1}, size=32, seed=0)


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    def generate() -> int:
        return shapes.generate(tmp_path / "data", {"train": 2, "val": 1}, size=32, seed=0)

    assert generate() == 3
    expected = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "data" / "shapes.json").write_text((tmp_path / "data" / "shapes.json").read_text().replace("true", "false"))
    (tmp_path / "data" / "JPEGImages" / "train_00001.jpg.0.tmp").write_bytes(b"half")
    assert generate() == 3
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == expected
