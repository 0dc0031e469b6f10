"""The scores of a run's CAMs on photos with masks, and what they share with those of labels (`label_targets`).

A score is a document for metrics.json and counts to keep. The protocol of each says how its files were made, in the words of the
`stage.json` of the step that made them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rcatool import console
from rcatool.config import Config
from rcatool.conventions import all_levels, emulate_cams
from rcatool.data.labels import ClassInfo
from rcatool.data.manifest import Sample, split
from rcatool.metrics import sweep_edge, thresholds
from rcatool.pool import parallel_map, worker_count
from rcatool.ranks import collected, share
from rcatool.run import Run, StepDir
from rcatool.scorecard import intervals, protocol, report
from rcatool.scoring import ScoreJob, score_cam
from rcatool.steps import STEPS
from rcatool.tally import PhotoCounts, PhotoTable, SweepTally, Tally


@dataclass(frozen=True)
class Scene:
    """What every target is scored on: the run's data and the settings."""

    run: Run
    config: Config
    classes: ClassInfo
    samples: list[Sample]
    root: Path
    step: StepDir
    said: set[str] = field(default_factory=set)  # what several targets would say, and was said


class Target(NamedTuple):
    """One target's score: what metrics.json says, the confusion matrix (L, L + 1) and the counts of each photo, by target."""

    scores: dict[str, Any]
    confusion: np.ndarray
    tables: dict[str, PhotoTable]


def cam_target(scene: Scene, target: str = "cam") -> Target | None:
    """The CAMs of the train photos at the threshold that is best for them (an oracle), and at the one that is best on tune.

    target: `cam`, as exported, or `refined`.
    """
    step = {"cam": "make-pseudo/cams", "refined": "make-pseudo/refined"}[target]
    about = _maps_about(scene, step)
    swept = _sweep(scene, "train", step)
    if swept is None:
        return None
    best = swept.best
    scores = _cam_scores(scene, "train", swept, about)
    if edge := sweep_edge(scores):
        console.warn(f"eval: {target}: {edge}")
    tables = {target: swept.tally.table(best)}
    tune = _sweep(scene, "tune", step)
    if tune is not None:
        scores["tune"] = _cam_scores(scene, "tune", tune, about)
        tables[f"{target}_from_tune"] = swept.tally.table(tune.best)
        # No oracle: these masks took no part in the choice.
        scores["threshold_from_tune"] = {
            "threshold": float(swept.levels[tune.best]), "miou": swept.reports[tune.best]["miou"], "oracle": False,
            **intervals(swept.tally.table(tune.best), len(scene.classes.names) + 1),
        }  # fmt: skip
    return Target(scores, swept.confusions[best], tables)


def refined_target(scene: Scene) -> Target | None:
    """The refined CAMs, scored as those they were made of."""
    return cam_target(scene, "refined")


class _Sweep(NamedTuple):
    """CAMs at every level: the tally, confusions (T, L, L + 1), reports, and which levels belong to the curve; `best` of those."""

    tally: SweepTally
    levels: np.ndarray
    confusions: np.ndarray
    reports: list[dict[str, Any]]
    curve: list[int]
    best: int


def _sweep(scene: Scene, part: str, made_by: str) -> _Sweep | None:
    jobs = score_jobs(scene, scored_photos(scene, part, tagged=True), scene.run.dir(made_by), ".npz")
    if not jobs:
        return None
    step = scene.config.eval.threshold_step
    levels = all_levels(step)
    tally = SweepTally(scene.classes.num_classes + 1, len(levels))
    for job, photo in counted(scene, f"eval {made_by.partition('/')[2]} ({part})", partial(score_cam, levels=levels), jobs):
        tally.add(job.id, photo)
    confusions = tally.confusions()
    reports = [report(confusion, scene.classes.names) for confusion in confusions]
    curve = np.flatnonzero(np.isin(levels, np.round(thresholds(step), 6))).tolist()
    best = max(curve, key=lambda j: reports[j]["miou"] or 0.0)
    return _Sweep(tally, levels, confusions, reports, curve, best)


