"""Ways to break things, and what must hold however they are broken.

A test that breaks something stands in a folder of its own, with a finished run in `run` and its images in `data`; all paths
here are relative to that folder.
"""

import hashlib
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import Result
from tiny_run import STEPS, TinyRun

Rca = Callable[..., Result]
Break = Callable[[], object]

RUN, DATA = Path("run"), Path("data")


class Case(NamedTuple):
    """How something is broken, the command that meets it, and what it must answer (patterns of message and hint)."""

    how: str
    broken: tuple[Break, ...]
    line: str
    code: int
    message: str
    hint: str = ""


def table(*cases: Case) -> pytest.MarkDecorator:
    """Run a test once for each case."""
    return pytest.mark.parametrize("case", cases, ids=[case.how.replace(" ", "-") for case in cases])


def set_up(undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the finished run and its images into the current folder; it is the run of all commands that name no other."""
    undisturbed.copy(RUN)
    shutil.copytree(undisturbed.data, DATA)
    replace("run/config.yaml", str(undisturbed.data), str(DATA.absolute()))()
    monkeypatch.setenv("RCA_RUN", str(RUN))


def check(rca: Rca, case: Case) -> None:
    """Break, run the command, and compare code, message and hint; whatever was finished and whole must be there still."""
    for broken in case.broken:
        broken()
    finished = finished_files()
    result = rca(*shlex.split(case.line))
    check_answer(result, case)
    assert not finished - all_files(), "a finished file is lost"


def check_answer(result: Result, case: Case) -> None:
    """One line of error and perhaps one of hint, at the end and nowhere else, without a word of Python."""
    *news, last = re.split(r"^(?=error: )", result.err, flags=re.MULTILINE)
    assert result.code == case.code, result.err
    assert len(news) <= 1, result.err
    assert result.out == ""
    lines = last.splitlines()
    assert re.search(rf"^error: .*{case.message}", lines[0]), last
    assert len(lines[0]) < 500
    assert len(lines) == (2 if case.hint else len(lines[:2]))
    assert re.search(rf"^hint: .*{case.hint}", lines[1]) if case.hint else True, last
    assert not re.search(r"Traceback|object at 0x|<class|Errno", result.err), result.err


def finished_files() -> Counter[str]:
    """Name and digest of the files of all steps that are done, as far as they have the size that was recorded."""
    found: Counter[str] = Counter()
    for record in RUN.rglob("stage.json"):
        for name, size in _recorded(record).items():
            path = record.parent / name
            if path.is_file() and path.stat().st_size == size:
                found[_identity(path)] += 1
    return found


def all_files() -> Counter[str]:
    """Name and digest of every file of the run, put aside or not."""
    return Counter(_identity(path) for path in RUN.rglob("*") if path.is_file())


def _identity(path: Path) -> str:
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _recorded(record: Path) -> dict[str, int]:
    """The sizes of a step's files; none where the record is broken or the step not done."""
    try:
        document = json.loads(record.read_bytes())
        return dict(document["inventory"]["sizes"]) if document["status"] == "done" else {}
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}


# ---- ways to break files


def undo(step: str) -> Break:
    """As if `step` and those after it had never begun."""
    return lambda: [shutil.rmtree(RUN / name) for name in STEPS[STEPS.index(step) :]]


def write(path: str, content: str | bytes = b"") -> Break:
    """Put a file there, in place of what is there."""

    def broken() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return broken


def cut(path: str, share: float = 0.5) -> Break:
    """Leave the first part of a file only."""
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[: int(share * Path(path).stat().st_size)])


def spoil(path: str) -> Break:
    """Overwrite the second half of a file; its size stays, so that a look at sizes does not tell."""

    def broken() -> None:
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: len(data) // 2] + b"\x55" * (len(data) - len(data) // 2))

    return broken


def remove(path: str) -> Break:
    """Delete a file or folder."""
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def rename(path: str, to: str) -> Break:
    """Give a file another name."""
    return lambda: Path(path).rename(to)


def replace(path: str, old: str, new: str) -> Break:
    """Replace the first occurrence of a text in a file."""

    def broken() -> None:
        text = Path(path).read_text()
        assert old in text, f"{path} has no {old}"
        Path(path).write_text(text.replace(old, new, 1))

    return broken


def grow(path: str, size: int) -> Break:
    """Make a file as large as `size` bytes, without taking up that room."""

    def broken() -> None:
        with open(path, "ab") as handle:
            handle.truncate(size)

    return broken


def unnoticed(step: str) -> Break:
    """Let the record of a step say that its files have the sizes that they have now, as if the disk had garbled them later."""

    def broken() -> None:
        path = RUN / step / "stage.json"
        record = json.loads(path.read_bytes())
        record["inventory"]["sizes"] = {name: (RUN / step / name).stat().st_size for name in record["inventory"]["sizes"]}
        path.write_text(json.dumps(record))

    return broken


def unfinished(step: str) -> Break:
    """As if `step` had been stopped before its end."""

    def broken() -> None:
        path = RUN / step / "stage.json"
        record = json.loads(path.read_bytes())
        path.write_text(json.dumps({key: record[key] for key in ("fingerprint", "settings", "inputs", "outside")} | {"status": "running"}))

    return broken


def change_npz(path: str, change: Callable[[dict[str, Any]], object]) -> Break:
    """Change the arrays of an npz file."""

    def broken() -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        change(arrays)
        np.savez(path, **arrays)

    return broken


def change_checkpoint(path: str, change: Callable[[dict[str, Any]], object]) -> Break:
    """Change what a checkpoint holds."""

    def broken() -> None:
        import torch

        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return broken
