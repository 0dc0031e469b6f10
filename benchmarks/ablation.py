"""What each part of the method is worth on VOC-part: trains the arms of a table with several seeds and scores their CAMs.

    python benchmarks/ablation.py parts --data VOC2012 --weights mobilenet_v2.pth --work runs/ablation --out docs/results
                                  [--seeds 0 1 2] [--arms plain both] [--train-list train] [--share 0/2]

Every arm is a run of its own (`rca prepare`, `rca train-cls` with the settings below). Then the CAMs of its train photos and of the tune
photos are scored in memory at every threshold, as `rca eval` does with files: at photo scale 1 with its mirror image, the exported map
as it is ("cam") and, with the table `parts`, redrawn by two rounds of region maps from the photo's own regions ("own") and the same with
the region memory of 32 training photos per class ("memory"). The table `designs` is for a short list of photos (train_mini), `rates` for
the tune photos only. The result of an arm and seed is kept in WORK, so that a second call goes on where the first stopped, and `--share
I/N` lets N processes divide the work.
OUT/ablation-<table>-<list>.json holds every value, mean and sample deviation.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcatool import cli, console
from rcatool.cams import normalise, resize
from rcatool.config import Cam
from rcatool.data.datasets import MultiScaleDataset
from rcatool.data.labels import class_to_mask, read_mask
from rcatool.data.loaders import view_loader
from rcatool.data.manifest import Sample, split
from rcatool.files import atomic_write
from rcatool.metrics import scores, sweep_histogram, sweep_matrices, thresholds
from rcatool.models.rca_net import RcaNet
from rcatool.models.region_cam import RegionBank
from rcatool.run import Run
from rcatool.stages.networks import load_cls, read_data
from rcatool.stages.photo_cams import batch_maps, redraw
from rcatool.stages.region_bank import choose_photos, load_bank, make_bank
from rcatool.world import World, make_world

# One schedule for all arms of a table: the preset voc-part-mobilenet made cheaper, so that its runs fit into an evening on two cores.
SCHEDULES = {
    "parts": {"cls.freeze_early": "true", "cls.crop_size": "224", "cls.resize_long": "[224, 384]"},
    "designs": {
        "cls.freeze_early": "true", "cls.crop_size": "160", "cls.resize_long": "[160, 288]", "cls.epochs": "16", "cls.validate_every": "0",
    },
}  # fmt: skip
LEVELS = thresholds(0.02)
CAM = Cam(scales=(1.0,), flip=True, region_rounds=2, region_memory=32)
SCHEDULES["rates"] = SCHEDULES["parts"]
KINDS = {"parts": ("cam", "own", "memory"), "designs": ("cam",), "rates": ("cam",)}
SCORED = {"parts": ("tune", "train"), "designs": ("tune", "train"), "rates": ("tune",)}

# Settled on the tune photos (docs/log.md): more weight costs maps, less is not felt.
CONTRAST = {"memory.contrast_weight": "0.02", "memory.projection": "128"}

# The released code's training on the same network, length and crop. With its deep heads, or at higher rates, this network learns nothing or
# diverges (docs/log.md).
OFFICIAL = {
    "cls.method": "official", "cls.head": "1x1", "cls.lr": "0.0001", "cls.head_lr": "0.001", "cls.resize_square": "true",
    "cls.flip": "false", "cls.shuffle": "false", "cls.nesterov": "true", "cls.decay_all": "true",
    "memory.momentum": "0.99", "memory.confidence": "0.7", "memory.contrast_weight": "0.01", "memory.projection": "0",
}  # fmt: skip

TABLES: dict[str, dict[str, dict[str, str]]] = {
    "parts": {
        "plain": {"cls.method": "cam"},
        "contrast": {**CONTRAST, "memory.prototypes": "0"},
        "aggregation": {"memory.contrast_weight": "0"},
        "both": CONTRAST,
    },
    "rates": {  # is the plain CAM trained as well as it can be?
        "plain": {"cls.method": "cam"},
        "lr-0.002": {"cls.method": "cam", "cls.lr": "0.002"},
        "epochs-12": {"cls.method": "cam", "cls.epochs": "12"},
    },
    "designs": {
        "plain": {"cls.method": "cam"},
        "both": CONTRAST,
        "fifo": {**CONTRAST, "memory.design": "fifo"},
        "ring-ema": {**CONTRAST, "memory.design": "ring-ema"},
        "fifo-50": {**CONTRAST, "memory.design": "fifo", "memory.size": "50"},
        "no-mixup": {**CONTRAST, "memory.mixup_beta": "0"},
        "k-3": {**CONTRAST, "memory.prototypes": "3"},
        "k-30": {**CONTRAST, "memory.prototypes": "30"},
        "tau-0.02": {**CONTRAST, "memory.temperature": "0.02"},
        "tau-0.5": {**CONTRAST, "memory.temperature": "0.5"},
        "momentum-0.9": {**CONTRAST, "memory.momentum": "0.9"},
        "confidence-0.7": {**CONTRAST, "memory.confidence": "0.7"},
        "contrast-at-once": {**CONTRAST, "memory.contrast_start": "0", "memory.prototypes_start": "1"},
        "contrast-0.5": {**CONTRAST, "memory.contrast_weight": "0.5"},
        "official": OFFICIAL,
    },
}


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    table: str
    data: Path
    weights: Path
    work: Path
    out: Path
    seeds: list[int]
    arms: list[str] | None
    train_list: str
    share: str
    set_: list[str]


def main() -> None:
    """Train and score what is missing; write the table of what is there."""
    options = _options()
    torch.set_num_threads(1)
    arms = TABLES[options.table]
    jobs = [(arm, seed) for seed in options.seeds for arm in options.arms or arms]
    own, processes = (int(part) for part in options.share.split("/"))
    for arm, seed in jobs[own::processes]:
        result = options.work / f"{arm}-{seed}.json"
        if not result.exists():
            atomic_write(result, json.dumps(_measure(arm, seed, arms[arm], options)) + "\n")
    found = {(arm, seed): options.work / f"{arm}-{seed}.json" for arm in arms for seed in options.seeds}
    _write_table({job: json.loads(path.read_text()) for job, path in found.items() if path.exists()}, options)


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted(TABLES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--train-list", default="train")
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--set", dest="set_", action="append", default=[])
    return Options(**vars(parser.parse_args()))


def _measure(arm: str, seed: int, settings: dict[str, str], options: Options) -> dict[str, Any]:
    """Train one arm with one seed and score it."""
    run = options.work / f"{arm}-{seed}"
    always = {"seed": str(seed), "runtime.workers": "1", "cls.weights": str(options.weights.resolve())}
    chosen = {**SCHEDULES[options.table], **settings, **always}
    sets = [f"{name}={value}" for name, value in chosen.items()] + options.set_
    given = [word for pair in sets for word in ("--set", pair)]
    lists = ["--train-list", options.train_list, "--val-list", "val", "--tune-list", "tune"]
    start = time.time()
    _rca("prepare", "voc", "--config", "voc-part-mobilenet", "--root", str(options.data), *lists, "--run", str(run), *given)
    _rca("train-cls", "--run", str(run))
    trained = time.time()
    config = Run(run).read_config()
    world = make_world(device=config.runtime.device, precision=config.runtime.precision)
    model = load_cls(Run(run), config, world)
    samples = {part: split(read_data(Run(run))[1], part) for part in ("tune", "train") if part in SCORED[options.table]}
    lines = [json.loads(line) for line in (run / "train-cls" / "log.jsonl").read_text().splitlines()]
    parts = _score(_Look(model, options.data.resolve(), world, KINDS[options.table]), samples, config.seed, run / "regions.bank")
    return {
        "arm": arm, "seed": seed, "settings": settings,
        "tune_map": next((line["val_map"] for line in lines[::-1] if "val_map" in line), None),
        **parts, "train_seconds": round(trained - start), "score_seconds": round(time.time() - trained),
    }  # fmt: skip


def _rca(*words: str) -> None:
    code = cli.main(list(words))
    if code:
        sys.exit(code)


@torch.inference_mode()
def _score(look: "_Look", samples: dict[str, list[Sample]], seed: int, path: Path) -> dict[str, Any]:
    """Best-threshold mIoU of the tune and train photos that have tags and masks, for each kind of map."""
    if "memory" in look.kinds:
        chosen = choose_photos(samples["train"], CAM.region_memory, 20, seed)
        make_bank(path, look.at(chosen), settings=CAM, total=len(chosen))
    found = {}
    for part, photos in samples.items():
        bank = load_bank(path, photos, num_classes=20, device=look.world.device) if "memory" in look.kinds else None
        found[part] = _score_part(look, photos, bank)
    return found


def _score_part(look: "_Look", samples: Sequence[Sample], bank: RegionBank | None) -> dict[str, Any]:
    confusions: dict[str, np.ndarray] = {}
    with console.progress("scoring", total=len(samples)) as bar:
        for number, (sample, (cam, columns)) in enumerate(look.at(samples)):
            bar.advance(1)
            if not sample.classes or sample.mask is None:
                continue
            truth = read_mask(look.root / sample.mask, num_classes=20, size=sample.size)
            banks = {"own": None, "memory": bank}
            for name in look.kinds:
                maps = cam if name == "cam" else redraw(cam, columns, sample, settings=CAM, bank=banks[name], photo=number)
                whole = np.clip(normalise(resize(maps, *sample.size)), 0, 1)
                histogram = sweep_histogram(truth, whole, class_to_mask(np.asarray(sample.classes)), LEVELS, 21)
                confusions[name] = confusions.get(name, 0) + sweep_matrices(histogram)
    return {"photos": len(samples), **{name: _best(confusion) for name, confusion in confusions.items()}}


@dataclass(frozen=True)
class _Look:
    """What the network makes of photos: CAM and hypercolumns."""

    model: RcaNet
    root: Path
    world: World
    kinds: tuple[str, ...]

    def at(self, samples: Sequence[Sample]) -> Iterator[tuple[Sample, tuple[np.ndarray, Any]]]:
        settings = CAM if self.kinds != ("cam",) else CAM.model_copy(update={"region_rounds": 0})
        for index, views in view_loader(MultiScaleDataset(samples, self.root, scales=CAM.scales, flip=CAM.flip), workers=1):
            sample = samples[index]
            cam, columns, _ = next(batch_maps(self.model, [sample], [views], settings=settings, world=self.world))
            yield sample, (cam, columns)


def _best(confusions: np.ndarray) -> dict[str, float]:
    miou = np.array([scores(confusion).miou for confusion in confusions])
    place = int(np.nanargmax(miou))
    return {"miou": round(100 * float(miou[place]), 2), "threshold": round(float(LEVELS[place]), 3)}


def _write_table(found: dict[tuple[str, int], dict[str, Any]], options: Options) -> None:
    rows = {}
    for arm in dict.fromkeys(arm for arm, _ in found):
        each = [result for (name, _), result in found.items() if name == arm]
        rows[arm] = {
            f"{part} {kind}": {
                "values": [one[part][kind]["miou"] for one in each],
                "mean": round(statistics.mean(one[part][kind]["miou"] for one in each), 2),
                "deviation": round(statistics.stdev(one[part][kind]["miou"] for one in each), 2) if len(each) > 1 else None,
                "thresholds": [one[part][kind]["threshold"] for one in each],
            }
            for part in SCORED[options.table] for kind in KINDS[options.table]
        }  # fmt: skip
        rows[arm] |= {name: [one[name] for one in each] for name in ("seed", "tune_map")} | {"settings": each[0]["settings"]}
    document = {
        "what": f"VOC-part, best-threshold mIoU of CAMs in percent over the list {options.train_list} and over tune, by seed",
        "command": "python " + " ".join(["benchmarks/ablation.py", options.table, "--train-list", options.train_list]),
        "preset": "voc-part-mobilenet", "schedule": SCHEDULES[options.table], "further settings": options.set_,
        "maps": CAM.model_dump(mode="json"),
        "machine": f"{platform.machine()}, one thread a process, torch {torch.__version__}", "arms": rows,
    }  # fmt: skip
    atomic_write(options.out / f"ablation-{options.table}-{options.train_list}.json", json.dumps(document, indent=1) + "\n")
    for arm, row in rows.items():
        console.log(f"{arm}: " + ", ".join(f"{name} {row[name]['mean']} ± {row[name]['deviation']}" for name in row if " " in name))


if __name__ == "__main__":
    main()
