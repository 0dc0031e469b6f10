"""Kinds of wrong pixels by loops over pixels, what repairing them gives by repairing label maps, and a table made by hand."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from tiny_run import TinyRun

from rcatool import score
from rcatool.breakdown import (
    BANDS,
    GROUPS,
    KINDS,
    NEAR,
    SHAPE,
    band_names,
    border_distance,
    breakdown_cells,
    breakdown_report,
    error_kinds,
    fill_ignored,
    repaired,
)
from rcatool.data.labels import IGNORE, write_mask
from rcatool.metrics import confusion_matrix, scores

Rca = Callable[..., Result]
Maps = tuple[np.ndarray, np.ndarray]


def blobs(seed: int, size: tuple[int, int] = (26, 31)) -> Maps:
    """A truth of a few rectangles with a ring of 255, and a prediction that is wrong in every way."""
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for labels, spread in ((truth, 0), (prediction, 3)):
        for label in rng.choice([1, 2, 3, 4], 3):
            height, width = size[0] // 3 + spread, size[1] // 3 + spread
            top, left = rng.integers(0, size[0] - height), rng.integers(0, size[1] - width)
            labels[top : top + height, left : left + width] = label
    if seed % 2:
        prediction = np.where(rng.random(size) < 0.5, np.roll(truth, rng.integers(-5, 6), axis=1), prediction).astype(np.uint8)
    truth[rng.random(size) < 0.1] = IGNORE
    prediction[rng.random(size) < 0.05] = IGNORE
    return truth, prediction


def counts_of(pairs: list[Maps]) -> np.ndarray:
    counts = np.zeros(SHAPE, np.int64)
    for truth, prediction in pairs:
        cells, pixels = breakdown_cells(truth, prediction)
        np.add.at(counts.reshape(-1), cells, pixels)
    return counts


def distance(ys: np.ndarray, xs: np.ndarray, y: int, x: int) -> float:
    return math.inf if len(ys) == 0 else float(np.hypot(ys - y, xs - x).min())


def slow_kind(truth: np.ndarray, filled: np.ndarray, prediction: np.ndarray, border: np.ndarray, at: tuple[int, int]) -> str:
    """The definitions, one pixel at a time."""
    t, p = int(truth[at]), int(prediction[at])
    if t == p:
        return "right"
    if p == IGNORE:
        return "ignored"
    if t > 0 and p > 0:
        return "confusion"
    if t > 0:
        if t not in prediction.tolist() and not (prediction == t).any():
            return "missed_object"
        return "missed_border" if distance(*np.nonzero(border), *at) < NEAR else "missed_part"
    if not (truth == p).any():
        return "false_object"
    return "spill" if distance(*np.nonzero(filled == p), *at) <= NEAR else "leak"


def slow_border(labels: np.ndarray) -> np.ndarray:
    border = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [at for at in beside if 0 <= at[0] < labels.shape[0] and 0 <= at[1] < labels.shape[1]]
        border[y, x] = any(labels[at] != labels[y, x] for at in inside)
    return border


@pytest.mark.parametrize("seed", range(6))
def test_kinds_and_bands_by_their_definitions(seed: int) -> None:
    truth, prediction = blobs(seed)
    filled = fill_ignored(truth)
    border = slow_border(filled)
    expected = np.zeros(SHAPE, np.int64)
    for y, x in np.ndindex(truth.shape):
        ys, xs = np.nonzero(truth != IGNORE)
        nearest = np.hypot(ys - y, xs - x)
        assert filled[y, x] in {int(truth[at]) for at in zip(ys[nearest == nearest.min()], xs[nearest == nearest.min()], strict=True)}
        away = distance(*np.nonzero(border), y, x)
        assert border_distance(filled)[y, x] == pytest.approx(away)
        if truth[y, x] != IGNORE:
            kind = slow_kind(truth, filled, prediction, border, (y, x))
            band = max(k for k, low in enumerate(BANDS) if away >= low)
            expected[KINDS.index(kind), band, truth[y, x], prediction[y, x]] += 1
    np.testing.assert_array_equal(counts_of([(truth, prediction)]), expected)


def test_every_kind_occurs_and_together_they_are_all_errors() -> None:
    pairs = [blobs(seed, (90, 99)) for seed in range(12)]
    counts = counts_of(pairs)
    assert (counts.sum(axis=(1, 2, 3)) > 0).all()
    assert (counts.sum(axis=(0, 2, 3)) > 0).all()
    wrong = sum(int(((t != p) & (t != IGNORE)).sum()) for t, p in pairs)
    assert counts[1:].sum() == wrong
    assert counts.sum() == sum(int((t != IGNORE).sum()) for t, _ in pairs)
    told = breakdown_report(counts, ["a", "b", "c", "d"])["breakdown"]
    assert sum(kind["pixels"] for kind in told["kinds"].values()) == wrong
    assert sum(kind["share"] for kind in told["kinds"].values()) == pytest.approx(1, abs=1e-5)
    assert sum(band["share"] for band in told["bands"].values()) == pytest.approx(1, abs=1e-5)
    assert told["wrong"] == pytest.approx(wrong / counts.sum(), abs=1e-6)


def test_prices_are_the_scores_of_repaired_maps() -> None:
    pairs = [blobs(seed, (40, 50)) for seed in range(5)]
    counts, names = counts_of(pairs), ["a", "b", "c", "d"]
    told = breakdown_report(counts, names)["breakdown"]
    before = scores(sum(confusion_matrix(t, p, 5) for t, p in pairs)).miou
    for name, kinds in {**{kind: (kind,) for kind in KINDS[1:]}, **GROUPS}.items():
        total = np.zeros((5, 6), np.int64)
        for truth, prediction in pairs:
            filled = fill_ignored(truth)
            found = error_kinds(filled, prediction, border_distance(filled))
            wanted = np.isin(found, [KINDS.index(kind) for kind in kinds]) & (truth != IGNORE)
            total += confusion_matrix(truth, np.where(wanted, truth, prediction).astype(np.uint8), 5)
        np.testing.assert_array_equal(repaired(counts, kinds, 5), total)
        price = told["groups" if name in GROUPS else "kinds"][name]
        assert price["miou_repaired"] == pytest.approx(scores(total).miou, abs=1e-6)
        assert price["gain"] == pytest.approx(scores(total).miou - before, abs=2e-6)
        assert price["gain"] >= 0
    assert scores(repaired(counts, KINDS[1:], 5)).miou == 1


def test_bands_are_scored_as_masks_of_their_own() -> None:
    pairs = [blobs(seed, (90, 99)) for seed in range(3)]
    told = breakdown_report(counts_of(pairs), ["a", "b", "c", "d"])["breakdown"]["bands"]
    assert list(told) == band_names() == ["0-5", "5-10", "10-20", "20+"]
    for (low, high), band in zip([(0, 5), (5, 10), (10, 20), (20, math.inf)], told.values(), strict=True):
        total = np.zeros((5, 6), np.int64)
        for truth, prediction in pairs:
            away = border_distance(fill_ignored(truth))
            total += confusion_matrix(np.where((away >= low) & (away < high), truth, IGNORE).astype(np.uint8), prediction, 5)
        found = scores(total)
        assert (band["pixels"], band["miou"]) == (total.sum(), pytest.approx(found.miou, abs=1e-6))
        assert band["pixel_acc"] == pytest.approx(found.pixel_acc, abs=1e-6)


def test_a_table_made_by_hand() -> None:
    """An object of 10 columns in a photo of 60, predicted 4 columns to the right and again far away, and another class in a corner."""
    truth, prediction = np.zeros((20, 60), np.uint8), np.zeros((20, 60), np.uint8)
    truth[:, 10:20] = 1
    prediction[:, 14:24] = 1  # 4 columns missed, 4 too many
    prediction[:, 40:45] = 1  # 21 pixels away
    prediction[:5, 55:] = 2  # no such class
    prediction[0, 12] = IGNORE
    told = breakdown_report(counts_of([(truth, prediction)]), ["a", "b"])["breakdown"]
    pixels = {kind: price["pixels"] for kind, price in told["kinds"].items()}
    assert pixels == {
        "confusion": 0, "missed_object": 0, "missed_part": 0, "missed_border": 79,
        "spill": 80, "leak": 100, "false_object": 25, "ignored": 1,
    }  # fmt: skip
    # IoU now: background 795 / 1079, a 120 / 380, b 0 / 25; without the leak a 120 / 280 and background 895 / 1079.
    assert told["kinds"]["leak"]["gain"] == pytest.approx((895 / 1079 - 795 / 1079 + 120 / 280 - 120 / 380) / 3, abs=1e-6)
    # Without class b it is absent: the mean is over two labels.
    assert told["kinds"]["false_object"]["miou_repaired"] == pytest.approx((820 / 1079 + 120 / 380) / 2, abs=1e-6)
    assert {name: band["pixels"] for name, band in told["bands"].items()} == {"0-5": 400, "5-10": 200, "10-20": 200, "20+": 400}


def test_the_border_of_a_missed_part_is_ten_pixels_wide() -> None:
    """An object of columns 5 to 54, of which column 54 is found: 5 to 14 and 45 to 53 are near the border. The photo's edge is none."""
    truth, prediction = np.zeros((8, 60), np.uint8), np.zeros((8, 60), np.uint8)
    truth[:, 5:55] = 1
    prediction[:, 54] = 1
    told = breakdown_report(counts_of([(truth, prediction)]), ["a"])["breakdown"]["kinds"]
    assert (told["missed_border"]["pixels"], told["missed_part"]["pixels"]) == (8 * 19, 8 * 30)


