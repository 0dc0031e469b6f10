"""`rca compare`: two runs on the same photos; and what metrics.json says beyond the score."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from tiny_run import CONFIG, TinyRun, assign

from rcatool import score
from rcatool.data.labels import write_mask
from rcatool.tally import read_photo_tables

Rca = Callable[..., Result]


def metrics_of(run: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    document: dict[str, dict] = json.loads((run / "eval" / "metrics.json").read_text())  # type: ignore[type-arg]
    return document


@pytest.fixture
def changed(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> Path:
    """The finished run with another threshold, scored again, and the segmentation network left as it is."""
    run = undisturbed.copy(tmp_path / "changed", until="train-seg")
    assert rca("make-pseudo", "--run", run, *assign("pseudo.bg_threshold=0.5")).code == 0
    assert rca("eval", "--run", run).code == 0
    return run


def test_the_difference_is_that_of_the_scores(rca: Rca, undisturbed: TinyRun, changed: Path) -> None:
    result = rca("compare", undisturbed.path, changed, "--json")
    assert result.code == 0
    document = json.loads(result.out)
    a, b = metrics_of(undisturbed.path)["pseudo"], metrics_of(changed)["pseudo"]
    assert (document["target"], document["list"], document["images"]) == ("pseudo", "train", 16)
    assert (document["a"]["miou"], document["b"]["miou"]) == (a["miou"], b["miou"])
    assert document["a"]["iou"] == a["iou"]
    assert document["difference"]["miou"] == pytest.approx(b["miou"] - a["miou"], abs=2e-6)
    low, high = document["difference"]["interval"]
    assert low <= document["difference"]["miou"] <= high
    masks = undisturbed.data / "SegmentationClassAug"
    folders = [run / "make-pseudo" / "labels" for run in (undisturbed.path, changed)]
    ids = sorted(path.stem for path in folders[0].glob("train_*.png"))
    scored = [score(folder, masks, 5, photos=ids) for folder in folders]
    assert scored[1].minus(scored[0])["interval"] == [low, high]
    out = rca("compare", undisturbed.path, changed).out
    assert f"B is {changed}" in out
    assert "16 photos, ground truth sha256:" in out


def test_a_run_does_not_differ_from_itself_in_any_target(rca: Rca, undisturbed: TinyRun) -> None:
    for target in ("seg", "pseudo", "cam"):
        document = json.loads(rca("compare", undisturbed.path, undisturbed.path, "--target", target, "--json").out)
        assert (document["target"], document["difference"]["miou"], document["difference"]["interval"]) == (target, 0.0, [0.0, 0.0])
        assert document["a"]["miou"] == metrics_of(undisturbed.path)[target]["miou"]
    assert document["threshold_rule"] == "each at its own best (oracle)"
    assert json.loads(rca("compare", undisturbed.path, undisturbed.path, "--json").out)["target"] == "seg"


def test_what_cannot_be_compared(rca: Rca, undisturbed: TinyRun, changed: Path, tmp_path: Path) -> None:
    for words, code, message in (
        ((changed, tmp_path / "none"), 4, "no run here"),
        ((changed, undisturbed.path, "--target", "seg"), 3, "no seg that both runs have scored"),
        ((changed, undisturbed.path, "--target", "x"), 2, "--target: 'x', expected seg, pseudo_2, seg_1, pseudo, refined, cam"),
    ):
        result = rca("compare", *words)
        assert result.code == code
        assert message in result.err
    unscored = undisturbed.copy(tmp_path / "unscored", until="eval")
    result = rca("compare", undisturbed.path, unscored)
    assert result.code == 4
    assert f"{unscored}: not scored yet" in result.err
    assert f"hint: rca eval --run {unscored}" in result.err


def test_other_ground_truth_is_refused(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
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
    result = rca("compare", undisturbed.path, other)
    assert result.code == 3
    assert "not scored on the same photos and masks" in result.err
    assert "ground truth sha256:" in result.err
    assert rca("compare", undisturbed.path, other, "--target", "pseudo").code == 0


def test_scores_that_are_stale_are_compared_with_a_warning(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("threshold_step: 0.02", "threshold_step: 0.04"))
    result = rca("compare", undisturbed.path, run, "--json")
    assert (result.code, json.loads(result.out)["difference"]["miou"]) == (0, 0.0)
    assert "warning:" in result.err
    assert "eval.threshold_step: 0.02 -> 0.04" in result.err


# ---- metrics.json


def test_every_target_has_intervals_conventions_and_its_protocol(undisturbed: TinyRun) -> None:
    metrics = metrics_of(undisturbed.path)
    tables = read_photo_tables(undisturbed.path / "eval" / "per_image.npz")
    assert list(tables) == list(metrics)
    for target, scores in metrics.items():
        low, high = scores["interval"]["wrong"]
        assert low <= scores["miou"] <= high
        assert scores["interval"]["over"] == f"{scores['images']} photos"
        assert list(scores["conventions"]) == ["irn", "eps", "seam", "clip-es"]
        told = scores["protocol"]
        assert (told["labels"], told["crf"], told["dataset"]) == (5, "none", "shapes")
        assert told["ground_truth"].startswith("sha256:")
        assert told["scales"] == ([1.0] if target == "seg" else [1.0, 1.5])
        assert tables[target].ids == tuple(f"{scores['list']}_{k:05d}" for k in range(scores["images"]))
        assert ("boundary" in scores) == (target != "cam")
        # Nothing here predicts 255, and every class has pixels: all count alike, but for a CAM's background rule.
        assert scores["coverage"] == 1
        if target != "cam" and not scores["absent_classes"]:
            assert {entry["miou"] for entry in scores["conventions"].values()} == {scores["miou"]}
    assert metrics["pseudo"]["protocol"]["pseudo"]["bg_threshold"] == 0.3
    assert metrics["cam"]["protocol"]["cam"]["stride"] == 2
    assert metrics["cam"]["conventions"]["irn"]["threshold"] == 0.15


def test_a_runs_score_is_that_of_its_folders(undisturbed: TinyRun) -> None:
    metrics = metrics_of(undisturbed.path)
    masks = undisturbed.data / "SegmentationClassAug"
    for target, folder in (("seg", "eval/predictions"), ("pseudo", "make-pseudo/labels")):
        found = score(undisturbed.path / folder, masks, 5, photos="common", boundary=True).document
        for key in ("miou", "interval", "conventions", "images", "coverage", "miou_unlabelled_dropped"):
            assert found[key] == metrics[target][key], key
        assert found["boundary"]["miou"] == metrics[target]["boundary"]["miou"]
        assert found["protocol"]["ground_truth"] == metrics[target]["protocol"]["ground_truth"]


@pytest.fixture
def tuned(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> Path:
    """A run of the same images with four of them to choose a threshold on, up to the labels, scored."""
    data = tmp_path / "data"
    shutil.copytree(undisturbed.data, data)
    (data / "SegmentationClassAug" / "classes.txt").write_text("ring\ncross\ndots\nbars\n")
    names = ("ring", "cross", "dots", "bars")
    lines = [json.loads(line) for line in (undisturbed.path / "prepare" / "manifest.jsonl").read_text().splitlines()]
    rows = ["image,tags,split"]
    for number, line in enumerate(line for line in lines if line["split"] == "train"):
        rows.append(f"{line['id']}.jpg,{';'.join(names[c] for c in line['classes'])},{'tune' if number < 4 else 'train'}")
    (data / "tags.csv").write_text("\n".join(rows) + "\n")
    run = tmp_path / "tuned"
    folders = ["--images", data / "JPEGImages", "--masks", data / "SegmentationClassAug", "--tags", data / "tags.csv"]
    assert rca("prepare", "folder", *folders, "--run", run, "--config", CONFIG).code == 0
    for word in ("train-cls", "make-pseudo", "eval"):
        assert rca(word, "--run", run).code == 0
    return run


def test_an_oracle_beside_a_threshold_chosen_on_tune(rca: Rca, tuned: Path) -> None:
    cam = metrics_of(tuned)["cam"]
    curve, tune = ({entry["threshold"]: entry["miou"] for entry in scores["curve"]} for scores in (cam, cam["tune"]))
    assert (cam["images"], cam["tune"]["images"], cam["tune"]["list"]) == (12, 4, "tune")
    assert cam["protocol"]["ground_truth"] != cam["tune"]["protocol"]["ground_truth"]
    chosen = cam["threshold_from_tune"]
    assert (cam["oracle"], chosen["oracle"]) == (True, False)
    assert tune[chosen["threshold"]] == max(tune.values()) == cam["tune"]["miou"]
    assert chosen["miou"] == curve[chosen["threshold"]] <= cam["miou"] == max(curve.values())
    low, high = chosen["interval"]["wrong"]
    assert low <= chosen["miou"] <= high
    document = json.loads(rca("compare", tuned, tuned, "--json").out)
    assert document["target"] == "pseudo"
    document = json.loads(rca("compare", tuned, tuned, "--target", "cam", "--json").out)
    assert (document["threshold_rule"], document["a"]["miou"]) == ("chosen on tune", chosen["miou"])
    assert document["a"]["threshold"] == chosen["threshold"]
    out = rca("eval", "--run", tuned).out
    assert f"{cam['threshold']:.2f} (oracle)" in out
    assert f"{chosen['threshold']:.2f} (tune)" in out
