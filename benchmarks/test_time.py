"""What each part of the test-time recipe gains and costs: scales, mirroring and the dense CRF, for the network of a run.

    python benchmarks/test_time.py RUN [--splits tune val] [--photos N] [--no-crf] [--out FILE]

Writes one JSON document: a row for each of {1, 3, 6 scales} x mirrored or not x CRF or not, with mIoU on each split (masks of the run's
data set; N photos of each, evenly drawn) and the seconds a photo takes. Every view of a photo is computed once, and a recipe's time is
the sum of its parts: network on the views, merging, CRF. On a CPU times are of the process, so that a busy machine counts less; photos are
decoded outside of the clock. Of two rounds, the second one's network is scored.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rcatool import config_io
from rcatool.data.datasets import MultiScaleDataset
from rcatool.data.labels import read_mask
from rcatool.data.manifest import Sample, split
from rcatool.data.photos import read_image
from rcatool.files import atomic_write
from rcatool.metrics import confusion_matrix, scores
from rcatool.models.deeplab import DeepLab
from rcatool.refine.crf import choose_backend, crf_params, dense_crf
from rcatool.run import Run
from rcatool.seg_inference import best_class, photo_probabilities
from rcatool.soft_labels import ITERATIONS
from rcatool.stages.networks import load_seg, read_data
from rcatool.steps import last_network
from rcatool.world import World, make_world

T = TypeVar("T")
SCALES = {"1 scale": (1.0,), "3 scales": (0.75, 1.0, 1.25), "6 scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)}
Recipe = tuple[str, bool, str]  # scales, mirrored, CRF


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--splits", nargs="+", default=["tune", "val"], choices=["train", "tune", "val"])
    parser.add_argument("--photos", type=int, default=0, metavar="N", help="of each split; 0: all")
    parser.add_argument("--no-crf", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run = Run(options.run)
    config = config_io.apply_settings(run.read_config(), [f"runtime.device={options.device}"])
    world = make_world(device=config.runtime.device, precision=config.runtime.precision)
    model, (classes, samples) = load_seg(run, config, world), read_data(run)
    chosen = {part: _some([s for s in split(samples, part) if s.mask], options.photos) for part in options.splits}
    crf = ("none",) if options.no_crf else ("none", "deeplab")
    bench = Bench(model, Path(config.data.root), classes.num_classes, world, crf)
    for part, photos in chosen.items():
        for number, sample in enumerate(photos, start=1):
            bench.photo(part, sample)
            print(f"\r{part} {number}/{len(photos)}", end="", flush=True)
    document = {
        "network": last_network(config), "settings": dict(config.seg), "device": str(world.device), "threads": torch.get_num_threads(),
        "photos": {part: len(photos) for part, photos in chosen.items()}, "crf_iterations": ITERATIONS, "recipes": bench.rows(),
    }  # fmt: skip
    text = json.dumps(document, indent=1)
    print()
    if options.out:
        atomic_write(options.out, text + "\n")
    for row in document["recipes"]:
        print(json.dumps(row))


def _some(samples: list[Sample], most: int) -> list[Sample]:
    """At most so many of the samples (0: all), evenly drawn."""
    step = len(samples) / most if 0 < most < len(samples) else 1
    return [samples[int(k * step)] for k in range(int(len(samples) / step))]


class Bench:
    """Counts and seconds of every recipe, photo by photo."""

    def __init__(self, model: DeepLab, root: Path, num_classes: int, world: World, crf: tuple[str, ...]) -> None:
        self.model, self.root, self.num_classes, self.world, self.crf = model, root, num_classes, world, crf
        self.confusion: dict[tuple[str, Recipe], np.ndarray] = {}
        self.seconds: dict[Recipe, float] = {}
        self.photos = 0

    def photo(self, part: str, sample: Sample) -> None:
        """Score one photo under every recipe."""
        truth = read_mask(self.root / str(sample.mask), num_classes=self.num_classes, size=sample.size)
        image = read_image(self.root / sample.image)
        for recipe, label, seconds in self._labels(sample, image):
            matrix = confusion_matrix(truth, label, self.num_classes + 1)
            self.confusion[part, recipe] = matrix + self.confusion.get((part, recipe), 0)
            self.seconds[recipe] = self.seconds.get(recipe, 0.0) + seconds
        self.photos += 1

    def _labels(self, sample: Sample, image: np.ndarray) -> Iterator[tuple[Recipe, np.ndarray, float]]:
        every = SCALES["6 scales"]
        views = MultiScaleDataset([sample], self.root, scales=every, flip=True)[0][1]
        found = {
            (scale, mirrored): self._timed(lambda v=view, m=mirrored: self._maps(v[int(m)][None], sample.size, mirrored=m))
            for (scale, view), mirrored in itertools.product(zip(every, views, strict=True), (False, True))
        }  # fmt: skip
        for (name, scales), flip in itertools.product(SCALES.items(), (False, True)):
            parts = [found[key] for key in itertools.product(scales, (False, True) if flip else (False,))]
            merged, merging = self._timed(lambda p=parts: torch.stack([maps for maps, _ in p]).mean(dim=0))
            seconds = merging + sum(each for _, each in parts)
            yield (name, flip, "none"), best_class(merged), seconds
            for crf in self.crf[1:]:
                label, more = self._timed(lambda c=crf, m=merged: self._refined(c, image, m))
                yield (name, flip, crf), label, seconds + more

    def _maps(self, view: Tensor, size: tuple[int, int], *, mirrored: bool) -> Tensor:
        """Softmax (C + 1, H, W) of one view (1, 3, h, w), turned back if it is mirrored."""
        found = photo_probabilities(self.model, [view], size, world=self.world)
        return found.flip(-1) if mirrored else found

    def _refined(self, crf: str, image: np.ndarray, probabilities: Tensor) -> np.ndarray:
        device = self.world.device
        backend = choose_backend("auto", device.type)
        found = dense_crf(image, probabilities.cpu().numpy(), crf_params(crf, ITERATIONS), backend=backend, device=str(device))
        label: np.ndarray = found.argmax(axis=0).astype(np.uint8)
        return label

    def _timed(self, function: Callable[[], T]) -> tuple[T, float]:
        on_gpu = self.world.device.type == "cuda"
        clock = time.perf_counter if on_gpu else time.process_time
        start = clock()
        found = function()
        if on_gpu:
            torch.cuda.synchronize(self.world.device)
        return found, clock() - start

    def rows(self) -> list[dict[str, Any]]:
        """A row for each recipe: mIoU on each split, what that is more than with one scale alone, and seconds per photo."""
        plain = ("1 scale", False, "none")
        found = []
        for recipe in self.seconds:
            name, flip, crf = recipe
            row: dict[str, Any] = {"scales": SCALES[name], "flip": flip, "crf": crf}
            for part in dict.fromkeys(part for part, _ in self.confusion):
                miou = scores(self.confusion[part, recipe]).miou
                row[part] = round(100 * miou, 2)
                row[f"{part}_gain"] = round(100 * (miou - scores(self.confusion[part, plain]).miou), 2)
            found.append({**row, "seconds": round(self.seconds[recipe] / self.photos, 3)})
        return found


if __name__ == "__main__":
    main()
