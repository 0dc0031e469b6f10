"""Files: written whole or not at all, named safely, told apart by digest."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from rcatool.errors import DataError, SetupError

# What Windows refuses in a name, and what a shell or a terminal would misread.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u2028\u2029]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_LONGEST_NAME = 200


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path` so that a reader sees the old file or the new one, never half of it.

    Missing parent folders are made. Raises SetupError naming the path (disk full, read-only, no permission).
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    atomic_save(path, lambda handle: handle.write(content))


def atomic_save(path: Path, write: Callable[[BinaryIO], object], *, flush: bool = True) -> None:
    """Like `atomic_write`, for a `write` that fills the open file itself (np.savez, torch.save, Image.save).

    Without `flush` a process that dies leaves no half file, but a machine that loses power may: for thousands of small files
    that the caller flushes together and can make again. Raises SetupError naming the path; any other exception of `write`
    passes, and leaves `path` as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as handle:
            write(handle)
            if flush:
                handle.flush()
                os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException as exception:
        with contextlib.suppress(OSError):  # the error that brought us here is the one to report
            temporary.unlink(missing_ok=True)
        # torch.save answers a full disk with a RuntimeError that has the OSError as its context.
        cause = exception.__context__ if isinstance(exception, RuntimeError) else exception
        if isinstance(cause, OSError):
            raise write_error(path, cause) from exception
        raise


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove those of some temporary files whose writers were killed; a process that lives may still be writing to its own."""
    for path in paths:
        if not is_running(path.name.removesuffix(".tmp").rpartition(".")[2]):
            with contextlib.suppress(OSError):
                path.unlink()


def is_running(pid: str) -> bool:
    """Whether there is a process of this number on this machine."""
    if not pid.isdecimal() or int(pid) == 0:
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def write_error(path: str | Path, cause: OSError) -> SetupError:
    """The SetupError that says why `path` could not be written, and what to do."""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "make room on that disk, then run the same command to resume"
    else:
        hint = "choose a folder you may write to with --run DIR"
    return SetupError(f"{path}: cannot be written ({cause.strerror or cause})", hint)


def plain(path: Path) -> Path:
    """`path`, for opening; OSError where it leads to a pipe, a socket or a device, which a reader may wait for for ever."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder is refused by opening it
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    return path


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content. Raises DataError naming the file if it cannot be read."""
    try:
        with open(plain(path), "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def is_path_safe(name: str) -> bool:
    """Whether `name` can be a file's name on any system: no folder, no control character, nothing hidden or reserved."""
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:  # a lone surrogate: bytes that were not UTF-8
        return False
    if not 0 < length <= _LONGEST_NAME or _UNSAFE.search(name) or _DEVICES.fullmatch(name):
        return False
    return name[0] not in "-. " and name[-1] not in ". "


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file; `what` says in an error what the file is. Raises DataError naming the file."""
    try:
        return json.loads(plain(path).read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file ({what})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({what}): {error}") from error


def disk_free(path: Path) -> int:
    """Free bytes on the disk that holds `path`, which need not exist yet."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
