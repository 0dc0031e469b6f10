"""Scores: CAMs over a threshold sweep, pseudo labels, and the segmentation network's predictions.

What there is of make-pseudo/cams, make-pseudo/refined, make-pseudo/labels and train-seg -> eval/metrics.json, the counts that it
was computed from (confusion.npz, per_image.npz) and eval/predictions/<id>.png. This and `prepare` are the only stages that read
masks; predictions never see a tag.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcatool import console
from rcatool.cam_inference import infer_views
from rcatool.config import Config
from rcatool.data.datasets import MultiScaleDataset, view_loader
from rcatool.data.labels import write_mask
from rcatool.data.manifest import check_images, split
from rcatool.errors import DataError
from rcatool.files import atomic_save, atomic_write, read_json
from rcatool.models.deeplab import DeepLab
from rcatool.pool import worker_count
from rcatool.run import Run
from rcatool.stages.networks import load_seg, read_data
from rcatool.stages.targets import Scene, Target, cam_target, pseudo_target, refined_target, seg_target
from rcatool.world import World, make_world

TARGETS: dict[str, tuple[str, Callable[[Scene], Target | None]]] = {
    "cam": ("make-pseudo/cams", cam_target),
    "refined": ("make-pseudo/refined", refined_target),
    "pseudo": ("make-pseudo/labels", pseudo_target),
    "seg": ("train-seg", seg_target),
}

PREDICTED = ("val", "tune", "test")  # the splits that the network has not been trained on


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Score whatever the run has and write eval/metrics.json; nothing to do if it is current."""
    step = run.begin("eval", config, force=force)
    if step is None:
        return
    classes, samples = read_data(run)
    scene = Scene(run, config, classes, samples, Path(config.data.root), step)
    if "train-seg" in step.inputs:
        if not force:
            _reuse_predictions(scene)
        _predict(scene)
    found = {name: target(scene) for name, (needed, target) in TARGETS.items() if needed in step.inputs}
    targets = {name: target for name, target in found.items() if target is not None}
    confusions = {name: target.confusion for name, target in targets.items()}
    tables = [table.arrays(name) for target in targets.values() for name, table in target.tables.items()]
    photos = {name: array for arrays in tables for name, array in arrays.items()}
    document = {name: target.scores for name, target in targets.items()}
    atomic_save(step.path / "confusion.npz", lambda file: np.savez(file, **confusions))
    atomic_save(step.path / "per_image.npz", lambda file: np.savez_compressed(file, **photos))
    atomic_write(step.path / "metrics.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    run.commit(step, {"targets": sorted(document)})


def _reuse_predictions(scene: Scene) -> None:
    """Copy the predictions of an earlier eval that had the same network, photos and views: what changed since is only counted anew."""
    now = scene.run.record("eval")
    assert now is not None
    for folder in sorted(scene.run.root.glob("old/eval-*")):
        try:
            before = read_json(folder / "stage.json", "the record of an earlier eval")
        except DataError:  # what cannot be read cannot be used
            continue
        if not isinstance(before, dict) or before.get("status") != "done" or _made_predictions(before) != _made_predictions(now):
            continue
        for name, size in before["inventory"]["sizes"].items():
            old, new = folder / name, scene.step.path / name
            if name.startswith("predictions/") and not new.exists() and old.is_file() and old.stat().st_size == size:
                atomic_write(new, old.read_bytes())


def _made_predictions(record: dict[str, Any]) -> list[Any]:
    """What of an eval's record determines its predictions."""
    settings, inputs = record.get("settings", {}), record.get("inputs", {})
    views = [settings.get(f"eval.{name}") for name in ("scales", "flip")]
    return [record.get("format"), views, inputs.get("prepare"), inputs.get("train-seg")]


def _predict(scene: Scene) -> None:
    """Write eval/predictions/<id>.png for the val, tune and test photos that lack one."""
    world = make_world(device=scene.config.runtime.device, precision=scene.config.runtime.precision)
    samples = [sample for part in PREDICTED for sample in split(scene.samples, part)]
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
