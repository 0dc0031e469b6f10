"""Scores: CAMs over a threshold sweep, pseudo labels, and the segmentation network's predictions.

What there is of make-pseudo/cams, make-pseudo/labels and train-seg -> eval/metrics.json and eval/predictions/<id>.png.
This and `prepare` are the only stages that read masks; predictions never see a tag.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcatool import console
from rcatool.cam_inference import infer_views
from rcatool.config import Config
from rcatool.data.datasets import MultiScaleDataset, view_loader
from rcatool.data.labels import ClassInfo, write_mask
from rcatool.data.manifest import Sample, check_images, split
from rcatool.errors import DataError
from rcatool.files import atomic_save, atomic_write
from rcatool.metrics import report, thresholds
from rcatool.models.deeplab import DeepLab
from rcatool.pool import parallel_map, worker_count
from rcatool.run import Run, StepDir
from rcatool.scoring import ScoreJob, score_cam, score_labels
from rcatool.stages.networks import load_seg, read_data
from rcatool.world import World, make_world


@dataclass(frozen=True)
class Scene:
    """What every target is scored on: the run's data and the settings."""

    run: Run
    config: Config
    classes: ClassInfo
    samples: list[Sample]
    root: Path
    step: StepDir


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Score whatever the run has and write eval/metrics.json; nothing to do if it is current."""
    step = run.begin("eval", config, force=force)
    if step is None:
        return
    classes, samples = read_data(run)
    scene = Scene(run, config, classes, samples, Path(config.data.root), step)
    document: dict[str, Any] = {}
    confusions: dict[str, np.ndarray] = {}
    if "make-pseudo/cams" in step.inputs:
        document["cam"], confusions["cam"] = _with_tune(scene, "train", _score_cams)
    if "make-pseudo/labels" in step.inputs:
        document["pseudo"], confusions["pseudo"] = _with_tune(scene, "train", _score_pseudo)
    if "train-seg" in step.inputs:
        _predict(scene)
        document["seg"], confusions["seg"] = _with_tune(scene, "val", _score_seg)
    document = {target: scores for target, scores in document.items() if scores}
    atomic_save(step.path / "confusion.npz", lambda file: np.savez(file, **{k: v for k, v in confusions.items() if v is not None}))
    atomic_write(step.path / "metrics.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    run.commit(step, {"targets": sorted(document)})


Scorer = Callable[[Scene, str], tuple[dict[str, Any], np.ndarray] | None]


def _with_tune(scene: Scene, part: str, scorer: Scorer) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """Scores of a target on `part`, with those on the tune photos inside, where those have masks."""
    found = scorer(scene, part)
    if found is None:
        return None, None
    scores, confusion = found
    tune = scorer(scene, "tune")
    if tune is not None:
        scores["tune"] = tune[0]
    if "curve" in scores and tune is not None:
        _add_chosen(scores)
    return scores, confusion


def _add_chosen(scores: dict[str, Any]) -> None:
    """The CAM score at the threshold that is best on the tune photos: no oracle, for these masks took no part in it."""
    chosen = scores["tune"]["threshold"]
    at = {entry["threshold"]: entry["miou"] for entry in scores["curve"]}
    scores["threshold_from_tune"] = {"threshold": chosen, "miou": at[chosen], "oracle": False}


def _scored(scene: Scene, part: str, *, tagged: bool) -> list[Sample]:
    """The photos of a part that can be scored: those with a mask (and, for CAMs and pseudo labels, tags)."""
    samples = [s for s in split(scene.samples, part) if s.classes or not tagged]
    masked = [sample for sample in samples if sample.mask is not None]
    if len(masked) < len(samples):
        console.warn(f"eval: {len(samples) - len(masked)} of {len(samples)} {part} photos have no mask and are not scored")
    return masked


def _jobs(scene: Scene, samples: Sequence[Sample], folder: Path, suffix: str) -> list[ScoreJob]:
    return [
        ScoreJob(folder / f"{s.id}{suffix}", scene.root / str(s.mask), s.size, scene.classes.num_classes) for s in samples
    ]


def _sum(scene: Scene, task: str, score: Callable[[ScoreJob], np.ndarray], jobs: Sequence[ScoreJob]) -> np.ndarray:
    total: Any = 0
    with console.progress(task, total=len(jobs)) as bar:
        for confusion in parallel_map(score, jobs, workers=worker_count(scene.config.runtime.workers), bar=bar.advance):
            total = total + confusion
    return np.asarray(total)


def _score_cams(scene: Scene, part: str) -> tuple[dict[str, Any], np.ndarray] | None:
    samples = _scored(scene, part, tagged=True)
    if not samples:
        return None
    levels = thresholds(scene.config.eval.threshold_step)
    jobs = _jobs(scene, samples, scene.run.dir("make-pseudo/cams"), ".npz")
    total = _sum(scene, f"eval CAMs ({part})", partial(score_cam, levels=levels), jobs)
    reports = [report(confusion, scene.classes.names) for confusion in total]
    best = max(range(len(levels)), key=lambda j: reports[j]["miou"] or 0.0)
    scores = {
        **_head(scene, part, len(samples)),
        "threshold": float(levels[best]),
        "oracle": True,
        **reports[best],
        "curve": [{"threshold": float(t), "miou": r["miou"]} for t, r in zip(levels, reports, strict=True)],
    }
    scores["protocol"] |= {
        "background": "constant threshold; the best of the sweep over these very masks (oracle)",
        "classes": "each photo's own tags",
        "cam": scene.config.cam.model_dump(mode="json"),
    }
    return scores, total[best]


def _score_pseudo(scene: Scene, part: str) -> tuple[dict[str, Any], np.ndarray] | None:
    samples = _scored(scene, part, tagged=True)
    if not samples:
        return None
    total = _sum(scene, f"eval pseudo labels ({part})", score_labels, _jobs(scene, samples, scene.run.dir("make-pseudo/labels"), ".png"))
    settings = scene.config.pseudo
    scores = {
        **_head(scene, part, len(samples)),
        "threshold": settings.bg_threshold if settings.background == "threshold" else None,
        **report(total, scene.classes.names),
    }
    scores["protocol"] |= {"classes": "each photo's own tags", "pseudo": settings.model_dump(mode="json")}
    return scores, total


def _score_seg(scene: Scene, part: str) -> tuple[dict[str, Any], np.ndarray] | None:
    samples = _scored(scene, part, tagged=False)
    if not samples:
        if part == "val":
            console.warn("eval: no val photo has a mask, so the segmentation network cannot be scored")
        return None
    total = _sum(scene, f"eval predictions ({part})", score_labels, _jobs(scene, samples, scene.step.path / "predictions", ".png"))
    scores = {**_head(scene, part, len(samples)), "threshold": None, **report(total, scene.classes.names)}
    settings = scene.config.eval
    scores["protocol"] |= {"classes": "all, no tags", "scales": list(settings.scales), "flip": settings.flip, "merge": "mean softmax", "crf": "none"}
    return scores, total


def _head(scene: Scene, part: str, images: int) -> dict[str, Any]:
    data = scene.config.data
    name = {"train": data.train_list, "val": data.val_list, "tune": data.tune_list}[part] if data.dataset != "folder" else part
    protocol = {
        "dataset": data.dataset,
        "list": name,
        "images": images,
        "truth_ignore": 255,
        "predicted_ignore": "counts as wrong",
        "mean": "over labels with a pixel in truth or prediction",
        "resize": "bilinear to the photo's size",
    }
    return {"list": name, "images": images, "protocol": protocol}


def _predict(scene: Scene) -> None:
    """Write eval/predictions/<id>.png for the val and tune photos that lack one."""
    world = make_world(device=scene.config.runtime.device, precision=scene.config.runtime.precision)
    samples = split(scene.samples, "val") + split(scene.samples, "tune")
    check_images(samples, scene.root)
    folder = scene.step.path / "predictions"
    todo = [sample for sample in samples if not (folder / f"{sample.id}.png").exists()]
    model = load_seg(scene.run, scene.config, world)
    dataset = MultiScaleDataset(todo, scene.root, scales=scene.config.eval.scales, flip=scene.config.eval.flip)
    loader = view_loader(dataset, workers=min(2, worker_count(scene.config.runtime.workers)))
    with console.progress("eval predictions", total=len(samples)) as bar:
        bar.advance(len(samples) - len(todo))
        for index, views in loader:
            write_mask(folder / f"{todo[index].id}.png", segment(model, views, todo[index].size, world=world))
            bar.advance(1)


def segment(model: DeepLab, views: Sequence[Tensor], size: tuple[int, int], *, world: World) -> np.ndarray:
    """Label map (H, W) uint8 of one photo: the class of the highest softmax, averaged over views (1 or 2, 3, H_s, W_s)."""

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return logits.float().softmax(dim=1)

    merged = infer_views(forward, views, size, world=world)
    if not bool(torch.isfinite(merged).all()):
        raise DataError("the segmentation network's output is not finite", hint="train again: rca train-seg --force, with a lower seg.lr")
    return merged.argmax(dim=0).to(torch.uint8).cpu().numpy()
