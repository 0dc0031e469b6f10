"""Stage 3: train the segmentation network on the pseudo labels.

make-pseudo/labels/<id>.png -> train-seg/final.pt. Reads photos and pseudo labels of the train split, never a mask.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool import console
from rcatool.checkpoint import resume_training, save_state, save_training
from rcatool.config import Config
from rcatool.data.datasets import EpochBatches, SegDataset, train_loader
from rcatool.data.labels import IGNORE
from rcatool.data.manifest import check_images, split
from rcatool.engine import TrainLog, train_one_epoch
from rcatool.models.deeplab import DeepLab
from rcatool.pool import worker_count
from rcatool.run import Run
from rcatool.stages.networks import freeze_layers, lr_schedule, make_optimizer, read_data, seed_dropout, seg_design, seg_network, variation
from rcatool.world import make_world


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Train and write train-seg/final.pt, resuming from the last finished epoch; nothing to do if it is current."""
    step = run.begin("train-seg", config, force=force)
    if step is None:
        return
    world = make_world(device=config.runtime.device, precision=config.runtime.precision)
    classes, samples = read_data(run)
    train = [sample for sample in split(samples, "train") if sample.classes]
    root = Path(config.data.root)
    check_images(train, root)
    torch.manual_seed(config.seed)  # the head's initial values; in training, only dropout draws from this generator
    model = world.place(seg_network(config, classes.num_classes, pretrained=True))
    optimizer = make_optimizer(model, config.seg)
    start = resume_training(step.path / "last.pt", model, optimizer)
    resumed = f", resuming after epoch {start}" if start else ""
    console.log(f"train-seg: {config.seg.backbone}, {len(train)} photos, {config.seg.epochs} epochs on {world.device}{resumed}")
    batches = EpochBatches(len(train), config.seg.batch_size, config.seed)
    labels, scale = run.dir("make-pseudo/labels"), config.seg.resize_scale
    dataset = SegDataset(train, root, classes.num_classes, variation(config.seg, config.seed), labels=labels, resize_scale=scale)
    loader = train_loader(dataset, batches, workers=worker_count(config.runtime.workers), pin=world.device.type == "cuda")
    log = TrainLog(step.path / "log.jsonl", every=config.runtime.log_every)
    for epoch in range(start, config.seg.epochs):
        batches.epoch = epoch
        model.train()
        seed_dropout(config.seed, epoch)
        freeze_layers(model, config.seg)
        schedule = lr_schedule(config.seg, epoch, len(batches))
        with console.progress(f"train-seg epoch {epoch + 1}/{config.seg.epochs}", total=len(train)) as bar:
            loss_fn = _loss_fn(model)
            train_one_epoch(model, loss_fn, loader, optimizer, schedule=schedule, world=world, log=log, bar=bar)
        save_training(step.path / "last.pt", model, optimizer, epoch + 1)
    final = {"model": model.state_dict(), "classes": list(classes.names), "fingerprint": step.fingerprint}
    save_state(step.path / "final.pt", final | {"design": asdict(seg_design(config.seg))})
    run.commit(step, world.describe())
    (step.path / "last.pt").unlink(missing_ok=True)


def seg_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C + 1, h, w), upsampled, with labels (B, H, W): mean over pixels that are not 255.

    A batch that is all ignore gives 0, not nan.
    """
    full = F.interpolate(logits.float(), size=label.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(full, label, ignore_index=IGNORE, reduction="sum")
    return total / (label != IGNORE).sum().clamp(min=1)


def _loss_fn(model: DeepLab) -> Any:
    def loss_fn(batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        images, label, _ = batch
        return {"loss": seg_loss(model(images), label)}

    return loss_fn
