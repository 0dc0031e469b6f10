"""`rca score` and `from rcatool import score`: two folders of masks, or arrays, and no run directory."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, Result
from PIL import Image
from sklearn import metrics as sk

import rcatool
from rcatool import score
from rcatool.data.labels import IGNORE, VOC_CLASSES, palette, write_mask
from rcatool.errors import ConfigError, DataError

Rca = Callable[..., Result]
IDS = ("2007_000032", "2007_000039", "a", "b")


def masks(seed: int, labels: int = 21) -> list[np.ndarray]:
    """Four label maps of different sizes with some 255; the same seed and another one make truth and prediction."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, labels, (10 + k, 12 - k)).astype(np.uint8) for k in range(len(IDS))]
    for mask in found:
        mask[rng.random(mask.shape) < 0.1] = IGNORE
    return found


def folder(path: Path, arrays: list[np.ndarray]) -> Path:
    for name, array in zip(IDS, arrays, strict=True):
        write_mask(path / f"{name}.png", array)
    return path


@pytest.fixture
def pred(tmp_path: Path) -> Path:
    return folder(tmp_path / "pred", masks(1))


@pytest.fixture
def gt(tmp_path: Path) -> Path:
    return folder(tmp_path / "gt", masks(2))


@pytest.fixture
def score_(rca: Rca) -> Callable[..., Result]:
    """`rca score` without worker processes."""
    return lambda *words: rca("score", *words, "--workers", "0")


def jaccard(seed: int, other: int, labels: int) -> list[float]:
    """IoU of masks(seed) against masks(other) by scikit-learn, a predicted 255 being a label of its own."""
    prediction, truth = (np.concatenate([mask.ravel() for mask in masks(s, labels)]) for s in (seed, other))
    counted = truth != IGNORE
    found = sk.jaccard_score(truth[counted], prediction[counted], labels=range(labels), average=None, zero_division=0)
    nowhere = ~np.isin(range(labels), [truth[counted], prediction[counted]])
    return list(np.where(nowhere, np.nan, found))


def test_the_score_is_scikit_learns(pred: Path, gt: Path) -> None:
    found = score(pred, gt)
    expected = jaccard(1, 2, 21)
    assert list(found.iou) == ["background", *VOC_CLASSES]
    assert list(found.iou.values()) == pytest.approx(expected, abs=1e-12)
    assert found.miou == pytest.approx(np.nanmean(expected), abs=1e-12)
    assert found.document["miou"] == round(found.miou, 6)
    assert found.interval is not None
    assert found.interval[0] < found.miou < found.interval[1]
    assert (found.images, found.confusion.shape, found.confusion.dtype) == (4, (21, 22), np.int64)
    assert found.document["images"] == found.document["protocol"]["images"] == 4
    assert 0.85 < found.coverage < 0.95


def test_folders_arrays_and_processes_agree(pred: Path, gt: Path) -> None:
    found = [score(str(pred), gt, boundary=True), score(masks(1), iter(masks(2)), boundary=True), score(pred, gt, boundary=True, workers=2)]
    for other in found[1:]:
        assert other.iou == found[0].iou
        assert other.interval == found[0].interval
        assert other.document["boundary"] == found[0].document["boundary"]
        np.testing.assert_array_equal(other.confusion, found[0].confusion)
    assert found[2].document == found[0].document


@pytest.mark.parametrize(
    ("labels", "classes", "expected"), [(21, None, 21), (5, None, 21), (5, 5, 5), (81, None, 81), (255, 255, 255), (30, 81, 81)]
)
def test_the_number_of_labels(labels: int, classes: int | None, expected: int) -> None:
    found = score(masks(1, labels), masks(2, labels), classes)
    assert found.document["protocol"]["labels"] == len(found.iou) == expected
    assert found.miou == pytest.approx(np.nanmean(jaccard(1, 2, labels)), abs=1e-6)
    assert list(found.iou)[1] == ("aeroplane" if expected == 21 else "label 1")


