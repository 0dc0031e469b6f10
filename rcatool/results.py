"""The files that a step has made: which they are, whether they are all there, and their digest."""

import hashlib
import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rcatool.files import sha256_file

_NOT_A_RESULT = ("stage.json", "log.jsonl", "last.pt", "best.pt")
_PACKAGES = ("rcatool", "torch", "torchvision", "numpy", "scipy", "pillow")


def result_files(folder: Path) -> dict[str, int]:
    """Size in bytes of each result file under `folder`, by relative path, sorted; hidden files are nobody's result."""
    found: dict[str, int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if relative not in _NOT_A_RESULT and path.suffix != ".tmp" and not name.startswith("."):
                found[relative] = path.stat().st_size
    return dict(sorted(found.items()))


def digest(folder: Path, files: Iterable[str]) -> str:
    """Hexadecimal digest of names and contents of `files` under `folder`, in the order given."""
    total = hashlib.sha256()
    for name in files:
        total.update(f"{sha256_file(folder / name)} {name}\n".encode("utf-8", errors="surrogateescape"))
    return total.hexdigest()


def described(folder: Path) -> dict[str, Any]:
    """What a record says of a step's files: their digest, number and sizes."""
    files = result_files(folder)
    return {"result": digest(folder, files), "inventory": {"files": len(files), "bytes": sum(files.values()), "sizes": files}}


def damage(folder: Path, recorded: dict[str, int]) -> tuple[list[str], list[str]]:
    """The recorded files that are missing, and those whose size is another; files that were not recorded do not matter."""
    now = result_files(folder)
    missing = [name for name in recorded if name not in now]
    return missing, [name for name, size in recorded.items() if name in now and now[name] != size]


def describe_damage(missing: list[str], altered: list[str]) -> tuple[str, ...]:
    """`2 files missing (first: a.png)`; empty where nothing is wrong."""
    return tuple(
        f"{len(names)} file{'s' if len(names) > 1 else ''} {what} (first: {names[0]})"
        for names, what in ((missing, "missing"), (altered, "changed in size"))
        if names
    )


def sweep(folder: Path, broken: Iterable[str]) -> None:
    """Remove what a killed process left half written, and the `broken` files, so that they are made again."""
    for path in (*folder.rglob("*.tmp"), *(folder / name for name in broken)):
        path.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mib() -> int:
    """Most main memory so far in MiB: of this process, or of one of its finished workers if that took more."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists():  # Linux: what getrusage says begins with the memory of the process that started this one
        own = int(status.read_text().partition("VmHWM:")[2].split()[0])
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes
    return max(own, workers) * unit // 2**20


def now() -> str:
    """The time, for a record."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
