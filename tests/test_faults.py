"""Faults of a machine in the middle of work: processes that die, memory that ends, clocks that go back, photos that vanish.

Each must be one line and an exit code that says whose fault it was, and the same command must go on to the results of an undisturbed run.
"""

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken import Case, Rca, check_answer, set_up
from conftest import REPOSITORY, Result
from test_resume import check_same, stop_at
from tiny_run import STEPS, TinyRun, contents, digests, results
from torch.utils.data import DataLoader
from torture import Command

from rcatool import pool
from rcatool.data import datasets, loaders
from rcatool.errors import SetupError
from rcatool.loading import limits_watched, load
from rcatool.run import Run

RUN, DATA = Path("run"), Path("data")
READ = datasets.read_image
RESUMES = "the same command resumes"
LOADERS = ["train-cls", "make-pseudo/cams", "train-seg", "eval"]  # the steps whose photos are read by processes of their own


@pytest.fixture(autouse=True)
def _finished_run(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)


def undo(step: str, run: Path = RUN) -> str:
    """As if a step and those after it had never begun; the command that makes it."""
    for name in STEPS[STEPS.index(step) :]:
        shutil.rmtree(run / name)
    return step.partition("/")[0]


def at(number: int, act: Callable[[], object]) -> Callable[[Path], np.ndarray]:
    """In place of `read_image`: reads photos, and does something before the n-th."""
    count = itertools.count(1)

    def read(path: Path) -> np.ndarray:
        if next(count) == number:
            act()
        return READ(path)

    return read


def check_resumed(rca: Rca, word: str, undisturbed: TinyRun) -> None:
    assert rca(word).code == 0
    check_same(RUN, undisturbed)
    assert not list(RUN.rglob("*.tmp"))


# ---- processes


def use_up_memory() -> None:
    """Ask for more memory than this process may have, as NumPy does."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    np.ones(1 << 30, np.uint8)


def processes_of_photos(fault: str) -> None:
    """In a process of its own, which forks the commands: let those that read photos for each step come to harm, and do it again.

    A process may not outlive what torch does on the death of one that reads for it: it raises an error wherever that process is.
    """
    for step in LOADERS:  # what is imported here is there in all forks
        load("stages." + step.partition("/")[0].replace("-", "_"))
    torch.set_num_threads(1)
    acts = {"killed": lambda: os.kill(os.getpid(), signal.SIGKILL), "starved": use_up_memory}
    said = {}
    for step in LOADERS if fault == "killed" else LOADERS[:2]:
        run = Path(f"{fault}-{step.replace('/', '-')}")
        shutil.copytree(RUN, run)
        word = undo(step, run)
        output, answers = Path("output.txt"), []
        for act in (acts[fault], lambda: None):
            datasets.read_image = at(3, act)
            command = Command([word, "--run", str(run), "--set", "runtime.workers=2"], output, fresh=False)
            answers.append([command.wait(120), command.text()])
        said[step] = answers
    print(json.dumps(said))


@pytest.mark.parametrize(
    ("fault", "message"),
    [("killed", r"a process that reads photos died \(out of memory\?\)"), ("starved", "(out of memory|a process that reads photos died)")],
)
def test_processes_that_read_photos(undisturbed: TinyRun, fault: str, message: str) -> None:
    """Both are killed, or have a limit of memory that the kernel enforces: a line, and the same command goes on."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])}
    words = [sys.executable, "-c", f"import test_faults; test_faults.processes_of_photos({fault!r})"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for step, [(code, text), (again, _)] in json.loads(done.stdout).items():
        check_answer(Result(code, "", text), Case(step, (), "", 6, rf"{step.partition('/')[0]}: {message}", RESUMES))
        assert again == 0
        check_same(Path(f"{fault}-{step.replace('/', '-')}"), undisturbed)


@pytest.mark.parametrize("error", [ConnectionResetError(), EOFError(), FileNotFoundError()])
def test_a_batch_that_died_with_its_process(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A process that is killed after it has announced a batch and before that is fetched: what the way to it raises is no traceback."""

    def batches(loader: object) -> Iterator[int]:
        yield 1
        raise error

    monkeypatch.setattr(DataLoader, "__iter__", batches)
    with pytest.raises(SetupError, match="eval: a process that reads photos died"), limits_watched("eval"):
        list(loaders.Loader([1, 2], num_workers=1))
    with pytest.raises(type(error)):
        list(loaders.Loader([1, 2], num_workers=0))  # here it would be a bug


class Deadly(ProcessPoolExecutor):
    """A pool whose processes are killed when the sixth item comes."""

    def submit(self, *arguments: Any, **options: Any) -> Any:
        future = super().submit(*arguments, **options)
        if self._queue_count == 6:
            for process in self._processes.values():
                process.kill()
        return future


@pytest.mark.parametrize("step", ["make-pseudo/labels"])
def test_a_process_of_a_pool_is_killed(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    word = undo(step)
    with monkeypatch.context() as patch:
        patch.setattr(pool, "ProcessPoolExecutor", Deadly)
        killed = rca(word, "--set", "runtime.workers=2")
    check_answer(killed, Case(step, (), "", 6, r"a worker process died \(out of memory\?\)", r"runtime\.workers=1"))
    check_resumed(rca, word, undisturbed)


# ---- the clock


def test_a_clock_that_goes_back(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in one year, resumed twenty years before, with files of a hundred years ahead: no result depends on a time."""
    word = undo("train-cls")
    with monkeypatch.context() as patch:
        stop_at(patch, "train-cls/last.pt", 2, late=True)
        assert rca(word).code == 130
    for path in (*RUN.rglob("*"), *DATA.rglob("*")):
        os.utime(path, (4e9, 4e9))
    before, now = time.time, itertools.count(1_000_000_000, -3600)  # an hour back at each look
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(now)))
        patch.setattr(time, "strftime", lambda form, *at, format=time.strftime: format(form, time.gmtime(next(now))))
        done = rca("run")
    assert time.time is before
    assert done.code == 0
    assert "resuming after epoch 2" in done.err
    check_same(RUN, undisturbed)
    assert set(digests(RUN)) == set(STEPS)
    for path in (*RUN.rglob("*"), *DATA.rglob("*")):
        os.utime(path, (0, 0))
    assert "everything is up to date" in rca("run").err


