"""Scores against scikit-learn, by identities and by hand."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from rcatool.data.labels import IGNORE
from rcatool.metrics import (
    average_precision,
    confusion_matrix,
    constant_loss,
    joint_cells,
    mean_average_precision,
    scores,
    sweep_histogram,
    sweep_matrices,
    thresholds,
)
from rcatool.scorecard import report, top_confusions

LABELS = 5


def sweep_confusion(truth: np.ndarray, cam: np.ndarray, keys: np.ndarray, levels: np.ndarray, labels: int) -> np.ndarray:
    return sweep_matrices(sweep_histogram(truth, cam, keys, levels, labels))


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
    np.testing.assert_allclose(found.iou + found.fp_of_union + found.fn_of_union, 1, atol=1e-12)
    np.testing.assert_allclose([found.fp_of_tp * hit, found.fn_of_tp * hit], np.where(hit > 0, [wrong, missed], np.nan), atol=1e-9)
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
    counts = confusion_matrix(np.array([[0, 0, 1, 1, 1, 1]], np.uint8), np.array([[0, 255, 1, 0, 255, 255]], np.uint8), 2)
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


def test_a_label_out_of_range_is_never_counted_in_silence() -> None:
    with pytest.raises(AssertionError, match="out of range"):
        confusion_matrix(np.array([[0, 1]], np.uint8), np.array([[0, 7]], np.uint8), 5)


def test_255_does_not_land_in_another_cell() -> None:
    # 21 * 12 + 3 = 255: a histogram of 21 * truth + prediction would count it as sofa taken for ... (12, 3).
    counts = confusion_matrix(np.zeros((2, 2), np.uint8), np.full((2, 2), IGNORE, np.uint8), 21)
    assert (counts[0, 21], counts.sum()) == (4, 4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 254))
def test_relabelling_both_maps_moves_the_scores_with_the_labels(seed: int, labels: int) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = rng.integers(0, labels, (2, 7, 9), np.uint8)
    order = rng.permutation(labels).astype(np.uint8)
    before, after = (scores(confusion_matrix(t, p, labels)) for t, p in ((truth, prediction), (order[truth], order[prediction])))
    np.testing.assert_array_equal(before.iou, after.iou[order])
    assert before.miou == pytest.approx(after.miou, abs=1e-12)


def test_confusions_by_hand() -> None:
    # Of ten cats six are cats, three dogs, one nothing; of four dogs one is background; background is always right.
    counts = np.array([[50, 0, 0, 0], [0, 6, 3, 1], [1, 0, 3, 0]], np.int64)
    pairs = top_confusions(counts, ("background", "cat", "dog"))
    found = [(pair["truth"], pair["taken_for"], pair["share"], pair["pixels"]) for pair in pairs]
    assert found == [("cat", "dog", 0.3, 3), ("dog", "background", 0.25, 1), ("cat", "no label", 0.1, 1)]
    assert len(top_confusions(counts, ("background", "cat", "dog"), most=2)) == 2
    document = report(counts, ["cat", "dog"])
    assert (document["fn_of_union"]["cat"], document["fn_of_tp"]["cat"]) == (0.4, pytest.approx(4 / 6, abs=1e-6))
    assert document["fp_of_tp"]["dog"] == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(0, 6), st.integers(1, 256))
def test_pairs_are_counted_one_by_one(seed: int, height: int, width: int, values: int) -> None:
    truth, prediction = np.random.default_rng(seed).integers(0, values, (2, height, width)).astype(np.uint8)
    pairs, pixels = joint_cells(truth, prediction)
    expected = Counter(256 * int(t) + int(p) for t, p in zip(truth.flat, prediction.flat, strict=True))
    assert dict(zip(pairs.tolist(), pixels.tolist(), strict=True)) == expected
    assert pixels.dtype == np.int64


def test_constant_loss_is_that_of_saying_how_often_each_class_occurs() -> None:
    tags = np.random.default_rng(3).random((50, 4)) < [0.1, 0.3, 0.5, 0.9]
    said = np.broadcast_to(tags.mean(axis=0), tags.shape)
    by_class = [sk.log_loss(tags[:, c], said[:, c]) for c in range(4)]
    assert constant_loss(tags) == pytest.approx(np.mean(by_class), abs=1e-12)
    assert constant_loss(np.ones((5, 2), bool)) == pytest.approx(0, abs=1e-6)
