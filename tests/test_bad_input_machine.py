"""What a machine can lack: libraries, room on the disk, a place to write to, a run of one's own."""

import errno
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from breaks import undo, unfinished, write
from broken import Case, Rca, check, set_up, table
from conftest import REPOSITORY
from tiny_run import TinyRun, digests


@pytest.fixture(autouse=True)
def _finished_run(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)


# ---- libraries


def test_no_library_for_the_crf(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pydensecrf" else find(name, *rest))
    message, hint = "pydensecrf is not installed", r"--set pseudo\.crf_backend=auto"
    command = "make-pseudo --set pseudo.crf=seed --set pseudo.crf_backend=pydensecrf"
    check(rca, Case("no CRF", (undo("make-pseudo/cams"),), command, 6, message, hint))
    assert not Path("run/make-pseudo/cams").exists()  # known before hours of work, not after
    assert rca("make-pseudo", "--set", "pseudo.crf=seed", "--set", "pseudo.crf_backend=auto").code == 0


def test_a_library_that_does_not_load(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rcatool.stages.train_seg", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    check(rca, Case("no torch", (undo("train-seg"),), "train-seg", 6, "train-seg: a library does not load .*torch", "rca doctor"))


# ---- disk

FULL, ROOM = r"cannot be written \(No space left on device\)", "make room on that disk"


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let files whose path contains `name` be written to a disk that is full."""
    from rcatool import files

    def opened(path: Path, mode: str, **options: Any) -> Any:
        return open("/dev/full" if name in str(path) and "w" in mode else path, mode, **options)

    monkeypatch.setattr(files, "open", opened, raising=False)


@pytest.mark.parametrize(
    ("line", "step", "name"),
    [
        ("prepare shapes", "prepare", "shapes/JPEGImages"),
        ("prepare shapes", "prepare", "prepare/stage.json"),
        ("prepare shapes", "prepare", "manifest.jsonl"),
        ("train-cls", "train-cls", "train-cls/stage.json"),
        ("train-cls", "train-cls", "last.pt"),
        ("train-cls", "train-cls", "final.pt"),
        ("make-pseudo", "make-pseudo/cams", "train_00007.npz"),
        ("make-pseudo", "make-pseudo/labels", "train_00007.png"),
        ("train-seg", "train-seg", "final.pt"),
        ("eval", "eval", "val_00003.png"),
        ("eval", "eval", "metrics.json"),
        ("run --set cls.epochs=4", "", "config.yaml"),
    ],
)  # fmt: skip
def test_full_disk(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch, line: str, step: str, name: str) -> None:
    """What is finished stays, half a file never does, and with room on the disk the same command goes on to the same result."""
    breaks = (undo(step),) if step else ()
    if name.startswith("shapes"):
        line = f"{line} --root shapes"
    with monkeypatch.context() as patch:
        full_disk(patch, name)
        check(rca, Case("full disk", breaks, line, 6, rf"{name}.*: {FULL}", ROOM))
    assert not list(Path().rglob("*.tmp"))
    for command in (line, "run"):
        assert rca(*command.split()).code == 0
    if step:
        assert digests(Path("run")) == digests(undisturbed.path)


def test_full_disk_for_the_log_of_training(rca: Rca) -> None:
    log = Path("run/train-seg/log.jsonl")
    breaks = (unfinished("train-seg"), lambda: log.unlink(), lambda: log.symlink_to("/dev/full"))
    check(rca, Case("full disk", breaks, "train-seg", 6, rf"train-seg/log\.jsonl: {FULL}", ROOM))


def test_full_disk_behind_standard_output() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rcatool", "status", "--run", str(Path("run").absolute())]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (6, "error: a file or standard output: No space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "| true"])
def test_closed_output(closed: str) -> None:
    line = f'"{sys.executable}" -m rcatool status --run "{Path("run").absolute()}" {closed}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_files_that_cannot_be_put_in_place(rca: Rca, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name == "stage.json":
            raise OSError(code, os.strerror(code), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    hint = "make room" if code == errno.EDQUOT else "--run DIR"
    check(rca, Case("read-only", (undo("eval"),), "eval", 6, rf"run/eval/stage\.json: cannot be written \({os.strerror(code)}\)", hint))


@table(
    Case("run that is a file", (write("file"),), "prepare shapes --run file", 6, "file/.*: cannot be written", "--run DIR"),
    Case("run below a file", (write("file"),), "prepare shapes --run file/run", 6, "file/run/.*: cannot be written", "--run DIR"),
    Case("run that is a file, later", (write("file"),), "train-cls --run file", 4, "file: no run here", "rca prepare"),
    Case("run with too long a name", (), f"prepare shapes --run {'x' * 300}", 6, "x+/.*: File name too long"),
    Case("step that is a file", (undo("eval"), write("run/eval")), "eval", 6, r"run/eval.*: cannot be written", "--run DIR"),
    Case("images below a file", (write("file"),), "prepare shapes --root file/images", 6, "file/images.*: cannot be written", "DIR"),
)  # fmt: skip
def test_places_that_cannot_be_written(rca: Rca, case: Case) -> None:
    check(rca, case)


# ---- others

HOLD = """
import fcntl, os, sys
with open("run/.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write(str(os.getpid()))
    lock.flush()
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(_finished_run: None) -> Iterator[int]:
    """Another process that writes to the run."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


WRITING = ("prepare shapes --force", "train-cls --force", "make-pseudo --force", "train-seg --force", "eval --force", "run --set seed=1")


@pytest.mark.parametrize("line", WRITING)
def test_run_in_use(rca: Rca, holder: int, line: str) -> None:
    before = Path("run/config.yaml").read_bytes()
    check(rca, Case("in use", (), line, 4, f"run: in use by process {holder}", f"wait until it is done, or stop it: kill {holder}"))
    assert Path("run/config.yaml").read_bytes() == before
    assert rca("status").code == 0  # whoever only looks need not wait


def test_several_processes(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check(rca, Case("torchrun", (), "prepare shapes --force", 6, "this command works in a single process", "without torchrun"))
