"""CAMs and pseudo labels of the training photos (and of the tune photos, to choose settings on).

train-cls/final.pt -> make-pseudo/cams/<id>.npz -> make-pseudo/labels/<id>.png. Reads photos and tags, never a mask. Both
steps go photo by photo and skip what is already there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcatool import console
from rcatool.auto_threshold import choose_threshold, mean_peak
from rcatool.cam_inference import infer_levels
from rcatool.cams import cam_size, normalise, resize, save_cam
from rcatool.config import Cam, Config
from rcatool.data.datasets import MultiScaleDataset, view_loader
from rcatool.data.manifest import Sample, check_images, split
from rcatool.errors import ConfigError, DataError
from rcatool.models.rca_net import Maps, RcaNet
from rcatool.models.region_cam import hypercolumns, region_cam
from rcatool.pool import parallel_map, worker_count
from rcatool.pseudo import Doubts, LabelJob, LabelRule, make_label, read_job
from rcatool.pseudo_batch import make_labels_batched
from rcatool.refine.crf import choose_backend, crf_params
from rcatool.run import Run
from rcatool.stages import import_cams
from rcatool.stages.networks import load_cls, read_data
from rcatool.world import World, make_world

REGION_STRIDE = 8  # pixels per cell of the comparison with regions: the finest level of most backbones


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Export CAMs, or import them (cam.source), then make labels of them; each step only if it is not current."""
    if config.pseudo.crf != "none":
        choose_backend(config.pseudo.crf_backend, "cpu")  # before hours of CAMs, not after
    if config.cam.source:
        import_cams.main(run, config, force=force)
    else:
        run.require("train-cls", config)
        export_cams(run, config, force=force)
    make_labels(run, config, force=force)


def export_cams(run: Run, config: Config, *, force: bool) -> None:
    """Write make-pseudo/cams: for each photo the maps of its tags, over scales and mirror images, normalised."""
    step = run.begin("make-pseudo/cams", config, force=force)
    if step is None:
        return
    world = make_world(device=config.runtime.device, precision=config.runtime.precision)
    samples, root = _tagged(run, config)
    model = load_cls(run, config, world)
    todo = [sample for sample in samples if not (step.path / f"{sample.id}.npz").exists()]
    _say("CAMs", len(samples), len(todo))
    dataset = MultiScaleDataset(todo, root, scales=config.cam.scales, flip=config.cam.flip)
    loader = view_loader(dataset, workers=min(2, worker_count(config.runtime.workers)))
    with console.progress("make-pseudo CAMs", total=len(samples)) as bar:
        bar.advance(len(samples) - len(todo))
        for index, views in loader:
            sample = todo[index]
            keys, cam = photo_cam(_forward(model, config.cam, sample), views, sample, settings=config.cam, world=world)
            save_cam(step.path / f"{sample.id}.npz", keys, cam, sample.size)
            bar.advance(1)
    run.commit(step, {**world.describe(), "photos": len(samples)})


def make_labels(run: Run, config: Config, *, force: bool) -> None:
    """Write make-pseudo/labels: background score, dense CRF and label rule; on a CPU one photo per process at a time."""
    step = run.begin("make-pseudo/labels", config, force=force)
    if step is None:
        return
    samples, root = _tagged(run, config)
    cams = run.dir("make-pseudo/cams")
    rule = label_rule(config)
    if rule.background == "saliency":
        _require_saliency(samples)
    jobs = [
        LabelJob(root / s.image, cams / f"{s.id}.npz", step.path / f"{s.id}.png", s.size, root / s.saliency if s.saliency else None)
        for s in samples
    ]
    todo = [job for job in jobs if not job.label.exists()]
    device = make_world(device=config.runtime.device, precision=config.runtime.precision).device
    about = {}
    if rule.background == "auto":
        rule = replace(rule, background="threshold", bg_threshold=_choose_threshold(jobs, config))
        about["bg_threshold"] = rule.bg_threshold
    rule = replace(rule, crf_backend=choose_backend(config.pseudo.crf_backend, device.type))
    if rule.crf_params is not None:
        about["crf"] = f"{rule.crf_backend} on {device if rule.crf_backend == 'torch' else 'cpu'}"
    _say(f"pseudo labels (dense CRF: {about['crf']})" if "crf" in about else "pseudo labels", len(jobs), len(todo))
    with console.progress("make-pseudo labels", total=len(jobs)) as bar:
        bar.advance(len(jobs) - len(todo))
        for done in _label(todo, rule, str(device), worker_count(config.runtime.workers)):
            bar.advance(done)
    run.commit(step, {"photos": len(jobs), **about})


