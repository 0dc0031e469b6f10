"""Stage 3: train the segmentation network on the pseudo labels, or on true masks (`seg.labels: truth`), to know what they would give.

make-pseudo/labels/<id>.png -> train-seg/final.pt. With `second.enabled` that network makes labels (`second_round`), which another is
trained on: make-pseudo/round-2/<id>.png -> train-seg-2/final.pt. Reads photos and pseudo labels of the train split, and their CAMs with
`seg.noise` confidence, their tags with teacher. Reads masks only where it is asked to: those of train with `seg.labels` truth, those of
tune with `seg.validate_every` above 0 (`seg_validation`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from rcatool import console
from rcatool.checkpoint import load_state, resume_training, save_state, save_training
from rcatool.config import Config
from rcatool.data.datasets import SegDataset
from rcatool.data.labels import IGNORE, ClassInfo
from rcatool.data.loaders import EpochBatches, Loader, train_loader
from rcatool.data.manifest import Sample, check_images, first_few, split
from rcatool.engine import TrainLog, train_one_epoch
from rcatool.errors import DataError, TrainingError
from rcatool.label_weights import MarginWeights
from rcatool.models.average import WeightAverage
from rcatool.models.deeplab import DeepLab
from rcatool.pool import worker_count
from rcatool.pseudo import LabelRule
from rcatool.ranks import on_first
from rcatool.run import Run, StepDir
from rcatool.stages.networks import (
    freeze_layers,
    lr_schedule,
    make_optimizer,
    pretrained_seg,
    read_data,
    seed_dropout,
    seg_design,
    tag_matrix,
    variation,
)
from rcatool.stages.second_round import make_second_labels
from rcatool.stages.seg_step import StepLoss, Teacher
from rcatool.stages.seg_validation import Best, tune_miou, validation_photos
from rcatool.stages.train_log import open_log
from rcatool.stages.weight_check import check_finite, check_input
from rcatool.world import World, make_world


@dataclass
class Training:
    """What an epoch needs, and what a checkpoint holds."""

    name: str
    config: Config
    classes: ClassInfo
    world: World
    train: list[Sample]
    held_out: list[Sample]
    model: DeepLab
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    best: Best

    @property
    def extra(self) -> nn.Module:
        """What a checkpoint holds beside the network."""
        return nn.ModuleDict({"best": self.best} | ({} if self.average is None else {"average": self.average}))

    @property
    def result(self) -> DeepLab:
        """The network whose weights count: the average where there is one."""
        return self.model if self.average is None else self.average.model  # type: ignore[return-value]


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Train, and with `second.enabled` make labels from that network and train on these; each step only if it is not current."""
    labels = None if config.seg.labels == "truth" else run.dir("make-pseudo/labels")
    train_round(run, config, name="train-seg", labels=labels, force=force)
    if config.second.enabled:
        make_second_labels(run, config, force=force)
        train_round(run, config, name="train-seg-2", labels=run.dir("make-pseudo/round-2"), force=force)


