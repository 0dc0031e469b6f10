"""Several processes for one command: started, watched, ended together. What they do here needs no torch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rcatool import process
from rcatool.errors import ConfigError, DataError, ProcessLost, SetupError
from rcatool.launch import launch

HERE = Path(__file__).parent
OUTER = "import sys, test_launch; from rcatool.launch import launch\nif __name__ == '__main__': launch(2, test_launch.rest, sys.argv[1])"


def write_place(folder: str) -> None:
    Path(folder, f"{process.rank()}").write_text(f"{process.size()} {process.local_rank()} {process.local_size()} {os.getpid()}")


def rest(folder: str) -> None:
    write_place(folder)
    time.sleep(300)


def fail(folder: str, kind: str) -> None:
    """The second process fails in some way; the first, which needs it, notices at once or only rests."""
    write_place(folder)
    if process.rank() == 0:
        wait_for(folder, 2)
        if kind == "error, noticed first":
            raise ProcessLost("another process of this command has stopped")
        time.sleep(300)
    wait_for(folder, 2)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "bug":
        raise ZeroDivisionError
    time.sleep(0.5 if kind == "error, noticed first" else 0)
    raise DataError("b.jpg: broken", "mend it")


def wait_for(folder: str | Path, count: int) -> list[int]:
    """The process numbers, once `count` processes have begun."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        words = [path.read_text().split() for path in Path(folder).iterdir() if path.name.isdigit()]
        if len([one for one in words if one]) == count:
            return [int(one[-1]) for one in words]
        time.sleep(0.02)
    raise AssertionError("the processes did not begin")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def all_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(is_alive(pid) for pid in pids)


def test_each_process_knows_its_place(tmp_path: Path) -> None:
    launch(3, write_place, str(tmp_path))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0", "1", "2"]
    for number in range(3):
        assert (tmp_path / str(number)).read_text().split()[:3] == ["3", str(number), "3"]
    assert (process.rank(), process.size(), process.local_size()) == (0, 1, 1)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("error", DataError, "b.jpg: broken"),
        ("error, noticed first", DataError, "b.jpg: broken"),
        ("killed", SetupError, r"process 1 of 2 was ended by signal 9 \(out of memory\?\)"),
        ("bug", RuntimeError, "process 1 of 2 failed, as it says above"),
    ],
)
def test_one_that_fails_ends_the_others(kind: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message) as caught:
        launch(2, fail, str(tmp_path), kind)
    assert not isinstance(caught.value, ProcessLost)
    if isinstance(caught.value, DataError):
        assert caught.value.hint == "mend it"
    assert all_gone(wait_for(tmp_path, 2))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_no_process_is_left_behind(stop: signal.Signals, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    script = tmp_path / "outer.py"
    script.write_text(OUTER)
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "pids")], env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    pids = wait_for(tmp_path / "pids", 2)
    assert all(is_alive(pid) for pid in pids)
    if stop == signal.SIGINT:
        os.killpg(parent.pid, stop)  # as a terminal does
    else:
        parent.kill()
    assert parent.wait(60) != 0
    assert all_gone(pids)


def test_torchrun_and_procs_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rcatool.workflow import Request, _launched

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun has started 2 processes"):
        _launched(Request(tmp_path, procs=3), print)
    assert not _launched(Request(tmp_path), print)
