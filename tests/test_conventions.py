"""Other evaluators' numbers, derived by hand from the rules their scripts state."""

import numpy as np
import pytest

from rcatool.conventions import CONVENTIONS, all_levels, emulate_cams, emulate_labels, power_level
from rcatool.metrics import confusion_matrix, sweep_histogram, sweep_matrices

# Twenty pixels, labels 0..3. Of ten background pixels five are right, two are taken for 1, one for 2, two have no label; of ten
# pixels of label 1 four are right, two are taken for background, four have no label. Nothing is truly 2; 3 is nowhere.
TRUTH = np.array([[0] * 10 + [1] * 10 + [255]], np.uint8)
GATED = np.array([[0] * 5 + [1] * 2 + [2] + [255] * 2 + [1] * 4 + [0] * 2 + [255] * 4 + [3]], np.uint8)
ARGMAX = np.where(GATED == 255, 0, GATED).astype(np.uint8)


@pytest.fixture
def gated() -> dict[str, dict[str, float]]:
    return emulate_labels(confusion_matrix(TRUTH, GATED, 4))


def test_irn(gated: dict[str, dict[str, float]]) -> None:
    # 255 becomes background. Background: 7 right of 10, 7 + 6 predicted, union 16. Label 1: 4 right of 10, 6 predicted, union 12.
    # Label 2: nothing right, union 1. Label 3: no union, left out.
    assert gated["irn"]["miou"] == pytest.approx((7 / 16 + 4 / 12 + 0) / 3, abs=1e-6)
    # Its fp is 1 - truth / union, its fn 1 - predicted / union.
    assert gated["irn"]["fp_background"] == pytest.approx(1 - 10 / 16, abs=1e-6)
    assert gated["irn"]["fn_background"] == pytest.approx(1 - 13 / 16, abs=1e-6)
    assert gated["irn"]["fp_foreground"] == pytest.approx(((1 - 10 / 12) + (1 - 0 / 1)) / 2, abs=1e-6)
    assert gated["irn"]["fn_foreground"] == pytest.approx(((1 - 6 / 12) + (1 - 1 / 1)) / 2, abs=1e-6)


def test_eps(gated: dict[str, dict[str, float]]) -> None:
    # Six pixels are dropped. Background: 5 right of 8, 7 predicted, union 10. Label 1: 4 right of 6, 6 predicted, union 8.
    assert gated["eps"]["miou"] == pytest.approx((5 / 10 + 4 / 8 + 0) / 3, abs=1e-6)


def test_seam(gated: dict[str, dict[str, float]]) -> None:
    # 255 is a miss. Background: 5 right of 10, 7 predicted, union 12. Label 1: 4 right of 10, 6 predicted, union 12. Labels 2, 3: 0.
    assert gated["seam"]["miou"] == pytest.approx((5 / 12 + 4 / 12 + 0 + 0) / 4, abs=1e-6)
    assert (gated["seam"]["fp_of_tp"], gated["seam"]["fn_of_tp"]) == (2 / 4, 6 / 4)


def test_clip_es(gated: dict[str, dict[str, float]]) -> None:
    assert gated["clip-es"]["miou"] is None
    # Before the gate: background 7 right of 10, 13 predicted, union 16; label 1 as before; labels 2 and 3 have no truth: left out.
    assert emulate_labels(confusion_matrix(TRUTH, ARGMAX, 4))["clip-es"]["miou"] == pytest.approx((7 / 16 + 4 / 12) / 2, abs=1e-6)


def test_all_agree_where_there_is_nothing_to_disagree_about() -> None:
    truth, prediction = np.array([[0, 0, 1, 1, 2]], np.uint8), np.array([[0, 1, 1, 1, 2]], np.uint8)
    found = emulate_labels(confusion_matrix(truth, prediction, 3))
    assert [told["miou"] for told in found.values()] == [pytest.approx((1 / 2 + 2 / 3 + 1) / 3, abs=1e-6)] * 4


def test_cams() -> None:
    # One photo tagged 1, of four pixels; label 2 is nowhere.
    truth, cam = np.array([[0, 1, 1, 1]], np.uint8), np.array([[[0.1, 0.2, 0.4, 0.6]]], np.float32)
    levels = all_levels(0.5)
    found = emulate_cams(sweep_matrices(sweep_histogram(truth, cam, np.array([1]), levels, 3)), levels)
    told = {name: (entry["miou"], entry["threshold"], entry["oracle"]) for name, entry in found.items()}
    assert told == {
        "irn": (1.0, 0.15, False),  # all right at its threshold
        "eps": (pytest.approx(2 / 3, abs=1e-6), 0.15, True),  # the same, and 0 for the label that is nowhere
        "seam": (pytest.approx(2 / 3, abs=1e-6), 0.1, True),  # all right from 0.10 on: its first
        # (1 - max)^2: 0.81, 0.64, 0.36, 0.16, so pixels 3 and 4 are foreground: background 1 of 2, label 1 2 of 3.
        # (1 - max)^1 has pixel 4 only: 1 of 3 and 1 of 3.
        "clip-es": (pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-6), 0.381966, True),
    }


@pytest.mark.parametrize("power", [0.5, 1, 2, 3, 4, 10])
def test_a_power_of_one_minus_the_maximum_is_a_constant(power: float) -> None:
    peak = np.random.default_rng(0).random(20_000)
    np.testing.assert_array_equal(peak > (1 - peak) ** power, peak > power_level(power))
    assert power_level(1) == pytest.approx(0.5, abs=1e-12)
    assert power_level(2) == pytest.approx((3 - 5**0.5) / 2, abs=1e-12)


def test_the_scripts_ranges() -> None:
    tried = {convention.name: convention.levels for convention in CONVENTIONS}
    assert (len(tried["irn"]), len(tried["eps"]), len(tried["seam"]), len(tried["clip-es"])) == (1, 20, 60, 2)
    assert (tried["eps"][0], tried["eps"][-1], tried["seam"][0], tried["seam"][-1]) == (0.15, 0.34, 0.0, 0.59)
    assert tried["irn"] == (0.15,)
    assert tried["clip-es"] == pytest.approx((0.5, (3 - 5**0.5) / 2), abs=1e-12)
