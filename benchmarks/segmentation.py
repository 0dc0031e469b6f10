"""What a segmentation network reaches on VOC-part with pseudo labels, beside the same network trained on true masks.

    python benchmarks/segmentation.py ARMS.yaml --classifiers runs/ablation --work runs/segmentation --out FILE.json
                                      [--arms truth plain rca] [--seeds 0 1 2] [--share 0/2] [--photos 400]

ARMS.yaml: `settings` of all arms and `arms`, each with the `classifier` whose trained run it starts from (runs/ablation/<name>-<seed>) and
its own `settings`. Every arm and seed is a run in WORK that goes through `rca make-pseudo`, `rca train-seg` and `rca eval` (an arm with
seg.labels truth makes no pseudo labels). Then the network is scored on a seeded sample of the training photos, the pseudo labels beside
it. A result is kept in WORK as <arm>-<seed>.json, so that a second call goes on; OUT holds every value, mean and sample deviation, and each
network's share of the true masks' of its seed.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from rcatool import cli, console
from rcatool.data.datasets import MultiScaleDataset, view_loader
from rcatool.data.labels import read_mask
from rcatool.data.manifest import Sample, split
from rcatool.files import atomic_write
from rcatool.metrics import confusion_matrix, scores
from rcatool.run import Run
from rcatool.seg_inference import photo_probabilities
from rcatool.stages.networks import load_seg, read_data
from rcatool.world import make_world

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
        shutil.copytree(options.classifiers / f"{own['classifier']}-{seed}", root)
    chosen = {**table["settings"], **own.get("settings", {})}
    written = {name: value if isinstance(value, str) else json.dumps(value) for name, value in chosen.items()}
    given = [word for name, value in written.items() for word in ("--set", f"{name}={value}")]
    seconds = {}
    for command in ("make-pseudo", "train-seg", "eval"):
        if command == "make-pseudo" and chosen.get("seg.labels") == TRUTH:
            continue
        start = time.time()
        code = cli.main([command, "--run", str(root), *given])
        if code:
            sys.exit(code)
        seconds[command] = round(time.time() - start)
    metrics = json.loads((root / "eval" / "metrics.json").read_text())
    found = {name: round(100 * part["miou"], 2) for name, part in metrics.items() if isinstance(part, dict) and "miou" in part}
    return {"arm": arm, "seed": seed, "scores": found, "train_photos": _on_train(Run(root), options.photos), "seconds": seconds}


@torch.inference_mode()
def _on_train(run: Run, photos: int) -> dict[str, float]:
    """mIoU on the same seeded sample of training photos: of the network, at scale 1, and of the pseudo labels it learnt."""
    config = run.read_config()
    root, world = Path(config.data.root), make_world(device=config.runtime.device, precision=config.runtime.precision)
    model, (classes, samples) = load_seg(run, config, world), read_data(run)
    train = [sample for sample in split(samples, "train") if sample.classes and sample.mask]
    chosen = [train[place] for place in sorted(np.random.default_rng(0).permutation(len(train))[:photos])]
    labels = classes.num_classes + 1
    totals = {"network": np.zeros((labels, labels + 1), np.int64)}
    with console.progress("on training photos", total=len(chosen)) as bar:
        for index, views in view_loader(MultiScaleDataset(chosen, root, scales=(1.0,), flip=False), workers=1):
            sample = chosen[index]
            truth = read_mask(root / str(sample.mask), num_classes=classes.num_classes, size=sample.size)
            label = photo_probabilities(model, views, sample.size, world=world).argmax(dim=0).to(torch.uint8).cpu().numpy()
            totals["network"] += confusion_matrix(truth, label, labels)
            bar.advance(1)
    if config.seg.labels != TRUTH:
        totals["labels"] = _of_labels(run, root, chosen, classes.num_classes)
    return {name: round(100 * scores(total).miou, 2) for name, total in totals.items()}


def _of_labels(run: Run, root: Path, chosen: Sequence[Sample], num_classes: int) -> np.ndarray:
    total = np.zeros(1, np.int64)
    for sample in chosen:
        truth = read_mask(root / str(sample.mask), num_classes=num_classes, size=sample.size)
        label = read_mask(run.dir("make-pseudo/labels") / f"{sample.id}.png", num_classes=num_classes, size=sample.size)
        total = total + confusion_matrix(truth, label, num_classes + 1)
    return total


def _write(table: dict[str, Any], options: argparse.Namespace) -> None:
    """OUT, of all results that are in WORK."""
    found = {arm: _results(options.work, arm) for arm in table["arms"]}
    rows = {arm: _row(each, {one["seed"]: one for one in found.get(TRUTH, [])}) for arm, each in found.items() if each}
    document = {
        "what": "VOC-part, mIoU in percent, by seed: `seg` on val, `train_photos` on a sample of train at scale 1; `ratio` to true masks",
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
    values |= {f"train photos, {name}": [one["train_photos"][name] for one in each] for name in each[0]["train_photos"]}
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
