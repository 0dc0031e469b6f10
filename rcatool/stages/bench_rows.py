"""What `rca bench` measures with and what comes of it: a row per stage, and the time that whole data sets would take."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rcatool.config import Config
from rcatool.data.manifest import Sample
from rcatool.pool import worker_count
from rcatool.throughput import PeakMemory, synchronise
from rcatool.world import World

# Training and val photos.
DATA_SETS = {"VOC 2012 trainaug": (10_582, 1_449), "COCO 2014": (82_081, 40_137)}


@dataclass
class Bench:
    """What all stages are measured with; `rows` are the results so far, `folder` holds temporary files."""

    config: Config
    world: World
    train: list[Sample]
    val: list[Sample]
    num_classes: int
    folder: Path
    seconds: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """What the photos' paths are relative to."""
        return Path(self.config.data.root)

    @property
    def workers(self) -> int:
        """Processes that load data, or make labels."""
        return worker_count(self.config.runtime.workers)


def extrapolate(bench: Bench) -> dict[str, dict[str, float]]:
    """Seconds that each stage takes for the published data sets, with this many classes: where processes share work, all of them."""
    config, found = bench.config, {}
    passes = {"train-cls": config.cls.epochs, "train-seg": config.seg.epochs}
    for name, (train, val) in DATA_SETS.items():
        seconds = {}
        for row in bench.rows:
            photos = val if row["stage"] in ("eval predictions", "eval scores") else train
            if row["stage"] != "loading":  # which is in train-cls
                seconds[row["stage"]] = photos * passes.get(row["stage"], 1) / (row["images_per_s"] * row["processes"])
        found[name] = seconds | {"all": sum(seconds.values())}
    return found


def timed(bench: Bench, stage: str, work: Iterable[int], *, flop: int = 0, processes: int = 1, **more: Any) -> None:
    """Let `work`, which yields how many images it did, go on until time is up, and add the row of `stage`."""
    memory, images = PeakMemory(bench.world.device), 0
    start = time.perf_counter()
    for done in work:
        images += done
        synchronise(bench.world.device)
        if time.perf_counter() - start > bench.seconds:
            break
    seconds = time.perf_counter() - start
    bench.rows.append({
        "stage": stage, "images": images, "seconds": seconds, "images_per_s": images / seconds, "peak_memory_mib": memory.mib,
        "waiting": None, "flop_per_image": flop, "processes": processes, **more,
    })  # fmt: skip
