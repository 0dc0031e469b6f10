"""`rca import-cams` on a whole small run. Oracles: the run's own CAMs in another's clothes, files and records on disk."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import TinyRun, contents, record

from rcatool.data.labels import read_mask
from rcatool.data.manifest import Sample, read_manifest

Rca = Callable[..., Any]
CAMS = "make-pseudo/cams"
REPOSITORY = Path(__file__).resolve().parents[1]


def tagged(run: Path) -> list[Sample]:
    return [sample for sample in read_manifest(run / "prepare/manifest.jsonl") if sample.split == "train"]


def stored(run: Path, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    with np.load(run / CAMS / f"{sample.id}.npz") as archive:
        return archive["keys"].astype(np.int64), archive["cam"]


def write_files(run: Path, folder: Path, *, first: int = 0) -> Path:
    """The CAMs of a run as PSA's program would store them."""
    folder.mkdir(parents=True)
    for sample in tagged(run):
        keys, cam = stored(run, sample)
        np.save(folder / f"{sample.id}.npy", {int(key) + first: one for key, one in zip(keys, cam, strict=True)})  # type: ignore[arg-type]
    return folder


@pytest.fixture
def files(undisturbed: TinyRun, tmp_path: Path) -> Path:
    return write_files(undisturbed.path, tmp_path / "cams")


@pytest.fixture
def run(undisturbed: TinyRun, tmp_path: Path) -> Path:
    """A run that has been prepared only."""
    return undisturbed.copy(tmp_path / "run", until="train-cls")


def test_imported_cams_give_the_same_labels_without_a_network(rca: Rca, undisturbed: TinyRun, run: Path, files: Path) -> None:
    assert rca("import-cams", files, "--format", "psa", "--run", run).code == 0
    assert rca("make-pseudo", "--run", run).code == 0
    assert not (run / "train-cls").exists()
    for step in (CAMS, "make-pseudo/labels"):
        ours, theirs = contents(run / step), contents(undisturbed.path / step)
        assert {name for name in ours if ours[name] != theirs[name]} == {"stage.json"}
    imported = record(run, CAMS)["info"]["imported"]
    assert (imported["from"], imported["format"], imported["files"], imported["tags_missing"]) == (str(files), "psa", 16, 0)


def test_run_needs_no_network_and_eval_tells_where_cams_are_from(rca: Rca, run: Path, files: Path) -> None:
    assert rca("import-cams", files, "--format", "psa", "--run", run).code == 0
    code, out, _ = rca("status", "--run", run)
    assert code == 0
    assert f"not needed: CAMs come from {files}" in out
    assert "next: rca make-pseudo" in out
    # Epochs of a network that is not needed cost nothing.
    assert rca("run", "--run", run, "--set", "seg.epochs=1", "--set", "cls.epochs=100000").code == 0
    assert not (run / "train-cls").exists()
    protocol = json.loads((run / "eval/metrics.json").read_text())["cam"]["protocol"]
    assert protocol["imported"]["format"] == "psa"
    assert protocol["cam"]["source"].startswith("sha256:")
    assert "nothing, everything is up to date" in rca("status", "--run", run).out
    assert "everything is up to date" in rca("run", "--run", run).err


def test_affinities_of_their_own_need_no_network_either(rca: Rca, run: Path, files: Path) -> None:
    settings = ("refine.method=irn", "affinity.weights=none", "affinity.epochs=1", "affinity.crop_size=48", "affinity.photos=4")
    assert rca("import-cams", files, "--format", "psa", "--run", run).code == 0
    assert rca("make-pseudo", "--run", run, *(word for one in settings for word in ("--set", one))).code == 0
    assert not (run / "train-cls").exists()
    assert len(list((run / "make-pseudo" / "refined").glob("*.npz"))) == len(tagged(run))
    for setting in ("affinity.weights=train-cls", "refine.method=walk"):
        done = rca("make-pseudo", "--run", run, "--set", setting)
        assert done.code == 4
        assert "needs the output of train-cls" in done.err