def _maps_about(scene: Scene, made_by: str) -> dict[str, Any]:
    """What the protocol says of the CAMs that a step made."""
    settings = settings_of(scene, "make-pseudo/cams")
    about = {
        "background": "constant threshold; the best of the sweep over these very masks (oracle)",
        "classes": "each photo's own tags",
        "crf": "none",
        **cam_views(scene),
        "cam": section_of(settings, "cam"),
    }
    return about if made_by == "make-pseudo/cams" else {**about, **refined_by(scene, settings_of(scene, made_by))}


def refined_by(scene: Scene, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the refinement of a step made with `settings`, and of the network that it used, where it used one."""
    found = {"refine": section_of(settings, "refine")}
    if settings["refine.method"] in STEPS["make-pseudo/affinity"].methods:
        found["affinity"] = section_of(settings_of(scene, "make-pseudo/affinity"), "affinity")
    return found


def _cam_scores(scene: Scene, part: str, swept: _Sweep, about: dict[str, Any]) -> dict[str, Any]:
    return {
        **head(scene, part, swept.tally, about),
        "threshold": float(swept.levels[swept.best]),
        "oracle": True,
        **swept.reports[swept.best],
        **intervals(swept.tally.table(swept.best), scene.classes.num_classes + 1),
        "conventions": emulate_cams(swept.confusions, swept.levels),
        "curve": [{"threshold": float(swept.levels[j]), "miou": swept.reports[j]["miou"]} for j in swept.curve],
    }


def scored_photos(scene: Scene, part: str, *, tagged: bool) -> list[Sample]:
    """The photos of a part that can be scored: those with a mask (and, for CAMs and pseudo labels, tags)."""
    samples = [s for s in split(scene.samples, part) if s.classes or not tagged]
    masked = [sample for sample in samples if sample.mask is not None]
    if len(masked) < len(samples):
        told = f"eval: {len(samples) - len(masked)} of {len(samples)} {part} photos have no mask and are not scored"
        if told not in scene.said:
            console.warn(told)
        scene.said.add(told)
    return masked


def score_jobs(scene: Scene, samples: Sequence[Sample], folder: Path, suffix: str) -> list[ScoreJob]:
    """What to score: <id><suffix> in `folder` of each photo, against its mask."""
    count = scene.classes.num_classes
    return [ScoreJob(s.id, folder / f"{s.id}{suffix}", scene.root / str(s.mask), s.size, count) for s in samples]


def counted(scene: Scene, task: str, score: Callable[[ScoreJob], PhotoCounts], jobs: Sequence[ScoreJob]) -> Any:
    """Yield each job with its photo's counts."""
    mine, workers = share(jobs), worker_count(scene.config.runtime.workers)
    with console.progress(task, total=len(mine)) as bar:
        yield from zip(jobs, collected(parallel_map(score, mine, workers=workers, bar=bar.advance), len(jobs)), strict=True)


def head(scene: Scene, part: str, tally: Tally | SweepTally, about: dict[str, Any]) -> dict[str, Any]:
    """What a document begins with: the list, the number of photos, and the protocol with `about` in it."""
    data = scene.config.data
    name = {"train": data.train_list, "val": data.val_list, "tune": data.tune_list}[part] if data.dataset != "folder" else part
    conditions = protocol(
        name=name, photos=len(tally.ids), digest=tally.truth_digest(), labels=scene.classes.num_classes + 1,
        dataset=data.dataset, resize="bilinear to the photo's size", **about,
    )  # fmt: skip
    return {"list": name, "images": len(tally.ids), "protocol": conditions}


def settings_of(scene: Scene, step: str) -> dict[str, Any]:
    """The settings that a step was made with."""
    settings: dict[str, Any] = record_of(scene, step)["settings"]
    return settings


def record_of(scene: Scene, step: str) -> dict[str, Any]:
    """The record of a step that is an input of eval."""
    record = scene.run.record(step)
    assert record is not None, f"{step} is an input"
    return record


def section_of(settings: dict[str, Any], section: str) -> dict[str, Any]:
    """The settings of one section, without its name."""
    return {name.removeprefix(f"{section}."): value for name, value in settings.items() if name.startswith(f"{section}.")}


def cam_views(scene: Scene) -> dict[str, Any]:
    """How the photos were seen for the CAMs, or where the CAMs were imported from."""
    record = record_of(scene, "make-pseudo/cams")
    imported = record.get("info", {}).get("imported")
    return {"imported": imported} if imported else {name: record["settings"][f"cam.{name}"] for name in ("scales", "flip")}
