"""`rca eval --reference`: the share of another network's mIoU, with an interval, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from tiny_run import TinyRun, assign, record, snapshot

from rcatool.data.labels import write_mask
from rcatool.stages import eval as scoring

Rca = Callable[..., Result]
LABELS = ("background", "ring", "cross", "dots", "bars")


def noisy(mask: Path, share: float) -> np.ndarray:
    """The mask with a share of its pixels at random."""
    rng = np.random.default_rng(len(mask.name) + int(mask.stem[-1]))
    truth = np.array(Image.open(mask))
    truth[truth == 255] = 0
    return np.where(rng.random(truth.shape) < share, rng.integers(0, 5, truth.shape), truth).astype(np.uint8)


@pytest.fixture
def make_run(rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], Path]:
    """Score a copy of the finished run whose network predicts masks with a share of noise."""

    def make(name: str, share: float) -> Path:
        run = undisturbed.copy(tmp_path / name, until="eval")
        masks = iter(sorted((undisturbed.data / "SegmentationClassAug").glob("val_*.png")))
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "best_class", lambda probabilities: noisy(next(masks), share))
            assert rca("eval", "--run", run).code == 0
        return run

    return make


def read_metrics(run: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((run / "eval" / "metrics.json").read_text())  # type: ignore[no-any-return]


def iou(truth: list[np.ndarray], prediction: list[np.ndarray]) -> np.ndarray:
    true, predicted = np.concatenate([t.ravel() for t in truth]), np.concatenate([p.ravel() for p in prediction])
    true, predicted = true[true != 255], predicted[true != 255]
    return np.array([
        ((true == k) & (predicted == k)).sum() / union if (union := ((true == k) | (predicted == k)).sum()) else np.nan for k in range(5)
    ])  # fmt: skip


def test_the_share_and_its_interval_are_those_of_the_files(
    rca: Rca, undisturbed: TinyRun, make_run: Callable[[str, float], Path]
) -> None:
    ours, theirs = make_run("ours", 0.5), make_run("theirs", 0.1)
    before = read_metrics(ours)
    done = rca("eval", "--run", ours, "--reference", theirs, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    found = document.pop("reference")
    assert document == before
    assert json.loads((ours / "eval" / "metrics.json").read_text())["reference"] == found

    truth = [np.array(Image.open(path)) for path in sorted((undisturbed.data / "SegmentationClassAug").glob("val_*.png"))]
    maps = [[np.array(Image.open(path)) for path in sorted((run / "eval" / "predictions").iterdir())] for run in (ours, theirs)]
    whole = [iou(truth, one) for one in maps]
    assert (found["seg"]["miou"], found["reference"]["miou"]) == pytest.approx([np.nanmean(one) for one in whole], abs=1e-6)
    assert found["ratio"]["miou"] == pytest.approx(np.nanmean(whole[0]) / np.nanmean(whole[1]), abs=1e-6)
    assert list(found["ratio"]["iou"]) == list(LABELS)
    shares = [told["ratio"] for told in found["ratio"]["iou"].values()]
    with np.errstate(invalid="ignore", divide="ignore"):  # a class that the other network never finds
        expected = whole[0] / whole[1]
    assert shares == pytest.approx([one if np.isfinite(one) else None for one in expected], abs=1e-6)
    # The same photos for both in each resample.
    draws = np.random.default_rng(0).integers(0, 6, (1000, 6))
    drawn = np.array([[iou([truth[i] for i in draw], [one[i] for i in draw]) for one in maps] for draw in draws[:1000]])
    ratio = np.nanmean(drawn[:, 0], axis=1) / np.nanmean(drawn[:, 1], axis=1)
    assert found["ratio"]["interval"] == pytest.approx(np.quantile(ratio, [0.025, 0.975]).tolist(), abs=1e-6)
    by_class = np.quantile(drawn[:, 0, 0] / drawn[:, 1, 0], [0.025, 0.975])
    assert found["ratio"]["iou"]["background"]["interval"] == pytest.approx(by_class.tolist(), abs=1e-6)


def test_what_is_kept_of_the_reference(rca: Rca, make_run: Callable[[str, float], Path]) -> None:
    ours, theirs = make_run("ours", 0.5), make_run("another-place", 0.1)
    before = snapshot(theirs)
    first = rca("eval", "--run", ours, "--reference", theirs)
    assert "warning: the reference was not trained on true masks (seg.labels: pseudo)" in first.err
    assert snapshot(theirs) == before
    text = (ours / "eval" / "metrics.json").read_text()
    found = json.loads(text)["reference"]
    assert "another-place" not in text
    assert (found["fingerprint"], found["eval_fingerprint"]) == tuple(record(theirs, step)["fingerprint"] for step in ("train-seg", "eval"))
    assert (found["list"], found["images"], found["trained_on"], found["differs"]) == ("val", 6, "pseudo", [])
    assert found["ground_truth"] == read_metrics(theirs)["seg"]["protocol"]["ground_truth"]
    # The run is current with it, and shows it again; nothing is written a second time.
    kept = snapshot(ours / "eval")
    assert rca("run", "--run", ours).err == "everything is up to date\n"
    for words in (("--reference", theirs), ()):
        again = rca("eval", "--run", ours, *words)
        assert again.out == first.out
        assert f"{100 * found['ratio']['miou']:.1f}" in again.out
    assert snapshot(ours / "eval") == kept
    assert rca("compare", ours, theirs, "--target", "seg").code == 0
    # What was measured against is no longer so when the scores are made again.
    assert rca("eval", "--run", ours, *assign("eval.threshold_step=0.5")).code == 0
    assert "reference" not in read_metrics(ours)


def test_differences_in_training_and_views_are_told(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    other = undisturbed.copy(tmp_path / "other", until="train-seg")
    for word in ("train-seg", "eval"):
        assert rca(word, "--run", other, *assign("seg.epochs=1", "eval.flip=false")).code == 0
    run = undisturbed.copy(tmp_path / "run")
    done = rca("eval", "--run", run, "--reference", other)
    assert done.code == 0
    assert "more than its labels: seg.epochs: 1 -> 3; eval.flip: false -> true" in done.err
    assert read_metrics(run)["reference"]["differs"] == ["seg.epochs: 1 -> 3", "eval.flip: false -> true"]


def test_the_last_network_is_measured(rca: Rca, undisturbed: TinyRun, two_rounds: Path, tmp_path: Path) -> None:
    run = shutil.copytree(two_rounds, tmp_path / "run")
    assert rca("eval", "--run", run, "--reference", undisturbed.path).code == 0
    found = read_metrics(run)["reference"]
    assert found["seg"]["miou"] == read_metrics(two_rounds)["seg"]["miou"]
    run = undisturbed.copy(tmp_path / "first")
    assert rca("eval", "--run", run, "--reference", two_rounds).code == 0
    assert read_metrics(run)["reference"]["fingerprint"] == record(two_rounds, "train-seg-2")["fingerprint"]


def test_what_is_refused(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    metrics = read_metrics(run)

    def refused(reference: Path, code: int, message: str) -> None:
        result = rca("eval", "--run", run, "--reference", reference)
        assert (result.code, result.out) == (code, "")
        assert message in next(line for line in result.err.splitlines() if line.startswith("error: "))
        assert read_metrics(run) == metrics

    refused(tmp_path / "nowhere", 4, "nowhere: no run here")
    refused(undisturbed.copy(tmp_path / "unscored", until="eval"), 4, "unscored: not scored yet")
    labels = undisturbed.copy(tmp_path / "labels", until="train-seg")
    assert rca("eval", "--run", labels).code == 0
    refused(labels, 3, "labels: no segmentation network was scored")

    names = undisturbed.copy(tmp_path / "names")  # the same masks under other names
    text = (names / "eval" / "metrics.json").read_text().replace('"ring"', '"circle"')
    (names / "eval" / "metrics.json").write_text(text)
    refused(names, 3, "not scored on the same classes in the same order: ")
    lists = undisturbed.copy(tmp_path / "lists")
    text = text.replace('"circle"', '"ring"').replace('"images": 6', '"images": 5')
    (lists / "eval" / "metrics.json").write_text(text)
    refused(lists, 3, "not scored on the same photos and masks: ")


def test_other_masks_are_refused(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(undisturbed.data, data)
    mask = data / "SegmentationClassAug" / "val_00001.png"
    values = np.array(Image.open(mask))
    values[0, 0] = 1 - values[0, 0]  # one pixel
    write_mask(mask, values)
    other = undisturbed.copy(tmp_path / "other")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace(str(undisturbed.data), str(data)))
    assert rca("eval", "--run", other, "--force").code == 0
    result = rca("eval", "--run", undisturbed.copy(tmp_path / "run"), "--reference", other)
    assert result.code == 3
    assert "not scored on the same photos and masks" in result.err
    assert "ground truth sha256:" in result.err
