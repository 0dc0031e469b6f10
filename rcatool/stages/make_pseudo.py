"""CAMs and pseudo labels of the training photos (and of the tune photos, to choose settings on).

train-cls/final.pt -> make-pseudo/cams/<id>.npz (-> make-pseudo/refined/<id>.npz, by `refine.method`) -> make-pseudo/labels/<id>.png.
Reads photos and tags, never a mask. Steps go from photo to photo and skip what is already there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rcatool import console
from rcatool.auto_threshold import choose_threshold, mean_peak
from rcatool.cams import save_cam
from rcatool.config import Config
from rcatool.data.manifest import Sample, check_images, split
from rcatool.data.saliency import require_saliency
from rcatool.errors import DataError
from rcatool.models.frozen import fold_batch_norm
from rcatool.models.region_cam import RegionBank
from rcatool.pool import attempt, in_background, parallel_map, worker_count
from rcatool.pseudo import Doubts, LabelJob, LabelRule, make_label, read_job
from rcatool.pseudo_batch import make_labels_batched
from rcatool.ranks import all_finished, on_first, rank, share, size, wait
from rcatool.refine.crf import choose_backend, crf_params
from rcatool.run import Run
from rcatool.stages import import_cams
from rcatool.stages.accumulated import check_source, export_accumulated
from rcatool.stages.affinity_training import label_crf, train_affinity
from rcatool.stages.networks import ClsNet, load_cls, read_data
from rcatool.stages.photo_batches import photo_batches, waiting_writes
from rcatool.stages.photo_cams import batch_maps, redraw
from rcatool.stages.refinement import refine_cams
from rcatool.stages.region_bank import choose_photos, load_bank, make_bank
from rcatool.steps import in_force
from rcatool.tag_scores import add_scores, join_scores, kept_scores
from rcatool.world import World, make_world


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Export CAMs, or import them (cam.source), refine them where the settings say so, then make labels; each step only if not current."""
    if config.pseudo.crf != "none" or label_crf(config) != "none":
        choose_backend(config.pseudo.crf_backend, "cpu")  # before hours of CAMs, not after
    if config.cam.source:
        on_first(lambda: import_cams.main(run, config, force=force))
    else:
        check_source(config)
        run.require("train-cls", config)
        export_cams(run, config, force=force)
    steps = in_force(config)
    if "make-pseudo/refined" in steps:
        samples, _ = _tagged(run, config)
        if "make-pseudo/affinity" in steps:
            train_affinity(run, config, split(samples, "train"), force=force)
        refine_cams(run, config, samples, force=force)
    make_labels(run, config, force=force)


def export_cams(run: Run, config: Config, *, force: bool) -> None:
    """Write make-pseudo/cams: for each photo the maps of its tags, over scales and mirror images, normalised, and all class scores."""
    step = on_first(lambda: run.begin("make-pseudo/cams", config, force=force))
    if step is None:
        return
    world = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic)
    samples, root = _tagged(run, config)
    model = fold_batch_norm(load_cls(run, config, world))
    bank = _region_bank(step.path / "regions.bank", model, samples, config, world)
    if config.cam.maps == "accumulated":  # of training photos; the others have only the network's maps
        on_first(lambda: export_accumulated(run, config, step.path))
    mine, scored = share(samples), kept_scores(step.path, model.num_classes)
    todo = [sample for sample in mine if sample.id not in scored or not (step.path / f"{sample.id}.npz").exists()]
    photo = {sample.id: number for number, sample in enumerate(samples)}
    _say("CAMs", len(mine), len(todo))
    empty = 0
    with console.progress("make-pseudo CAMs", total=len(mine)) as bar, in_background(waiting_writes(world)) as later:
        bar.advance(len(mine) - len(todo))
        for batch, photos in photo_batches(todo, config, world, scales=config.cam.scales, flip=config.cam.flip):
            looks = batch_maps(model, batch, photos, settings=config.cam, world=world)
            for sample, (cam, columns, scores) in zip(batch, looks, strict=True):
                add_scores(step.path, sample.id, scores, process=rank())
                bar.advance(1)
                target = step.path / f"{sample.id}.npz"
                if target.exists():  # accumulated, or written by a command that was stopped: only the scores were missing
                    continue
                if columns is not None:
                    cam = redraw(cam, columns, sample, settings=config.cam, bank=bank, photo=photo[sample.id])
                later(partial(save_cam, target, np.asarray(sample.classes), cam, sample.size))
                empty += not cam.any()
    if empty > len(todo) / 2:
        console.warn(f"make-pseudo: the maps of {empty} of {len(todo)} photos are empty: train-cls has not learnt their classes")
    wait()
    on_first(lambda: join_scores(step.path, [sample.id for sample in samples], model.num_classes))
    on_first(lambda: run.commit(step, {**world.describe(), "photos": len(samples)}))


