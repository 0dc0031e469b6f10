"""The second round: labels from the network's own predictions, a second training on them, and what each setting makes again."""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from test_resume import stop_at
from tiny_run import ROUND_2, SECOND, STEPS, TinyRun, assign, contents, record, snapshot

from rcatool import score
from rcatool.data.manifest import Sample, read_manifest
from rcatool.run import Run, StepDir

Rca = Callable[..., Result]


def made_by(run: Path, step: str) -> dict[str, str]:
    """Digests of what a step made, but for its record and log."""
    return {name: digest for name, digest in contents(run / step).items() if name not in ("stage.json", "log.jsonl")}


def states(rca: Rca, run: Path) -> dict[str, str]:
    return {step["step"]: step["state"] for step in json.loads(rca("status", "--run", run, "--json").out)["steps"]}


def tagged(run: Path) -> list[Sample]:
    samples = read_manifest(run / "prepare" / "manifest.jsonl")
    return [sample for sample in samples if sample.split == "train"]


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


# ---- labels


def test_labels_are_the_networks_predictions_filtered_by_tags(two_rounds: Path) -> None:
    """Each label anew: the network on each view by itself, its softmax without the classes that the photo is not tagged with."""
    import torch
    from torch.nn import functional as F

    from rcatool.data.transforms import normalise, resize, scaled_size, to_tensor
    from rcatool.stages.networks import load_seg
    from rcatool.world import make_world

    run = Run(two_rounds)
    config, ignored = run.read_config(), 0
    model = load_seg(run, config, make_world(device="cpu", precision="fp32"), step="train-seg")
    for sample in tagged(two_rounds):
        image = to_tensor(read(Path(config.data.root, sample.image)))
        total = torch.zeros(5, *sample.size)
        for scale, mirrored in itertools.product((1.0, 1.5), (False, True)):
            view = normalise(resize(image, *scaled_size(*sample.size, scale)))[None]
            with torch.inference_mode():
                maps = model(view.flip(-1)).softmax(dim=1).flip(-1) if mirrored else model(view).softmax(dim=1)
            total += F.interpolate(maps, size=sample.size, mode="bilinear", align_corners=False)[0] / 4
        allowed = [0, *(c + 1 for c in sample.classes)]
        found = read(two_rounds / "make-pseudo" / "round-2" / f"{sample.id}.png")
        assert set(np.unique(found).tolist()) <= {*allowed, 255}
        kept = total.numpy()[allowed]
        share = kept.max(axis=0) / kept.sum(axis=0)
        expected = np.where(share < 0.6, 255, np.array(allowed)[kept.argmax(axis=0)])
        clear = np.abs(share - 0.6) > 1e-5
        np.testing.assert_array_equal(found[clear], expected[clear])
        ignored += int((found == 255).sum())
    assert ignored > 0