# ---- a disk that goes away


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("step", "number"), [("train-cls", 21), ("make-pseudo/cams", 7), ("train-seg", 21), ("eval", 2)])
def test_photos_that_vanish(
    rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch, step: str, number: int, workers: int
) -> None:
    """Half-way: one line that names a photo. While they are gone: the same. When they are back, the work goes on."""
    word, away = undo(step), Path("unplugged")
    before = contents(DATA)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "read_image", at(number, lambda: DATA.rename(away)))
        gone = rca(word, "--set", f"runtime.workers={workers}")
    check_answer(gone, Case(step, (), "", 3, r"data/JPEGImages/.*\.jpg: no such file"))
    check_answer(rca(word), Case(step, (), "", 3, r"data/JPEGImages/.*\.jpg: No such file or directory \(and \d+ more photos"))
    away.rename(DATA)
    check_resumed(rca, word, undisturbed)
    assert contents(DATA) == before


def test_masks_that_vanish_while_they_are_counted(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from rcatool import scoring

    word, away, read, count = undo("eval"), Path("unplugged"), scoring.read_mask, itertools.count(1)

    def reading(path: Path, **options: Any) -> np.ndarray:
        if next(count) == 5:
            DATA.rename(away)
        return read(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "read_mask", reading)
        gone = rca(word)
    check_answer(gone, Case("eval", (), "", 3, r"data/SegmentationClassAug/.*\.png: no such file"))
    away.rename(DATA)
    check_resumed(rca, word, undisturbed)


# ---- two at once


def test_two_commands_on_one_run(rca: Rca, undisturbed: TinyRun) -> None:
    """The second stops at once and names the first, which ends as if it were alone."""
    undo("train-cls")
    words = [sys.executable, "-m", "rcatool", "run", "--run", str(RUN.absolute())]
    with subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as first:
        deadline = time.monotonic() + 60
        while (RUN / ".lock").read_text() != str(first.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = [rca(*line.split()) for line in ("train-cls --set cls.lr=1", "eval --force", "prepare shapes --force")]
        assert first.wait(120) == 0
    hint = f"wait until it is done, or stop it: kill {first.pid}"
    for answer in refused:
        check_answer(answer, Case("", (), "", 4, f"run: in use by process {first.pid}", hint))
    assert results(RUN) == results(undisturbed.path)


@pytest.mark.parametrize("content", ["", "1", str(os.getppid()), "4194304", "x" * 5000, "\0\0"])
def test_a_lock_file_that_is_left_holds_nobody_up(content: str) -> None:
    """Whatever it says, of a process that is no more, that is another now, or nothing: what counts is whether somebody holds it."""
    (RUN / ".lock").write_text(content)
    with Run(RUN).lock():
        assert (RUN / ".lock").read_text() == str(os.getpid())
