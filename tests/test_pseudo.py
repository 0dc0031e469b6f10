"""CAMs to labels: rules on 4x4 maps by hand, whole files, and the step with each program of the CRF."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_run import TinyRun, record

from rcatool.cams import save_cam
from rcatool.data.labels import IGNORE, read_mask
from rcatool.errors import DataError
from rcatool.metrics import confusion_matrix, sweep_histogram, sweep_matrices
from rcatool.pseudo import (
    Doubts,
    LabelJob,
    LabelRule,
    Photo,
    background_score,
    make_label,
    photo_label,
    read_job,
    scores_to_label,
    unary_probabilities,
)
from rcatool.pseudo_batch import batches, make_labels_batched
from rcatool.refine.crf import CrfParams

# Two maps on 4x4 pixels, of the classes 0 and 6: labels 1 and 7.
CAM = np.array(
    [
        [[0.0, 0.1, 0.2, 0.3], [0.4, 0.5, 0.6, 0.7], [0.8, 0.9, 1.0, 0.0], [0.3, 0.3, 0.5, 0.5]],
        [[0.0, 0.0, 0.0, 0.0], [0.9, 0.5, 0.5, 0.8], [0.1, 0.2, 0.3, 1.0], [0.4, 0.2, 0.5, 0.6]],
    ],
    np.float32,
)
KEYS = np.array([0, 6])


def rule(**changes: Any) -> LabelRule:
    defaults = {"background": "threshold", "bg_threshold": 0.3, "bg_power": 4.0, "crf": "none", "crf_params": None, "confidence": 0.0}
    return LabelRule(**(defaults | changes))


BY_HAND: dict[str, tuple[LabelRule, list[list[int]]]] = {
    # A tie goes to the background (0.3), then to the lower class (0.5).
    "threshold 0.3": (rule(), [[0, 0, 0, 0], [7, 1, 1, 7], [1, 1, 1, 7], [7, 0, 1, 7]]),
    "threshold 0": (rule(bg_threshold=0.0), [[0, 1, 1, 1], [7, 1, 1, 7], [1, 1, 1, 7], [7, 1, 1, 7]]),
    "threshold 0.55": (rule(bg_threshold=0.55), [[0, 0, 0, 0], [7, 0, 1, 7], [1, 1, 1, 7], [0, 0, 0, 7]]),
    "threshold 1": (rule(bg_threshold=1.0), [[0] * 4] * 4),
    # (1 - max)^2 > max where max < 0.382.
    "power 2": (rule(background="power", bg_power=2.0), [[0, 0, 0, 0], [7, 1, 1, 7], [1, 1, 1, 7], [7, 0, 1, 7]]),
    # (1 - max)^8 > max where max < 0.188.
    "power 8": (rule(background="power", bg_power=8.0), [[0, 0, 1, 1], [7, 1, 1, 7], [1, 1, 1, 7], [7, 1, 1, 7]]),
    # Shares such as 0.5 / (0.3 + 0.5 + 0.5) = 0.38 for the second pixel of the second row.
    "confidence": (rule(confidence=0.5), [[0, 0, 0, 0], [7, IGNORE, IGNORE, IGNORE], [1, 1, 1, 7], [IGNORE] * 4]),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_labels_by_hand(case: str) -> None:
    which, expected = BY_HAND[case]
    label = photo_label(Photo(KEYS, CAM), which)
    assert label.dtype == np.uint8
    assert label.tolist() == expected


@pytest.mark.parametrize("background", ["threshold", "power"])
@pytest.mark.parametrize("crf_params", [None, CrfParams(2, 3, 3, 80, 13, 10)])
@pytest.mark.parametrize("crf", ["seed", "irn"])
def test_a_photo_without_maps_is_ignored_as_a_whole(background: str, crf: str, crf_params: CrfParams | None) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    which = rule(background=background, crf=crf, crf_params=crf_params, confidence=0.9)
    assert photo_label(Photo(KEYS[:0], CAM[:0], image), which).tolist() == [[IGNORE] * 4] * 4


# What stands out, of 255.
SALIENCY = np.array([[0, 31, 32, 255], [255, 255, 255, 255], [10, 40, 255, 0], [20, 30, 100, 200]], np.float32) / 255


def with_saliency(**changes: Any) -> LabelRule:
    return rule(background="saliency", **changes)


DOUBTFUL: dict[str, tuple[LabelRule, np.ndarray | None, list[list[int]]]] = {
    # 1 - saliency: 1, .88, .87, 0 | 0 ... | .96, .84, 0, 1 | .92, .88, .61, .22
    "saliency is the background": (with_saliency(), SALIENCY, [[0, 0, 0, 1], [7, 1, 1, 7], [0, 1, 1, 0], [0, 0, 0, 7]]),
    # Sure above .6, perhaps above .2, background below: IGNORE between the two.
    "two thresholds": (
        rule(kind="confidence", sure=(0.6, 0.2)), None,
        [[0, 0, 0, IGNORE], [7, IGNORE, IGNORE, 7], [1, 1, 1, 7], [IGNORE, IGNORE, IGNORE, IGNORE]],
    ),
    "two equal thresholds are one": (rule(kind="confidence", sure=(0.3, 0.3)), None, BY_HAND["threshold 0.3"][1]),
    # Without saliency only a class above the attention that loses against the background's .85 is in doubt: nowhere.
    "conflict, constant background": (
        rule(kind="conflict", bg_threshold=0.85), None, [[0, 0, 0, 0], [7, 0, 0, 0], [0, 1, 1, 7], [0, 0, 0, 0]],
    ),
    "attention": (
        rule(kind="conflict", bg_threshold=0.85, doubts=Doubts(attention=0.75)), None,
        [[0, 0, 0, 0], [7, 0, 0, IGNORE], [IGNORE, 1, 1, 7], [0, 0, 0, 0]],
    ),
    # The first row's third pixel has the saliency 32, the second 31; the last row's 100 makes background of .5 against .61 doubtful.
    "uncertain background": (
        with_saliency(kind="conflict"), SALIENCY,
        [[0, 0, IGNORE, 1], [7, 1, 1, 7], [0, 1, 1, IGNORE], [0, 0, IGNORE, 7]],
    ),
    "no uncertain background": (
        with_saliency(kind="conflict", doubts=Doubts(uncertain=256, attention=1.0)), SALIENCY,
        [[0, 0, 0, 1], [7, 1, 1, 7], [0, 1, 1, IGNORE], [0, 0, 0, 7]],
    ),
    # Two of background, first and second map above .45: 1 - saliency with a map, or both maps.
    "conflict": (
        with_saliency(kind="conflict", doubts=Doubts(conflict=0.45, uncertain=256, attention=1.0)), SALIENCY,
        [[0, 0, 0, 1], [7, IGNORE, IGNORE, IGNORE], [IGNORE, IGNORE, 1, IGNORE], [0, 0, IGNORE, IGNORE]],
    ),
    # 8 of 16 pixels are foreground.
    "too small": (with_saliency(kind="conflict", doubts=Doubts(smallest=0.51)), SALIENCY, [[IGNORE] * 4] * 4),
}  # fmt: skip


@pytest.mark.parametrize("case", DOUBTFUL)
def test_rules_with_doubts_by_hand(case: str) -> None:
    which, saliency, expected = DOUBTFUL[case]
    assert photo_label(Photo(KEYS, CAM, None, saliency), which).tolist() == expected


def test_a_photo_just_large_enough_is_kept() -> None:
    label = photo_label(Photo(KEYS, CAM, None, SALIENCY), with_saliency(kind="conflict", doubts=Doubts(smallest=0.5)))
    assert label.tolist() == DOUBTFUL["uncertain background"][2]


def test_the_conflict_rule_takes_the_crfs_probabilities_and_saliency_for_the_background() -> None:
    found = np.array([[[0.05, 0.04, 0.9, 0.5]], [[0.95, 0.96, 0.1, 0.5]]], np.float32)  # background, class 0
    saliency = np.array([[1.0, 0.07, 0.5, 0.0]], np.float32)
    which = rule(kind="conflict", crf_params=CrfParams(1, 3, 3, 80, 13, 10), background="power")
    photo = Photo(np.array([0]), found[1:], None, saliency)
    # Sure; two scores above .9 (.96 and 1 - .07); background that stands out; plain background.
    assert scores_to_label([found], photo, which).tolist() == [[1, IGNORE, IGNORE, 0]]
    # Without saliency the CRF's own background counts.
    assert scores_to_label([found], photo._replace(saliency=None), which).tolist() == [[1, 1, 0, 0]]


def test_a_map_of_zeros_gives_no_label() -> None:
    for which in (rule(bg_threshold=0.0), rule(), rule(background="power")):
        assert photo_label(Photo(KEYS, np.zeros_like(CAM)), which).max() == 0


def test_background_score() -> None:
    assert np.unique(background_score(Photo(KEYS, CAM), rule(bg_threshold=0.25))).tolist() == [0.25]
    power = background_score(Photo(KEYS, CAM), rule(background="power", bg_power=3.0))
    expected = [[(1 - max(CAM[0, y, x], CAM[1, y, x])) ** 3 for x in range(4)] for y in range(4)]
    np.testing.assert_allclose(power, expected, atol=1e-6)


def test_unary_probabilities() -> None:
    scores = np.array([0.3, 0.5, 0.2], np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(unary_probabilities(2 * scores, "seed"), scores, atol=1e-6)
    assert unary_probabilities(scores, "irn").flatten().tolist() == pytest.approx([0.15, 0.7, 0.15])
    assert unary_probabilities(scores[:1], "irn").flatten().tolist() == [1]
    assert unary_probabilities(np.zeros_like(scores), "seed").tolist() == np.zeros_like(scores).tolist()


@st.composite
def cams(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Maps in steps of 1/8, so that ties are frequent and sums exact, and the ascending classes they belong to."""
    keys = draw(st.lists(st.integers(0, 19), max_size=3, unique=True).map(sorted))
    values = draw(st.lists(st.integers(0, 8), min_size=20 * len(keys), max_size=20 * len(keys)))
    return np.array(values, np.float32).reshape(len(keys), 4, 5) / 8, np.array(keys, np.int64)


