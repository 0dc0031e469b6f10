"""One function over many items, on all cores, results in order."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import TypeVar

from rcatool import process
from rcatool.errors import DataError, SetupError

T = TypeVar("T")
R = TypeVar("R")

_FEWEST = 4  # items that are worth starting processes for
_AHEAD = 4  # items in flight per process: enough to keep all busy, few enough to stay small

_stopped: Event | None = None  # in a worker process: set when the parent no longer wants results


def worker_count(setting: int) -> int:
    """Processes for a `runtime.workers` setting: -1 means as many as cores that this process of a command has, at most 16."""
    if setting >= 0:
        return setting
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // process.local_size(), 16))


def parallel_map(
    fn: Callable[[T], R], items: Sequence[T], *, workers: int, bar: Callable[[int], object] | None = None, chunk: int = 1
) -> Iterator[R]:
    """Yield `fn(item)` for each item, in order, computed by `workers` processes.

    `fn` must be picklable (a module's function, or functools.partial of one). With one worker or a handful of items it is
    called in this process. Up to `chunk` items go to a process at a time, which pays where a call takes as little as sending its item:
    about 0.2 ms. `bar(1)` is called for each result. An exception of `fn` is raised here unchanged; SetupError if a
    process dies.
    """
    if workers <= 1 or len(items) < _FEWEST:
        results: Iterator[R] = map(fn, items)
    elif (size := min(chunk, len(items) // (workers * _AHEAD))) > 1:
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        results = itertools.chain.from_iterable(_pooled(partial(_each, fn), chunks, min(workers, len(chunks))))
    else:
        results = _pooled(fn, items, min(workers, len(items)))
    for result in results:
        if bar is not None:
            bar(1)
        yield result


def parallel_stream(fn: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """As `parallel_map`, for items that are made one by one and too large to hold all: a few per process are under way at a time."""
    return _pooled(fn, items, workers) if workers > 1 else map(fn, items)


def attempt(fn: Callable[[T], R], item: T) -> R | DataError:
    """`fn(item)`, or the DataError that it raises: for work whose other items are finished when one file is broken."""
    try:
        return fn(item)
    except DataError as error:
        return error


def _each(fn: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [fn(item) for item in items]


def _pooled(fn: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    context = multiprocessing.get_context("spawn")  # fork is unsafe once torch has started threads
    stopped = context.Event()
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(stopped,))
    try:
        yield from _windowed(executor, fn, items, workers * _AHEAD)
    except BrokenProcessPool as error:
        raise SetupError("a worker process died (out of memory?)", "use fewer: --set runtime.workers=1") from error
    finally:
        stopped.set()
        executor.shutdown(wait=True, cancel_futures=True)


def _windowed(executor: ProcessPoolExecutor, fn: Callable[[T], R], items: Iterable[T], window: int) -> Iterator[R]:
    waiting = iter(items)
    running: deque[Future[R]] = deque(executor.submit(_work, fn, item) for item in itertools.islice(waiting, window))
    while running:
        result = running.popleft().result()
        running.extend(executor.submit(_work, fn, item) for item in itertools.islice(waiting, 1))
        yield result


def _start_worker(stopped: Event) -> None:
    global _stopped
    _stopped = stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None
    # A parent that is killed cannot stop its workers: they go by themselves.
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _work(fn: Callable[[T], R], item: T) -> R:
    assert _stopped is not None
    if _stopped.is_set():
        raise InterruptedError("no longer wanted")  # nobody reads this result
    return fn(item)
