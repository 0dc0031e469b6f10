"""Probabilities to labels, pixel by pixel, and the stream of jobs that may be large."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcatool.data.labels import read_mask
from rcatool.errors import DataError
from rcatool.pool import parallel_stream
from rcatool.refine.crf import crf_params, dense_crf
from rcatool.soft_labels import SoftJob, SoftRule, soft_label, soft_rule, tag_names, write_labels


def job(folder: Path, scores: np.ndarray, classes: tuple[int, ...], name: str = "a") -> SoftJob:
    image = np.random.default_rng(1).integers(0, 256, (*scores.shape[1:], 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / f"{name}.png")
    return SoftJob(folder / f"{name}.png", folder / "labels" / f"{name}.png", tag_names(classes), scores)


def test_the_names_are_mask_values() -> None:
    assert tag_names((0, 4, 19)).tolist() == [0, 1, 5, 20]
    assert tag_names(()).tolist() == [0]


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_the_best_share_decides(tmp_path: Path, confidence: float) -> None:
    scores = np.random.default_rng(0).random((3, 9, 7)).astype(np.float32) * 0.4
    scores[:, 0, 0] = 0.25  # a tie of all: background
    scores[:, 0, 1] = 0.1, 0.25, 0.25  # a tie of two: the first
    scores[:, 0, 2] = 0.06, 0.06, 0.12  # exactly half: sure enough
    found = soft_label(job(tmp_path, scores, (2, 6)), SoftRule(confidence=confidence))
    for y, x in np.ndindex(9, 7):
        column = [float(value) for value in scores[:, y, x]]
        best = column.index(max(column))
        assert found[y, x] == (255 if column[best] < confidence * sum(column) - 1e-6 else (0, 3, 7)[best])
    assert (found[0, 0], found[0, 1], found[0, 2]) == ((255, 255, 7) if confidence else (0, 3, 7))
    assert (found == 255).any() == (confidence > 0)


@pytest.mark.parametrize("crf", ["seed", "irn", "deeplab"])
def test_the_crf_starts_from_the_shares(tmp_path: Path, crf: str) -> None:
    scores = np.random.default_rng(0).random((3, 16, 12)).astype(np.float32)
    one = job(tmp_path, scores, (2, 6))
    start = scores / scores.sum(axis=0)
    if crf == "irn":  # 0.7 for the best label, the rest shared
        start = np.where(np.arange(3)[:, None, None] == scores.argmax(axis=0), 0.7, 0.15).astype(np.float32)
    refined = dense_crf(np.array(Image.open(one.image)), start, crf_params(crf, 10))
    expected = np.where(refined.max(axis=0) < 0.6, 255, np.array([0, 3, 7])[refined.argmax(axis=0)])
    np.testing.assert_array_equal(soft_label(one, SoftRule(crf, 0.6)), expected)


def test_only_the_background_is_certain(tmp_path: Path) -> None:
    scores = np.full((1, 8, 8), 0.01, np.float32)
    assert not soft_label(job(tmp_path, scores, ()), SoftRule("seed", 0.9)).any()


def test_a_photo_of_another_size_is_named(tmp_path: Path) -> None:
    one = job(tmp_path, np.ones((2, 8, 8), np.float32), (0,))
    with pytest.raises(DataError, match=r"a\.png: the photo is 8x8, expected 8x9"):
        soft_label(SoftJob(one.image, one.label, one.names, np.ones((2, 8, 9), np.float32)), SoftRule("seed"))


@pytest.mark.parametrize("workers", [0, 2])
def test_labels_are_written_in_processes_or_here(tmp_path: Path, workers: int) -> None:
    scores = np.random.default_rng(0).random((5, 3, 12, 10)).astype(np.float32)
    jobs = [job(tmp_path, one, (0, 1), f"p{number}") for number, one in enumerate(scores)]
    rule = soft_rule("deeplab", 0.0, "cpu", "cpu")
    assert len(list(write_labels(iter(jobs), rule, workers=workers))) == 5
    for one in jobs:
        np.testing.assert_array_equal(read_mask(one.label, num_classes=2), soft_label(one, rule))


def test_a_stream_is_not_read_far_ahead() -> None:
    pulled = []

    def items() -> object:
        for number in range(40):
            pulled.append(number)
            yield number

    results = parallel_stream(abs, items(), workers=2)  # type: ignore[arg-type]
    assert next(results) == 0
    assert len(pulled) <= 2 * 4 + 1
    assert list(results) == list(range(1, 40))
    assert list(parallel_stream(abs, iter([-3]), workers=0)) == [3]
