"""Whole photos for a trained network: loaded ahead, several of one size together where that pays."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from rcatool.config import Config
from rcatool.data.datasets import MultiScaleDataset
from rcatool.data.loaders import view_batches
from rcatool.data.manifest import Sample
from rcatool.pool import worker_count
from rcatool.world import World


def photo_batches(
    samples: Sequence[Sample], config: Config, world: World, *, scales: Sequence[float], flip: bool
) -> Iterator[tuple[list[Sample], list[list[Tensor]]]]:
    """Photos with their views, those of one size together, as many as `runtime.photo_batch` says; loaded ahead by other processes."""
    gpu = world.device.type == "cuda"
    workers = worker_count(config.runtime.workers)
    dataset = MultiScaleDataset(samples, Path(config.data.root), scales=scales, flip=flip)
    most = config.runtime.photo_batch or (8 if gpu else 1)
    return view_batches(dataset, most=most, workers=workers if gpu else min(2, workers), pin=gpu)


def waiting_writes(world: World) -> int:
    """How many files may wait to be written: none on a CPU, which is busy anyway; a GPU need not wait for the disk."""
    return 32 if world.device.type == "cuda" else 0
