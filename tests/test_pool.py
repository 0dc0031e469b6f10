"""The process pool: order, errors, dead workers, bounded memory, prompt stop."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from rcatool.errors import DataError, SetupError
from rcatool.pool import parallel_map, worker_count


def square(number: int) -> int:
    time.sleep(0.002 * (number % 3))  # so that results are ready out of order
    return number * number


def process_of(_: int) -> int:
    return os.getpid()


def slow_process_of(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def power(number: int, exponent: int) -> int:
    return number**exponent


def refuse_seven(number: int) -> int:
    if number == 7:
        raise DataError("seven.jpg: truncated", "look at it")
    return number


def divide(number: int) -> float:
    return 1 / (number - 5)


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class Watched(Sequence[int]):
    """Numbers that remember how many were asked for."""

    def __init__(self, length: int) -> None:
        self.length, self.taken = length, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        if index >= self.length:
            raise IndexError
        self.taken = max(self.taken, index + 1)
        return index

    def __iter__(self) -> Iterator[int]:
        for index in range(self.length):
            yield self[index]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(("length", "chunk"), [(0, 1), (1, 1), (30, 1), (3, 5), (33, 5), (35, 5)])
def test_results_are_those_of_map_in_order(workers: int, length: int, chunk: int) -> None:
    counted: list[int] = []
    items = list(range(length))
    assert list(parallel_map(square, items, workers=workers, bar=counted.append, chunk=chunk)) == [n * n for n in items]
    assert counted == [1] * length


def test_partial_functions_travel() -> None:
    assert list(parallel_map(partial(power, exponent=3), range(6), workers=2)) == [0, 1, 8, 27, 64, 125]


def test_work_is_done_elsewhere_only_where_it_pays() -> None:
    assert os.getpid() not in set(parallel_map(process_of, range(8), workers=2))
    assert set(parallel_map(process_of, range(8), workers=1)) == {os.getpid()}
    assert set(parallel_map(process_of, range(2), workers=8)) == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_our_errors_travel_unchanged(workers: int) -> None:
    results = parallel_map(refuse_seven, range(20), workers=workers)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(DataError) as caught:
        next(results)
    assert (caught.value.message, caught.value.hint) == ("seven.jpg: truncated", "look at it")


def test_errors_in_chunks_travel_unchanged() -> None:
    with pytest.raises(DataError, match=r"seven\.jpg: truncated"):
        list(parallel_map(refuse_seven, range(40), workers=2, chunk=4))


def test_all_processes_have_work_where_chunks_would_be_few() -> None:
    assert len(set(parallel_map(slow_process_of, range(8), workers=2, chunk=100))) == 2


def test_bugs_travel_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(divide, range(20), workers=2))


def test_a_dead_worker_is_a_setup_error() -> None:
    with pytest.raises(SetupError, match="worker process died") as caught:
        list(parallel_map(die_at_three, range(20), workers=2))
    assert "runtime.workers=1" in str(caught.value.hint)


def test_no_more_items_in_flight_than_needed() -> None:
    items = Watched(1000)
    results = parallel_map(square, items, workers=2)
    assert next(results) == 0
    assert items.taken < 20
    results.close()  # type: ignore[attr-defined]


def leave_a_mark(number: int, folder: Path) -> int:
    (folder / str(number)).touch()
    time.sleep(0.2)
    return number


def test_leaving_early_starts_nothing_more(tmp_path: Path) -> None:
    results = parallel_map(partial(leave_a_mark, folder=tmp_path), range(1000), workers=2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 7  # of the eight or nine that were handed out


def test_leaving_early_ends_the_processes() -> None:
    for result in parallel_map(square, range(1000), workers=2):
        if result > 10:
            break
    wait_until(lambda: not multiprocessing.active_children())  # asserts that it comes to that


def test_worker_count() -> None:
    assert worker_count(3) == 3
    assert worker_count(0) == 0
    assert worker_count(-1) == min(len(os.sched_getaffinity(0)), 16)


def test_processes_of_a_command_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert worker_count(-1) == 3
    monkeypatch.setenv("WORLD_SIZE", "100")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "20")
    assert worker_count(-1) == 1


SLEEPER = """
import os, sys, time
from pathlib import Path
from rcatool.pool import parallel_map

def work(item):  # the first waits for a signal, so that one process is busy and the other idle
    with open(sys.argv[1], "a") as handle:
        handle.write(f"{os.getpid()}\\n")
    while item == 0 and not Path(sys.argv[2]).exists():
        time.sleep(0.05)

if __name__ == "__main__":
    list(parallel_map(work, range(4), workers=2))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_stopped_command(tmp_path: Path, number: signal.Signals) -> None:
    script, pids, go = tmp_path / "sleeper.py", tmp_path / "pids", tmp_path / "go"
    script.write_text(SLEEPER)
    pids.touch()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with open(tmp_path / "stderr", "w") as stderr:
        # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
        parent = subprocess.Popen(
            [sys.executable, script, pids, go], stderr=stderr, env=environment, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    wait_until(lambda: len(pids.read_text().split()) == 4)
    workers = set(map(int, pids.read_text().split()))
    assert len(workers) == 2
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does
        go.touch()
    else:
        parent.send_signal(number)
    assert parent.wait(timeout=60) == -number
    wait_until(lambda: not any(is_alive(worker) for worker in workers))
    assert "SpawnProcess" not in (tmp_path / "stderr").read_text()  # Ctrl-C is the parent's business alone


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
