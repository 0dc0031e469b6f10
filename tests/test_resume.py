"""A run that is stopped at any moment and started again ends in the same results as one that was not."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Result
from tiny_run import STEPS, TinyRun, assign, contents, digests, prepare_arguments, record, results

Rca = Callable[..., Result]

# Moments of a step: the n-th time that it puts this file in place.
MOMENTS = [
    ("prepare", "shapes.json", 1),
    ("prepare", "JPEGImages/train_00003.jpg", 1),
    ("prepare", "SegmentationClassAug/val_00005.png", 1),
    ("prepare", "Segmentation/val.txt", 1),
    ("prepare", "tags.txt", 1),
    ("prepare", "shapes.json", 2),
    ("prepare", "prepare/stage.json", 1),
    ("prepare", "prepare/manifest.jsonl", 1),
    ("prepare", "prepare/classes.json", 1),
    ("prepare", "prepare/stage.json", 2),
    ("prepare", "config.yaml", 1),
    ("train-cls", "train-cls/stage.json", 1),
    ("train-cls", "train-cls/last.pt", 1),
    ("train-cls", "train-cls/last.pt", 2),
    ("train-cls", "train-cls/last.pt", 3),
    ("train-cls", "train-cls/final.pt", 1),
    ("train-cls", "train-cls/stage.json", 2),
    ("make-pseudo/cams", "cams/stage.json", 1),
    ("make-pseudo/cams", "cams/train_00000.npz", 1),
    ("make-pseudo/cams", "cams/train_00009.npz", 1),
    ("make-pseudo/cams", "cams/stage.json", 2),
    ("make-pseudo/labels", "labels/stage.json", 1),
    ("make-pseudo/labels", "labels/train_00000.png", 1),
    ("make-pseudo/labels", "labels/train_00009.png", 1),
    ("make-pseudo/labels", "labels/stage.json", 2),
    ("train-seg", "train-seg/stage.json", 1),
    ("train-seg", "train-seg/last.pt", 1),
    ("train-seg", "train-seg/last.pt", 3),
    ("train-seg", "train-seg/final.pt", 1),
    ("train-seg", "train-seg/stage.json", 2),
    ("eval", "eval/stage.json", 1),
    ("eval", "predictions/val_00002.png", 1),
    ("eval", "eval/confusion.npz", 1),
    ("eval", "eval/per_image.npz", 1),
    ("eval", "eval/metrics.json", 1),
    ("eval", "eval/stage.json", 2),
]  # fmt: skip

KILL = """
import os, signal, sys
from rcatool.cli import main
replace, name = os.replace, sys.argv[1]
def kill(source, target):
    if str(target).endswith(name):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = kill
