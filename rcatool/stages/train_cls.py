"""Stage 1: train the classification network, with the region memory (rca) or without (cam).

prepare/manifest.jsonl -> train-cls/final.pt. Reads photos and tags of the train split, never a mask.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcatool import console
from rcatool.cam_inference import infer_together
from rcatool.checkpoint import resume_training, save_state, save_training
from rcatool.config import Config
from rcatool.data.datasets import ClsDataset
from rcatool.data.loaders import EpochBatches, train_loader
from rcatool.data.manifest import Sample, check_images, split
from rcatool.data.saliency import require_saliency
from rcatool.engine import TrainLog, train_one_epoch
from rcatool.errors import DataError
from rcatool.metrics import constant_loss, mean_average_precision
from rcatool.models.accumulator import AccumulationRule, AttentionAccumulator
from rcatool.pool import worker_count
from rcatool.ranks import on_first, share, total
from rcatool.run import Run, StepDir
from rcatool.stages.accumulated import ACCUMULATED, make_accumulator
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import (
    ClsNet,
    cls_network,
    freeze_layers,
    lr_schedule,
    make_optimizer,
    read_data,
    seed_dropout,
    stream_seed,
    tag_matrix,
    variation,
)
from rcatool.stages.photo_batches import photo_batches
from rcatool.stages.train_log import open_log
from rcatool.stages.weight_check import check_finite, check_input
from rcatool.world import World, make_world

# Streams of random numbers that must not coincide: numbers are drawn from (seed, epoch, stream).
MIXUP_STREAM = 1


@dataclass
class Training:
    """What a training epoch needs, and what a checkpoint holds."""

    model: ClsNet
    optimizer: torch.optim.Optimizer
    config: Config
    world: World
    accumulator: AttentionAccumulator | None


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Train and write train-cls/final.pt, resuming from the last finished epoch; nothing to do if it is current."""
    step = on_first(lambda: run.begin("train-cls", config, force=force))
    if step is None:
        return
    world = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic)
    classes, samples = read_data(run)
    train, held_out = split(samples, "train"), _held_out(samples)
    root = Path(config.data.root)
    check_images(train + held_out, root)
    if config.cls.saliency_weight > 0:
        require_saliency(train, "training photos", setting="cls.saliency_weight", otherwise="cls.saliency_weight=0")
    training = _build(config, train, classes.num_classes, world)
    doubt = "" if config.cls.weights == "none" else check_input("train-cls", training.model.backbone, train, root, world)
    start = resume_training(step.path / "last.pt", training.model, training.optimizer, extra=training.accumulator)
    console.log(_headline(config, train, start, world))
    batches = EpochBatches(len(train), config.cls.batch_size, config.seed, shuffle=config.cls.shuffle)
    varied = variation(config.cls, config.seed)
    resize_long = None if config.cls.resize_square else config.cls.resize_long
    dataset = ClsDataset(train, root, classes.num_classes, varied, resize_long=resize_long, saliency=config.cls.saliency_weight > 0)
    loader = train_loader(dataset, batches, workers=worker_count(config.runtime.workers), pin=world.device.type == "cuda")
    log = open_log(run, step, config)
    val_map = None
    for epoch in range(start, config.cls.epochs):
        batches.epoch = epoch
        intake = _train_epoch(training, loader, epoch, log)
        val_map = None
        if config.cls.validate_every and ((epoch + 1) % config.cls.validate_every == 0 or epoch + 1 == config.cls.epochs):
            val_map = validate(training.model, held_out, root, classes.num_classes, config=config, world=world)
        _log_epoch(training, log, epoch, val_map, intake)
        on_first(partial(_save, training, step, epoch + 1))
    _check_learning(log, tag_matrix(train, classes.num_classes))
    about = {"val_map": val_map} | ({"input": doubt} if doubt else {})
    on_first(lambda: _finish(run, training, step, classes.names, about))


def _save(training: Training, step: StepDir, epochs: int) -> None:
    save_training(step.path / "last.pt", training.model, training.optimizer, epochs, extra=training.accumulator)


def _finish(run: Run, training: Training, step: StepDir, names: Sequence[str], about: dict[str, Any]) -> None:
    check_finite("train-cls", training.model.state_dict())
    final = {"model": training.model.state_dict(), "classes": list(names), "fingerprint": step.fingerprint}
    save_state(step.path / "final.pt", final)
    if training.accumulator is not None:
        save_state(step.path / ACCUMULATED, training.accumulator.state_dict())
    run.commit(step, {**training.world.describe(), **about})
    (step.path / "last.pt").unlink(missing_ok=True)


def _build(config: Config, train: Sequence[Sample], num_classes: int, world: World) -> Training:
    if not train:
        raise DataError("the data set has no training photos", hint="rca prepare ... with a list that has some")
    torch.manual_seed(config.seed)  # the heads' initial values; in training, only dropout draws from this generator
    model = world.place(cls_network(config, tag_matrix(train, num_classes), pretrained=True))
    return Training(model, make_optimizer(model, config.cls), config, world, make_accumulator(config, train, num_classes))


