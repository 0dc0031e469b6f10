"""How fast each stage is on this machine, with a run's settings, and how long the published data sets would take (`rca bench`).

The networks have random weights, which cost what trained ones do. Nothing is written but temporary files.
"""

import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rcatool import console
from rcatool.cams import save_cam
from rcatool.config import Config
from rcatool.config_cls import Cls
from rcatool.config_seg import Seg
from rcatool.data.datasets import ClsDataset, MultiScaleDataset, SegDataset
from rcatool.data.labels import write_mask
from rcatool.data.loaders import EpochBatches, Loader, train_loader
from rcatool.data.manifest import split
from rcatool.errors import DataError
from rcatool.models.deeplab import build_seg
from rcatool.models.frozen import fold_batch_norm
from rcatool.pseudo import LabelJob, make_label
from rcatool.run import Run
from rcatool.scoring import count_labels
from rcatool.seg_inference import batch_probabilities, best_class
from rcatool.stages import make_pseudo
from rcatool.stages.bench_rows import Bench, extrapolate, timed
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import cls_network, make_optimizer, read_data, seg_design, tag_matrix, variation
from rcatool.stages.photo_batches import photo_batches
from rcatool.stages.photo_cams import batch_maps
from rcatool.stages.seg_step import StepLoss
from rcatool.throughput import Waiting, matrix_rate, synchronise
from rcatool.world import World, make_world