def test_a_label_beyond_those_asked_for_is_named(score_: Rca, pred: Path, gt: Path) -> None:
    with pytest.raises(DataError, match=r"mask value .*expected 0\.\.4 or 255"):
        score(pred, gt, 5)
    with pytest.raises(DataError, match=r"gt\[0\]: values outside 0\.\.4 and 255"):
        score(masks(1), masks(2), 5)
    for classes in (1, 256):
        with pytest.raises(ConfigError, match="expected 2..255"):
            score(pred, gt, classes)
    assert score_(pred, gt, "--classes", "1").code == 2


def test_json_is_the_document(score_: Rca, pred: Path, gt: Path) -> None:
    result = score_(pred, gt, "--json")
    assert result.code == 0
    document = json.loads(result.out)
    assert document == json.loads(json.dumps(score(pred, gt).document))
    assert 0 <= document["miou"] <= 1
    assert document["miou_unlabelled_dropped"] > document["miou"]
    assert list(document["conventions"]) == ["irn", "eps", "seam", "clip-es"]
    assert document["conventions"]["irn"]["miou"] == document["miou_unlabelled_as_background"]
    assert document["protocol"]["list"] == "all of gt"


def test_tables_tell_all_conventions_and_the_protocol(score_: Rca, pred: Path, gt: Path) -> None:
    out = score_(pred, gt, "--boundary").out
    document = score(pred, gt, boundary=True).document
    rules = ("255 wrong", "255 background", "255 dropped", "IRN", "EPS", "SEAM", "CLIP-ES")
    for word in (*rules, "boundary IoU", "protocol", "largest confusions"):
        assert word in out
    for value in (document["miou"], document["miou_unlabelled_dropped"], document["conventions"]["seam"]["miou"]):
        assert f"{100 * value:.2f}" in out
    assert document["protocol"]["ground_truth"] in out
    assert "boundary IoU" not in score_(pred, gt).out