def test_our_settings_do_not_touch_them_and_ours_come_back_on_request(rca: Rca, undisturbed: TinyRun, tmp_path: Path, files: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    before = contents(run / CAMS)
    assert rca("import-cams", files, "--format", "psa", "--run", run).code == 0
    assert "up to date" in rca("import-cams", files, "--format", "psa", "--run", run).err
    assert list(run.glob("old/make-pseudo/cams-*")), "the CAMs of our network are kept"
    at = record(run, CAMS)
    assert rca("train-cls", "--run", run, "--set", "cls.epochs=1", "--set", "cam.scales=[1.0]", "--set", "cam.head=p").code == 0
    assert rca("make-pseudo", "--run", run, "--set", "pseudo.bg_threshold=0.5").code == 0
    assert record(run, CAMS) == at
    assert rca("make-pseudo", "--run", run, "--set", "cam.source=").code == 0
    assert "imported" not in record(run, CAMS)["info"]
    assert contents(run / CAMS) != before  # another network


def test_files_that_change_are_imported_again_and_files_that_are_gone_are_not_missed(rca: Rca, run: Path, files: Path) -> None:
    assert rca("import-cams", files, "--format", "psa", "--run", run).code == 0
    before = contents(run / CAMS)
    sample = tagged(run)[0]
    np.save(files / f"{sample.id}.npy", {key: np.eye(*sample.size, dtype=np.float32) for key in sample.classes})  # type: ignore[arg-type]
    status = json.loads(rca("status", "--json", "--run", run).out)["steps"]
    reasons = next(step["reasons"] for step in status if step["step"] == CAMS)
    assert reasons[0].startswith("cam.source: sha256:")
    assert reasons[1] == f"imported from {files} (psa)"
    assert rca("make-pseudo", "--run", run).code == 0
    after = contents(run / CAMS)
    assert {name for name in after if after[name] != before[name]} == {f"{sample.id}.npz", "stage.json"}
    shutil.rmtree(files)
    assert rca("make-pseudo", "--run", run, "--set", "pseudo.bg_threshold=0.6").code == 0
    code, _, err = rca("make-pseudo", "--run", run, "--force")
    assert (code, err.count("\n")) == (2, 2)
    assert f"cam.source: {files} is not a folder" in err
    assert contents(run / CAMS) == after


def test_missing_files_stop_it_or_leave_photos_out(rca: Rca, run: Path, files: Path) -> None:
    lost = [sample.id for sample in tagged(run)[3:5]]
    for name in lost:
        (files / f"{name}.npy").unlink()
    code, _, err = rca("import-cams", files, "--format", "psa", "--run", run)
    assert (code, err.count("\n")) == (3, 2)
    assert f"no CAM file for 2 of 16 photos: {lost[0]}, {lost[1]}" in err
    assert "--allow-missing" in err
    assert not (run / CAMS).exists()
    assert "source:" in (run / "config.yaml").read_text()
    assert str(files) not in (run / "config.yaml").read_text()
    code, _, err = rca("import-cams", files, "--format", "psa", "--allow-missing", "--run", run)
    assert code == 0
    assert "2 photos have no CAM file; their labels will be ignore (255) everywhere" in err
    assert rca("make-pseudo", "--run", run).code == 0
    for sample in tagged(run):
        label = read_mask(run / f"make-pseudo/labels/{sample.id}.png", num_classes=20, size=sample.size)
        assert bool((label == 255).all()) == (sample.id in lost)


def test_classes_counted_from_1_are_refused_and_read_when_told(rca: Rca, undisturbed: TinyRun, run: Path, tmp_path: Path) -> None:
    files = write_files(undisturbed.path, tmp_path / "from-1", first=1)
    code, _, err = rca("import-cams", files, "--format", "psa", "--run", run, "--set", "runtime.workers=1")
    assert code == 3
    assert "--first-class 1" in err
    assert rca("import-cams", files, "--format", "psa", "--first-class", "1", "--run", run).code == 0
    ours, theirs = contents(run / CAMS), contents(undisturbed.path / CAMS)
    assert {name for name in ours if ours[name] != theirs[name]} == {"stage.json"}


def test_our_own_files_of_another_run_can_be_imported(rca: Rca, undisturbed: TinyRun, run: Path) -> None:
    assert rca("import-cams", undisturbed.path / CAMS, "--format", "npz", "--run", run).code == 0
    ours, theirs = contents(run / CAMS), contents(undisturbed.path / CAMS)
    assert {name for name in ours if ours[name] != theirs[name]} == {"stage.json"}


@pytest.mark.parametrize("layout", ["irn", "psa", "npz"])
def test_our_cams_go_out_and_come_back(rca: Rca, undisturbed: TinyRun, run: Path, layout: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert rca("export", "cams", "--run", undisturbed.path, "--format", layout, "--out", out).code == 0
    assert rca("import-cams", out, "--format", layout, "--run", run).code == 0
    for sample in tagged(run):
        ours, theirs = stored(run, sample), stored(undisturbed.path, sample)
        assert ours[0].tolist() == theirs[0].tolist()
        # Enlarged to the photo's size and averaged again, a map loses some of its finest detail.
        close = 0 if layout == "npz" else 0.35
        assert float(np.abs(ours[1].astype(np.float32) - theirs[1].astype(np.float32)).max()) <= close
    assert rca("export", "cams", "--run", undisturbed.path, "--out", out).code == 2  # it is there already


def test_irns_own_code_can_use_an_export(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    assert rca("export", "cams", "--run", undisturbed.path, "--format", "irn", "--out", tmp_path / "out").code == 0
    sample = tagged(undisturbed.path)[0]
    found = np.load(tmp_path / "out" / f"{sample.id}.npy", allow_pickle=True).item()
    assert found["keys"].tolist() == list(sample.classes)
    assert np.pad(found["keys"] + 1, (1, 0)).tolist() == [0, *(key + 1 for key in sample.classes)]
    assert found["cam"].cpu().shape == (len(sample.classes), -(-sample.size[0] // 4), -(-sample.size[1] // 4))
    assert found["high_res"].shape == (len(sample.classes), *sample.size)
    np.testing.assert_allclose(found["high_res"].max(axis=(1, 2)), 1, atol=1e-6)


def test_export_needs_current_cams(rca: Rca, run: Path, tmp_path: Path) -> None:
    code, _, err = rca("export", "cams", "--run", run, "--out", tmp_path / "out")
    assert (code, err.count("\n")) == (4, 2)
    assert "export cams needs the output of make-pseudo" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere", "--format", "psa"), 2, "nowhere is not a folder"),
        ((".", "--format", "psa"), 3, "no CAM file, such as "),
        (("cams", "--format", "rca"), 2, "invalid value for '--format'"),
        (("cams", "--format", "psa", "--first-class", "2"), 2, "--first-class"),
        (("cams", "--format", "irn"), 3, ".npy: it has no `keys`, but `"),
        (("cams", "--format", "npz"), 3, "no CAM file, such as"),
    ],
)
def test_bad_input_is_one_line(
    rca: Rca, run: Path, files: Path, arguments: tuple[str, ...], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.parent)
    found = rca("import-cams", *arguments, "--run", run)
    assert found.code == code
    assert message in found.err
    assert not (run / CAMS).exists()  # nothing has begun
    assert "Traceback" not in found.err


def test_before_prepare(rca: Rca, files: Path, tmp_path: Path) -> None:
    code, _, err = rca("import-cams", files, "--format", "psa", "--run", tmp_path / "none")
    assert code == 4
    assert "rca prepare" in err


def test_broken_files_are_named_and_the_rest_is_finished(rca: Rca, undisturbed: TinyRun, run: Path, files: Path) -> None:
    names = sorted(path.name for path in files.iterdir())
    good = (files / names[9]).read_bytes()
    (files / names[9]).write_bytes(good[:-7])
    other = (files / names[11]).read_bytes()
    (files / names[11]).write_bytes(b"")
    code, _, err = rca("import-cams", files, "--format", "psa", "--run", run, "--set", "runtime.workers=1")
    assert code == 3
    assert f"{names[9]}: not a dict of arrays that can be read safely" in err
    assert "(and 1 more like it)" in err
    assert len(list((run / CAMS).glob("*.npz"))) == len(names) - 2
    # The files are other than they were: what had been read of the folder may be, too, and is read again.
    (files / names[9]).write_bytes(good)
    (files / names[11]).write_bytes(other)
    assert rca("import-cams", files, "--format", "psa", "--run", run, "--set", "runtime.workers=1").code == 0
    ours, theirs = contents(run / CAMS), contents(undisturbed.path / CAMS)
    assert {name for name in ours if ours[name] != theirs[name]} == {"stage.json"}


DIES = """
import os, signal, sys
import numpy as np
from rcatool import cams
from rcatool.cli import main

real, calls = np.savez, []

def savez(file, **arrays):
    calls.append(file)
    if len(calls) > 10:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    real(file, **arrays)

cams.np.savez = savez
main(sys.argv[1:])
"""


def test_killed_in_the_middle_it_resumes(rca: Rca, undisturbed: TinyRun, run: Path, files: Path, tmp_path: Path) -> None:
    arguments = ["import-cams", str(files), "--format", "psa", "--run", str(run), "--set", "runtime.workers=1"]
    done = subprocess.run([sys.executable, "-c", DIES, *arguments], cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    made = {path.name: path.stat().st_mtime_ns for path in (run / CAMS).glob("*.npz")}
    assert len(made) == 10
    assert record(run, CAMS)["status"] == "running"
    code, _, err = rca(*arguments)
    assert code == 0
    assert "10 are there already" in err
    assert {name: (run / CAMS / name).stat().st_mtime_ns for name in made} == made
    ours, theirs = contents(run / CAMS), contents(undisturbed.path / CAMS)
    assert {name for name in ours if ours[name] != theirs[name]} == {"stage.json"}
    assert record(run, CAMS)["info"]["imported"]["photos_read_before"] == 10