def main(run: Run, config: Config, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Measure each stage for about `seconds` (at least one batch or photo), using `folder` for files: the document of `rca bench`."""
    world = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic)
    classes, samples = read_data(run)
    train, val = [sample for sample in split(samples, "train") if sample.classes], split(samples, "val")
    if not train:
        raise DataError("the data set has no tagged training photos", hint="rca bench without --run makes some")
    torch.manual_seed(config.seed)
    bench = Bench(config, world, train, val or train, classes.num_classes, folder, seconds)
    dtype = world.autocast_dtype or torch.float32
    side = 8192 if world.device.type == "cuda" else 1024
    rate = matrix_rate(world.device, dtype, side=side, seconds=min(2.0, seconds))
    for measure in (_load, _train_cls, _cams, _labels, _train_seg, _predict, _score):
        console.log(f"bench: {measure.__name__.strip('_').replace('_', '-')}")
        measure(bench)
    for row in bench.rows:
        row["share_of_matrix_rate"] = row["flop_per_image"] * row["images_per_s"] / rate if row["flop_per_image"] else None
    return {
        "format": 1, "device": _name(world), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "classes": bench.num_classes, "precision": str(dtype).removeprefix("torch."), "workers": bench.workers,
        "matrix": {"side": side, "flop_per_s": rate}, "stages": bench.rows, "extrapolated": extrapolate(bench),
    }  # fmt: skip


def _name(world: World) -> str:
    return torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else str(world.device)


def _cls_dataset(bench: Bench) -> ClsDataset:
    settings = bench.config.cls
    long = None if settings.resize_square else settings.resize_long
    return ClsDataset(bench.train, bench.root, bench.num_classes, variation(settings, bench.config.seed), resize_long=long)


def _load(bench: Bench) -> None:
    """Photos from disk to crops, in one process."""
    dataset = _cls_dataset(bench)
    keys = ((epoch, index) for epoch in range(10**6) for index in range(len(dataset)))
    timed(bench, "loading", (len(dataset[key][0][None]) for key in keys), processes=max(1, bench.workers))


def _train_cls(bench: Bench) -> None:
    config = bench.config.model_copy(update={"cls": bench.config.cls.model_copy(update={"saliency_weight": 0.0})})
    model = bench.world.place(cls_network(config, tag_matrix(bench.train, bench.num_classes), pretrained=False)).train()
    generator = torch.Generator().manual_seed(0)
    last = config.cls.epochs - 1  # where all terms are on
    if model.memory is not None:
        model.memory.bank.normal_(generator=torch.Generator(bench.world.device).manual_seed(0))
        model.memory.visits.fill_(1)
        model.memory.refresh_prototypes(seed=0, iterations=1)
    intake = Intake(torch.zeros(bench.num_classes, dtype=torch.long, device=bench.world.device))

    def loss_fn(batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return step_loss(model, batch, config, StepState(last, generator, intake))

    _train(bench, "train-cls", (model, config.cls), loss_fn, _cls_dataset(bench))


def _train_seg(bench: Bench) -> None:
    settings = bench.config.seg
    model = bench.world.place(build_seg(seg_design(bench.config.seg), bench.num_classes)).train()
    loss_fn = StepLoss(model, settings.model_copy(update={"noise": "none"}), None, window=1)
    labels = bench.folder / "labels"
    done = [sample for sample in bench.train if (labels / f"{sample.id}.png").exists()]
    varied = variation(settings, bench.config.seed)
    dataset = SegDataset(done, bench.root, bench.num_classes, varied, labels=labels, resize_scale=settings.resize_scale)
    _train(bench, "train-seg", (model, settings), loss_fn, dataset)


def _train(
    bench: Bench, stage: str, trained: tuple[Any, Cls | Seg], loss_fn: Callable[[tuple[Tensor, ...]], dict[str, Tensor]],
    dataset: ClsDataset | SegDataset,
) -> None:  # fmt: skip
    """Training steps; the batch is smaller than the settings' where a step would take longer than there is time."""
    (model, settings), device = trained, bench.world.device
    optimizer = make_optimizer(model, settings)

    def step(batch: list[Tensor]) -> int:
        images = batch[0].to(device, non_blocking=True, memory_format=torch.channels_last)
        with bench.world.autocast():
            losses = loss_fn((images, *batch[1:]))
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
        return len(images)

    first = next(iter(_batches(bench, dataset, 2, workers=0)))
    with FlopCounterMode(display=False) as counter:
        pilot = step(first)
    flop = counter.get_total_flops() // pilot
    start = time.perf_counter()
    step(first)
    synchronise(device)
    affordable = int(bench.seconds / ((time.perf_counter() - start) / pilot))
    size = settings.batch_size if device.type == "cuda" else max(1, min(settings.batch_size, affordable))
    loader = Waiting(chain.from_iterable(repeat(_batches(bench, dataset, size, workers=bench.workers))))
    steps = (step(batch) for batch in loader)
    next(steps)  # workers have started
    loader.restart()
    timed(bench, stage, steps, flop=flop, batch_size=size)
    bench.rows[-1]["waiting"] = loader.share


def _batches(bench: Bench, dataset: ClsDataset | SegDataset, size: int, *, workers: int) -> Loader:
    batches = EpochBatches(len(dataset), min(size, len(dataset)), bench.config.seed)
    return train_loader(dataset, batches, workers=workers, pin=bench.world.device.type == "cuda")


def _cams(bench: Bench) -> None:
    settings = bench.config.cam
    model = bench.world.place(cls_network(bench.config, tag_matrix(bench.train, bench.num_classes), pretrained=False)).eval()
    model = fold_batch_norm(model)
    dataset = MultiScaleDataset(bench.train, bench.root, scales=settings.scales, flip=settings.flip)

    def work() -> Iterator[int]:
        for batch, photos in photo_batches(bench.train, bench.config, bench.world, scales=settings.scales, flip=settings.flip):
            for sample, (cam, _, _) in zip(batch, batch_maps(model, batch, photos, settings=settings, world=bench.world), strict=True):
                save_cam(bench.folder / "cams" / f"{sample.id}.npz", np.asarray(sample.classes), cam, sample.size)
                yield 1

    _, views = dataset[0]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(views[0].to(bench.world.device))
    pixels = sum(view[0].numel() * len(view) for view in views) / (views[0][0].numel() * len(views[0]))
    timed(bench, "make-pseudo CAMs", work(), flop=int(counter.get_total_flops() * pixels))


def _labels(bench: Bench) -> None:
    rule, cams, labels = make_pseudo.label_rule(bench.config), bench.folder / "cams", bench.folder / "labels"
    labels.mkdir(exist_ok=True)
    done = [sample for sample in bench.train if (cams / f"{sample.id}.npz").exists()]
    jobs = [LabelJob(bench.root / s.image, cams / f"{s.id}.npz", labels / f"{s.id}.png", s.size) for s in done]

    def work() -> Iterator[int]:
        for job in jobs:
            make_label(job, rule)
            yield 1

    timed(bench, "make-pseudo labels", work(), processes=max(1, bench.workers), crf=rule.crf)


def _predict(bench: Bench) -> None:
    settings = bench.config.eval
    model = bench.world.place(build_seg(seg_design(bench.config.seg), bench.num_classes)).eval()

    def work() -> Iterator[int]:
        for batch, photos in photo_batches(bench.val, bench.config, bench.world, scales=settings.scales, flip=settings.flip):
            found = batch_probabilities(model, photos, batch[0].size, world=bench.world)
            for sample, probabilities in zip(batch, found, strict=True):
                write_mask(bench.folder / "predictions" / f"{sample.id}.png", best_class(probabilities))
                yield 1

    timed(bench, "eval predictions", work())


def _score(bench: Bench) -> None:
    height, width = bench.val[0].size
    truth = np.random.default_rng(0).integers(0, bench.num_classes + 1, (height // 32 + 1, width // 32 + 1), np.uint8)
    truth = np.kron(truth, np.ones((32, 32), np.uint8))[:height, :width]

    def work() -> Iterator[int]:
        while True:
            count_labels(truth, np.roll(truth, 5, axis=1), boundary=True)
            yield 1

    timed(bench, "eval scores", work(), processes=max(1, bench.workers))
