"""Boundary IoU against its definition: erosion of each label's mask, one pixel at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rcatool.boundary import band, band_width, boundary_counts, boundary_iou
from rcatool.data.labels import IGNORE


def blobs(seed: int, shape: tuple[int, int], labels: int = 4) -> np.ndarray:
    """A label map of coarse squares with some void."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, labels + 1, (-(-shape[0] // 5), -(-shape[1] // 5))).astype(np.uint8)
    cells[cells == labels] = IGNORE
    return np.repeat(np.repeat(cells, 5, axis=0), 5, axis=1)[: shape[0], : shape[1]]


def eroded_band(mask: np.ndarray, width: int) -> np.ndarray:
    """What d erosions with a 3 x 3 square take away; outside of the photo there is nothing."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.integers(1, 6))
def test_bands_are_what_erosion_takes_away(seed: int, height: int, width: int, distance: int) -> None:
    labels = blobs(seed, (height, width))
    found = band(labels, distance)
    for label in range(4):
        mask = labels == label
        np.testing.assert_array_equal(found & mask, eroded_band(mask, distance))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(40, 140), st.integers(40, 140))
def test_counts_are_those_of_the_definition(seed: int, height: int, width: int) -> None:
    truth, prediction = blobs(seed, (height, width)), blobs(seed + 1, (height, width))
    distance = max(1, round(0.02 * (height**2 + width**2) ** 0.5))
    expected = np.zeros((3, 256), np.int64)
    for label in range(4):
        true = eroded_band(truth == label, distance)
        predicted = eroded_band((prediction == label) & (truth != IGNORE), distance)
        expected[:, label] = (true & predicted).sum(), true.sum(), predicted.sum()
    found = boundary_counts(truth, prediction)
    np.testing.assert_array_equal(found[:, :4], expected[:, :4])
    assert not found[:, 4:IGNORE].any()


def test_perfect_wrong_and_absent() -> None:
    truth = blobs(0, (60, 60))
    assert np.nanmin(boundary_iou(boundary_counts(truth, truth)[:, :5])) == 1
    assert np.isnan(boundary_iou(boundary_counts(truth, truth)[:, :5])[4])
    moved = np.where(truth == IGNORE, IGNORE, (truth + 1) % 4).astype(np.uint8)
    assert boundary_iou(boundary_counts(truth, moved)[:, :4]).tolist() == [0, 0, 0, 0]


def test_void_pixels_never_matter() -> None:
    truth, prediction = blobs(0, (60, 60)), blobs(1, (60, 60))
    noisy = np.where(truth == IGNORE, blobs(2, (60, 60)), prediction)
    np.testing.assert_array_equal(boundary_counts(truth, noisy), boundary_counts(truth, prediction))


def test_a_shifted_square_by_hand() -> None:
    # 100 x 100: the diagonal is 141.4, the band 3 wide. A square of 20 x 20 has a band of 400 - 14 * 14 = 204 pixels.
    truth, prediction = np.zeros((2, 100, 100), np.uint8)
    truth[40:60, 40:60], prediction[40:60, 41:61] = 1, 1
    counts = boundary_counts(truth, prediction)[:, 1]
    # Shifted by one the bands share 20 * 19 pixels of both squares without the 16 in rows 43..56, columns 44..56 (13 * 14 inside both)
    # and without what is inside of one of them: two columns of 14.
    both = 20 * 19 - 13 * 14 - 2 * 14
    assert counts.tolist() == [both, 204, 204]
    assert boundary_iou(counts[:, None])[0] == pytest.approx(both / (408 - both))


@pytest.mark.parametrize(("size", "width"), [((375, 500), 12), ((10, 10), 1), ((1, 1), 1), ((480, 640), 16)])
def test_the_width_is_two_per_cent_of_the_diagonal(size: tuple[int, int], width: int) -> None:
    assert band_width(*size) == width  # 0.02 * 625 = 12.5 is rounded to even, as by the reference implementation
