"""What a segmentation network reaches on VOC-part with pseudo labels, beside the same network trained on true masks.

    python benchmarks/segmentation.py ARMS.yaml --classifiers runs/ablation --work runs/segmentation --out FILE.json
                                      [--arms truth plain rca] [--seeds 0 1 2] [--share 0/2] [--photos 400]

ARMS.yaml: `settings` of all arms and `arms`, each with the run that it starts with (a `classifier`, <name>-<seed> in the folder of them
as benchmarks/ablation.py leaves them, or `from` an earlier arm, whose pseudo labels it then has) and its own `settings`. Every arm and seed
is a run in WORK that goes through `rca make-pseudo` and `rca train-seg` (an arm with seg.labels truth makes no pseudo labels). Then its
last network is scored as `rca eval` scores it (eval.scales, eval.flip) on val and tune, and at scale 1 on a seeded sample of the training
photos, there also with classes that the photo is not tagged with struck out, as its labels know the tags, and beside it the labels that it
learnt; the CAMs are not scored, which would take longer. A result is kept in WORK as
<arm>-<seed>.json, so that a second call goes on; OUT holds every value, mean and sample deviation, and each network's share of the true
masks' of its seed.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from rcatool import cli, console
from rcatool.data.datasets import MultiScaleDataset
from rcatool.data.labels import read_mask
from rcatool.data.loaders import view_loader
from rcatool.data.manifest import Sample, split
from rcatool.files import atomic_write
from rcatool.metrics import confusion_matrix, scores
from rcatool.models.deeplab import DeepLab
from rcatool.run import Run
from rcatool.seg_inference import best_class, photo_probabilities
from rcatool.soft_labels import tag_names
from rcatool.stages.networks import load_seg, read_data
from rcatool.world import World, make_world

TRUTH = "truth"


def main() -> None:
    """Train and score what is missing; write the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--classifiers", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--photos", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = yaml.safe_load(options.table.read_text())
    jobs = [(arm, seed) for seed in options.seeds for arm in options.arms or table["arms"]]
    own, processes = (int(part) for part in options.share.split("/"))
    for arm, seed in jobs[own::processes]:
        result = options.work / f"{arm}-{seed}.json"
        if not result.exists():
            atomic_write(result, json.dumps(_measure(arm, seed, table, options)) + "\n")
    _write(table, options)


