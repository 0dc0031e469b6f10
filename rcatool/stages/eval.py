"""Scores: CAMs over a threshold sweep, pseudo labels, and the segmentation network's predictions.

What there is of make-pseudo and train-seg -> eval/metrics.json, the counts that it was computed from (confusion.npz, per_image.npz)
and eval/predictions/<id>.png; with a second round also eval/predictions-1/<id>.png, of the first one's network. This and `prepare` are
the only stages that read masks; predictions never see a tag.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rcatool import console
from rcatool.config import Config
from rcatool.data.labels import write_mask
from rcatool.data.manifest import Sample, check_images, split
from rcatool.errors import DataError
from rcatool.files import atomic_save, atomic_write, read_json
from rcatool.models.deeplab import DeepLab
from rcatool.pool import in_background, worker_count
from rcatool.ranks import on_first, share, wait
from rcatool.run import Run
from rcatool.seg_inference import batch_probabilities, best_class
from rcatool.soft_labels import SoftJob, soft_rule, write_labels
from rcatool.stages.label_targets import PREDICTIONS, pseudo_target, second_target, seg_target
from rcatool.stages.networks import load_seg, read_data
from rcatool.stages.photo_batches import photo_batches, waiting_writes
from rcatool.stages.targets import Scene, Target, cam_target, refined_target
from rcatool.steps import scored_networks
from rcatool.world import World, make_world

PREDICTED = ("val", "tune", "test")  # the splits that the network has not been trained on


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Score whatever the run has and write eval/metrics.json; nothing to do if it is current."""
    step = on_first(lambda: run.begin("eval", config, force=force))
    if step is None:
        return
    classes, samples = read_data(run)
    scene = Scene(run, config, classes, samples, Path(config.data.root), step)
    if not force:
        on_first(lambda: _reuse_predictions(scene))
    for target, network in scored_networks(config.second.enabled).items():
        if network in step.inputs:
            _predict(scene, network, step.path / PREDICTIONS[target])
    wait()
    found = {name: target(scene) for name, (needed, target) in _targets(config).items() if needed in step.inputs}
    targets = {name: target for name, target in found.items() if target is not None}
    on_first(lambda: _write(scene, targets))


def _write(scene: Scene, targets: dict[str, Target]) -> None:
    step, confusions = scene.step, {name: target.confusion for name, target in targets.items()}
    tables = [table.arrays(name) for target in targets.values() for name, table in target.tables.items()]
    photos = {name: array for arrays in tables for name, array in arrays.items()}
    document = {name: target.scores for name, target in targets.items()}
    atomic_save(step.path / "confusion.npz", lambda file: np.savez(file, **confusions))
    atomic_save(step.path / "per_image.npz", lambda file: np.savez_compressed(file, **photos))
    atomic_write(step.path / "metrics.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    scene.run.commit(step, {"targets": sorted(document)})


def _targets(config: Config) -> dict[str, tuple[str, Callable[[Scene], Target | None]]]:
    """What is scored, in order: the step that must be there, and how."""
    first = {
        "cam": ("make-pseudo/cams", cam_target),
        "refined": ("make-pseudo/refined", refined_target),
        "pseudo": ("make-pseudo/labels", pseudo_target),
    }
    networks = {name: (step, partial(seg_target, target=name)) for name, step in scored_networks(config.second.enabled).items()}
    last = {"seg": networks.pop("seg")}
    return first | networks | ({"pseudo_2": ("make-pseudo/round-2", second_target)} if config.second.enabled else {}) | last


def _reuse_predictions(scene: Scene) -> None:
    """Copy the predictions of an earlier eval that had the same network, photos and views: what changed since is only counted anew."""
    now = scene.run.record("eval")
    assert now is not None
    for folder in sorted(scene.run.root.glob("old/eval-*")):
        try:
            before = read_json(folder / "stage.json", "the record of an earlier eval")
        except DataError:  # what cannot be read cannot be used
            continue
        if not isinstance(before, dict) or before.get("status") != "done":
            continue
        made, wanted = _made_predictions(before), _made_predictions(now)
        for old, new in ((old, new) for old in made for new in wanted if made[old] == wanted[new]):
            _copy(folder, before["inventory"]["sizes"], old=old, to=scene.step.path / new)


def _copy(folder: Path, sizes: dict[str, int], *, old: str, to: Path) -> None:
    """Copy the files in `folder`/`old` that are whole and that `to` lacks."""
    for name, size in sizes.items():
        source, target = folder / name, to / Path(name).name
        if name.startswith(f"{old}/") and not target.exists() and source.is_file() and source.stat().st_size == size:
            atomic_write(target, source.read_bytes())


def _made_predictions(record: dict[str, Any]) -> dict[str, list[Any]]:
    """The folders of predictions that an eval with this record makes, and what determines them."""
    settings, inputs = record.get("settings", {}), record.get("inputs", {})
    views = [settings.get("eval.scales"), settings.get("eval.flip"), settings.get("eval.crf", "none")]
    networks = scored_networks(settings.get("second.enabled") is True)
    return {
        PREDICTIONS[target]: [record.get("format"), views, inputs.get("prepare"), inputs[step]]
        for target, step in networks.items() if step in inputs
    }  # fmt: skip


def _predict(scene: Scene, network: str, folder: Path) -> None:
    """Write the predictions of a network, <id>.png, for the val, tune and test photos that lack one."""
    runtime = scene.config.runtime
    world = make_world(device=runtime.device, precision=runtime.precision, deterministic=runtime.deterministic)
    samples = share([sample for part in PREDICTED for sample in split(scene.samples, part)])
    check_images(samples, scene.root)
    todo = [sample for sample in samples if not (folder / f"{sample.id}.png").exists()]
    model = load_seg(scene.run, scene.config, world, step=network)
    with console.progress(f"eval predictions of {network}", total=len(samples)) as bar:
        bar.advance(len(samples) - len(todo))
        for _ in _written(scene, model, todo, folder, world):
            bar.advance(1)


def _written(scene: Scene, model: DeepLab, todo: Sequence[Sample], folder: Path, world: World) -> Iterator[None]:
    """Write the predictions of photos, yielding after each."""
    settings, workers = scene.config.eval, worker_count(scene.config.runtime.workers)
    batches = photo_batches(todo, scene.config, world, scales=settings.scales, flip=settings.flip)
    found = (
        each
        for batch, photos in batches
        for each in zip(batch, batch_probabilities(model, photos, batch[0].size, world=world), strict=True)
    )
    if settings.crf != "none":
        rule = soft_rule(settings.crf, 0.0, str(world.device), world.device.type)
        yield from write_labels((_soft_job(scene, *each, folder) for each in found), rule, workers=workers)
        return
    with in_background(waiting_writes(world)) as later:
        for sample, probabilities in found:
            later(partial(write_mask, folder / f"{sample.id}.png", best_class(probabilities)))
            yield


def _soft_job(scene: Scene, sample: Sample, probabilities: Tensor, folder: Path) -> SoftJob:
    names = np.arange(len(probabilities), dtype=np.uint8)
    return SoftJob(scene.root / sample.image, folder / f"{sample.id}.png", names, probabilities.cpu().numpy())
