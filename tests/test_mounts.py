"""Disks as they are: a small one that fills up, and mounts that cannot be written, in a mount namespace of a process of its own.

Where the system permits no such namespace (containers without the right to mount), the tests are skipped.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from tiny_run import STEPS, TinyRun, contents, digests, prepare_arguments, results

HERE = Path(__file__).parent
WAYS = (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"])  # as root, and as anybody where that is permitted
ROOM = (40, 250, 1200, 4500)  # KiB that are free, one attempt after the other: less than prepare takes, than training takes, enough


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words before a command that runs it where it may mount; the test is skipped where there are none."""
    folder = tmp_path_factory.mktemp("mount")
    for words in WAYS:
        try:
            done = subprocess.run([*words, "mount", "-t", "tmpfs", "none", str(folder)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("no program unshare")
        if done.returncode == 0:
            return words
    pytest.skip(f"no right to mount: {done.stderr.strip()}")


def inside(namespace: list[str], plan: str, folder: Path, *arguments: object) -> Any:
    """What a function of this module prints as JSON, called where it may mount, in `folder`."""
    code = f"import sys, test_mounts; test_mounts.{plan}(*sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HERE)])}
    words = [*namespace, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def rca(*words: object) -> tuple[int, str]:
    """Exit code and standard error of a command, called here."""
    from rcatool.cli import main

    with redirect_stderr(io.StringIO()) as err, redirect_stdout(io.StringIO()):
        code = main([str(word) for word in words])
    return code, err.getvalue()


# ---- a disk that fills up


def fill(disk: Path, free: int) -> None:
    """Leave about `free` KiB of a disk, by a file that takes up the rest."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        size = shutil.disk_usage(disk).free - free * 1024
        file.write(bytes(max(size, 0)))


def on_a_small_disk() -> None:
    """Make all on a disk with little room, then a little more; give what each command said, and the results."""
    disk = Path("disk")
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "none", str(disk))
    run, data, said = disk / "run", disk / "data", []
    for free in ROOM:
        fill(disk, free)
        for words in (prepare_arguments(run, data), ["run", "--run", run]):
            code, err = rca(*words)
            said.append([free, str(words[0]), code, err])
            if code:
                break
    left = [str(path) for path in disk.rglob("*.tmp")]
    shutil.copytree(run, "run")
    shutil.copytree(data, "data")
    print(json.dumps({"said": said, "left": left}))


def test_a_disk_that_fills_up(namespace: list[str], undisturbed: TinyRun, tmp_path: Path) -> None:
    """Each command that finds no room says so in a line, leaves no half file, and goes on when there is more."""
    found = inside(namespace, "on_a_small_disk", tmp_path)
    failed = [(word, err.splitlines()) for _, word, code, err in found["said"] if code]
    assert {code for *_, code, _ in found["said"]} == {0, 6}
    assert {word for word, _ in failed} == {"prepare", "run"}
    assert len(failed) >= 3, found["said"]
    for _, lines in failed:
        *_, error, hint = lines
        assert error.startswith("error: ")
        assert error.endswith("cannot be written (No space left on device)")
        assert hint == "hint: make room on that disk, then run the same command to resume"
        assert sum(line.startswith("error: ") for line in lines) == 1
        assert "Traceback" not in str(lines)
    assert found["said"][-1][2] == 0
    assert not found["left"]
    assert set(digests(tmp_path / "run")) == set(STEPS)
    assert results(tmp_path / "run") == results(undisturbed.path)
    assert contents(tmp_path / "data") == contents(undisturbed.data)


# ---- mounts that cannot be written


def with_a_run_that_cannot_be_written(run: str) -> None:
    """Commands that write to a finished run on a read-only mount, and those that do not; the same when it can be written again."""
    disk = Path("disk")
    disk.mkdir()
    mount("-t", "tmpfs", "none", str(disk))
    shutil.copytree(run, disk / "run")
    before = contents(disk)
    mount("-o", "remount,ro", str(disk))
    there = ["--run", disk / "run"]
    quiet = [rca("status", *there), rca("run", *there), rca("train-seg", *there)]
    writing = (["eval", "--force"], ["run", "--set", "seed=1"], ["report"], ["prepare", "shapes", "--force"])
    refused = [rca(*words, *there) for words in writing]
    same = contents(disk) == before
    mount("-o", "remount,rw", str(disk))
    again = rca("eval", "--force", *there)
    print(json.dumps({"quiet": quiet, "refused": refused, "same": same, "again": again}))


def test_a_run_on_a_read_only_mount(namespace: list[str], undisturbed: TinyRun, tmp_path: Path) -> None:
    found = inside(namespace, "with_a_run_that_cannot_be_written", tmp_path, undisturbed.path)
    assert [code for code, _ in found["quiet"]] == [0, 0, 0], found["quiet"]
    for code, err in found["refused"]:
        assert code == 6
        error, hint = err.splitlines()
        assert error.startswith("error: ")
        assert error.endswith("cannot be written (Read-only file system)")
        assert hint.startswith("hint: ")
    assert found["same"]
    assert found["again"][0] == 0


def with_photos_that_cannot_be_written(data: str, run: str) -> None:
    """Make all steps of photos on a read-only mount."""
    disk = Path("disk")
    disk.mkdir()
    mount("--bind", data, str(disk))
    mount("-o", "remount,bind,ro", str(disk))
    try:
        (disk / "x").touch()
        refuses = False
    except OSError:
        refuses = True
    shutil.copytree(run, "run")
    for step in STEPS[1:]:
        shutil.rmtree(Path("run", step))
    print(json.dumps([refuses, rca("run", "--run", "run", "--set", f"data.root={disk.absolute()}")]))


def test_photos_on_a_read_only_mount(namespace: list[str], undisturbed: TinyRun, tmp_path: Path) -> None:
    refuses, (code, err) = inside(namespace, "with_photos_that_cannot_be_written", tmp_path, undisturbed.data, undisturbed.path)
    assert refuses
    assert code == 0, err
    assert results(tmp_path / "run") == results(undisturbed.path)