def _choose_threshold(jobs: Sequence[LabelJob], config: Config) -> float:
    """The background threshold that the CAMs themselves suggest; the same for the same CAMs, so that a resumed step goes on with it."""
    with console.progress("background threshold", total=len(jobs)) as bar:
        workers = worker_count(config.runtime.workers)
        chosen = choose_threshold(parallel_map(_mean_peak, jobs, workers=workers, bar=bar.advance, chunk=16))
    console.log(f"make-pseudo: background threshold {chosen}, chosen from the CAMs of {len(jobs)} photos (pseudo.background: auto)")
    return chosen


def _mean_peak(job: LabelJob) -> float | None:
    return mean_peak(job.cam, job.size)


def _label(jobs: list[LabelJob], rule: LabelRule, device: str, workers: int) -> Iterator[int]:
    """Make the label files, by processes of their own or, with torch, in batches on the device; yields how many more are done."""
    if rule.crf_params is not None and rule.crf_backend == "torch":
        read = parallel_map(partial(read_job, rule=rule), jobs, workers=workers)
        yield from make_labels_batched(zip(jobs, read, strict=True), rule, device=device)
    else:
        for _ in parallel_map(partial(make_label, rule=rule), jobs, workers=workers):
            yield 1


def label_rule(config: Config) -> LabelRule:
    """The `pseudo` settings as a rule."""
    settings = config.pseudo
    return LabelRule(
        background=settings.background,
        bg_threshold=settings.bg_threshold,
        bg_power=settings.bg_power,
        crf=settings.crf,
        crf_params=None if settings.crf == "none" else crf_params(settings.crf, settings.crf_iterations),
        confidence=settings.confidence,
        kind=settings.rule,
        sure=(settings.sure_foreground, settings.sure_background),
        doubts=Doubts(settings.conflict, settings.attention, settings.uncertain, settings.smallest),
    )


def _require_saliency(samples: Sequence[Sample]) -> None:
    """Raise ConfigError unless every photo has a saliency map."""
    lacking = sum(sample.saliency is None for sample in samples)
    if lacking:
        raise ConfigError(
            f"pseudo.background saliency: {lacking} of {len(samples)} photos have no saliency map",
            "rca prepare ... --set data.saliency=DIR, or --set pseudo.background=power",
        )


def photo_cam(
    forward: Callable[[Tensor], Sequence[Tensor]], views: Sequence[Tensor], sample: Sample, *, settings: Cam, world: World
) -> tuple[np.ndarray, np.ndarray]:
    """CAM of one photo: keys (K,) its classes, ascending; cam (K, ceil(H / stride), ceil(W / stride)) float32 in [0, 1].

    `forward` gives the maps of the photo's classes and, where maps are redrawn from regions, the hypercolumns.
    """
    sizes = [cam_size(*sample.size, stride) for stride in (settings.stride, REGION_STRIDE)]
    merged, *columns = infer_levels(forward, views, sizes[: 2 if settings.region_rounds else 1], world=world)
    if not bool(torch.isfinite(merged).all()):
        raise DataError(f"{sample.image}: its CAM is not finite", hint="train again: rca train-cls --force, with a lower cls.lr")
    cam = normalise(merged.cpu().numpy())
    if columns:
        coarse = torch.from_numpy(normalise(resize(cam, *sizes[1]))).to(world.device)
        drawn = region_cam(
            columns[0], coarse, rounds=settings.region_rounds, sure=settings.region_sure, background=settings.region_background
        )
        cam = normalise(resize(drawn.cpu().numpy(), *sizes[0]))
    return np.asarray(sample.classes), cam


def _forward(model: RcaNet, settings: Cam, sample: Sample) -> Callable[[Tensor], Sequence[Tensor]]:
    """Images -> positive part of the exported map, of the sample's classes only, and the hypercolumns if they are needed."""
    keys = torch.as_tensor(sample.classes, dtype=torch.long)

    def forward(images: Tensor) -> Sequence[Tensor]:
        maps: Maps = model(images)
        chosen = maps.p if settings.head == "p" else maps.final
        outputs = [chosen[:, keys.to(chosen.device)].relu()]
        return [*outputs, hypercolumns(maps.pyramid)] if settings.region_rounds else outputs

    return forward


def _tagged(run: Run, config: Config) -> tuple[list[Sample], Path]:
    """The train and tune photos that have tags, checked to be there, and the folder they are relative to."""
    _, samples = read_data(run)
    tagged = [sample for sample in split(samples, "train") + split(samples, "tune") if sample.classes]
    root = Path(config.data.root)
    check_images(tagged, root)
    return tagged, root


def _say(what: str, total: int, todo: int) -> None:
    done = f", {total - todo} are there already" if todo < total else ""
    console.log(f"make-pseudo: {what} of {total} photos{done}")