def _measure(arm: str, seed: int, table: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Take one arm with one seed through the commands, and score it."""
    own = table["arms"][arm]
    root = options.work / f"{arm}-{seed}"
    if not root.exists():
        start = options.work / own["from"] if "from" in own else options.classifiers / own["classifier"]
        shutil.copytree(f"{start}-{seed}", root)
    chosen = {**table["settings"], **own.get("settings", {})}
    written = {name: value if isinstance(value, str) else json.dumps(value) for name, value in chosen.items()}
    given = [word for name, value in written.items() for word in ("--set", f"{name}={value}")]
    seconds = {}
    for command in ("make-pseudo", "train-seg"):
        if command == "make-pseudo" and chosen.get("seg.labels") == TRUTH:
            continue
        start = time.time()
        code = cli.main([command, "--run", str(root), *given])
        if code:
            sys.exit(code)
        seconds[command] = round(time.time() - start)
    return {"arm": arm, "seed": seed, "scores": _scores(Run(root), options.photos), "seconds": seconds}


@torch.inference_mode()
def _scores(run: Run, photos: int) -> dict[str, float]:
    """mIoU of the last network on val, tune and a sample of train, and of the labels that it learnt on the same sample."""
    config = run.read_config()
    world = make_world(device=config.runtime.device, precision=config.runtime.precision)
    model, (classes, samples) = load_seg(run, config, world), read_data(run)
    part = {name: [sample for sample in split(samples, name) if sample.mask] for name in ("val", "tune", "train")}
    some = [part["train"][place] for place in sorted(np.random.default_rng(0).permutation(len(part["train"]))[:photos])]
    look = Look(model, Path(config.data.root), classes.num_classes, world)
    found = {}
    for name, chosen in (("seg", part["val"]), ("seg, tune", part["tune"])):
        found[name], _ = look.miou(name, chosen, scales=config.eval.scales, flip=config.eval.flip)
    found["seg, train photos"], found["seg with tags, train photos"] = look.miou("training photos", some, scales=(1.0,), flip=False)
    if config.seg.labels != TRUTH:
        labels = run.dir("make-pseudo/round-2" if config.second.enabled else "make-pseudo/labels")
        found["labels, train photos"] = _of_labels(labels, look.root, some, classes.num_classes)
    return {name: round(100 * value, 2) for name, value in found.items()}


@dataclass(frozen=True)
class Look:
    """A network and what it is shown."""

    model: DeepLab
    root: Path
    num_classes: int
    world: World

    def miou(self, what: str, samples: Sequence[Sample], *, scales: Sequence[float], flip: bool) -> tuple[float, float]:
        """mIoU of what it says, and of what it would say if it knew the photos' tags, as its labels do."""
        labels = self.num_classes + 1
        free, told = np.zeros((2, labels, labels + 1), np.int64)
        with console.progress(f"scoring {what}", total=len(samples)) as bar:
            for index, views in view_loader(MultiScaleDataset(samples, self.root, scales=scales, flip=flip), workers=1):
                sample = samples[index]
                truth = read_mask(self.root / str(sample.mask), num_classes=self.num_classes, size=sample.size)
                found = photo_probabilities(self.model, views, sample.size, world=self.world)
                names = tag_names(sample.classes)
                free += confusion_matrix(truth, best_class(found), labels)
                told += confusion_matrix(truth, names[best_class(found[names.tolist()])], labels)
                bar.advance(1)
        return float(scores(free).miou), float(scores(told).miou)


def _of_labels(folder: Path, root: Path, chosen: Sequence[Sample], num_classes: int) -> float:
    total = np.zeros(1, np.int64)
    for sample in chosen:
        truth = read_mask(root / str(sample.mask), num_classes=num_classes, size=sample.size)
        label = read_mask(folder / f"{sample.id}.png", num_classes=num_classes, size=sample.size)
        total = total + confusion_matrix(truth, label, num_classes + 1)
    return float(scores(total).miou)


def _write(table: dict[str, Any], options: argparse.Namespace) -> None:
    """OUT, of all results that are in WORK."""
    found = {arm: _results(options.work, arm) for arm in table["arms"]}
    rows = {arm: _row(each, {one["seed"]: one for one in found.get(TRUTH, [])}) for arm, each in found.items() if each}
    document = {
        "what": "VOC-part, mIoU in percent, by seed: `seg` on val; `ratio` of it to true masks",
        "command": f"python benchmarks/segmentation.py {options.table.name} --photos {options.photos}", "table": table,
        "machine": f"{platform.machine()}, one thread a process, torch {torch.__version__}", "arms": rows,
    }  # fmt: skip
    atomic_write(options.out, json.dumps(document, indent=1) + "\n")
    for arm, row in rows.items():
        console.log(f"{arm}: " + ", ".join(f"{name} {one['mean']} ± {one['deviation']}" for name, one in row.items() if "mean" in one))


def _results(work: Path, arm: str) -> list[dict[str, Any]]:
    paths = sorted(work.glob(f"{arm}-[0-9]*.json"))
    return [json.loads(path.read_text()) for path in paths]


def _row(each: Sequence[dict[str, Any]], truth: dict[int, dict[str, Any]]) -> dict[str, Any]:
    values = {name: [one["scores"].get(name) for one in each] for name in each[0]["scores"]}
    if all(one["seed"] in truth for one in each):
        values["ratio"] = [round(100 * one["scores"]["seg"] / truth[one["seed"]]["scores"]["seg"], 2) for one in each]
    row: dict[str, Any] = {"seeds": [one["seed"] for one in each], "seconds": [one["seconds"] for one in each]}
    for name, numbers in values.items():
        known = [number for number in numbers if number is not None]
        row[name] = {
            "values": numbers, "mean": round(statistics.mean(known), 2),
            "deviation": round(statistics.stdev(known), 2) if len(known) > 1 else None,
        }  # fmt: skip
    return row


if __name__ == "__main__":
    main()
