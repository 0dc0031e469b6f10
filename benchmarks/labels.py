"""What each refinement is worth: pseudo labels of VOC-part from the same network, for each kind of map with each CRF.

    python benchmarks/labels.py RUN --work DIR --out FILE.json [--photos 400] [--maps cam own memory cam+walk memory+walk4]
                                [--crf none seed irn] [--more NAME=DIR] [--workers 1]

RUN has a trained classifier (rca train-cls). Maps are made at photo scale 1 with its mirror image and kept in DIR, so that a second call
goes on: the CAM, redrawn from the photo's own regions (own) and with the region memory of 32 photos a class (memory), each of them
spread by a walk along the classifier's early features. `--more` adds other programs' or settings' CAM folders (<id>.npz).
The constant background is chosen on the tune photos, for each map and CRF: without CRF among 50 levels, with it among the shares
0.6, 0.8, 1 and 1.25 of that level. Then the labels of a seeded sample of the training photos are scored, and without CRF with their own
best level, too, which is an oracle.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcatool import console
from rcatool.cams import load_full_cam, normalise, save_cam
from rcatool.config import Cam
from rcatool.data.datasets import MultiScaleDataset
from rcatool.data.labels import class_to_mask, read_mask
from rcatool.data.loaders import view_loader
from rcatool.data.manifest import Sample, split
from rcatool.data.photos import read_image
from rcatool.files import atomic_write
from rcatool.metrics import scores, sweep_histogram, sweep_matrices, thresholds
from rcatool.pool import parallel_map
from rcatool.pseudo import LabelRule, Photo, photo_label
from rcatool.refine import propagate
from rcatool.refine.crf import crf_params
from rcatool.run import Run
from rcatool.stages.networks import ClsNet, load_cls, read_data
from rcatool.stages.photo_cams import batch_maps, redraw
from rcatool.stages.region_bank import choose_photos, load_bank, make_bank
from rcatool.world import World, make_world

LEVELS = thresholds(0.02)
CAM = Cam(scales=(1.0,), flip=True, region_rounds=2, region_memory=32)
WALKS = {"": (12, 8.0, 32), "4": (16, 8.0, 4), "16": (16, 8.0, 16)}  # radius, beta, steps of "walk", "walk4", "walk16"
SHARES = (0.6, 0.8, 1.0, 1.25)


@dataclass(frozen=True)
class Job:
    """One photo: its files, and the labels that are to be made of its map and scored: (crf, background) pairs."""

    image: Path
    mask: Path
    cam: Path
    size: tuple[int, int]
    num_classes: int
    rules: tuple[tuple[str, float], ...]


def main() -> None:
    """Make the maps that are missing, choose the levels, score, write FILE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--maps", nargs="+", default=["cam", "own", "memory", "cam+walk", "memory+walk4", "memory+walk16"])
    parser.add_argument("--crf", nargs="+", default=["none", "seed", "irn"])
    parser.add_argument("--more", nargs="*", default=[])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(options.run)
    config = run.read_config()
    root = Path(config.data.root)
    _, samples = read_data(run)
    parts = {part: [s for s in split(samples, part) if s.classes and s.mask] for part in ("tune", "train")}
    chosen = np.random.default_rng(0).permutation(len(parts["train"]))[: options.photos]
    parts["train"] = [parts["train"][place] for place in sorted(chosen)]
    _make_maps(run, parts["tune"] + parts["train"], options)
    folders = {name: options.work / name for name in options.maps} | {n: Path(d) for n, d in (one.split("=") for one in options.more)}
    crfs = [crf for crf in options.crf if crf != "none"]
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    for name, folder in folders.items():
        if name not in rows:
            rows[name] = _score(parts, root, folder, crfs, options.workers)
            console.log(f"{name}: {rows[name]}")
        document = {
            "what": "VOC-part, mIoU of pseudo labels in percent; levels chosen on tune but for `oracle`",
            "command": "python benchmarks/labels.py RUN " + " ".join(f"--{n} {' '.join(getattr(options, n))}" for n in ("maps", "crf")),
            "network": {"method": config.cls.method, "seed": config.seed}, "photos": {part: len(found) for part, found in parts.items()},
            "walks": WALKS, "rows": rows,
        }  # fmt: skip
        atomic_write(options.out, json.dumps(document, indent=1) + "\n")


