"""CAMs spread over their photos, between their export and the labels (part of make-pseudo, with `refine.method` other than none).

make-pseudo/cams (and train-cls/final.pt or make-pseudo/affinity/final.pt) -> make-pseudo/refined/<id>.npz, in the format of CAMs, photo by
photo; what is there already is skipped. Never reads a mask.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rcatool import console
from rcatool.cams import load_cam, normalise, save_cam
from rcatool.config import Config
from rcatool.data.datasets import MultiScaleDataset, view_loader
from rcatool.data.manifest import Sample
from rcatool.errors import DataError
from rcatool.pool import worker_count
from rcatool.ranks import all_finished, on_first, share
from rcatool.refine import propagate
from rcatool.run import Run
from rcatool.stages.networks import load_affinity, load_cls
from rcatool.world import World, make_world

Spread = Callable[[Tensor, Tensor], Tensor]


def refine_cams(run: Run, config: Config, samples: Sequence[Sample], *, force: bool) -> None:
    """Write make-pseudo/refined for these photos; a CAM that cannot be read is named when all others are done."""
    step = on_first(lambda: run.begin("make-pseudo/refined", config, force=force))
    if step is None:
        return
    world = make_world(device=config.runtime.device, precision=config.runtime.precision)
    spread = _spread(run, config, world)
    mine = share(samples)
    todo = [sample for sample in mine if not (step.path / f"{sample.id}.npz").exists()]
    console.log(f"make-pseudo: refining the CAMs of {len(samples)} photos ({config.refine.method})")
    dataset = MultiScaleDataset(todo, Path(config.data.root), scales=(1.0,), flip=True)
    loader = view_loader(dataset, workers=min(2, worker_count(config.runtime.workers)))
    broken: list[DataError] = []
    with console.progress("make-pseudo refined CAMs", total=len(mine)) as bar:
        bar.advance(len(mine) - len(todo))
        for index, views in loader:
            try:
                _refine(todo[index], views[0], spread, source=run.dir("make-pseudo/cams"), target=step.path)
            except DataError as error:
                broken.append(error)
            bar.advance(1)
    all_finished(broken)
    on_first(lambda: run.commit(step, {**world.describe(), "photos": len(samples)}))


def _refine(sample: Sample, views: Tensor, spread: Spread, *, source: Path, target: Path) -> None:
    keys, cam = load_cam(source / f"{sample.id}.npz", size=sample.size)
    maps = spread(views, torch.from_numpy(cam))
    if not bool(torch.isfinite(maps).all()):
        raise DataError(f"{sample.image}: its refined CAM is not finite", "train again with a lower affinity.lr: rca make-pseudo --set ...")
    save_cam(target / f"{sample.id}.npz", keys, normalise(maps.cpu().numpy()), sample.size)


def _spread(run: Run, config: Config, world: World) -> Spread:
    """Views (2, 3, H, W) and maps (K, h, w) of a photo -> spread maps on the device, as `refine` says."""
    settings = config.refine
    function: Callable[..., Tensor]
    if settings.method == "walk":
        model = load_cls(run, config, world).backbone
        function = partial(
            propagate.by_features, model, radius=settings.walk_radius, beta=settings.walk_beta, steps=settings.walk_steps
        )
    elif settings.method == "affinity":
        net = load_affinity(run, config, world)
        function = partial(propagate.by_affinity, net, beta=settings.affinity_beta, steps=settings.affinity_steps)
    else:
        net = load_affinity(run, config, world)
        function = partial(propagate.by_boundary, net, beta=settings.irn_beta, steps=settings.irn_steps)

    def spread(views: Tensor, maps: Tensor) -> Tensor:
        with world.autocast():
            return function(views.to(world.device, memory_format=torch.channels_last), maps.to(world.device)).float()

    return spread