def train_round(run: Run, config: Config, *, name: str, labels: Path | None, force: bool) -> None:
    """Write final.pt of the step `name`, trained on a folder of labels (None: on masks), resuming from the last finished epoch."""
    step = on_first(lambda: run.begin(name, config, force=force))
    if step is None:
        return
    world = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic)
    classes, samples = read_data(run)
    train, held_out = _training_photos(samples, name, masks=labels is None), validation_photos(samples, config)
    root = Path(config.data.root)
    check_images(train + held_out, root)
    varied, scale = variation(config.seg, config.seed), config.seg.resize_scale
    of_cams = "make-pseudo/labels" in step.inputs  # and no network's predictions
    weigh = _margin_weights(run, config, step) if config.seg.noise == "confidence" and of_cams else None
    dataset = SegDataset(train, root, classes.num_classes, varied, labels=labels, resize_scale=scale, weigh=weigh)
    _check_labels(dataset, name)
    torch.manual_seed(config.seed)  # the head's initial values; in training, only dropout draws from this generator
    model = pretrained_seg(run, config, classes.num_classes, world)
    optimizer = make_optimizer(model, config.seg)
    average = WeightAverage(model, config.seg.ema) if config.seg.ema > 0 else None
    training = Training(name, config, classes, world, train, held_out, model, optimizer, average, Best())
    doubt = "" if config.seg.weights in ("none", "train-cls") else check_input(name, model.backbone, train, root, world)
    start = resume_training(step.path / "last.pt", training.model, training.optimizer, extra=training.extra)
    resumed = f", resuming after epoch {start}" if start else ""
    console.log(f"{name}: {config.seg.backbone}, {len(train)} photos, {config.seg.epochs} epochs on {world.device}{resumed}")
    batches = EpochBatches(len(train), config.seg.batch_size, config.seed)
    loader = train_loader(dataset, batches, workers=worker_count(config.runtime.workers), pin=world.device.type == "cuda")
    _run_epochs(run, training, loader, batches, step=step, start=start)
    on_first(lambda: _finish(run, training, step, doubt))


def _run_epochs(run: Run, training: Training, loader: Loader, batches: EpochBatches, *, step: StepDir, start: int) -> None:
    """Train from the epoch `start` on, with a checkpoint after each."""
    config, epochs = training.config, training.config.seg.epochs
    log = open_log(run, step, config)
    loss_fn = StepLoss(training.model, config.seg, _teacher(training), window=config.runtime.log_every)
    warned, told = False, ""
    for epoch in range(start, epochs):
        batches.epoch = epoch
        loss_fn.begin(epoch)
        _train_epoch(training, loader, loss_fn, epoch, log=log, told=told)
        if not warned and loss_fn.is_background_only(finished=epoch + 1 == epochs):
            warned = True
            balance = "" if config.seg.loss == "balanced" else "--set seg.loss=balanced, or "
            console.warn(
                f"{training.name}: after {epoch + 1} of {epochs} epochs the network predicts as good as nothing but background: "
                f"try {balance}lower seg.lr (and seg.head_lr), or look at the labels"
            )
        if training.held_out and ((epoch + 1) % config.seg.validate_every == 0 or epoch + 1 == epochs):
            told = _validate(training, log, epoch + 1, step.path / "best.pt")
        on_first(partial(_save, training, step, epoch + 1))


def _save(training: Training, step: StepDir, epochs: int) -> None:
    save_training(step.path / "last.pt", training.model, training.optimizer, epochs, extra=training.extra)


def _train_epoch(training: Training, loader: Loader, loss_fn: StepLoss, epoch: int, *, log: TrainLog, told: str) -> None:
    """One pass; a loss that is not finite is told with the photos of its batch."""
    settings, model, average = training.config.seg, training.model, training.average
    model.train()
    seed_dropout(training.config.seed, epoch)
    freeze_layers(model, settings)
    schedule = lr_schedule(settings, epoch, len(loader))
    try:
        with console.progress(f"{training.name} epoch {epoch + 1}/{settings.epochs}{told}", total=len(training.train)) as bar:
            train_one_epoch(
                model, loss_fn, loader, training.optimizer, schedule=schedule, world=training.world, log=log, bar=bar,
                after_step=None if average is None else lambda: average.update(model),
            )  # fmt: skip
    except TrainingError as error:
        photos = first_few([training.train[number].image for number in loss_fn.bad_photos()])
        raise TrainingError(f"{error.message}; first with the photos {photos}", error.hint) from error


def _validate(training: Training, log: TrainLog, epoch: int, best: Path) -> str:
    """Score the network after `epoch` epochs and keep it if it is the best so far; returns what a bar says of it."""
    config, model = training.config, training.result
    root = Path(config.data.root)
    miou = tune_miou(model, training.held_out, root, training.classes.num_classes, config=config, world=training.world)
    if training.best.update(miou, epoch) and config.seg.keep == "best":
        on_first(lambda: save_state(best, {"model": model.state_dict()}))
    log.write(epoch=epoch, tune_miou=miou)
    console.log(f"{training.name}: epoch {epoch}/{config.seg.epochs} done, mIoU on {len(training.held_out)} tune photos {100 * miou:.1f}")
    return f" (tune {100 * miou:.1f})"