@settings(max_examples=60, deadline=None)
@given(
    cams(), st.sampled_from(["threshold", "power", "saliency"]), st.sampled_from([0.0, 0.125, 0.5, 1.0]), st.sampled_from([0.0, 0.6]),
    st.sampled_from(["argmax", "confidence", "conflict"]), st.integers(0, 99),
)  # fmt: skip
def test_labels_are_background_the_tags_or_ignore(
    cam: tuple[np.ndarray, np.ndarray], background: str, level: float, confidence: float, kind: str, seed: int
) -> None:
    saliency = np.random.default_rng(seed).random((4, 5), dtype=np.float32)
    which = rule(background=background, bg_threshold=level, confidence=confidence, kind=kind, sure=(max(level, 0.05), 0.05))
    label = photo_label(Photo(cam[1], cam[0], None, saliency), which)
    assert (label.shape, label.dtype) == ((4, 5), np.uint8)
    assert set(np.unique(label).tolist()) <= {0, IGNORE, *(cam[1] + 1).tolist()}
    assert confidence or kind != "argmax" or not len(cam[1]) or IGNORE not in label


@settings(max_examples=40, deadline=None)
@given(cams(), st.integers(0, 99))
def test_the_threshold_sweep_counts_these_labels(cam: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    maps, keys = cam
    truth = np.random.default_rng(seed).choice([0, 1, 7, 20, IGNORE], (4, 5)).astype(np.uint8)
    levels = np.array([0, 0.125, 0.3, 0.5, 1.0])
    swept = sweep_matrices(sweep_histogram(truth, maps, keys + 1, levels, 21))
    for level, counts in zip(levels, swept, strict=True):
        label = photo_label(Photo(keys, maps), rule(bg_threshold=float(level))) if len(keys) else np.zeros((4, 5), np.uint8)
        np.testing.assert_array_equal(counts, confusion_matrix(truth, label, 21))


def job(tmp_path: Path, size: tuple[int, int] = (8, 8)) -> LabelJob:
    """A photo whose left half is dark, a CAM that is high there, and where the label goes."""
    image = np.full((8, 8, 3), 200, np.uint8)
    image[:, :4] = 20
    Image.fromarray(image).save(tmp_path / "a.png")
    cam = np.zeros((1, 4, 4), np.float32)
    cam[0, :, :2] = 1
    save_cam(tmp_path / "a.npz", np.array([4]), cam, size)
    return LabelJob(tmp_path / "a.png", tmp_path / "a.npz", tmp_path / "labels" / "a.png", size)


@pytest.mark.parametrize("crf", ["none", "seed", "irn"])
def test_a_label_file_is_made(crf: str, tmp_path: Path) -> None:
    made = job(tmp_path)
    make_label(made, rule(crf=crf, crf_params=None if crf == "none" else CrfParams(3, 3, 3, 80, 13, 10)))
    label = read_mask(made.label, num_classes=20, size=(8, 8))
    assert label.tolist() == [[5] * 4 + [0] * 4] * 8


def test_a_photo_is_opened_for_the_crf_only(tmp_path: Path) -> None:
    made = job(tmp_path)
    made.image.unlink()
    make_label(made, rule())
    with pytest.raises(DataError, match=re.escape(str(made.image))):
        make_label(made, rule(crf="seed", crf_params=CrfParams(3, 3, 3, 80, 13, 10)))


def test_files_that_do_not_fit_are_named_and_no_label_is_left(tmp_path: Path) -> None:
    made = job(tmp_path, size=(8, 10))
    with pytest.raises(DataError, match=r"a\.png: the photo is 8x8, expected 8x10"):
        make_label(made, rule(crf="seed", crf_params=CrfParams(3, 3, 3, 80, 13, 10)))
    made.cam.write_bytes(made.cam.read_bytes()[:-30])
    with pytest.raises(DataError, match=re.escape(str(made.cam))):
        make_label(made, rule())
    assert not made.label.exists()


def test_labels_made_in_batches_are_those_made_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcatool.pseudo_batch.BATCH_PIXELS", 128)  # two photos at a time
    which = rule(crf="seed", crf_params=CrfParams(3, 3, 3, 80, 13, 10), confidence=0.9)
    jobs = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        jobs.append(job(tmp_path / name))
        make_label(jobs[-1], which)
    alone = [made.label.read_bytes() for made in jobs]
    for made in jobs:
        made.label.unlink()
    assert list(make_labels_batched(((made, read_job(made, which)) for made in jobs), which, device="cpu")) == [None] * 3
    assert [made.label.read_bytes() for made in jobs] == alone


@pytest.mark.parametrize(
    ("sides", "expected"), [([], []), ([9], [[9]]), ([2, 2, 2, 2], [[2, 2, 2], [2]]), ([3, 9, 1, 3, 2], [[3], [9], [1, 3], [2]])]
)
def test_batches_hold_so_many_pixels(sides: list[int], expected: list[list[int]]) -> None:
    nothing = (np.zeros(0), np.zeros(0), None)
    items = [(LabelJob(Path(), Path(), Path(), (side, side)), nothing) for side in sides]
    assert [[made.size[0] for made, _ in batch] for batch in batches(items, 12)] == expected


def test_the_step_says_which_program_it_used_and_all_give_the_same_labels(
    rca: Callable[..., Result], undisturbed: TinyRun, tmp_path: Path
) -> None:
    labels: dict[str, np.ndarray] = {}
    for backend, used in (("auto", "scipy on cpu"), ("torch", "torch on cpu")):
        run = undisturbed.copy(tmp_path / backend, until="make-pseudo/labels")
        done = rca("make-pseudo", "--run", run, "--set", "pseudo.crf=seed", "--set", f"pseudo.crf_backend={backend}", "--device", "cpu")
        assert done.code == 0, done.err
        assert f"make-pseudo: pseudo labels (dense CRF: {used}) of" in done.err
        assert record(run, "make-pseudo/labels")["info"]["crf"] == used
        files = sorted((run / "make-pseudo" / "labels").glob("*.png"))
        labels[backend] = np.concatenate([read_mask(path, num_classes=20).ravel() for path in files])
    assert (labels["auto"] == labels["torch"]).mean() >= 0.999
    assert len(np.unique(labels["auto"])) > 2
