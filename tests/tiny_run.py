"""A whole run on a few generated images: real networks, trained in a second or two, and what of it may be compared."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from rcatool.cli import main

STEPS = ("prepare", "train-cls", "make-pseudo/cams", "make-pseudo/labels", "train-seg", "eval")
ROUND_2 = ("make-pseudo/round-2", "train-seg-2")
SECOND = ("second.enabled=true", "second.scales=[1.0, 1.5]", "second.crf=none", "second.confidence=0.6")
NO_RESULTS = ("stage.json", "log.jsonl", "last.pt")

CONFIG = Path(__file__).with_name("tiny.yaml")


class TinyRun(NamedTuple):
    """A finished run directory and the folder of its images; neither must be changed."""

    path: Path
    data: Path

    def copy(self, target: Path, *, until: str = "") -> Path:
        """Copy the run, without the step `until` and those after it (empty: all of it), as if they had never begun."""
        shutil.copytree(self.path, target)
        for step in STEPS[STEPS.index(until) :] if until else ():
            shutil.rmtree(target / step)
        return target


def assign(*settings: str) -> list[str]:
    """The options that set `settings`."""
    return [word for setting in settings for word in ("--set", setting)]


def prepare_arguments(run: Path, data: Path) -> list[str]:
    """The command that prepares a tiny run."""
    return ["prepare", "shapes", "--run", str(run), "--root", str(data), "--config", str(CONFIG)]


def make_tiny_run(folder: Path) -> TinyRun:
    """Prepare and make all steps, undisturbed."""
    tiny = TinyRun(folder / "run", folder / "data")
    for arguments in (prepare_arguments(*tiny), ["run", "--run", str(tiny.path)]):
        assert main(arguments) == 0, arguments
    return tiny


def record(run: Path, step: str) -> dict[str, Any]:
    """What the run says of a step."""
    document: dict[str, Any] = json.loads((run / step / "stage.json").read_text())
    return document


def digests(run: Path) -> dict[str, str]:
    """The result digest of each step that is done."""
    return {step: record(run, step)["result"] for step in STEPS if (run / step / "stage.json").exists()}


def results(run: Path) -> dict[str, str]:
    """SHA-256 of every file of the steps, but for records, logs and the checkpoint that is there to resume from."""
    found = {f"{step}/{name}": digest for step in STEPS for name, digest in contents(run / step).items()}
    return {name: digest for name, digest in found.items() if Path(name).name not in NO_RESULTS}


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file and folder below `folder`."""
    paths = sorted([folder, *folder.rglob("*")])
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}