@torch.inference_mode()
def _make_maps(run: Run, samples: Sequence[Sample], options: argparse.Namespace) -> None:
    todo = [s for s in samples if not all((options.work / name / f"{s.id}.npz").exists() for name in options.maps)]
    if not todo:
        return
    config = run.read_config()
    world = make_world(device=config.runtime.device, precision=config.runtime.precision)
    model = load_cls(run, config, world)
    root = Path(config.data.root)
    path = options.work / "regions.bank"
    _, everything = read_data(run)
    train = [s for s in split(everything, "train") if s.classes]
    if not path.exists():
        chosen = choose_photos(train, CAM.region_memory, model.num_classes, config.seed)
        looks = ((sample, (cam, columns)) for sample, cam, columns, _ in _look(model, chosen, root, world))
        make_bank(path, looks, settings=CAM, total=len(chosen))
    bank = load_bank(path, todo, num_classes=model.num_classes, device=world.device)
    with console.progress("maps", total=len(todo)) as bar:
        for number, (sample, cam, columns, views) in enumerate(_look(model, todo, root, world)):
            kinds = {"cam": cam}
            for name, one in (("own", None), ("memory", bank)):
                kinds[name] = redraw(cam, columns, sample, settings=CAM, bank=one, photo=number)
            for name in options.maps:
                kind, _, walk = name.partition("+walk")
                maps = kinds[kind]
                if name != kind:
                    radius, beta, steps = WALKS[walk]
                    spread = propagate.by_features(
                        model.backbone, views, torch.from_numpy(maps).float(), radius=radius, beta=beta, steps=steps
                    )
                    maps = normalise(spread.numpy())
                save_cam(options.work / name / f"{sample.id}.npz", np.asarray(sample.classes), maps, sample.size)
            bar.advance(1)


def _look(model: ClsNet, samples: Sequence[Sample], root: Path, world: World) -> Iterator[tuple[Sample, np.ndarray, Any, Any]]:
    for index, views in view_loader(MultiScaleDataset(samples, root, scales=CAM.scales, flip=CAM.flip), workers=1):
        sample = samples[index]
        cam, columns, _ = next(batch_maps(model, [sample], [views], settings=CAM, world=world))
        yield sample, cam, columns, views[0]


def _score(parts: dict[str, list[Sample]], root: Path, folder: Path, crfs: Sequence[str], workers: int) -> dict[str, Any]:
    """Levels from tune; mIoU of the labels on both parts."""
    swept = {part: _sweep(parts[part], root, folder, workers) for part in ("tune", "train")}
    level = int(swept["tune"].argmax())
    found: dict[str, Any] = {
        "none": {
            "background": round(float(LEVELS[level]), 3), "tune": _percent(swept["tune"][level]),
            "train": _percent(swept["train"][level]), "oracle": _percent(swept["train"].max()),
        }
    }  # fmt: skip
    for crf in crfs:
        tried = [round(float(LEVELS[level]) * share, 3) for share in SHARES]
        tune = _labels(parts["tune"], root, folder, [(crf, one) for one in tried], workers)
        best = int(np.argmax(tune))
        train = _labels(parts["train"], root, folder, [(crf, tried[best])], workers)
        found[crf] = {"background": tried[best], "tune": _percent(tune[best]), "train": _percent(train[0])}
    return found


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


def _sweep(samples: Sequence[Sample], root: Path, folder: Path, workers: int) -> np.ndarray:
    """mIoU (T,) at every level, without CRF."""
    total = np.zeros(1, np.int64)
    jobs = _jobs(samples, root, folder, ())
    with console.progress(f"sweep {folder.name}", total=len(jobs)) as bar:
        for histogram in parallel_map(_histogram, jobs, workers=workers, bar=bar.advance):
            total = total + histogram
    return np.array([scores(confusion).miou for confusion in sweep_matrices(total)])


def _labels(samples: Sequence[Sample], root: Path, folder: Path, rules: Sequence[tuple[str, float]], workers: int) -> list[float]:
    """mIoU of the labels by each of `rules`."""
    total = np.zeros(1, np.int64)
    jobs = _jobs(samples, root, folder, rules)
    with console.progress(f"{rules[0][0]} CRF {folder.name}", total=len(jobs)) as bar:
        for confusions in parallel_map(_confusions, jobs, workers=workers, bar=bar.advance):
            total = total + confusions
    return [scores(confusion).miou for confusion in total]


def _jobs(samples: Sequence[Sample], root: Path, folder: Path, rules: Sequence[tuple[str, float]]) -> list[Job]:
    return [Job(root / s.image, root / str(s.mask), folder / f"{s.id}.npz", s.size, 20, tuple(rules)) for s in samples]


def _histogram(job: Job) -> np.ndarray:
    keys, cam = load_full_cam(job.cam, size=job.size)
    truth = read_mask(job.mask, num_classes=job.num_classes, size=job.size)
    return sweep_histogram(truth, cam, class_to_mask(keys), LEVELS, job.num_classes + 1)


def _confusions(job: Job) -> np.ndarray:
    """One matrix (L, L + 1) for each rule."""
    keys, cam = load_full_cam(job.cam, size=job.size)
    truth = read_mask(job.mask, num_classes=job.num_classes, size=job.size)
    photo = Photo(keys, cam, read_image(job.image))
    labels = job.num_classes + 1
    counted = truth < labels
    found = []
    for crf, background in job.rules:
        label = photo_label(photo, LabelRule("threshold", background, 4.0, crf, crf_params(crf, 10), 0.0))
        cells = truth[counted].astype(np.int64) * (labels + 1) + np.minimum(label[counted], labels)
        found.append(np.bincount(cells, minlength=labels * (labels + 1)).reshape(labels, labels + 1))
    return np.stack(found)


if __name__ == "__main__":
    main()
