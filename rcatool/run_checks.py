"""What may be wrong with a run though every command has ended well: the findings of `rca doctor --run`.

Each was a warning of the command that could see it first. All are read from the run's records, but for weights, which are looked at.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rcatool import steps
from rcatool.data.census import oddities
from rcatool.data.mismatch import mismatches
from rcatool.doctor import Check, probe
from rcatool.errors import DataError
from rcatool.files import read_json
from rcatool.metrics import sweep_edge
from rcatool.run import Run

_NETWORKS = ("train-cls", "train-seg", "train-seg-2")
_FINITE = """
import json
from pathlib import Path
from rcatool.checkpoint import load_state
from rcatool.models.input_fit import not_finite
print(json.dumps({{"wrong": not_finite(load_state(Path({path!r}))["model"])}}))
"""


def check_run(run: Run) -> list[Check]:
    """The findings of a run directory; none where there is no run."""
    if not run.config_path.exists():
        return []
    try:
        return [*_data(run), *_weights(run), *_scores(run)]
    except (DataError, KeyError, TypeError, AttributeError, ValueError) as error:
        return [Check("run", "fail", f"a record cannot be read: {error}", "rca status says which step to make again")]


def _data(run: Run) -> Iterator[Check]:
    path = run.dir("prepare") / "summary.json"
    if not path.exists():
        yield Check("data", "warn", "not prepared", "rca prepare")
        return
    document = read_json(path, "the census of the data set")
    wrong = mismatches(document)
    yield from (Check("tags and masks", "warn", line, "compare a few masks with their photos, and the lists of classes") for line in wrong)
    if not wrong:
        known = any(split["with_mask_and_tags"] for split in document["splits"].values())
        yield Check("tags and masks", "ok", "go together" if known else "cannot be compared: no photo has both")
    lines = oddities(document)
    yield from (Check("photos", "warn", line, f"the complete list: {path}") for line in lines)
    if not lines:
        yield Check("photos", "ok", "nothing suspicious; no photo is in two splits, every class has training photos")


def _weights(run: Run) -> Iterator[Check]:
    for step in _NETWORKS:
        record = run.record(step)
        if record is None or record["status"] != "done":
            continue
        path = run.dir(step) / "final.pt"
        found, error = probe(_FINITE.format(path=str(path)))
        again = f"{steps.STEPS[step].command(run.root)} --force"
        if found is None:
            yield Check(f"{step} weights", "fail", f"{path} cannot be read: {error}", again)
        elif found["wrong"]:
            yield Check(f"{step} weights", "fail", f"{len(found['wrong'])} tensors are not finite (first: {found['wrong'][0]})", again)
        else:
            yield Check(f"{step} weights", "ok", "finite")
        said = record["info"].get("input", "")
        if said:
            yield Check(f"{step} input", "warn", said, "rca convert-weights makes weights of other programs fit")


def _scores(run: Run) -> Iterator[Check]:
    path = run.dir("eval") / "metrics.json"
    if not path.exists():
        return
    metrics: Mapping[str, Any] = read_json(path, "the scores")
    for target in ("cam", "refined"):
        if target in metrics:
            edge = sweep_edge(metrics[target])
            yield Check(f"{target} threshold", "warn" if edge else "ok", edge or f"{metrics[target]['threshold']}, within its sweep")
