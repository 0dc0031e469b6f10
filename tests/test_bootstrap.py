"""Intervals against a plain loop and against scipy's bootstrap."""

import numpy as np
import pytest
from scipy import stats
from test_tally import LABELS, maps, tally_of

from rcatool.bootstrap import interval, mean_over_labels, resampled_iou, resampled_sums
from rcatool.metrics import UNLABELLED, confusion_matrix, scores
from rcatool.scorecard import intervals, paired
from rcatool.tally import PhotoTable


def pictures(seed: int, count: int, right: float = 0.6) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of which a share of pixels agrees, more in some photos than in others."""
    rng = np.random.default_rng(seed)
    keep = [rng.random(truth.shape) < rng.uniform(right - 0.3, right + 0.3) for truth, _ in maps(seed, count)]
    return [(t, np.where(k, t, p).astype(np.uint8)) for k, (t, p) in zip(keep, maps(seed, count), strict=True)]


@pytest.mark.parametrize("unlabelled", UNLABELLED)
def test_resamples_are_those_of_a_plain_loop(unlabelled: str) -> None:
    pairs = maps(3, 9)
    found = resampled_iou(resampled_sums(tally_of(pairs).table(), LABELS, resamples=40, seed=7), unlabelled)
    draws = np.random.default_rng(7).integers(0, 9, (40, 9))
    for row, draw in zip(found, draws, strict=True):
        drawn = sum(confusion_matrix(*pairs[k], LABELS) for k in draw)
        expected = scores(np.asarray(drawn), unlabelled=unlabelled)
        np.testing.assert_allclose(row, expected.iou, atol=1e-12)
        assert mean_over_labels(row[None])[0] == pytest.approx(expected.miou, abs=1e-12)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = tally_of(maps(3, 9)).table()
    whole = resampled_sums(table, LABELS, resamples=25)
    monkeypatch.setattr("rcatool.bootstrap._CHUNK", 30)
    np.testing.assert_array_equal(resampled_sums(table, LABELS, resamples=25), whole)


def test_a_label_that_a_resample_has_not_drawn_is_left_out_of_its_mean() -> None:
    only = np.full((2, 2), 3, np.uint8)
    pairs = [(only, only), (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))]
    iou = resampled_iou(resampled_sums(tally_of(pairs).table(), LABELS, resamples=50))
    assert np.isnan(iou[:, [1, 2, 4]]).all()
    assert np.isnan(iou[:, 3]).any()  # some resamples have the second photo twice
    assert (mean_over_labels(iou) == 1).all()
    assert interval(np.full(5, np.nan)) is None


def test_the_interval_is_scipys_but_for_chance() -> None:
    pairs = pictures(5, 60)
    shares = np.stack([confusion_matrix(*pair, LABELS) for pair in pairs])

    def miou(photos: np.ndarray) -> float:
        return scores(shares[photos].sum(axis=0)).miou

    theirs = stats.bootstrap(
        (np.arange(60),), miou, vectorized=False, n_resamples=2000, method="percentile", rng=np.random.default_rng(1)
    )
    document = intervals(tally_of(pairs).table(), LABELS)["interval"]
    low, high = document["wrong"]
    assert low < scores(shares.sum(axis=0)).miou < high
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.12 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.12 * width)
    assert (document["resamples"], document["seed"], document["level"]) == (1000, 0, 0.95)


def test_the_interval_leaves_out_as_much_on_either_side() -> None:
    assert interval(np.random.default_rng(0).permutation(1001).astype(float)) == pytest.approx((25, 975))
    assert interval(np.arange(101.0), 0.8) == pytest.approx((10, 90))


def test_a_single_photo_has_no_interval() -> None:
    assert intervals(tally_of(maps(0, 1)).table(), LABELS) == {}


def test_a_pair_on_the_same_photos_is_told_apart_better_than_two_intervals_can() -> None:
    pairs = pictures(2, 80)
    rng = np.random.default_rng(0)
    # The second result has 3 % of the pixels of every photo mended.
    mended = [(t, np.where(rng.random(t.shape) < 0.03, t, p).astype(np.uint8)) for t, p in pairs]
    a, b = (tally_of(each).table() for each in (pairs, mended))
    found = paired(a, b, [f"label {k}" for k in range(1, LABELS)])
    expected = [scores(np.asarray(sum(confusion_matrix(*pair, LABELS) for pair in each))) for each in (pairs, mended)]
    assert found["a"]["miou"] == pytest.approx(expected[0].miou, abs=1e-6)
    assert found["difference"]["miou"] == pytest.approx(expected[1].miou - expected[0].miou, abs=1e-6)
    assert found["difference"]["iou"]["background"]["difference"] == pytest.approx(expected[1].iou[0] - expected[0].iou[0], abs=1e-6)
    assert 0 < found["difference"]["interval"][0] < found["difference"]["miou"] < found["difference"]["interval"][1]
    assert found["difference"]["better"] == 1.0
    alone = intervals(a, LABELS)["interval"]["wrong"]
    assert found["difference"]["interval"][1] - found["difference"]["interval"][0] < (alone[1] - alone[0]) / 2


def test_a_result_does_not_differ_from_itself() -> None:
    table: PhotoTable = tally_of(maps(0, 5)).table()
    found = paired(table, table, ["a", "b", "c", "d"])["difference"]
    assert (found["miou"], found["interval"], found["better"]) == (0.0, [0.0, 0.0], 0.0)