sys.exit(main(sys.argv[2:]))
"""


def start(step: str, undisturbed: TinyRun, folder: Path) -> tuple[Path, list[str]]:
    """A run in which `step` is the next to make, and the command that makes it."""
    run = folder / "stopped"
    if step == "prepare":
        return run, prepare_arguments(run, folder / "stopped-data")
    undisturbed.copy(run, until=step)
    return run, [step.partition("/")[0], "--run", str(run)]


def stop_at(patch: pytest.MonkeyPatch, name: str, number: int, *, late: bool) -> None:
    """Stop the program when it puts a file `name` in place for the n-th time: just before that, or (`late`) just after.

    Just before, half a temporary file of a process that is no more is left, as a kill would leave it.
    """
    replace, count = os.replace, itertools.count(1)

    def stopping(source: Path, target: Path) -> None:
        due = str(target).endswith(name) and next(count) == number
        if due and not late:
            whole = Path(source).read_bytes()
            Path(f"{target}.1.tmp").write_bytes(whole[: len(whole) // 2])
            raise KeyboardInterrupt
        replace(source, target)
        if due:
            raise KeyboardInterrupt

    patch.setattr(os, "replace", stopping)


def check_same(run: Path, undisturbed: TinyRun) -> None:
    """The steps that `run` has are the same, file by file, as those of the undisturbed run."""
    made, expected = digests(run), digests(undisturbed.path)
    assert made == {step: expected[step] for step in made}
    files = results(undisturbed.path)
    assert results(run) == {name: digest for name, digest in files.items() if name.startswith(tuple(f"{step}/" for step in made))}


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("step", "name", "number"), MOMENTS, ids=[f"{step}-{Path(name).name}-{n}" for step, name, n in MOMENTS])
def test_stopped_once(
    rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, name: str, number: int, late: bool
) -> None:
    run, command = start(step, undisturbed, tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, name, number, late=late)
        stopped = rca(*command)
    assert (stopped.code, stopped.err.splitlines()[-1]) == (130, "error: stopped; run the same command to resume")
    assert rca(*command).code == 0
    assert record(run, step)["status"] == "done"
    check_same(run, undisturbed)


@pytest.mark.parametrize(
    ("step", "training_step", "message"),
    [
        ("train-cls", 3, "on cpu\n"),
        ("train-cls", 12, "resuming after epoch 1"),
        ("train-cls", 24, "resuming after epoch 2"),
        ("train-seg", 2, "on cpu\n"),
        ("train-seg", 7, "resuming after epoch 1"),
        ("train-seg", 12, "resuming after epoch 2"),
    ],
)
def test_stopped_within_an_epoch(
    rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, training_step: int, message: str
) -> None:
    from rcatool import engine

    run, command = start(step, undisturbed, tmp_path)
    set_lr, count = engine.set_lr, itertools.count(1)

    def stopping(*arguments: Any) -> None:
        if next(count) == training_step:
            raise KeyboardInterrupt
        set_lr(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "set_lr", stopping)
        assert rca(*command).code == 130
    again = rca(*command)
    assert again.code == 0
    assert message in again.err
    check_same(run, undisturbed)


def test_stopped_again_and_again(rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    for allowed in itertools.count(1):
        with monkeypatch.context() as patch:
            stop_at(patch, "", allowed, late=allowed % 2 == 0)
            code = rca("run", "--run", run).code
        if code == 0:
            break
        assert code == 130
    assert allowed > 8
    assert set(digests(run)) == set(STEPS)
    check_same(run, undisturbed)


@pytest.mark.parametrize(
    ("step", "name", "workers"),
    [
        ("prepare", "JPEGImages/val_00001.jpg", 0),
        ("train-cls", "train-cls/last.pt", 1),
        ("make-pseudo/cams", "cams/train_00007.npz", 0),
        ("make-pseudo/labels", "labels/train_00007.png", 0),
        ("train-seg", "train-seg/final.pt", 0),
        ("eval", "eval/metrics.json", 0),
    ],
)
def test_killed(rca: Rca, undisturbed: TinyRun, tmp_path: Path, step: str, name: str, workers: int) -> None:
    """A process that is really killed: its lock, its child processes and its temporary file are left as they are."""
    run, command = start(step, undisturbed, tmp_path)
    words = [sys.executable, "-c", KILL, name, *command, *assign(f"runtime.workers={workers}")]
    killed = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert rca(*command, *assign("runtime.workers=0")).code == 0
    assert rca("run", "--run", run).code == 0
    assert set(digests(run)) == set(STEPS)
    check_same(run, undisturbed)


def test_force_stopped_is_resumed_without_force(rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = undisturbed.copy(tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(patch, "last.pt", 2, late=True)
        assert rca("train-cls", "--run", run, "--force").code == 130
    [kept] = (run / "old").iterdir()
    assert (kept / "final.pt").read_bytes() == (undisturbed.path / "train-cls" / "final.pt").read_bytes()
    again = rca("run", "--run", run)
    assert "resuming after epoch 2" in again.err
    check_same(run, undisturbed)
    assert [line for line in again.err.splitlines() if "train-seg" in line] == []  # the same result: what follows is current


def test_leftovers_do_not_matter(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    for step in STEPS:
        (run / step / "stage.json.1.tmp").write_text("{")
        (run / step / "a.png.2.tmp").write_bytes(b"half")
    again = rca("run", "--run", run)
    assert (again.code, again.err) == (0, "everything is up to date\n")
    assert digests(run) == digests(undisturbed.path)


def test_damage_is_mended(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    (run / "train-cls" / "final.pt").write_bytes(b"half")
    (run / "make-pseudo" / "cams" / "train_00004.npz").unlink()
    (run / "make-pseudo" / "labels" / "train_00005.png").write_bytes(b"")
    shutil.rmtree(run / "eval" / "predictions")
    assert rca("run", "--run", run).code == 0
    check_same(run, undisturbed)


def test_worker_processes_and_a_second_run_change_nothing(undisturbed: TinyRun, tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    for command in ([*prepare_arguments(run, data), *assign("runtime.workers=2")], ["run", "--run", str(run)]):
        done = subprocess.run([sys.executable, "-m", "rcatool", *command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert contents(data) == contents(undisturbed.data)
    assert set(digests(run)) == set(STEPS)
    check_same(run, undisturbed)


def test_another_seed_gives_other_networks(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    from rcatool.checkpoint import load_state

    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    assert rca("run", "--run", run, *assign("seed=1")).code == 0
    assert digests(run)["train-cls"] != digests(undisturbed.path)["train-cls"]
    for step in ("train-cls", "train-seg"):
        this, other = (load_state(root / step / "final.pt")["model"] for root in (run, undisturbed.path))
        assert list(this) == list(other)
        assert any(not this[name].equal(other[name]) for name in this if name.endswith("weight"))
