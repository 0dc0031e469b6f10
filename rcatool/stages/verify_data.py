"""The data set of a run, file by file, against what was recorded of it: for data that was copied, moved or restored."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rcatool import console
from rcatool.config import Config
from rcatool.data.labels import read_classes
from rcatool.data.manifest import Sample, first_few, read_manifest
from rcatool.data.photo_files import PHOTO_SUFFIXES
from rcatool.errors import ConfigError, DataError
from rcatool.files import atomic_write, sha256_file
from rcatool.pool import parallel_map, worker_count
from rcatool.run import Run

PROBLEMS = "verify-problems.txt"
SHOWN = 20  # problems on the terminal; all of them are in the file
CHUNK = 16  # photos that a process is sent at a time
MISSING, CHANGED = "missing", "changed"
Finding = tuple[str, str, str]  # missing or changed, path relative to data.root, what is wrong


@dataclass(frozen=True)
class Verified:
    """What became of the files of a data set; paths are relative to data.root."""

    photos: int
    masks: int
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # beside the files, in no split
    lines: list[str] = field(default_factory=list)  # one for each file that is missing or changed
    undigested: int = 0  # masks of which the manifest has no digest

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        keys = ("photos", "masks", "missing", "changed", "extra", "undigested")
        return {"ok": not self.lines, **{key: getattr(self, key) for key in keys}}


def main(run: Run, config: Config) -> Verified:
    """Read every photo and mask of the run's manifest below data.root; show, and list in a file, which are not what they were."""
    root = Path(config.data.root)
    if not root.is_absolute():
        raise ConfigError(f"data.root is {config.data.root!r}, expected the absolute path of the data set's folder")
    found = _verify(run, root, workers=worker_count(config.runtime.workers))
    if found.extra:
        console.log(f"{len(found.extra)} other files beside these are in no split: {first_few(found.extra)}")
    if found.undigested:
        console.warn(f"{found.undigested} masks were prepared without a digest: nothing but that they are there was checked")
    for line in found.lines[:SHOWN]:
        console.warn(line)
    if found.lines:
        atomic_write(run.root / PROBLEMS, "".join(f"{line}\n" for line in found.lines))
    else:
        (run.root / PROBLEMS).unlink(missing_ok=True)
    return found


def _verify(run: Run, root: Path, *, workers: int) -> Verified:
    folder = run.dir("prepare")
    info = read_classes(folder / "classes.json")
    samples = read_manifest(folder / "manifest.jsonl", num_classes=info.num_classes)
    masked = [sample for sample in samples if sample.mask is not None]
    found = Verified(len(samples), len(masked), undigested=sum(sample.mask_sha256 is None for sample in masked))
    for kind, path, what in _findings(samples, root, workers=workers):
        (found.missing if kind == MISSING else found.changed).append(path)
        found.lines.append(f"{root / path}: {what}")
    found.extra.extend(_extra(samples, root))
    return found


def _findings(samples: Sequence[Sample], root: Path, *, workers: int) -> Iterator[Finding]:
    with console.progress("verifying photos and masks", len(samples)) as bar:
        for findings in parallel_map(partial(_check, root=root), samples, workers=workers, bar=bar.advance, chunk=CHUNK):
            yield from findings


def _check(sample: Sample, *, root: Path) -> list[Finding]:
    findings = _check_file(sample.image, root, digest=sample.sha256, size=sample.bytes)
    if sample.mask is not None:
        findings += _check_file(sample.mask, root, digest=sample.mask_sha256, size=None)
    if sample.saliency is not None:
        findings += _check_file(sample.saliency, root, digest=sample.saliency_sha256, size=None)
    return findings


def _check_file(name: str, root: Path, *, digest: str | None, size: int | None) -> list[Finding]:
    """Return what is wrong with one file, in a list of none or one."""
    path = root / name
    try:
        found = path.stat().st_size
        if size is not None and found != size:
            return [(CHANGED, name, f"{found} bytes, expected {size}")]
        if digest is not None and sha256_file(path)[:16] != digest:
            return [(CHANGED, name, "other content than when it was prepared")]
    except FileNotFoundError:
        return [(MISSING, name, "no such file")]
    except (OSError, DataError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message.removeprefix(f"{path}: ")
        return [(CHANGED, name, f"cannot be read ({reason})")]
    return []


def _extra(samples: Sequence[Sample], root: Path) -> list[str]:
    """Return the photos and mask PNGs beside those of the manifest, sorted."""
    found: set[str] = set()
    known: set[str] = set()
    for names, suffixes in (([s.image for s in samples], PHOTO_SUFFIXES), ([s.mask for s in samples if s.mask], (".png",))):
        known.update(names)
        for parent in {name.rpartition("/")[0] for name in names}:
            if (root / parent).is_dir():
                there = (name for name in os.listdir(root / parent) if name.lower().endswith(suffixes) and not name.startswith("."))
                found.update(f"{parent}/{name}" if parent else name for name in there)
    return sorted(found - known)
