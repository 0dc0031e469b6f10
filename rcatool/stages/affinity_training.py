"""The network whose affinities refine CAMs (part of make-pseudo, with `refine.method` affinity or irn).

make-pseudo/cams -> make-pseudo/affinity/labels/<id>.png -> make-pseudo/affinity/final.pt. Reads photos and CAMs of the train split,
never a mask. Labels are made photo by photo, training resumes from the last finished epoch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcatool import console
from rcatool.checkpoint import resume_training, save_state, save_training
from rcatool.config import Config
from rcatool.data.datasets import SegDataset, Variation
from rcatool.data.loaders import EpochBatches, train_loader
from rcatool.data.manifest import Sample
from rcatool.engine import train_one_epoch
from rcatool.optim import sgd
from rcatool.pool import parallel_map, worker_count
from rcatool.pseudo import LabelJob, LabelRule
from rcatool.ranks import on_first, share, wait
from rcatool.refine.affinity_labels import AffinityRule, make_affinity_label
from rcatool.refine.affinity_loss import affinity_loss
from rcatool.refine.crf import crf_params
from rcatool.run import Run
from rcatool.stages.networks import AffinityModel, affinity_network, lr_schedule, read_data
from rcatool.stages.train_log import open_log
from rcatool.world import make_world

CRF_ITERATIONS = 10  # of the published pipelines: the labels' own, whatever pseudo.crf_iterations is


def train_affinity(run: Run, config: Config, samples: Sequence[Sample], *, force: bool) -> None:
    """Make the labels of these training photos and train on them; write make-pseudo/affinity/final.pt."""
    step = on_first(lambda: run.begin("make-pseudo/affinity", config, force=force))
    if step is None:
        return
    world = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic)
    chosen = choose_photos(samples, config.affinity.photos, config.seed)
    labels = step.path / "labels"
    _make_labels(chosen, config, cams=run.dir("make-pseudo/cams"), labels=labels)
    torch.manual_seed(config.seed)  # the heads' initial values; nothing else in training draws from this generator
    model = world.place(affinity_network(run, config, world))
    settings = config.affinity
    optimizer = sgd(
        model, model.heads(), lr=settings.lr, head_lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    start = resume_training(step.path / "last.pt", model, optimizer)
    resumed = f", resuming after epoch {start}" if start else ""
    console.log(f"make-pseudo: training {config.refine.method}, {len(chosen)} photos, {settings.epochs} epochs on {world.device}{resumed}")
    batches = EpochBatches(len(chosen), settings.batch_size, config.seed)
    classes, _ = read_data(run)
    varied = Variation(settings.crop_size, settings.flip, 0.0, config.seed)
    dataset = SegDataset(
        chosen, Path(config.data.root), classes.num_classes, varied, labels=labels, resize_scale=settings.resize_scale
    )
    loader = train_loader(dataset, batches, workers=worker_count(config.runtime.workers), pin=world.device.type == "cuda")
    log = open_log(run, step, config)
    for epoch in range(start, settings.epochs):
        batches.epoch = epoch
        model.train()
        schedule = lr_schedule(settings, epoch, len(batches))
        with console.progress(f"make-pseudo affinity epoch {epoch + 1}/{settings.epochs}", total=len(chosen)) as bar:
            train_one_epoch(model, _loss_fn(model), loader, optimizer, schedule=schedule, world=world, log=log, bar=bar)
        on_first(partial(save_training, step.path / "last.pt", model, optimizer, epoch + 1))

    def finish() -> None:
        save_state(step.path / "final.pt", {"model": model.state_dict(), "classes": list(classes.names), "fingerprint": step.fingerprint})
        run.commit(step, {**world.describe(), "photos": len(chosen)})
        (step.path / "last.pt").unlink(missing_ok=True)

    on_first(finish)


def choose_photos(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """`count` of the samples at random, in their order; 0, or more than there are: all."""
    if not 0 < count < len(samples):
        return list(samples)
    picked = np.random.default_rng([seed, count]).choice(len(samples), count, replace=False)
    return [samples[index] for index in sorted(picked.tolist())]


def affinity_rule(config: Config) -> AffinityRule:
    """The label settings of `affinity` as two rules."""
    method, name = config.refine.method, label_crf(config)
    params = None if name == "none" else crf_params(name, CRF_ITERATIONS)

    def rule(which: int) -> LabelRule:
        return LabelRule(
            background="power" if method == "affinity" else "threshold",
            bg_threshold=config.affinity.thresholds[which],
            bg_power=config.affinity.powers[which],
            crf=name,
            crf_params=params,
            confidence=0.0,
        )

    return AffinityRule(rule(0), rule(1))


def label_crf(config: Config) -> str:
    """The CRF of the labels that affinities are learned from, `none` where none are."""
    if config.refine.method not in ("affinity", "irn"):
        return "none"
    own = {"affinity": "seed", "irn": "irn"}[config.refine.method]
    return own if config.affinity.crf == "auto" else config.affinity.crf


def _make_labels(samples: Sequence[Sample], config: Config, *, cams: Path, labels: Path) -> None:
    root = Path(config.data.root)
    jobs = [LabelJob(root / s.image, cams / f"{s.id}.npz", labels / f"{s.id}.png", s.size) for s in samples]
    jobs = share(jobs)
    todo = [job for job in jobs if not job.label.exists()]
    console.log(f"make-pseudo: affinity labels of {len(samples)} photos")
    work = partial(make_affinity_label, rule=affinity_rule(config))
    with console.progress("make-pseudo affinity labels", total=len(jobs)) as bar:
        bar.advance(len(jobs) - len(todo))
        for _ in parallel_map(work, todo, workers=worker_count(config.runtime.workers), bar=bar.advance):
            pass
    wait()


def _loss_fn(model: AffinityModel) -> Callable[[tuple[Tensor, Tensor, Tensor]], dict[str, Tensor]]:
    def loss_fn(batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        images, label, _ = batch
        return affinity_loss(model(images), label.to(images.device, non_blocking=True), model.offsets)

    return loss_fn
