"""One writer per run: a lock that a crash frees."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rcatool.errors import StageError
from rcatool.files import is_running, remove_leftovers, write_error

_ORPHANS = 10.0  # seconds that child processes of a killed command may take to end, the lock still in their hands


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which stays when freed, and clear what a killed holder left half written beside it.

    Raises StageError at once if another process holds it, naming that.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        _acquire(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        remove_leftovers(path.parent.glob("*.tmp"))
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _ORPHANS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", errors="replace").strip()
            alive = is_running(holder)
            if alive or time.monotonic() > deadline:
                orphans = "it is no more, but processes that it started have not ended yet: try again in a minute"
                hint = f"wait until it is done, or stop it: kill {holder}" if alive else orphans
                raise StageError(f"{path.parent}: in use by process {holder or '(unknown)'}", hint) from None
            time.sleep(0.1)
        except OSError as error:  # a file system without locks
            raise write_error(path, error) from error
