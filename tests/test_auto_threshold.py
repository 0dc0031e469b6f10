"""The background threshold from CAMs alone. Oracles: the definition by brute force, groups that are known, a whole run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_run import TinyRun, contents, record

from rcatool.auto_threshold import BINS, foreground_shares, keep_area, otsu, peak_shares
from rcatool.cams import save_cam
from rcatool.data.labels import read_mask
from rcatool.pseudo import LabelJob, LabelRule, make_label
from rcatool.refine.crf import CrfParams

Rca = Callable[..., Any]


def brute_force(shares: np.ndarray) -> float:
    """Largest variance between the groups, from its definition."""
    value = (np.arange(len(shares)) + 0.5) / len(shares)
    found = []
    for cut in range(1, len(shares)):
        groups = [(shares[:cut], value[:cut]), (shares[cut:], value[cut:])]
        if any(w.sum() == 0 for w, _ in groups):
            found.append(0.0)
            continue
        mean = (shares * value).sum() / shares.sum()
        found.append(sum(w.sum() * ((w * v).sum() / w.sum() - mean) ** 2 for w, v in groups))
    return max(found)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=24).filter(lambda counts: sum(count > 0 for count in counts) > 1))
def test_no_other_threshold_parts_better(counts: list[int]) -> None:
    shares = np.array(counts, float)
    cut = otsu(shares) * len(shares)
    assert 0 < cut < len(shares)
    value = (np.arange(len(shares)) + 0.5) / len(shares)
    low, high = shares[value * len(shares) < cut], shares[value * len(shares) > cut]
    v_low, v_high = value[: len(low)], value[len(shares) - len(high) :]
    mean = (shares * value).sum() / shares.sum()
    between = sum(w.sum() * ((w * v).sum() / w.sum() - mean) ** 2 for w, v in ((low, v_low), (high, v_high)))
    assert between == pytest.approx(brute_force(shares), rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_two_groups_are_parted_in_the_middle(scale: float) -> None:
    shares = np.zeros(BINS)
    shares[20], shares[200] = 3 * scale, scale
    assert otsu(shares) == pytest.approx((20.5 + 200.5) / 2 / BINS, abs=1 / BINS)


@pytest.mark.parametrize("bins", [[], [0], [255], [17]])
def test_one_value_says_nothing(bins: list[int]) -> None:
    shares = np.zeros(BINS)
    shares[bins] = 1
    assert otsu(shares) == 0.5


def test_each_photo_counts_the_same_whatever_its_size_and_photos_without_maps_do_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = []
    for index, (h, w) in enumerate([(3, 4), (30, 40), (6, 6)]):
        maps = np.stack([rng.random((h, w)), np.full((h, w), 0.25)]).astype(np.float32)
        save_cam(tmp_path / "a.npz", np.array([1, 2]), maps, (h, w))
        found.append(peak_shares(tmp_path / "a.npz", (h, w)))
        assert found[index].sum() == pytest.approx(1)
        peak = maps.astype(np.float16).astype(np.float32).max(axis=0)
        for cut in (0.25, 0.5, 0.75):
            assert found[index][: int(cut * BINS)].sum() == pytest.approx((peak < cut).mean())
    save_cam(tmp_path / "a.npz", np.zeros(0, np.int64), np.zeros((0, 3, 3), np.float32), (3, 3))
    nothing = peak_shares(tmp_path / "a.npz", (3, 3))
    assert nothing.sum() == 0
    assert otsu(sum([*found, nothing])) == otsu(np.mean(found, axis=0))


def test_the_area_is_kept_by_a_lower_threshold() -> None:
    levels = [0.2, 0.3, 0.4]
    without = [0.5, 0.4, 0.3]
    assert keep_area(0.4, np.array([without, [0.4, 0.3, 0.2]]), levels) == pytest.approx(0.3)
    assert keep_area(0.4, np.array([without, [0.35, 0.25, 0.1]]), levels) == pytest.approx(0.25)
    assert keep_area(0.4, np.array([without, without]), levels) == pytest.approx(0.4)
    # No threshold that was tried is low, or high, enough.
    assert keep_area(0.4, np.array([without, [0.2, 0.2, 0.1]]), levels) == 0.2
    assert keep_area(0.4, np.array([without, [0.6, 0.5, 0.4]]), levels) == 0.4


def test_foreground_shares_are_those_of_the_labels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    cam = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    save_cam(tmp_path / "a.npz", np.array([4]), cam, (8, 8))
    job = LabelJob(tmp_path / "a.png", tmp_path / "a.npz", tmp_path / "label.png", (8, 8))
    which = LabelRule("auto", 0.9, 4.0, "seed", CrfParams(3, 3, 3, 80, 13, 10), confidence=0.9, kind="confidence")
    found = foreground_shares(job, which, [0.25, 0.75])
    assert found.shape == (2, 2)
    assert found[0].tolist() == [(cam.astype(np.float16) > level).mean() for level in (0.25, 0.75)]
    for level, share in zip((0.25, 0.75), found[1], strict=True):
        make_label(job, replace(which, background="threshold", bg_threshold=level, confidence=0.0, kind="argmax"))
        assert share == (read_mask(job.label, num_classes=20) == 5).mean()


@pytest.mark.parametrize("crf", ["none", "seed"])
def test_labels_of_a_run_are_those_of_the_constant_that_was_chosen(rca: Rca, undisturbed: TinyRun, tmp_path: Path, crf: str) -> None:
    run = undisturbed.copy(tmp_path / "run")
    code, _, err = rca("make-pseudo", "--run", run, "--set", "pseudo.background=auto", "--set", f"pseudo.crf={crf}")
    assert code == 0
    chosen = record(run, "make-pseudo/labels")["info"]["bg_threshold"]
    assert f"background threshold {chosen}, chosen from the CAMs of 16 photos" in err
    assert 0 < chosen < 1
    automatic = contents(run / "make-pseudo/labels")
    assert rca("eval", "--run", run, "--set", "seg.epochs=3").code == 0
    scores = json.loads((run / "eval/metrics.json").read_text())["pseudo"]
    assert (scores["threshold"], scores["protocol"]["background"]) == (chosen, "constant score, chosen from the CAMs alone")
    assert rca("make-pseudo", "--run", run, "--set", "pseudo.background=threshold", "--set", f"pseudo.bg_threshold={chosen}").code == 0
    constant = contents(run / "make-pseudo/labels")
    assert {name for name in constant if constant[name] != automatic[name]} == {"stage.json"}
    assert constant != contents(undisturbed.path / "make-pseudo/labels")


@pytest.mark.parametrize("rule", ["confidence", "conflict"])
def test_other_rules_make_labels_of_a_run(rca: Rca, undisturbed: TinyRun, tmp_path: Path, rule: str) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/labels")
    assert rca("make-pseudo", "--run", run, "--set", f"pseudo.rule={rule}").code == 0
    labels = [read_mask(path, num_classes=20) for path in sorted((run / "make-pseudo/labels").glob("*.png"))]
    values = set(np.unique(np.concatenate([label.ravel() for label in labels])).tolist())
    assert 255 in values or rule == "conflict"
    assert len(values) > 2


def test_saliency_is_needed_where_it_is_the_background(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/labels")
    code, _, err = rca("make-pseudo", "--run", run, "--set", "pseudo.background=saliency")
    assert (code, err.splitlines()[-2]) == (2, "error: pseudo.background saliency: 16 of 16 photos have no saliency map")
