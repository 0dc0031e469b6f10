"""The background threshold from CAMs alone. Oracles: sums by hand, a whole run with the constant."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_run import TinyRun, contents, prepare_arguments, record

from rcatool.auto_threshold import choose_threshold, mean_peak
from rcatool.cams import save_cam
from rcatool.data.labels import read_mask
from rcatool.data.manifest import read_manifest

Rca = Callable[..., Any]


def test_each_photo_counts_the_same_whatever_its_size_and_photos_without_maps_do_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, found, expected = tmp_path / "a.npz", [], []
    for h, w in [(3, 4), (30, 40), (6, 6)]:
        maps = np.stack([rng.random((h, w)), np.full((h, w), 0.25)]).astype(np.float32)
        save_cam(path, np.array([1, 2]), maps, (h, w))
        found.append(mean_peak(path, (h, w)))
        expected.append(sum(max(float(np.float16(a)), 0.25) for a in maps[0].ravel()) / (h * w))
    assert found == pytest.approx(expected, abs=1e-6)
    save_cam(path, np.zeros(0, np.int64), np.zeros((0, 3, 3), np.float32), (3, 3))
    nothing = mean_peak(path, (3, 3))
    assert nothing is None
    assert choose_threshold([*found, nothing]) == round(sum(expected) / 3, 3)
    assert choose_threshold([nothing]) == 0.5


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


@pytest.mark.parametrize("rule", ["argmax", "conflict"])
def test_saliency_maps_of_a_data_set_become_the_background(rca: Rca, undisturbed: TinyRun, tmp_path: Path, rule: str) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(undisturbed.data, data)
    samples = [sample for sample in read_manifest(undisturbed.path / "prepare/manifest.jsonl") if sample.split == "train"]
    (data / "stands-out").mkdir()
    for sample in samples:
        truth = read_mask(data / str(sample.mask), num_classes=20)
        Image.fromarray(np.where(truth > 0, np.uint8(255), np.uint8(0))).save(data / "stands-out" / f"{sample.id}.png")
    assert rca(*prepare_arguments(run, data), "--set", "data.saliency=stands-out").code == 0
    assert rca("import-cams", undisturbed.path / "make-pseudo/cams", "--format", "npz", "--run", run).code == 0
    assert rca("make-pseudo", "--run", run, "--set", "pseudo.background=saliency", "--set", f"pseudo.rule={rule}").code == 0
    foreground = 0
    for sample in samples:
        label = read_mask(run / f"make-pseudo/labels/{sample.id}.png", num_classes=20)
        truth = read_mask(data / str(sample.mask), num_classes=20)
        assert not ((label > 0) & (label != 255) & (truth == 0)).any()
        foreground += int(((label > 0) & (label != 255)).sum())
    assert foreground > 100
    assert rca("eval", "--run", run).code == 0
    assert json.loads((run / "eval/metrics.json").read_text())["pseudo"]["protocol"]["background"] == "1 - saliency"


def test_saliency_is_needed_where_it_is_the_background(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/labels")
    code, _, err = rca("make-pseudo", "--run", run, "--set", "pseudo.background=saliency")
    assert (code, err.splitlines()[-2]) == (2, "error: pseudo.background saliency: 16 of 16 photos have no saliency map")
