"""Several processes for one command (`--procs N`), on one machine: started, watched, and ended together."""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from rcatool import console, process
from rcatool.errors import ProcessLost, RcaError, SetupError
from rcatool.loading import load

T = TypeVar("T")

_GRACE = 15.0  # seconds to finish writing a file and leave, after which a process is killed
_SECOND_LOOK = 2.0  # seconds in which the process that caused a failure shows itself, where another noticed it first


@contextmanager
def together() -> Iterator[None]:
    """Where this is one of several processes: join the others."""
    if process.size() == 1:
        yield
        return
    with load("ranks").joined():
        yield


def on_first(work: Callable[[], T]) -> T:
    """What `work` returns in the first process; without loading torch where there is one only."""
    return work() if process.size() == 1 else load("ranks").on_first(work)  # type: ignore[no-any-return]


@dataclass
class _Child:
    """One of the processes, and where it tells why it stopped."""

    process: BaseProcess
    told: Connection
    told_to_stop: bool = False

    def problem(self, number: int, count: int) -> BaseException | None:
        """Why it ended, None if well, or because it was told to."""
        with suppress(EOFError, OSError):
            if self.told.poll():
                error: RcaError = self.told.recv()
                return error
        code = self.process.exitcode
        if code in (0, None) or self.told_to_stop:
            return None
        if code == 130:
            return KeyboardInterrupt()
        if code is not None and code < 0:
            why = f"process {number} of {count} was ended by signal {-code}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
            return SetupError(why, "the same command resumes")
        return RuntimeError(f"process {number} of {count} failed, as it says above")


def launch(count: int, work: Callable[..., object], *arguments: object) -> None:
    """Call `work(*arguments)`, a module's function, in `count` processes, with the variables of torchrun in their environment.

    Returns when all are done. As soon as one fails the others are stopped and its RcaError is raised here; SetupError if it was killed.
    No process is left behind, not even where this one is killed.
    """
    with tempfile.TemporaryDirectory(prefix="rca-") as folder:
        children = _start(count, f"{folder}/meeting", work, arguments)
        try:
            problem = _watch(children)
        finally:
            _stop(children)
    if problem is not None:
        raise problem


def _start(count: int, meeting: str, work: Callable[..., object], arguments: tuple[object, ...]) -> list[_Child]:
    context = multiprocessing.get_context("spawn")
    children = []
    for number in range(count):
        theirs, ours = context.Pipe(duplex=False)
        place = {
            "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
            "RCA_MEETING": meeting,
        }  # fmt: skip
        one = context.Process(target=_child, args=(place, console.is_quiet(), ours, work, arguments))
        one.start()
        ours.close()
        children.append(_Child(one, theirs))
    return children


def _watch(children: list[_Child]) -> BaseException | None:
    """Wait for all, or for the first that fails; returns the cause."""
    running = {child.process.sentinel: child for child in children}
    while running:
        ended = [running.pop(sentinel) for sentinel in wait(list(running))]  # type: ignore[call-overload]
        for child in ended:
            child.process.join()
        if any(child.process.exitcode for child in ended):
            wait(list(running), timeout=_SECOND_LOOK)
            time.sleep(0.1)
            break
    problems = [problem for number, child in enumerate(children) if (problem := child.problem(number, len(children)))]
    return min(problems, key=lambda problem: (isinstance(problem, ProcessLost), isinstance(problem, KeyboardInterrupt)), default=None)


def _stop(children: list[_Child]) -> None:
    """End those that are still at work, kindly at first."""
    deadline = time.monotonic() + _GRACE
    for child in children:
        if child.process.is_alive():
            child.told_to_stop = True
            child.process.terminate()
    for child in children:
        child.process.join(max(0.0, deadline - time.monotonic()))
        if child.process.is_alive():
            child.process.kill()
            child.process.join()


def _child(place: dict[str, str], quiet: bool, told: Connection, work: Callable[..., object], arguments: Any) -> None:
    os.environ.update(place)
    console.configure(quiet=quiet)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    code = 0
    try:
        work(*arguments)
    except RcaError as error:
        told.send(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    finally:
        console.attach_log(None)
        for number in (signal.SIGINT, signal.SIGTERM):  # on its way out: told twice, it would complain
            signal.signal(number, signal.SIG_IGN)
    process.leave(code)


def _follow(parent: BaseProcess) -> None:
    """A parent that is killed cannot stop its processes: they go by themselves."""
    parent.join()
    os._exit(1)
