"""How much of a reference network's score a run's network reaches: RUN's val mIoU as a share of that of a run trained on true masks.

Reads what `rca eval` has stored in both runs, no mask, and adds `reference` to RUN's metrics.json. The reference is told by the
fingerprints of its network and of its eval; where it lies is not kept.
"""

import json
from pathlib import Path
from typing import Any

from rcatool import console
from rcatool.comparison import check_same, scores_of, table_of
from rcatool.data.labels import read_classes
from rcatool.errors import DataError
from rcatool.files import atomic_write, read_json
from rcatool.run import Run
from rcatool.scorecard import ratios
from rcatool.steps import STEPS, changes, scored_networks
from rcatool.summary import metrics_path

TARGET = "seg"
_VIEWS = ("eval.scales", "eval.flip", "eval.crf")


def check(reference: Path) -> None:
    """Raise StageError or DataError unless the network of the run `reference` was scored."""
    _seg_scores(Run(reference))


def measure(run: Path, reference: Path) -> dict[str, Any]:
    """The scores of both networks and the ratio of the first to the second, with paired-bootstrap intervals over photos.

    Raises StageError where one was not scored, DataError where their classes, photos or masks differ.
    """
    runs = (Run(run), Run(reference))
    ours, theirs = (_seg_scores(one) for one in runs)
    check_same(runs, ours, theirs)
    tables = [table_of(one, TARGET) for one in runs]
    names = read_classes(runs[0].dir("prepare") / "classes.json").names
    records = [_records(one) for one in runs]
    labels = records[1][0]["settings"].get("seg.labels", "pseudo")
    return {
        "target": TARGET,
        **{key: ours[key] for key in ("list", "images")},
        "ground_truth": ours["protocol"]["ground_truth"],
        "fingerprint": records[1][0]["fingerprint"],
        "eval_fingerprint": records[1][1]["fingerprint"],
        "trained_on": labels,
        "differs": _differences(records[1], records[0]),
        **ratios(tables[0], tables[1], names),
    }


def store(run: Run, document: dict[str, Any]) -> None:
    """Add `document` to the run's metrics.json as `reference`; whoever calls holds the run's lock."""
    path = metrics_path(run)
    metrics = read_json(path, "the scores of rca eval")
    atomic_write(path, json.dumps(metrics | {"reference": document}, indent=2, ensure_ascii=False) + "\n")
    run.amend("eval")


def warn(document: dict[str, Any]) -> None:
    """Say what makes a ratio less than it seems."""
    if document["trained_on"] != "truth":
        console.warn(f"the reference was not trained on true masks (seg.labels: {document['trained_on']})")
    if document["differs"]:
        console.warn(f"the reference differs from this run in more than its labels: {'; '.join(document['differs'])}")


def _seg_scores(run: Run) -> dict[str, Any]:
    found = scores_of(run)
    if TARGET not in found:
        hint = f"{STEPS['train-seg'].command(run.root)}, then {STEPS['eval'].command(run.root)}"
        raise DataError(f"{run.root}: no segmentation network was scored on val photos", hint)
    return found[TARGET]


def _records(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records of the network that a run's score is of, and of its eval."""
    scored = run.record("eval")
    assert scored is not None, "its scores have been read"
    network = run.record(scored_networks(scored["settings"].get("second.enabled") is True)[TARGET])
    if network is None:
        raise DataError(f"{run.root}: scores without the network that they are of", f"{STEPS['eval'].command(run.root)} --force")
    return network, scored


def _differences(theirs: tuple[dict[str, Any], ...], ours: tuple[dict[str, Any], ...]) -> list[str]:
    """The settings of training, but for the labels, and of the views that differ, `theirs -> ours`."""
    found = []
    for records in (theirs, ours):
        training = {name: value for name, value in records[0]["settings"].items() if name != "seg.labels"}
        found.append(training | {name: records[1]["settings"].get(name) for name in _VIEWS})
    return changes(*found)