def test_masks_without_a_partner(score_: Rca, pred: Path, gt: Path, tmp_path: Path) -> None:
    (pred / "b.png").rename(pred / "c.png")
    refused = score_(pred, gt)
    assert refused.code == 3
    assert f"error: {pred}: no mask for 1 of 4 photos: b\n" in refused.err
    assert "--allow-missing" in refused.err
    told = json.loads(score_(pred, gt, "--allow-missing", "--json").out)["protocol"]
    assert (told["images"], told["truth_without_prediction"], told["predictions_without_truth"]) == (3, 1, 1)
    (tmp_path / "val.txt").write_text("2007_000032\nJPEGImages/a.jpg SegmentationClassAug/a.png\n\n")
    told = json.loads(score_(pred, gt, "--list", tmp_path / "val.txt", "--json").out)["protocol"]
    assert (told["list"], told["images"], told["truth_without_prediction"]) == ("val", 2, 0)
    (tmp_path / "val.txt").write_text("a\nb\n")
    assert score_(pred, gt, "--list", tmp_path / "val.txt").code == 3
    assert score_(pred, gt, "--list", tmp_path / "val.txt", "--allow-missing").code == 2


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("score pred nowhere", 3, "nowhere: cannot be listed"),
        ("score pred .", 3, "no PNG in this folder"),
        ("score other gt", 3, "other: no mask for 4 of 4 photos: 2007_000032, 2007_000039, a, b"),
        ("score pred other --allow-missing", 3, "no file name is in both"),
        ("score pred gt --list empty.txt", 3, "empty.txt: the list is empty"),
        ("score pred gt --list twice.txt", 3, "twice.txt: a is there twice"),
        ("score pred small", 3, r"pred/2007_000032.png: 10 x 12 pixels \(H x W\), but small/2007_000032.png is 1 x 1"),
        ("score pred broken", 3, "broken/2007_000032.png: cannot be decoded"),
        ("score pred void", 3, "nothing to score"),
        ("score pred", 2, "missing argument 'GT'"),
        ("score pred gt --workers -2", 2, "workers"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored(rca: Rca, pred: Path, gt: Path, line: str, code: int, message: str) -> None:
    for name, array in (("small", np.zeros((1, 1), np.uint8)), ("void", None)):
        folder(Path(name), [np.full_like(mask, IGNORE) if array is None else array for mask in masks(2)])
    Path("other").mkdir()
    write_mask(Path("other/z.png"), np.zeros((2, 2), np.uint8))
    folder(Path("broken"), masks(2))
    Path("broken/2007_000032.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    Path("empty.txt").write_text("\n")
    Path("twice.txt").write_text("a\nb\na\n")
    result = rca(*line.split(), *(["--workers", "0"] if "workers" not in line and code == 3 else []))
    assert result.code == code, result.err
    assert re.search(message, result.err.splitlines()[-1 if "hint" not in result.err else -2]), result.err
    assert "Traceback" not in result.err


def test_a_mask_in_voc_colours_counts_like_its_values(pred: Path, gt: Path) -> None:
    expected = score(pred, gt).iou
    colours = np.array(palette(), np.uint8).reshape(256, 3)
    Image.fromarray(colours[masks(1)[0]]).save(pred / f"{IDS[0]}.png")
    assert score(pred, gt).iou == expected


def test_against_is_the_paired_difference(score_: Rca, pred: Path, gt: Path, tmp_path: Path) -> None:
    better = [np.where(np.arange(t.size).reshape(t.shape) % 3 == 0, t, p).astype(np.uint8) for p, t in zip(masks(1), masks(2), strict=True)]
    other = folder(tmp_path / "better", better)
    document = json.loads(score_(other, gt, "--against", pred, "--json").out)
    difference = score(other, gt).minus(score(pred, gt))
    assert document["difference"] == difference
    assert document["against"]["miou"] == score(pred, gt).document["miou"]
    assert difference["miou"] == pytest.approx(score(other, gt).miou - score(pred, gt).miou, abs=2e-6)
    assert 0 < difference["interval"][0] <= difference["miou"] <= difference["interval"][1]
    out = score_(other, gt, "--against", pred).out
    assert f"A is {pred}\nB is {other}\n" in out
    assert f"{100 * difference['miou']:+.2f}" in out
    with pytest.raises(DataError, match="different photos or ground truth"):
        score(other, gt).minus(score(other, pred))


def test_arrays_that_are_no_masks() -> None:
    good = np.zeros((2, 3), np.uint8)
    for bad in (np.zeros((3, 2), np.uint8), np.zeros((2, 3)), np.zeros((2, 3, 1), np.uint8), np.full((2, 3), 300), np.full((2, 3), -1)):
        with pytest.raises(DataError, match=r"pred\[0\]: "):
            score([bad], [good])
    assert score([good.astype(np.int64)], [good.astype(bool)]).miou == 1
    with pytest.raises(ValueError, match="zip"):
        score([good], [good, good])
    with pytest.raises(ConfigError, match="two folders, or two iterables"):
        score("pred", [good])


def test_score_is_public_and_loaded_late() -> None:
    assert "score" in rcatool.__all__
    code = (
        "import sys, rcatool; early = 'numpy' in sys.modules; rcatool.score; import rcatool.mask_score; "
        "print(early, callable(rcatool.score))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "False True\n"
    with pytest.raises(AttributeError, match="scores"):
        rcatool.scores  # noqa: B018


def test_real_masks(rca: Rca, voc_part: Path) -> None:
    base = voc_part / "VOC2012"
    ids = ["2007_000032", "2007_000033", "2007_000039"]
    found = score(base / "SegmentationClass", base / "SegmentationClassAug", photos=ids, boundary=True)
    assert (found.miou, found.coverage, found.document["boundary"]["miou"]) == (1.0, 1.0, 1.0)
    assert found.document["absent_classes"]
