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
from typing import NamedTuple

import pytest
from breaks import RUN, Break, replace
from conftest import Result
from small_voc import make_mask, make_photo, make_voc
from tiny_run import TinyRun, digests

Rca = Callable[..., Result]

DATA = Path("data")
PREPARE_VOC = "prepare voc --root voc"
PREPARE_FOLDER = "prepare folder --images photos --tags tags.csv"
COMPLETE_LIST = r"complete list in run/prepare-problems\.txt"


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


def make_data_sets() -> None:
    """Two more data sets in the current folder, for `PREPARE_VOC` and `PREPARE_FOLDER`."""
    make_voc(Path("voc"))
    for seed, name in enumerate("abc"):
        make_photo(Path("photos", f"{name}.jpg"), seed)
        make_mask(Path("masks", f"{name}.png"), [1, 255])
    Path("tags.csv").write_text("image,tags\na.jpg,cat\nb.jpg,cat;dog\nc.jpg,dog\n")


def check(rca: Rca, case: Case) -> None:
    """Break, run the command, and compare code, message and hint; whatever was finished and whole must be there still."""
    for broken in case.broken:
        broken()
    finished = finished_files()
    result = rca(*shlex.split(case.line))
    check_answer(result, case)
    assert not finished - all_files(), "a finished file is lost"
    assert not Path("hacked").exists()


def check_prepare(rca: Rca, case: Case) -> None:
    """Also, a data set that cannot be used leaves the run as it was, settings and all: every step is still current."""
    before = digests(RUN), Path("run/config.yaml").read_bytes()
    check(rca, case)
    assert (digests(RUN), Path("run/config.yaml").read_bytes()) == before
    assert "everything is up to date" in rca("run").err


def check_answer(result: Result, case: Case) -> None:
    """One line of error and perhaps one of hint, at the end and nowhere else, without a word of Python."""
    *news, last = re.split(r"^(?=error: )", result.err, flags=re.MULTILINE)
    assert result.code == case.code, result.err
    assert len(news) <= 1, result.err
    assert result.out == ""
    error, *hint = last.splitlines()
    assert re.search(rf"^error: .*{case.message}", error), last
    assert len(error) < 500
    assert len(hint) <= 1, last
    assert not case.hint or re.search(rf"^hint: .*{case.hint}", "".join(hint)), last
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
