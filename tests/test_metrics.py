"""Scores against scikit-learn, by identities and by hand; files of results through `scoring`."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from rcatool.cams import save_cam
from rcatool.data.labels import IGNORE, write_mask
from rcatool.metrics import (
    average_precision,
    confusion_matrix,
    mean_average_precision,
    report,
    scores,
    sweep_confusion,
    thresholds,
)
from rcatool.scoring import ScoreJob, score_cam, score_labels

LABELS = 5


def picture(seed: int, void: float = 0.2, shape: tuple[int, int] = (9, 11)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, LABELS, shape, np.uint8)
    labels[rng.random(shape) < void] = IGNORE
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_confusion_is_scikit_learns_on_pixels_that_count(seed: int) -> None:
    truth, prediction = picture(seed), picture(seed + 50)
    counted = truth != IGNORE
    columns = np.where(prediction == IGNORE, LABELS, prediction)
    expected = sk.confusion_matrix(truth[counted], columns[counted], labels=range(LABELS + 1))
    found = confusion_matrix(truth, prediction, LABELS)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected[:LABELS])


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_scikit_learns(seed: int) -> None:
    truth, prediction = picture(seed), picture(seed + 50, void=0)
    counted = truth != IGNORE
    t, p = truth[counted], prediction[counted]
    found = scores(confusion_matrix(truth, prediction, LABELS))
    np.testing.assert_allclose(found.iou, sk.jaccard_score(t, p, average=None), atol=1e-12)
    np.testing.assert_allclose(found.precision, sk.precision_score(t, p, average=None), atol=1e-12)
    np.testing.assert_allclose(found.recall, sk.recall_score(t, p, average=None), atol=1e-12)
    assert found.miou == pytest.approx(sk.jaccard_score(t, p, average="macro"), abs=1e-12)
    assert found.pixel_acc == pytest.approx(sk.accuracy_score(t, p), abs=1e-12)
    assert found.coverage == 1


@pytest.mark.parametrize("seed", range(4))
def test_identities(seed: int) -> None:
    counts = confusion_matrix(picture(seed), picture(seed + 50, void=0), LABELS)
    found, hit = scores(counts), np.diag(counts[:, :-1])
    wrong, missed = counts[:, :-1].sum(axis=0) - hit, counts.sum(axis=1) - hit
    union = hit + wrong + missed
    np.testing.assert_allclose(found.iou + wrong / union + missed / union, 1, atol=1e-12)
    np.testing.assert_allclose(2 * found.iou / (1 + found.iou), 2 * hit / (2 * hit + wrong + missed), atol=1e-12)
    assert found.miou <= min(found.precision.mean(), found.recall.mean())


def test_photos_add_up() -> None:
    pairs = [(picture(seed), picture(seed + 50)) for seed in range(3)]
    parts = sum(confusion_matrix(truth, prediction, LABELS) for truth, prediction in pairs)
    whole = confusion_matrix(np.hstack([t for t, _ in pairs]), np.hstack([p for _, p in pairs]), LABELS)
    np.testing.assert_array_equal(parts, whole)


def test_perfect_and_permuted_predictions() -> None:
    truth = picture(0)
    assert scores(confusion_matrix(truth, truth, LABELS)).miou == 1
    moved = np.where(truth == IGNORE, IGNORE, (truth + 1) % LABELS).astype(np.uint8)
    assert scores(confusion_matrix(truth, moved, LABELS)).miou == 0


def test_void_pixels_never_matter() -> None:
    truth, prediction = picture(0), picture(50)
    noisy = np.where(truth == IGNORE, picture(99), prediction)
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, LABELS), confusion_matrix(truth, noisy, LABELS))
    assert confusion_matrix(np.full_like(truth, IGNORE), prediction, LABELS).sum() == 0


def test_three_conventions_for_pixels_without_a_label() -> None:
    # Six pixels: background twice (one unlabelled), class 1 four times (one right, one wrong, two unlabelled).
    counts = confusion_matrix(np.array([[0, 0, 1, 1, 1, 1]]), np.array([[0, 255, 1, 0, 255, 255]]), 2)
    assert counts.tolist() == [[1, 0, 1], [1, 1, 2]]
    by_hand = {"wrong": [1 / 3, 1 / 4], "background": [2 / 5, 1 / 4], "dropped": [1 / 2, 1 / 2]}
    for unlabelled, iou in by_hand.items():
        found = scores(counts, unlabelled=unlabelled)
        np.testing.assert_allclose(found.iou, iou)
        assert found.coverage == pytest.approx(0.5)
    assert scores(counts).pixel_acc == pytest.approx(2 / 6)
    assert scores(counts, unlabelled="background").pixel_acc == pytest.approx(3 / 6)
    assert scores(counts, unlabelled="dropped").pixel_acc == pytest.approx(2 / 3)


def test_absent_labels_are_left_out_of_the_mean() -> None:
    counts = confusion_matrix(np.array([[0, 2, 2, 2]], np.uint8), np.array([[0, 2, 2, 0]], np.uint8), 4)
    found = scores(counts)
    np.testing.assert_allclose(found.iou, [1 / 2, np.nan, 2 / 3, np.nan])
    assert found.miou == pytest.approx((1 / 2 + 2 / 3) / 2)
    document = report(counts, ["cat", "cow", "dog"])
    assert document["absent_classes"] == ["cat", "dog"]
    assert document["iou"] == {"background": 0.5, "cat": None, "cow": 0.666667, "dog": None}
    assert document["recall"]["cow"] == 0.666667
    assert document["precision"]["background"] == 0.5
    assert document["miou"] == pytest.approx(found.miou, abs=1e-6)


def test_nothing_to_score_is_none() -> None:
    document = report(np.zeros((3, 4), np.int64), ["a", "b"])
    assert [document[key] for key in ("miou", "pixel_acc", "miou_unlabelled_dropped")] == [None, None, None]
    assert document["absent_classes"] == ["background", "a", "b"]


@pytest.mark.parametrize(("step", "expected"), [(0.25, [0, 0.25, 0.5, 0.75, 1]), (0.3, [0, 0.3, 0.6, 0.9]), (0.5, [0, 0.5, 1])])
def test_thresholds(step: float, expected: list[float]) -> None:
    assert thresholds(step).tolist() == expected
    assert len(thresholds(0.02)) == 51


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 3), st.integers(0, 10**6))
def test_sweep_equals_a_loop_over_thresholds(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = np.sort(rng.permutation(np.arange(1, LABELS))[:count])
    cam = rng.integers(0, 9, (count, 4, 6)).astype(np.float32) / 8  # coarse, so that values meet thresholds and each other
    truth, levels = picture(seed, shape=(4, 6)), thresholds(0.125)
    found = sweep_confusion(truth, cam, keys, levels, LABELS)
    for level, counts in zip(levels, found, strict=True):
        stack = np.concatenate([np.full((1, 4, 6), level, np.float32), cam])
        prediction = np.array([0, *keys], np.uint8)[stack.argmax(axis=0)]
        np.testing.assert_array_equal(counts, confusion_matrix(truth, prediction, LABELS))


def test_sweep_ends() -> None:
    cam = np.random.default_rng(0).random((2, 4, 6), dtype=np.float32)
    swept = sweep_confusion(picture(0, shape=(4, 6)), cam, np.array([1, 3]), np.array([-0.01, 1.0]), LABELS)
    assert swept[0][:, 0].sum() == 0  # everything is foreground
    assert swept[1][:, 0].sum() == swept[1].sum()  # everything is background


def test_a_value_at_the_threshold_is_background_in_float32_too() -> None:
    cam = np.full((1, 1, 1), 0.3, np.float32)  # slightly more than 0.3 in float64
    assert sweep_confusion(np.array([[1]], np.uint8), cam, np.array([1]), np.array([0.3]), 2)[0].tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_scikit_learns_without_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, tags = rng.permutation(60).reshape(20, 3) / 60, rng.random((20, 3)) < 0.4
    each = [sk.average_precision_score(tags[:, c], score[:, c]) for c in range(3)]
    assert [average_precision(score[:, c], tags[:, c]) for c in range(3)] == pytest.approx(each, abs=1e-12)
    assert mean_average_precision(score, tags) == pytest.approx(np.mean(each), abs=1e-12)


def test_average_precision_by_hand() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.6])
    assert average_precision(score, np.array([True, False, True, False])) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(score, np.zeros(4, bool)))
    both = np.stack([score, score], axis=1)
    tags = np.array([[False, False], [True, False], [False, False], [False, False]])
    assert mean_average_precision(both, tags) == 0.5  # the class without a positive is left out
    assert np.isnan(mean_average_precision(both, np.zeros((4, 2), bool)))


def test_files_are_scored_as_their_arrays(tmp_path: Path) -> None:
    truth, prediction = picture(0, shape=(8, 12)), picture(1, shape=(8, 12))
    write_mask(tmp_path / "mask.png", truth)
    write_mask(tmp_path / "label.png", prediction)
    job = ScoreJob(tmp_path / "label.png", tmp_path / "mask.png", (8, 12), LABELS - 1)
    np.testing.assert_array_equal(score_labels(job), confusion_matrix(truth, prediction, LABELS))
    cam = np.zeros((2, 8, 12), np.float32)
    cam[0, :, :6], cam[1, :, 6:] = 1, 1
    save_cam(tmp_path / "a.npz", np.array([0, 3]), cam, (8, 12))  # classes 0 and 3: labels 1 and 4
    found = score_cam(ScoreJob(tmp_path / "a.npz", tmp_path / "mask.png", (8, 12), LABELS - 1), levels=np.array([0.5]))
    halves = np.repeat(np.array([[1] * 6 + [4] * 6], np.uint8), 8, axis=0)
    np.testing.assert_array_equal(found[0], confusion_matrix(truth, halves, LABELS))