@pytest.mark.parametrize("value", [0, 3, IGNORE])
def test_photos_of_one_value(value: int) -> None:
    truth = np.full((12, 9), value, np.uint8)
    prediction = np.zeros_like(truth)
    counts = counts_of([(truth, prediction)])
    kind = {0: "right", 3: "missed_object"}.get(value)
    assert counts.sum() == (0 if kind is None else 12 * 9)
    if kind:
        assert counts[KINDS.index(kind), BANDS.index(20), value, 0] == 12 * 9
    report = breakdown_report(counts, ["a", "b", "c"])["breakdown"]
    assert report["bands"]["0-5"]["miou"] is None
    json.dumps(report, allow_nan=False)


def test_a_ring_of_ignore_does_not_move_the_border() -> None:
    """The distance to a border under a ring of 255 is that to its middle."""
    truth = np.zeros((31, 31), np.uint8)
    truth[8:23, 8:23] = 1
    ringed = truth.copy()
    ringed[border_distance(truth) < 2.5] = IGNORE
    np.testing.assert_array_equal(fill_ignored(ringed)[:, 12:19], truth[:, 12:19])  # corners are rounded
    assert np.abs(border_distance(fill_ignored(ringed)) - border_distance(truth)).max() <= 2


def test_score_with_a_breakdown(rca: Rca, tmp_path: Path) -> None:
    pairs = [blobs(seed, (40, 50)) for seed in range(5)]
    for number, (truth, prediction) in enumerate(pairs):
        write_mask(tmp_path / "gt" / f"{number}.png", truth)
        write_mask(tmp_path / "pred" / f"{number}.png", prediction)
    document = json.loads(rca("score", "pred", "gt", "--classes", "5", "--breakdown", "--json", "--workers", "1").out)
    assert document["breakdown"] == breakdown_report(counts_of(pairs), [f"label {k}" for k in range(1, 5)])["breakdown"]
    assert "breakdown" not in json.loads(rca("score", "pred", "gt", "--classes", "5", "--json", "--workers", "1").out)
    out = rca("score", "pred", "gt", "--classes", "5", "--breakdown", "--workers", "1").out
    kinds = document["breakdown"]["kinds"]
    assert f"{100 * kinds['leak']['share']:.1f}: {100 * kinds['leak']['gain']:+.2f}" in out
    assert "10-20 pixels" in out


def test_eval_breaks_down_labels_and_predictions(rca: Rca, undisturbed: TinyRun) -> None:
    metrics = json.loads((undisturbed.path / "eval" / "metrics.json").read_text())
    assert [name for name in metrics if "breakdown" in metrics[name]] == ["pseudo", "seg"]
    for target, folder in (("pseudo", "make-pseudo/labels"), ("seg", "eval/predictions")):
        told, confusion = metrics[target]["breakdown"], np.load(undisturbed.path / "eval" / "confusion.npz")[target]
        square = confusion[:, :-1]
        confused = square[1:, 1:].sum() - np.trace(square[1:, 1:])
        assert told["kinds"]["confusion"]["pixels"] == confused
        missed, invented = (sum(told["kinds"][kind]["pixels"] for kind in GROUPS[group]) for group in ("missed", "invented"))
        assert (missed, invented) == (square[1:, 0].sum(), square[0, 1:].sum())
        scored = score(undisturbed.path / folder, undisturbed.data / "SegmentationClassAug", 5, photos="common").document
        assert told["wrong"] == pytest.approx(1 - scored["pixel_acc"], abs=1e-5)
    assert "what is lost" in rca("eval", "--run", undisturbed.path).out
