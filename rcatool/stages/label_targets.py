"""The scores of a run's pseudo labels and predictions on photos with masks: documents for metrics.json, counts to keep."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rcatool import console
from rcatool.breakdown import breakdown_report
from rcatool.conventions import emulate_labels
from rcatool.scorecard import boundary_report, intervals, report
from rcatool.scoring import score_labels
from rcatool.stages.targets import (
    Scene,
    Target,
    cam_views,
    counted,
    head,
    record_of,
    refined_by,
    score_jobs,
    scored_photos,
    section_of,
    settings_of,
)
from rcatool.tally import Tally

PREDICTIONS = {"seg": "predictions", "seg_1": "predictions-1"}  # folders of eval, by target


def pseudo_target(scene: Scene) -> Target | None:
    """The pseudo labels of the train photos, and of the tune photos inside."""
    settings = settings_of(scene, "make-pseudo/labels")
    chosen = record_of(scene, "make-pseudo/labels").get("info", {}).get("bg_threshold")
    backgrounds = {
        "threshold": ("constant score", settings["pseudo.bg_threshold"]),
        "auto": ("constant score, chosen from the CAMs alone", chosen),
        "power": (f"(1 - max)^{settings['pseudo.bg_power']}", None),
        "saliency": ("1 - saliency", None),
    }
    words, threshold = backgrounds[settings["pseudo.background"]]
    about = {
        "background": words,
        "classes": "each photo's own tags",
        "crf": settings["pseudo.crf"],
        **cam_views(scene),
        **refined_by(scene, settings),
        "pseudo": section_of(settings, "pseudo"),
    }
    folder = scene.run.dir("make-pseudo/labels")
    return _label_target(scene, "pseudo", folder, parts=("train", "tune"), threshold=threshold, about=about)


def second_target(scene: Scene) -> Target | None:
    """The labels of the second round, scored as the pseudo labels."""
    settings = settings_of(scene, "make-pseudo/round-2")
    about = {
        "background": "the network's own label", "classes": "each photo's own tags", "merge": "mean softmax",
        **{name: settings[f"second.{name}"] for name in ("crf", "scales", "flip")}, "second": section_of(settings, "second"),
    }  # fmt: skip
    return _label_target(scene, "pseudo_2", scene.run.dir("make-pseudo/round-2"), parts=("train", "tune"), threshold=None, about=about)


def seg_target(scene: Scene, target: str = "seg") -> Target | None:
    """A network's predictions of the val photos, and of the tune photos inside.

    target: `seg`, of the last network, or `seg_1`, of the first of two rounds.
    """
    settings = scene.config.eval
    about = {
        "background": "the network's own label", "classes": "all, no tags", "crf": settings.crf,
        "scales": list(settings.scales), "flip": settings.flip, "merge": "mean softmax",
    }  # fmt: skip
    if scene.config.second.enabled:
        about["round"] = 2 if target == "seg" else 1
    folder = scene.step.path / PREDICTIONS[target]
    found = _label_target(scene, target, folder, parts=("val", "tune"), threshold=None, about=about)
    if found is None:
        console.warn("eval: no val photo has a mask, so the segmentation network cannot be scored")
    return found


def _label_target(
    scene: Scene, target: str, folder: Path, *, parts: Sequence[str], threshold: float | None, about: dict[str, Any]
) -> Target | None:
    """Score the label maps in `folder` for the first of `parts`, with the score of the second inside where there is one."""
    found: list[tuple[dict[str, Any], Tally]] = []
    names = scene.classes.names
    for part in parts:
        jobs = score_jobs(scene, scored_photos(scene, part, tagged=target.startswith("pseudo")), folder, ".png")
        tally = Tally()
        for job, photo in counted(scene, f"eval {target} ({part})", partial(score_labels, boundary=True, breakdown=True), jobs):
            tally.add(job.id, photo)
        if jobs:
            confusion = tally.confusion(len(names) + 1)
            found.append(({
                **head(scene, part, tally, about), "threshold": threshold, **report(confusion, names),
                **intervals(tally.table(), len(names) + 1), "conventions": emulate_labels(confusion),
                **boundary_report(tally.boundary, names), **breakdown_report(tally.errors, names),
            }, tally))  # fmt: skip
        elif part == parts[0]:
            return None
    scores, tally = found[0]
    if len(found) > 1:
        scores["tune"] = found[1][0]
    return Target(scores, tally.confusion(len(names) + 1), {target: tally.table()})
