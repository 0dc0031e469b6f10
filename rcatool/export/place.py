"""Where an export goes: a new file or folder, which is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rcatool import console
from rcatool.errors import ConfigError, SetupError


@contextmanager
def new_folder(out: Path, *, force: bool, keep: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the block is done; after an error nothing of it is left.

    Raises as `check_free`; what was in the way is moved aside only then, too.
    """
    target = check_free(out, force=force, keep=keep)
    staging = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        try:
            staging.mkdir(parents=True)
        except OSError as error:
            raise _unusable(target, error.strerror or str(error)) from error
        yield staging
        move_aside(target)
        os.replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def check_free(out: Path, *, force: bool, keep: Sequence[Path] = ()) -> Path:
    """`out` as an absolute path without links, if an export may go there.

    Raises ConfigError where something is there already (an empty folder is not) and `force` is not given, and where `out` is or
    contains one of `keep` or the current folder, which must stay; SetupError where one may not write.
    """
    target = Path(os.path.realpath(out.expanduser()))
    inside = [path for path in (*keep, Path.cwd()) if Path(os.path.realpath(path)).is_relative_to(target)]
    if inside:
        raise ConfigError(f"--out: {inside[0]} is in {target}, which this would replace", "choose a new folder")
    if not force and not _is_free(target):
        raise ConfigError(f"--out: {out} is there already", "choose another name, or add --force to move it aside")
    above = next(folder for folder in target.parents if folder.exists())
    if not above.is_dir():
        raise _unusable(target, f"{above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _unusable(target, f"{above} is not open for writing")
    return target


def move_aside(target: Path) -> None:
    """Rename what is at `target`, so that something new can take its place; nothing is lost."""
    if _is_free(target):
        return
    stem, suffix = (target.name, "") if target.is_dir() else (target.stem, target.suffix)
    aside, number = target.with_name(f"{stem}-old{suffix}"), 2
    while aside.exists():
        aside, number = target.with_name(f"{stem}-old-{number}{suffix}"), number + 1
    os.replace(target, aside)
    console.log(f"export: what was in {target} is now in {aside}")


def _is_free(target: Path) -> bool:
    try:
        return not target.exists() or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise _unusable(target, error.strerror or str(error)) from error


def _unusable(target: Path, reason: str) -> SetupError:
    return SetupError(f"{target}: cannot be written ({reason})", "choose a folder you may write to with --out")
