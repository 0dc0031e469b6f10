"""Whole runs that refine their CAMs: what is made, what is scored, what a change of a setting makes again, and resuming."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from tiny_run import TinyRun, assign, contents

from rcatool.stages import refinement

Rca = Callable[..., Result]

FEW = ("affinity.epochs=2", "affinity.batch_size=4", "affinity.crop_size=48", "affinity.crf=none", "affinity.lr=0.02")
METHODS = {"walk": ("refine.walk_steps=2",), "affinity": (*FEW, "refine.affinity_steps=4"), "irn": (*FEW, "refine.irn_steps=4")}


def made_by(run: Path, step: str) -> dict[str, str]:
    """Digests of what a step made, but for its record and logs."""
    return {name: digest for name, digest in contents(run / step).items() if Path(name).name not in ("stage.json", "log.jsonl")}


def states(rca: Rca, run: Path) -> dict[str, str]:
    document = json.loads(rca("status", "--run", run, "--json").out)
    return {step["step"].removeprefix("make-pseudo/"): step["state"] for step in document["steps"]}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_refines(
    rca: Rca, undisturbed: TinyRun, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    old = {name: made_by(run, f"make-pseudo/{name}") for name in ("cams", "labels")}
    done = rca("make-pseudo", "--run", run, *assign(f"refine.method={method}", *METHODS[method]))
    assert done.code == 0, done.err
    assert made_by(run, "make-pseudo/cams") == old["cams"]
    refined = made_by(run, "make-pseudo/refined")
    assert set(refined) == set(old["cams"]) - {"regions.bank", "tags.scores"}
    assert refined != old["cams"]
    assert made_by(run, "make-pseudo/labels") != old["labels"]
    trained = [] if method == "walk" else ["affinity"]
    current = ["prepare", "train-cls", "cams", *trained, "refined", "labels"]
    assert states(rca, run) == dict.fromkeys(current, "current") | {"train-seg": "missing", "eval": "missing"}
    assert (run / "make-pseudo" / "affinity" / "final.pt").exists() == bool(trained)
    _check_scores(rca, run, method)
    # Once more, from scratch: the same bytes; and what was there is not made again.
    assert rca("make-pseudo", "--run", run).err.strip() == "make-pseudo: up to date"
    shutil.rmtree(run / "make-pseudo" / "refined")
    shutil.rmtree(run / "make-pseudo" / "affinity", ignore_errors=True)
    monkeypatch.setattr(refinement, "waiting_writes", lambda _: 3)  # as on a GPU, whose files other threads write
    assert rca("make-pseudo", "--run", run).code == 0
    assert made_by(run, "make-pseudo/refined") == refined


def _check_scores(rca: Rca, run: Path, method: str) -> None:
    done = rca("eval", "--run", run, "--json")
    assert done.code == 0
    metrics = json.loads(done.out)
    assert list(metrics) == ["cam", "refined", "pseudo"]
    curve = {entry["threshold"]: entry["miou"] for entry in metrics["refined"]["curve"]}
    assert metrics["refined"]["oracle"]
    assert metrics["refined"]["miou"] == max(curve.values())
    assert curve[0.3] == metrics["pseudo"]["miou"]  # without a CRF a label is a refined CAM at the threshold
    assert curve != {entry["threshold"]: entry["miou"] for entry in metrics["cam"]["curve"]}
    for target in ("refined", "pseudo"):
        told = metrics[target]["protocol"]
        assert told["refine"]["method"] == method
        assert all(name == "method" or name.startswith(method) for name in told["refine"])
        assert ("affinity" in told) == (method != "walk")
    assert "refine" not in metrics["cam"]["protocol"]
    assert "refined CAMs" in rca("eval", "--run", run).out


def test_what_a_setting_makes_again(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    assert rca("make-pseudo", "--run", run, *assign("refine.method=affinity", *METHODS["affinity"])).code == 0
    before = {name: (run / "make-pseudo" / name / "stage.json").read_bytes() for name in ("cams", "affinity", "refined", "labels")}

    def made_again(*settings: str) -> list[str]:
        assert rca("make-pseudo", "--run", run, *assign(*settings)).code == 0
        now = {name: (run / "make-pseudo" / name / "stage.json").read_bytes() for name in before}
        changed = [name for name in before if before[name] != now[name]]
        before.update(now)
        return changed

    assert made_again("refine.irn_beta=3", "refine.walk_steps=5", "affinity.thresholds=[0.5, 0.1]") == []
    assert made_again("refine.affinity_beta=3") == ["refined", "labels"]
    assert made_again("affinity.lr=0.03") == ["affinity", "refined", "labels"]
    assert made_again("pseudo.bg_threshold=0.4") == ["labels"]


def test_without_refinement_nothing_of_it_is_written(undisturbed: TinyRun) -> None:
    assert sorted(path.name for path in (undisturbed.path / "make-pseudo").iterdir()) == ["cams", "labels"]


@pytest.mark.parametrize("stop_at", ["labels/train_00005.png", "last.pt", "final.pt"])
def test_training_of_affinities_resumes(
    rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    settings = assign("refine.method=irn", *METHODS["irn"])
    whole, broken = (undisturbed.copy(tmp_path / name, until="make-pseudo/labels") for name in ("whole", "broken"))
    assert rca("make-pseudo", "--run", whole, *settings).code == 0
    with monkeypatch.context() as patch:
        _interrupt_after(patch, stop_at)
        assert rca("make-pseudo", "--run", broken, *settings).code == 130
    assert states(rca, broken)["affinity"] == "running"
    done = rca("make-pseudo", "--run", broken)
    assert done.code == 0
    assert ("resuming after epoch" in done.err) == (stop_at != "labels/train_00005.png")
    for step in ("affinity", "refined", "labels"):
        assert made_by(broken, f"make-pseudo/{step}") == made_by(whole, f"make-pseudo/{step}"), step


def _interrupt_after(patch: pytest.MonkeyPatch, name: str) -> None:
    """Ctrl-C right after the file `name` has been written."""
    import os

    replace = os.replace

    def stop(source: str | Path, target: str | Path) -> None:
        replace(source, target)
        if str(target).endswith(f"make-pseudo/affinity/{name}"):
            raise KeyboardInterrupt

    patch.setattr(os, "replace", stop)


def test_refining_resumes_and_names_a_broken_cam(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/labels")
    cam = run / "make-pseudo" / "cams" / "train_00004.npz"
    good, damaged = cam.read_bytes(), bytearray(cam.read_bytes())
    damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)  # of the same size: only reading tells
    cam.write_bytes(damaged)
    refused = rca("make-pseudo", "--run", run, *assign("refine.method=walk"))
    assert refused.code == 3
    assert str(cam.relative_to(run)) in refused.err
    assert "Traceback" not in refused.err
    refined = run / "make-pseudo" / "refined"
    assert len(list(refined.glob("*.npz"))) == 15  # the others are finished
    cam.write_bytes(good)
    times = {path.name: path.stat().st_mtime_ns for path in refined.glob("*.npz")}
    assert rca("make-pseudo", "--run", run).code == 0
    now = {path.name: path.stat().st_mtime_ns for path in refined.glob("*.npz")}
    assert set(now) - set(times) == {"train_00004.npz"}
    assert all(now[name] == time for name, time in times.items())
    with np.load(refined / "train_00004.npz") as new, np.load(cam) as old:
        np.testing.assert_array_equal(new["cam"].max(axis=(1, 2)), old["cam"].max(axis=(1, 2)))  # 1, or 0 for an empty map
        np.testing.assert_array_equal(new["keys"], old["keys"])


@pytest.mark.parametrize("backend", ["scipy", "torch"])
def test_labels_of_other_photos_are_finished(rca: Rca, undisturbed: TinyRun, tmp_path: Path, backend: str) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/labels")
    cams = run / "make-pseudo" / "cams"
    good = {name: (cams / name).read_bytes() for name in ("train_00002.npz", "train_00004.npz")}
    (cams / "train_00002.npz").write_bytes(b"x" * len(good["train_00002.npz"]))  # of the same size: only reading tells
    with np.load(cams / "train_00004.npz") as arrays:
        other = {**arrays, "size": arrays["size"] + 1}
    np.savez(cams / "train_00004.npz", **other)
    assert (cams / "train_00004.npz").stat().st_size == len(good["train_00004.npz"])
    command = ["make-pseudo", "--run", run, *assign("pseudo.crf=irn", f"pseudo.crf_backend={backend}")]
    refused = rca(*command)
    assert refused.code == 3
    assert "train_00002.npz: not a readable CAM file" in refused.err
    assert "(and 1 more like it)" in refused.err
    labels = run / "make-pseudo" / "labels"
    made = {path.name: path.stat().st_mtime_ns for path in labels.glob("*.png")}
    assert len(made) == len(list(cams.glob("*.npz"))) - 2
    for name, content in good.items():
        (cams / name).write_bytes(content)
    assert rca(*command).code == 0
    now = {path.name: path.stat().st_mtime_ns for path in labels.glob("*.png")}
    assert set(now) - set(made) == {"train_00002.png", "train_00004.png"}
    assert all(now[name] == time for name, time in made.items())
