"""What a run has come to, as tables: its data set, the state of its steps, and its scores."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcatool import console
from rcatool.config import Config
from rcatool.data import census
from rcatool.errors import DataError
from rcatool.files import read_json
from rcatool.run import Run
from rcatool.steps import STEPS, State, first_to_make, is_needed

if TYPE_CHECKING:
    from rich.console import RenderableType


def status(run: Run, config: Config) -> dict[str, Any]:
    """State, reasons, time and command of each step, and the command to type next, as a JSON document."""
    states = run.states(config)
    steps = [
        {
            "step": name,
            "state": state.kind,
            "reasons": _reasons(name, state, config),
            "finished": _finished(run, name),
            "command": STEPS[name].command(run.root, config),
        }
        for name, state in states.items()
    ]
    return {"run": str(run.root), "steps": steps, "next": _next_command(run, config, states)}


def status_json(root: Path) -> str:
    """What `rca status --json` prints, of the run in `root`."""
    run = Run(root)
    return json.dumps(status(run, run.read_config()), indent=2)


def _reasons(step: str, state: State, config: Config) -> list[str]:
    if not is_needed(step, config):
        why = "the network learns true masks" if config.seg.labels == "truth" else f"CAMs come from {config.cam.source}"
        return [*state.reasons, f"not needed: {why}"]
    if step == "make-pseudo/cams" and config.cam.source:
        return [*state.reasons, f"imported from {config.cam.source} ({config.cam.source_format})"]
    return list(state.reasons)


def status_table(document: Mapping[str, Any]) -> "RenderableType":
    """The table of `rca status`."""
    rows = [
        [step["step"], step["state"], (step["finished"] or "").replace("T", " ")[:16], "; ".join(step["reasons"])]
        for step in document["steps"]
    ]
    return console.table(document["run"], ("step", "state", "finished", "why"), rows)


def _finished(run: Run, step: str) -> str | None:
    try:
        record = run.record(step)
    except DataError:  # its state says so
        return None
    return record.get("finished") if record else None


def _next_command(run: Run, config: Config, states: Mapping[str, State]) -> str | None:
    current = {name for name, state in states.items() if state.is_current}
    for name, state in states.items():
        if not state.is_current and is_needed(name, config):
            return STEPS[first_to_make(name, current, config)].command(run.root, config)
    return None


def read_census(run: Run) -> dict[str, Any]:
    """What `rca prepare` counted in the data set. Raises DataError if the file is missing or broken."""
    path, hint = run.dir("prepare") / "summary.json", f"{STEPS['prepare'].command(run.root)} --force"
    try:
        document = read_json(path, "the counts of rca prepare")
    except DataError as error:
        raise DataError(error.message, hint) from error
    if not isinstance(document, dict) or document.get("format") != census.FORMAT:
        raise DataError(f"{path}: not a document of counts", hint)
    return document


def census_table(document: Mapping[str, Any]) -> "RenderableType":
    """Photos by class and split, and the share of the masks' pixels."""
    splits: Mapping[str, Mapping[str, Any]] = document["splits"]
    masked = [split for split in splits if splits[split]["with_mask"]]
    rows = [
        [name, *(counts[split]["tagged"] for split in splits), *(f"{100 * counts[split]['pixels']:.2f}" for split in masked)]
        for name, counts in document["classes"].items()
    ]
    for label, key in (("photos", "photos"), ("with mask", "with_mask")):
        rows.append([label, *(splits[split][key] for split in splits), *("" for _ in masked)])
    return console.table("photos", ("class", *splits, *(f"% of {split} pixels" for split in masked)), rows)


def metrics_path(run: Run) -> Path:
    """Where `rca eval` writes the scores."""
    return run.dir("eval") / "metrics.json"


def read_metrics(run: Run) -> dict[str, dict[str, Any]]:
    """The scores of a run by target. Raises DataError if the file is missing or broken."""
    return {name: scores for name, scores in _document(run).items() if isinstance(scores, dict) and "miou" in scores}


def read_reference(run: Run) -> dict[str, Any] | None:
    """What `rca eval --reference` has stored in metrics.json; None without. Raises DataError as `read_metrics`."""
    found = _document(run).get("reference")
    return found if isinstance(found, dict) else None


def _document(run: Run) -> dict[str, Any]:
    hint = f"{STEPS['eval'].command(run.root)} --force"
    try:
        document = read_json(metrics_path(run), "the scores of rca eval")
    except DataError as error:
        raise DataError(error.message, hint) from error
    if not isinstance(document, dict):
        raise DataError(f"{metrics_path(run)}: not a document of scores", hint)
    return document
