"""Two runs on the same photos: is one better, and by more than the luck of the photos? Reads what `rca eval` has stored, no mask."""

from pathlib import Path
from typing import Any

from rcatool import console, summary
from rcatool.data.labels import read_classes
from rcatool.errors import DataError, StageError
from rcatool.run import Run
from rcatool.scorecard import paired
from rcatool.steps import STEPS
from rcatool.tally import PhotoTable, read_photo_tables

TARGETS = ("seg", "pseudo_2", "seg_1", "pseudo", "refined", "cam")  # the last step of the pipeline that both have is what people mean
THRESHOLDED = ("refined", "cam")


def compare(first: Path, second: Path, target: str | None = None) -> dict[str, Any]:
    """Scores of two runs and their paired difference (second minus first) as a document; target None: the last that both have.

    CAMs are compared at the thresholds chosen on tune where both have one, else each at its own best (`threshold_rule` says which).
    Raises StageError if a run was not scored, DataError if they were not scored on the same photos and masks.
    """
    runs = (Run(first), Run(second))
    scores = [scores_of(run) for run in runs]
    both = [name for name in TARGETS if all(name in found for found in scores)]
    if not both or (target or both[0]) not in both:
        has = ", ".join(f"{run.root}: {' and '.join(found) or 'nothing'}" for run, found in zip(runs, scores, strict=True))
        raise DataError(f"no {target or 'target'} that both runs have scored ({has})", "make what is missing, then rca eval in both")
    chosen = target or both[0]
    a, b = (found[chosen] for found in scores)
    check_same(runs, a, b)
    from_tune = chosen in THRESHOLDED and all("threshold_from_tune" in found for found in (a, b))
    name = f"{chosen}_from_tune" if from_tune else chosen
    tables = [table_of(run, name) for run in runs]
    if tables[0].ids != tables[1].ids:
        raise DataError("the two runs were scored on different photos", "prepare both from the same lists")
    names = read_classes(runs[0].dir("prepare") / "classes.json").names
    document = {"target": chosen, "list": a["list"], "images": a["images"], "ground_truth": a["protocol"]["ground_truth"]}
    document |= paired(tables[0], tables[1], names)
    for side, run, found in zip("ab", runs, (a, b), strict=True):
        threshold = (found["threshold_from_tune"] if from_tune else found)["threshold"]
        document[side] = {"run": str(run.root), "threshold": threshold, **document[side]}
    if chosen in THRESHOLDED:
        document["threshold_rule"] = "chosen on tune" if from_tune else "each at its own best (oracle)"
    return document


def scores_of(run: Run) -> dict[str, dict[str, Any]]:
    """The scores of a run by target, with a warning where they are stale. StageError if it was not scored."""
    config = run.read_config()
    record = run.record("eval", config)
    command = STEPS["eval"].command(run.root)
    if record is None or record["status"] != "done":
        raise StageError(f"{run.root}: not scored yet", command)
    state = run.state("eval", config)
    if not state.is_current:
        console.warn(f"{run.root}: its scores are {state.describe()}; they are compared as they are ({command} makes them new)")
    return summary.read_metrics(run)


def check_same(runs: tuple[Run, Run], a: dict[str, Any], b: dict[str, Any]) -> None:
    """Raise DataError unless two scores are of the same classes, photos and masks."""
    for run, scores in zip(runs, (a, b), strict=True):
        if "ground_truth" not in scores.get("protocol", {}):
            raise DataError(f"{run.root}: scored by an earlier version of the program", f"{STEPS['eval'].command(run.root)} --force")
    classes = [list(scores["iou"]) for scores in (a, b)]
    if classes[0] != classes[1]:
        only = [", ".join(name for name in one if name not in other) or "no other" for one, other in (classes, classes[::-1])]
        what = f"{runs[0].root} has {only[0]}, {runs[1].root} has {only[1]}"
        raise DataError(f"not scored on the same classes in the same order: {what}", "prepare both runs from the same classes")
    for key in ("images", "ground_truth"):
        found = [scores["protocol"][key] for scores in (a, b)]
        if found[0] != found[1]:
            what = f"{runs[0].root} has {key.replace('_', ' ')} {found[0]} (list {a['list']}), {runs[1].root} {found[1]} (list {b['list']})"
            raise DataError(f"not scored on the same photos and masks: {what}", "prepare both runs from the same lists and masks")


def table_of(run: Run, name: str) -> PhotoTable:
    """The counts of each photo that a target's score was made of."""
    tables = read_photo_tables(run.dir("eval") / "per_image.npz")
    if name not in tables:
        raise DataError(f"{run.dir('eval') / 'per_image.npz'}: nothing about {name}", f"{STEPS['eval'].command(run.root)} --force")
    return tables[name]
