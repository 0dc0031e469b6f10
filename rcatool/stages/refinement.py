"""CAMs spread over their photos, between their export and the labels (part of make-pseudo, with `refine.method` other than none).

make-pseudo/cams (and train-cls/final.pt or make-pseudo/affinity/final.pt) -> make-pseudo/refined/<id>.npz, in the format of CAMs, photo by
photo; what is there already is skipped. Never reads a mask.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcatool import console
from rcatool.cams import load_cam, normalise, save_cam
from rcatool.config import Config
from rcatool.data.manifest import Sample
from rcatool.errors import DataError
from rcatool.models.frozen import fold_batch_norm
from rcatool.pool import in_background
from rcatool.ranks import all_finished, on_first, share
from rcatool.refine import propagate
from rcatool.run import Run
from rcatool.stages.networks import load_affinity, load_cls
from rcatool.stages.photo_batches import photo_batches, waiting_writes
from rcatool.world import World, make_world

Spread = Callable[[Tensor, Tensor], Tensor]


def refine_cams(run: Run, config: Config, samples: Sequence[Sample], *, force: bool) -> None:
    """Write make-pseudo/refined for these photos; a CAM that cannot be read is named when all others are done."""
    step = on_first(lambda: run.begin("make-pseudo/refined", config, force=force))
    if step is None:
        return
    world = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic)
    spread = _spread(run, config, world)
    mine = share(samples)
    todo = [sample for sample in mine if not (step.path / f"{sample.id}.npz").exists()]
    console.log(f"make-pseudo: refining the CAMs of {len(samples)} photos ({config.refine.method})")
    broken: list[DataError] = []
    with console.progress("make-pseudo refined CAMs", total=len(mine)) as bar, in_background(waiting_writes(world)) as later:
        bar.advance(len(mine) - len(todo))
        for batch, photos in photo_batches(todo, config, world, scales=(1.0,), flip=True):
            for sample, views in zip(batch, photos, strict=True):
                try:
                    keys, refined = _refine(sample, views[0], spread, source=run.dir("make-pseudo/cams"))
                except DataError as error:
                    broken.append(error)
                else:
                    later(partial(save_cam, step.path / f"{sample.id}.npz", keys, refined, sample.size))
                bar.advance(1)
    all_finished(broken)
    on_first(lambda: run.commit(step, {**world.describe(), "photos": len(samples)}))


def _refine(sample: Sample, views: Tensor, spread: Spread, *, source: Path) -> tuple[np.ndarray, np.ndarray]:
    """The classes of a photo's CAM and the refined CAM."""
    keys, cam = load_cam(source / f"{sample.id}.npz", size=sample.size)
    maps = spread(views, torch.from_numpy(cam))
    if not bool(torch.isfinite(maps).all()):
        raise DataError(f"{sample.image}: its refined CAM is not finite", "train again with a lower affinity.lr: rca make-pseudo --set ...")
    return keys, normalise(maps.cpu().numpy())


def _spread(run: Run, config: Config, world: World) -> Spread:
    """Views (2, 3, H, W) and maps (K, h, w) of a photo -> spread maps on the device, as `refine` says."""
    settings = config.refine
    function: Callable[..., Tensor]
    if settings.method == "walk":
        model = fold_batch_norm(load_cls(run, config, world).backbone)
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
            return function(views.to(world.device, non_blocking=True, memory_format=torch.channels_last), maps.to(world.device)).float()

    return spread
