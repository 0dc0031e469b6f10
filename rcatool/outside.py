"""Files and folders outside of the run that settings name: their content counts, not their place."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rcatool.files import sha256_file

OUTSIDE_FILES = ("data.tags", "data.masks", "cls.weights", "affinity.weights", "seg.weights")
OUTSIDE_FOLDERS = ("cam.source",)  # the same, by the names, sizes and times of the files in it
NO_FILES = ("", "masks", "folders", "imagenet", "none", "train-cls")  # the values of these settings that name no file


def outside_files(settings: dict[str, Any], root: str, known: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Path, size, time and digest of each file that `settings` name.

    `known` is what an earlier call returned: a file with the same path, size and time is not read again, and a file that
    is gone since counts as unchanged.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in OUTSIDE_FILES:
        value = str(settings.get(name, ""))
        if value in NO_FILES:
            continue
        path = Path(root, value) if name.startswith("data.") else Path(value)
        before = known.get(name)
        before = before if isinstance(before, dict) and before.get("path") == str(path) else None
        if path.is_file():
            status = path.stat()
            seen = {"path": str(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            unchanged = before is not None and all(before.get(key) == value for key, value in seen.items())
            found[name] = before if unchanged and before else {**seen, "sha256": sha256_file(path)}
        elif before is not None:
            found[name] = before
    for name in OUTSIDE_FOLDERS:
        value = str(settings.get(name, ""))
        if value and Path(value).is_dir():
            found[name] = _folder_contents(Path(value))
        elif value and isinstance(known.get(name), dict) and known[name].get("path") == value:
            found[name] = known[name]
    return found


def _folder_contents(folder: Path) -> dict[str, Any]:
    """Path, number and bytes of the files right in a folder, and the digest of their names, sizes and times."""
    with os.scandir(folder) as entries:
        files = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries if entry.is_file())
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return {"path": str(folder), "files": len(files), "bytes": sum(size for _, size, _ in files), "sha256": digest}