def test_classes_without_a_tag_are_struck_out(rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network says anything at random: each pixel's label by a loop over background and tags."""
    import torch

    from rcatool.stages import second_round

    made: list[np.ndarray] = []

    def anything(model: object, photos: list[object], size: tuple[int, int], **world: object) -> Iterator[torch.Tensor]:
        for _ in photos:
            made.append(np.random.default_rng(len(made)).dirichlet(np.ones(5), size).transpose(2, 0, 1).astype(np.float32))
            yield torch.from_numpy(made[-1])

    run = undisturbed.copy(tmp_path / "run")
    monkeypatch.setattr(second_round, "batch_probabilities", anything)
    assert rca("train-seg", "--run", run, *assign(*SECOND, "second.confidence=0.7")).code == 0
    for sample, maps in zip(tagged(run), made, strict=True):
        found = read(run / "make-pseudo" / "round-2" / f"{sample.id}.png")
        for y, x in itertools.product(range(0, 48, 5), repeat=2):
            shares = {label: float(maps[label, y, x]) for label in (0, *(c + 1 for c in sample.classes))}
            best = max(shares, key=lambda label: shares[label])
            assert found[y, x] == (best if shares[best] / sum(shares.values()) >= 0.7 else 255)


def test_tags_without_a_pixel_are_counted(two_rounds: Path) -> None:
    lost: Counter[int] = Counter()
    for sample in tagged(two_rounds):
        there = set(np.unique(read(two_rounds / "make-pseudo" / "round-2" / f"{sample.id}.png")).tolist())
        lost.update(c for c in sample.classes if c + 1 not in there)
    info = record(two_rounds, "make-pseudo/round-2")["info"]
    names = ("ring", "cross", "dots", "bars")
    assert info["vanished_tags"] == {names[c]: lost[c] for c in sorted(lost)}
    assert 0 < lost.total() < info["tags"] == sum(len(sample.classes) for sample in tagged(two_rounds))


def test_tune_photos_get_labels_and_training_leaves_them_out(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    manifest = run / "prepare" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        line["split"] = "tune" if line["id"] == "train_00003" else line["split"]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage = record(run, "prepare")
    stage["inventory"]["sizes"]["manifest.jsonl"] = manifest.stat().st_size
    (run / "prepare" / "stage.json").write_text(json.dumps(stage))
    done = rca("run", "--run", run, *assign(*SECOND, "seg.epochs=1", "cls.epochs=1"))
    assert done.code == 0, done.err
    assert "train-seg-2: tiny, 15 photos" in done.err
    assert (run / "make-pseudo" / "round-2" / "train_00003.png").is_file()
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    assert [metrics[name]["images"] for name in ("pseudo_2", "seg", "seg_1")] == [15, 6, 6]
    assert all(metrics[name]["tune"]["images"] == 1 for name in ("pseudo", "pseudo_2", "seg", "seg_1"))


def test_the_second_network_is_one_trained_on_these_labels(rca: Rca, undisturbed: TinyRun, two_rounds: Path, tmp_path: Path) -> None:
    """A first round on the second one's labels ends in the same weights."""
    from rcatool.checkpoint import load_state

    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    folder = run / "make-pseudo" / "labels"
    stage = record(run, "make-pseudo/labels")
    for label in (two_rounds / "make-pseudo" / "round-2").glob("*.png"):
        shutil.copy(label, folder / label.name)
        stage["inventory"]["sizes"][label.name] = label.stat().st_size
    (folder / "stage.json").write_text(json.dumps(stage))
    assert rca("train-seg", "--run", run).code == 0
    folders = (run / "train-seg", two_rounds / "train-seg-2", two_rounds / "train-seg")
    here, there, first = (load_state(path / "final.pt")["model"] for path in folders)
    assert all(here[name].equal(there[name]) for name in here)
    assert not all(first[name].equal(there[name]) for name in first)


# ---- what is made again


def test_a_round_added_later_leaves_the_first_as_it_is(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    before = {step: snapshot(run / step) for step in STEPS}
    added = rca("run", "--run", run, *assign(*SECOND))
    assert added.code == 0, added.err
    assert [step for step in STEPS if snapshot(run / step) != before[step]] == ["eval"]
    assert states(rca, run) == dict.fromkeys([*STEPS[:5], *ROUND_2, "eval"], "current")
    assert {step: record(run, step)["status"] for step in ROUND_2} == dict.fromkeys(ROUND_2, "done")
    assert list(record(run, "make-pseudo/round-2")["inputs"]) == ["train-seg", "prepare"]
    assert list(record(run, "train-seg-2")["inputs"]) == ["make-pseudo/round-2", "prepare"]
    assert rca("run", "--run", run).err == "everything is up to date\n"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("second.confidence=0.5", [*ROUND_2, "eval"]),
        ("second.flip=false", [*ROUND_2, "eval"]),
        ("seg.flip=false", ["train-seg", *ROUND_2, "eval"]),
        ("eval.crf=deeplab", ["eval"]),
        ("second.enabled=false", ["eval"]),
    ],
)
def test_what_a_setting_makes_stale(rca: Rca, two_rounds: Path, tmp_path: Path, setting: str, expected: list[str]) -> None:
    run = shutil.copytree(two_rounds, tmp_path / "run")
    assert rca("prepare", "shapes", "--run", run, *assign(setting)).code == 0  # nothing to prepare: the setting is kept
    found = states(rca, run)
    assert [step for step, state in found.items() if state == "stale"] == expected
    assert set(found.values()) == {"current", "stale"}
    assert set(ROUND_2) <= set(found) or setting == "second.enabled=false"


def test_without_a_second_round_its_settings_mean_nothing(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    assert rca("run", "--run", run, *assign("second.crf=seed", "second.scales=[1.0]")).err == "everything is up to date\n"


def test_a_round_taken_back_scores_the_first_network(rca: Rca, two_rounds: Path, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = shutil.copytree(two_rounds, tmp_path / "run")
    assert rca("run", "--run", run, *assign("second.enabled=false")).code == 0
    assert contents(run / "eval" / "predictions") == contents(undisturbed.path / "eval" / "predictions")
    metrics, first = (json.loads((root / "eval" / "metrics.json").read_text()) for root in (run, undisturbed.path))
    assert metrics == first
    assert rca("run", "--run", run, *assign("second.enabled=true")).code == 0
    assert record(run, "train-seg-2") == record(two_rounds, "train-seg-2")  # it was there all the time


# ---- stopping


@pytest.mark.parametrize(
    ("name", "number", "late"),
    [
        ("round-2/stage.json", 1, True), ("round-2/train_00000.png", 1, False), ("round-2/train_00009.png", 1, True),
        ("round-2/stage.json", 2, False), ("train-seg-2/last.pt", 2, True), ("train-seg-2/final.pt", 1, False),
        ("train-seg-2/stage.json", 2, False),
    ],
)  # fmt: skip
def test_stopped_in_the_second_round(
    rca: Rca, undisturbed: TinyRun, two_rounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, late: bool
) -> None:
    run = undisturbed.copy(tmp_path / "run")
    first = snapshot(run / "train-seg")
    with monkeypatch.context() as patch:
        stop_at(patch, name, number, late=late)
        assert rca("train-seg", "--run", run, *assign(*SECOND)).code == 130
    again = rca("train-seg", "--run", run)
    assert again.code == 0, again.err
    assert ("resuming after epoch 2" in again.err) == (name == "train-seg-2/last.pt")
    for step in ROUND_2:
        assert made_by(run, step) == made_by(two_rounds, step), step
        assert record(run, step)["result"] == record(two_rounds, step)["result"]
    assert record(run, "make-pseudo/round-2")["info"]["vanished_tags"] == record(two_rounds, "make-pseudo/round-2")["info"]["vanished_tags"]
    assert snapshot(run / "train-seg") == first


# ---- scores, comparison, exports


def test_both_rounds_are_scored_by_name(rca: Rca, undisturbed: TinyRun, two_rounds: Path) -> None:
    metrics = json.loads((two_rounds / "eval" / "metrics.json").read_text())
    assert list(metrics) == ["cam", "pseudo", "seg_1", "pseudo_2", "seg"]
    first = json.loads((undisturbed.path / "eval" / "metrics.json").read_text())
    assert metrics["pseudo"] == first["pseudo"]
    assert metrics["seg_1"].pop("protocol") == first["seg"].pop("protocol") | {"round": 1}
    assert metrics["seg_1"] == first["seg"]
    masks = undisturbed.data / "SegmentationClassAug"
    for target, folder in (("seg", "eval/predictions"), ("seg_1", "eval/predictions-1"), ("pseudo_2", "make-pseudo/round-2")):
        found = score(two_rounds / folder, masks, 5, photos="common").document
        assert (found["miou"], found["images"]) == (metrics[target]["miou"], metrics[target]["images"])
    told = metrics["pseudo_2"]["protocol"]
    assert (told["crf"], told["scales"], told["second"]["confidence"]) == ("none", [1.0, 1.5], 0.6)
    compared = json.loads(rca("compare", undisturbed.path, two_rounds, "--json").out)
    assert (compared["target"], compared["a"]["miou"], compared["b"]["miou"]) == ("seg", first["seg"]["miou"], metrics["seg"]["miou"])
    out = rca("eval", "--run", two_rounds).out
    assert "labels of round 2" in out
    assert "network of round 1" in out


def test_the_first_networks_predictions_are_not_made_twice(
    rca: Rca, undisturbed: TinyRun, two_rounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rcatool.stages import eval as scoring

    run = shutil.copytree(two_rounds, tmp_path / "run")
    (run / "old" / "eval-x").parent.mkdir(exist_ok=True)
    shutil.rmtree(run / "old")
    shutil.rmtree(run / "eval")
    shutil.copytree(undisturbed.path / "eval", run / "eval")  # scored before there was a second round
    best_class, seen = scoring.best_class, []
    monkeypatch.setattr(scoring, "best_class", lambda probabilities: (seen.append(1), best_class(probabilities))[1])
    assert rca("eval", "--run", run).code == 0
    assert len(seen) == 6
    assert contents(run / "eval" / "predictions-1") == contents(undisturbed.path / "eval" / "predictions")
    assert contents(run / "eval" / "predictions") == contents(two_rounds / "eval" / "predictions")


def test_eval_before_the_second_training_scores_what_there_is(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    assert rca("eval", "--run", run, *assign(*SECOND)).code == 0
    assert list(json.loads((run / "eval" / "metrics.json").read_text())) == ["cam", "pseudo", "seg_1"]
    refused = rca("export", "png", "--run", run, "--out", tmp_path / "out")
    assert (refused.code, refused.err.splitlines()[0]) == (4, "error: export needs the output of train-seg")


def test_labels_of_the_second_round_are_exported(rca: Rca, undisturbed: TinyRun, two_rounds: Path, tmp_path: Path) -> None:
    assert rca("export", "png", "--run", two_rounds, "--what", "pseudo_2", "--out", tmp_path / "out").code == 0
    for sample in tagged(two_rounds):
        [exported] = (tmp_path / "out").rglob(f"{sample.id}.png")
        np.testing.assert_array_equal(read(exported), read(two_rounds / "make-pseudo" / "round-2" / f"{sample.id}.png"))
    refused = rca("export", "png", "--run", undisturbed.path, "--what", "pseudo_2", "--out", tmp_path / "none")
    assert refused.code == 4
    assert "this run has no second round" in refused.err
    assert "second.enabled=true" in refused.err


def test_predictions_with_a_crf(rca: Rca, two_rounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CRF goes over the mean softmax of all classes, with DeepLab's constants."""
    import torch

    from rcatool.refine.crf import CrfParams, dense_crf
    from rcatool.stages import eval as scoring

    rng = np.random.default_rng(0)
    soft = np.kron(rng.dirichlet(np.ones(5) / 2, (6, 6)).transpose(2, 0, 1), np.ones((1, 8, 8)))  # cells of 8 pixels
    soft = (0.7 * soft + 0.3 * rng.dirichlet(np.ones(5), (48, 48)).transpose(2, 0, 1)).astype(np.float32)
    monkeypatch.setattr(scoring, "batch_probabilities", lambda model, photos, *size, **world: iter([torch.from_numpy(soft)] * len(photos)))
    run = Run(shutil.copytree(two_rounds, tmp_path / "run"))
    assert rca("eval", "--run", run.root, *assign("eval.crf=deeplab")).code == 0
    metrics = json.loads((run.root / "eval" / "metrics.json").read_text())
    assert [metrics[name]["protocol"]["crf"] for name in ("seg", "seg_1", "pseudo")] == ["deeplab", "deeplab", "none"]
    image = read(Path(run.read_config().data.root, "JPEGImages", "val_00003.jpg"))
    expected = dense_crf(image, soft / soft.sum(axis=0), CrfParams(10, 1, 3, 67, 3, 4)).argmax(axis=0)
    found = read(run.root / "eval" / "predictions" / "val_00003.png")
    np.testing.assert_array_equal(found, expected)
    assert (found != soft.argmax(axis=0)).mean() >= 0.05


def test_there_is_nothing_to_mend_in_true_masks(rca: Rca, tmp_path: Path) -> None:
    result = rca("prepare", "shapes", "--run", tmp_path / "run", "--set", "second.enabled=true", "--set", "seg.labels=truth")
    assert result.code == 2
    assert "error: second.enabled: a second round mends pseudo labels, and seg.labels is truth" in result.err


def test_weights_from_the_cam_are_for_labels_from_the_cam(
    rca: Rca, two_rounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second round the labels are the network's, and say nothing that a CAM could weigh."""
    from rcatool.stages import train_seg

    weighed: list[str] = []

    def spy(run: Run, config: object, step: StepDir) -> None:
        weighed.append(step.path.name)

    run = tmp_path / "run"
    shutil.copytree(two_rounds, run)
    monkeypatch.setattr(train_seg, "_margin_weights", spy)
    assert rca("train-seg", "--run", run, "--set", "seg.noise=confidence").code == 0
    assert record(run, "train-seg-2")["status"] == "done"
    assert weighed == ["train-seg"]