def make_labels(run: Run, config: Config, *, force: bool) -> None:
    """Write make-pseudo/labels: background score, dense CRF and label rule; on a CPU one photo per process at a time.

    Files that cannot be read are named (DataError) when all other photos are done.
    """
    step = on_first(lambda: run.begin("make-pseudo/labels", config, force=force))
    if step is None:
        return
    samples, root = _tagged(run, config)
    cams = run.dir("make-pseudo/refined" if "make-pseudo/refined" in step.inputs else "make-pseudo/cams")
    rule = label_rule(config)
    if rule.background == "saliency":
        require_saliency(samples, "photos", setting="pseudo.background saliency", otherwise="pseudo.background=power")
    jobs = [
        LabelJob(root / s.image, cams / f"{s.id}.npz", step.path / f"{s.id}.png", s.size, root / s.saliency if s.saliency else None)
        for s in samples
    ]
    mine = share(jobs)
    todo = [job for job in mine if not job.label.exists()]
    device = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic).device
    about = {}
    if rule.background == "auto":
        rule = replace(rule, background="threshold", bg_threshold=on_first(lambda: _choose_threshold(jobs, config)))
        about["bg_threshold"] = rule.bg_threshold
    rule = replace(rule, crf_backend=choose_backend(config.pseudo.crf_backend, device.type))
    if rule.crf_params is not None:
        about["crf"] = f"{rule.crf_backend} on {device if rule.crf_backend == 'torch' else 'cpu'}"
    _say(f"pseudo labels (dense CRF: {about['crf']})" if "crf" in about else "pseudo labels", len(mine), len(todo))
    with console.progress("make-pseudo labels", total=len(mine)) as bar:
        bar.advance(len(mine) - len(todo))
        broken = []
        for problem in _label(todo, rule, str(device), worker_count(config.runtime.workers)):
            bar.advance(1)
            broken += [problem] if problem else []
    all_finished(broken)
    on_first(lambda: run.commit(step, {"photos": len(jobs), **about}))


def _choose_threshold(jobs: Sequence[LabelJob], config: Config) -> float:
    """The background threshold that the CAMs themselves suggest; the same for the same CAMs, so that a resumed step goes on with it."""
    with console.progress("background threshold", total=len(jobs)) as bar:
        workers = worker_count(config.runtime.workers)
        chosen = choose_threshold(parallel_map(_mean_peak, jobs, workers=workers, bar=bar.advance, chunk=16))
    console.log(f"make-pseudo: background threshold {chosen}, chosen from the CAMs of {len(jobs)} photos (pseudo.background: auto)")
    return chosen


def _mean_peak(job: LabelJob) -> float | None:
    return mean_peak(job.cam, job.size)


def _label(jobs: list[LabelJob], rule: LabelRule, device: str, workers: int) -> Iterator[DataError | None]:
    """Make the label files, by processes of their own or, with torch, in batches on the device; yields what is wrong with each, or None."""
    if rule.crf_params is not None and rule.crf_backend == "torch":
        read = parallel_map(partial(attempt, partial(read_job, rule=rule)), jobs, workers=workers)
        yield from make_labels_batched(zip(jobs, read, strict=True), rule, device=device)
    else:
        yield from parallel_map(partial(attempt, partial(make_label, rule=rule)), jobs, workers=workers)


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


def _region_bank(path: Path, model: ClsNet, samples: Sequence[Sample], config: Config, world: World) -> RegionBank | None:
    """The region memory of the training photos, made first if there is none yet; None without the setting."""
    settings = config.cam
    if not settings.region_rounds or not settings.region_memory:
        return None
    if rank() == 0 and not path.exists():
        chosen = choose_photos(split(samples, "train"), settings.region_memory, model.num_classes, config.seed)
        looks = (
            (sample, look[:2])
            for batch, photos in photo_batches(chosen, config, world, scales=settings.scales, flip=settings.flip)
            for sample, look in zip(batch, batch_maps(model, batch, photos, settings=settings, world=world), strict=True)
        )
        make_bank(path, looks, settings=settings, total=len(chosen))
    wait()
    return load_bank(path, samples, num_classes=model.num_classes, device=world.device)


def _tagged(run: Run, config: Config) -> tuple[list[Sample], Path]:
    """The train and tune photos that have tags, checked to be there, and the folder they are relative to."""
    _, samples = read_data(run)
    tagged = [sample for sample in split(samples, "train") + split(samples, "tune") if sample.classes]
    root = Path(config.data.root)
    check_images(tagged, root)
    return tagged, root


def _say(what: str, total: int, todo: int) -> None:
    done = f", {total - todo} are there already" if todo < total else ""
    part = f" (process 1 of {size()})" if size() > 1 else ""
    console.log(f"make-pseudo: {what} of {total} photos{done}{part}")