def _finish(run: Run, training: Training, step: StepDir, doubt: str) -> None:
    """Write final.pt; the record says which epoch's weights they are, and the score that chose them."""
    settings, weights = training.config.seg, training.result.state_dict()
    about: dict[str, float | int] = {"epoch": settings.epochs}
    if settings.keep == "best":
        weights = load_state(step.path / "best.pt")["model"]
        about = {"epoch": int(training.best.epoch), "tune_miou": round(float(training.best.score), 6)}
    check_finite(training.name, weights)
    final = {"model": weights, "classes": list(training.classes.names), "fingerprint": step.fingerprint}
    save_state(step.path / "final.pt", final | {"design": asdict(seg_design(settings))})
    run.commit(step, {**training.world.describe(), "photos": len(training.train), **about, **({"input": doubt} if doubt else {})})
    for file in ("last.pt", "best.pt"):
        (step.path / file).unlink(missing_ok=True)


def _teacher(training: Training) -> Teacher | None:
    """The average of the weights as a teacher, if the settings ask for one."""
    if training.config.seg.noise != "teacher":
        return None
    assert training.average is not None
    tags = tag_matrix(training.train, training.classes.num_classes)
    background: Tensor = torch.ones(len(tags), 1, dtype=torch.bool)
    return Teacher(training.average, torch.cat([background, tags], dim=1).to(training.world.device))


def _training_photos(samples: Sequence[Sample], name: str, *, masks: bool) -> list[Sample]:
    """The photos that have labels: those with tags, or those with `masks`. DataError where none has."""
    train = split(samples, "train")
    if not masks:
        return [sample for sample in train if sample.classes]
    found = [sample for sample in train if sample.mask is not None]
    if not found:
        hint = "rca prepare with masks of the training photos, or --set seg.labels=pseudo"
        raise DataError(f"seg.labels: truth, but none of {len(train)} training photos has a mask", hint)
    if len(found) < len(train):
        console.warn(f"{name}: {len(train) - len(found)} of {len(train)} training photos have no mask and are left out")
    return found


def _margin_weights(run: Run, config: Config, step: StepDir) -> MarginWeights:
    """The weights of `seg.noise` confidence, from the CAMs that the labels were made of and the background that they were made with."""
    settings, cams = config.pseudo, "make-pseudo/refined" if "make-pseudo/refined" in step.inputs else "make-pseudo/cams"
    record = run.record("make-pseudo/labels") or {}
    level = record.get("info", {}).get("bg_threshold", settings.bg_threshold)  # what pseudo.background: auto chose
    if settings.rule == "confidence":  # no background of its own: the middle of its two
        level = (settings.sure_foreground + settings.sure_background) / 2
    kind = "threshold" if settings.background == "auto" or settings.rule == "confidence" else settings.background
    rule = LabelRule(kind, bg_threshold=level, bg_power=settings.bg_power, crf="none", crf_params=None, confidence=0.0)
    return MarginWeights(run.dir(cams), Path(config.data.root), rule, config.seg.margin)


def _check_labels(dataset: SegDataset, name: str) -> None:
    """Look at labels until there is something to learn: DataError where all are ignore, a warning where all are background."""
    labelled = False
    for sample in dataset.samples:
        label = dataset.read_label(sample)
        if bool(((label != 0) & (label != IGNORE)).any()):
            return
        labelled |= bool((label == 0).any())
    hint = "lower pseudo.bg_threshold, and look at make-pseudo/labels"
    if not labelled:
        raise DataError(f"the labels of all {len(dataset)} training photos are ignore (255): there is nothing to learn", hint)
    console.warn(f"{name}: the labels of all {len(dataset)} training photos are background: the network will know nothing else ({hint})")
