"""Photo by photo counts: their sum, each photo's share, what is stored, and files through `scoring`."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as sk

from rcatool.cams import save_cam
from rcatool.conventions import all_levels
from rcatool.data.labels import IGNORE, palette, write_mask
from rcatool.errors import DataError
from rcatool.metrics import scores, sweep_histogram
from rcatool.scoring import ScoreJob, count_labels, read_mask_or_colours, score_cam, score_labels
from rcatool.tally import PhotoCounts, SweepTally, Tally, photo_counts, read_photo_tables, truth_digest

LABELS = 5


def maps(seed: int, count: int = 4, shape: tuple[int, int] = (6, 7)) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of truth and prediction, both with some 255."""
    values = np.random.default_rng(seed).integers(0, LABELS + 1, (count, 2, *shape)).astype(np.uint8)
    values[values == LABELS] = IGNORE
    return [(truth, prediction) for truth, prediction in values]


def tally_of(pairs: list[tuple[np.ndarray, np.ndarray]], ids: list[str] | None = None) -> Tally:
    tally = Tally()
    for photo_id, (truth, prediction) in zip(ids or [f"p{k}" for k in range(len(pairs))], pairs, strict=True):
        tally.add(photo_id, count_labels(truth, prediction, boundary=True))
    return tally


def brute_confusion(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    truth, prediction = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    counted = truth != IGNORE
    columns = np.where(prediction == IGNORE, LABELS, prediction)[counted]
    return np.asarray(sk.confusion_matrix(truth[counted], columns, labels=range(LABELS + 1))[:LABELS])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_the_sum_is_scikit_learns_whatever_the_order_and_whatever_void_pixels_hold(seed: int, count: int) -> None:
    pairs = maps(seed, count)
    whole = tally_of(pairs)
    np.testing.assert_array_equal(whole.confusion(LABELS), brute_confusion(pairs))
    noise = np.random.default_rng(seed + 1)
    changed = [(t, np.where(t == IGNORE, noise.integers(0, LABELS, t.shape), p).astype(np.uint8)) for t, p in pairs]
    other = tally_of(changed[::-1], [f"p{k}" for k in reversed(range(count))])
    np.testing.assert_array_equal(other.confusion(LABELS), whole.confusion(LABELS))
    np.testing.assert_array_equal(other.boundary, whole.boundary)
    assert other.truth_digest() == whole.truth_digest()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_each_photos_share_is_its_own_confusion(seed: int, count: int) -> None:
    pairs = maps(seed, count)
    table = tally_of(pairs).table()
    found = table.sums(LABELS).toarray().reshape(count, 4, LABELS)
    for share, pair in zip(found, pairs, strict=True):
        alone = brute_confusion([pair])
        expected = [np.diag(alone[:, :-1]), alone.sum(axis=1), alone[:, :-1].sum(axis=0), alone[:, -1]]
        np.testing.assert_array_equal(share, expected)


def test_more_pixels_than_32_bits_can_count() -> None:
    """12,000 photos of 290,000 pixels: a signed 32-bit count would end at -814,967,296."""
    tally = Tally()
    share = PhotoCounts(np.array([0, 1 << 8], np.uint32), np.array([289_000, 1000], np.uint32), b"")
    for number in range(12_000):
        tally.add(str(number), share)
    confusion = tally.confusion(2)
    assert confusion.tolist() == [[3_468_000_000, 0, 0], [12_000_000, 0, 0]]
    assert scores(confusion).iou.tolist() == [3468 / 3480, 0]
    assert tally.table().sums(2).sum(axis=0).tolist()[:4] == [3_468_000_000, 0, 3_468_000_000, 12_000_000]


def test_the_digest_names_the_ground_truth_and_nothing_else(tmp_path: Path) -> None:
    (truth, prediction), (other, _) = maps(0, 2)
    assert tally_of([(truth, prediction)]).truth_digest() == tally_of([(truth, other)]).truth_digest()
    assert tally_of([(truth, prediction)]).truth_digest() != tally_of([(other, prediction)]).truth_digest()
    assert tally_of([(truth, prediction)]).truth_digest() != tally_of([(truth, prediction)], ["q"]).truth_digest()
    flat = truth.reshape(1, -1)
    assert tally_of([(flat, flat)]).truth_digest() != tally_of([(truth, truth)]).truth_digest()
    assert len(truth_digest([], [])) == 16
    # However the same values are stored:
    write_mask(tmp_path / "palette.png", truth)
    Image.fromarray(truth).save(tmp_path / "grey.png", optimize=True)
    found = [score_labels(ScoreJob("p0", path, path, None, LABELS - 1), boundary=False) for path in tmp_path.glob("*.png")]
    assert found[0].truth == found[1].truth == count_labels(truth, truth, boundary=False).truth


def test_tables_are_stored_and_read(tmp_path: Path) -> None:
    tables = {"seg": tally_of(maps(0), ["2007_000032", "été", "日本", "a b"]).table(), "cam_from_tune": tally_of(maps(1)).table()}
    arrays = {name: array for target, table in tables.items() for name, array in table.arrays(target).items()}
    np.savez_compressed(tmp_path / "per_image.npz", **arrays)
    found = read_photo_tables(tmp_path / "per_image.npz")
    assert list(found) == ["seg", "cam_from_tune"]
    for target, table in tables.items():
        assert found[target].ids == table.ids
        np.testing.assert_array_equal(found[target].sums(LABELS).toarray(), table.sums(LABELS).toarray())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x93NUMPY", None])
def test_broken_tables_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "per_image.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"per_image\.npz: (no such file|cannot be read)"):
        read_photo_tables(path)
    np.savez(path, **{"seg.ids": np.array([b"a"])})
    with pytest.raises(DataError, match=r"per_image\.npz: cannot be read"):
        read_photo_tables(path)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_cams_photo_by_photo_are_their_label_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.array([0.0, 0.25, 0.5, 1.0])
    tally, sweeps = SweepTally(LABELS, len(levels)), []
    for number, (truth, _) in enumerate(maps(seed, 3)):
        keys = np.sort(rng.permutation(np.arange(1, LABELS))[: rng.integers(0, 4)])
        cam = rng.integers(0, 5, (len(keys), *truth.shape)).astype(np.float32) / 4
        histogram = sweep_histogram(truth, cam, keys, levels, LABELS).ravel()
        tally.add(str(number), photo_counts(np.flatnonzero(histogram), histogram[histogram > 0], truth))
        sweeps.append((truth, cam, keys))
    for j, level in enumerate(levels):
        pairs = []
        for truth, cam, keys in sweeps:
            stack = np.concatenate([np.full((1, *truth.shape), level, np.float32), cam])
            pairs.append((truth, np.array([0, *keys], np.uint8)[stack.argmax(axis=0)]))
        np.testing.assert_array_equal(tally.confusions()[j], brute_confusion(pairs))
        np.testing.assert_array_equal(tally.table(j).sums(LABELS).toarray(), tally_of(pairs).table().sums(LABELS).toarray())
    assert tally.truth_digest() == tally_of([(t, t) for t, _, _ in sweeps], ["0", "1", "2"]).truth_digest()


def test_files_are_scored_as_their_arrays(tmp_path: Path) -> None:
    (truth, prediction), = maps(0, 1, (8, 12))
    write_mask(tmp_path / "mask.png", truth)
    write_mask(tmp_path / "label.png", prediction)
    tally = Tally()
    tally.add("a", score_labels(ScoreJob("a", tmp_path / "label.png", tmp_path / "mask.png", (8, 12), LABELS - 1), boundary=True))
    np.testing.assert_array_equal(tally.confusion(LABELS), brute_confusion([(truth, prediction)]))
    assert tally.boundary is not None
    cam = np.zeros((2, 8, 12), np.float32)
    cam[0, :, :6], cam[1, :, 6:] = 1, 1
    save_cam(tmp_path / "a.npz", np.array([0, 3]), cam, (8, 12))  # classes 0 and 3: labels 1 and 4
    swept = SweepTally(LABELS, 1)
    swept.add("a", score_cam(ScoreJob("a", tmp_path / "a.npz", tmp_path / "mask.png", (8, 12), LABELS - 1), levels=np.array([0.5])))
    halves = np.repeat(np.array([[1] * 6 + [4] * 6], np.uint8), 8, axis=0)
    np.testing.assert_array_equal(swept.confusions()[0], brute_confusion([(truth, halves)]))


def test_masks_in_voc_colours_are_read_and_others_refused(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    values[values > 20] = 255
    rgb = np.array(palette(), np.uint8).reshape(256, 3)[values]
    for mode in ("RGB", "RGBA"):
        Image.fromarray(rgb).convert(mode).save(tmp_path / "colour.png")
        np.testing.assert_array_equal(read_mask_or_colours(tmp_path / "colour.png", num_classes=20), values)
    with pytest.raises(DataError, match=r"colour\.png: the colour of mask value \d+, expected 0\.\.3 or 255"):
        read_mask_or_colours(tmp_path / "colour.png", num_classes=3)
    rgb[3, 4] = (128, 0, 1)
    Image.fromarray(rgb).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"colour\.png: colour \(128, 0, 1\) is none of VOC's"):
        read_mask_or_colours(tmp_path / "colour.png", num_classes=20)


@pytest.mark.parametrize("step", [0.02, 0.03, 0.5])
def test_the_levels_of_a_sweep_hold_every_conventions(step: float) -> None:
    levels = all_levels(step)
    assert (np.diff(levels) > 1e-7).all()
    for level in (0.0, 0.15, 0.34, 0.59, 0.5, 0.381966, step):
        assert np.isclose(levels, level).sum() == 1