def _held_out(samples: Sequence[Sample]) -> list[Sample]:
    """Tagged photos to measure the classifier on: tune where there is one, else val."""
    tune = split(samples, "tune")
    return [sample for sample in (tune or split(samples, "val")) if sample.classes]


def _train_epoch(training: Training, loader: Any, epoch: int, log: TrainLog) -> Intake:
    config, model = training.config, training.model
    settings = config.memory
    model.train()
    seed_dropout(config.seed, epoch)
    freeze_layers(model, config.cls)
    if model.memory is not None and settings.prototypes and epoch >= settings.prototypes_start:
        model.memory.refresh_prototypes(seed=stream_seed(config.seed, epoch), iterations=settings.kmeans_iterations)
    generator = torch.Generator().manual_seed(stream_seed(config.seed, epoch, MIXUP_STREAM))
    accumulate = _accumulation(training, epoch)
    intake = Intake(torch.zeros(model.num_classes, dtype=torch.long, device=training.world.device))
    steps = itertools.count()

    def loss_fn(batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        probe = next(steps) % log.every == 0
        return step_loss(model, batch, config, StepState(epoch, generator, intake, probe=probe, accumulate=accumulate))

    schedule = lr_schedule(config.cls, epoch, len(loader))
    with console.progress(f"train-cls epoch {epoch + 1}/{config.cls.epochs}", total=len(loader.dataset)) as bar:
        train_one_epoch(model, loss_fn, loader, training.optimizer, schedule=schedule, world=training.world, log=log, bar=bar)
    if training.accumulator is not None:
        training.accumulator.share()
    return intake


def _accumulation(training: Training, epoch: int) -> Any:
    """What takes the maps of a step in this epoch, if anything does."""
    settings, accumulator = training.config.cls, training.accumulator
    if accumulator is None or settings.accumulate == "none" or epoch < settings.accumulate_start:
        return None
    rule = AccumulationRule(settings.accumulate, settings.accumulate_threshold)
    return partial(accumulator.update, crop_size=settings.crop_size, rule=rule, last=epoch == settings.epochs - 1)


@torch.inference_mode()
def validate(model: ClsNet, samples: Sequence[Sample], root: Path, num_classes: int, *, config: Config, world: World) -> float | None:
    """mAP of the tags of held-out photos, at their own size, from the final map's score; None without tagged photos."""
    if not samples:
        return None
    model.eval()
    score = torch.zeros(len(samples), num_classes)
    row = {sample.id: number for number, sample in enumerate(samples)}
    mine = share(samples)
    with console.progress("train-cls validation", total=len(mine)) as bar:
        for batch, photos in photo_batches(mine, config, world, scales=(1.0,), flip=False):
            found = infer_together(lambda images: [model(images).final.float().mean(dim=(2, 3))], photos, world=world)
            score[[row[sample.id] for sample in batch]] = torch.cat([outputs[0][0] for outputs in found]).cpu()
            bar.advance(len(batch))
    return mean_average_precision(total(score).numpy(), tag_matrix(samples, num_classes).numpy())


def _log_epoch(training: Training, log: TrainLog, epoch: int, val_map: float | None, intake: Intake) -> None:
    """One line of log.jsonl and of the terminal; with a memory, also how each class stands in it."""
    fields: dict[str, Any] = {"epoch": epoch + 1, "val_map": val_map}
    memory = training.model.memory
    if memory is not None:
        fields["memory_fill"] = float((memory.visits > 0).float().mean())
        fields["prototypes"] = int(memory.prototype_valid.sum())
    shown = ", ".join(f"{name} {value:.3f}" for name, value in {"loss": log.last.get("loss"), **fields}.items() if isinstance(value, float))
    console.log(f"train-cls: epoch {epoch + 1}/{training.config.cls.epochs} done{', ' + shown if shown else ''}")
    if memory is not None:
        census = {**memory.census(epoch), "found": intake.found, "stored": intake.stored}
        fields["memory"] = {name: [round(float(value), 3) for value in values] for name, values in census.items()}
    log.write(**fields)


def _check_learning(log: TrainLog, tags: Tensor) -> None:
    """Warn where the network, in its last steps, knows of a photo's tags only how often each occurs: its maps are noise, or empty."""
    reached, nothing = log.last.get("loss_o", 0.0), constant_loss(tags.numpy())
    if reached > 0.97 * nothing > 0:
        console.warn(
            f"train-cls: the network has learnt next to nothing (loss {reached:.3f}; {nothing:.3f} is to say each tag as often as it "
            "occurs): try a tenth of cls.lr and cls.head_lr, or more cls.epochs"
        )


def _headline(config: Config, train: Sequence[Sample], start: int, world: World) -> str:
    resumed = f", resuming after epoch {start}" if start else ""
    settings = config.cls
    return f"train-cls: {settings.method}, {settings.backbone}, {len(train)} photos, {settings.epochs} epochs on {world.device}{resumed}"
