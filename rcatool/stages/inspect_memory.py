"""What the region memory holds: how full it is, and the regions of training photos that each prototype stands for, as a picture.

train-cls/final.pt -> a PNG. The memory keeps features, not photos; so the final network looks at a sample of the training photos
once more, and their regions are compared with the prototypes. Reads photos and tags, never a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool import console
from rcatool.config import Config
from rcatool.data import transforms
from rcatool.data.datasets import tag_vector
from rcatool.data.labels import ClassInfo
from rcatool.data.manifest import Sample, check_images, split
from rcatool.data.photos import read_image
from rcatool.files import atomic_save
from rcatool.models.region_memory import RegionMemory
from rcatool.models.regions import pool_regions
from rcatool.region_picture import Block, Tile, draw_blocks, save_picture
from rcatool.run import Run
from rcatool.stages.cls_loss import masks_of
from rcatool.stages.networks import ClsNet, load_cls, read_data
from rcatool.world import World, make_world

NEAREST = 3  # regions shown of each prototype


@dataclass(frozen=True)
class Plan:
    """What to show: classes in their order, how many photos to look at, where the picture goes."""

    classes: Sequence[int]
    photos: int
    out: Path


@dataclass
class Found:
    """Regions of the sampled photos: features (R, D) float32 on the CPU, and of each its photo, class and mask (h, w) bool."""

    features: Tensor
    photo: list[Sample]
    cls: Tensor
    mask: list[np.ndarray]


def main(run: Run, config: Config, plan: Plan) -> list[list[object]]:
    """Draw the picture (unless no class has a prototype) and return a row of the table for each class.

    A row: name, slots, filled slots, prototypes, mean visits of a filled slot, epochs since the last one, regions looked at.
    """
    classes, samples = read_data(run)
    world = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic)
    model = load_cls(run, config, world)
    assert model.memory is not None, "the plain CAM has no memory"
    chosen = _sample(split(samples, "train"), plan, config.seed)
    root = Path(config.data.root)
    check_images(chosen, root)
    found = find_in_photos(model, chosen, root, classes.num_classes, config=config, world=world)
    rows = _rows(model.memory, classes, plan, found, epochs=config.cls.epochs)
    blocks = [_block(model.memory, classes, cls, found, root) for cls in plan.classes]
    total = sum(len(tiles) for block in blocks for _, tiles in block.columns)
    if total == 0:
        console.warn("no prototype of these classes has a region to show; there is no picture")
        return rows
    with console.progress("inspect memory: drawing", total=total) as bar:
        picture = draw_blocks(blocks, bar.advance)
    atomic_save(plan.out, lambda file: save_picture(picture, file, about=run.result_digest("train-cls") or ""))
    console.log(f"inspect memory: {total} regions of {len(chosen)} photos in {plan.out}")
    return rows


def _sample(train: Sequence[Sample], plan: Plan, seed: int) -> list[Sample]:
    """Up to `plan.photos` training photos, from each class in turn, so that rare ones are among them."""
    order = np.random.default_rng(seed).permutation(len(train)).tolist()
    queues = [[index for index in order if cls in train[index].classes] for cls in plan.classes]
    taken: dict[int, None] = {}
    for turn in range(max((len(queue) for queue in queues), default=0)):
        for queue in queues:
            if turn < len(queue) and len(taken) < plan.photos:
                taken[queue[turn]] = None
    return [train[index] for index in sorted(taken)]


@torch.inference_mode()
def find_in_photos(model: ClsNet, samples: Sequence[Sample], root: Path, num_classes: int, *, config: Config, world: World) -> Found:
    """The regions of photos, found as in training, each photo as large as training saw them at most."""
    features, photos, classes, masks = [torch.zeros(0, model.backbone.out_channels)], [], [torch.zeros(0, dtype=torch.long)], []
    with console.progress("inspect memory: photos", total=len(samples)) as bar:
        for sample in samples:
            image = transforms.to_tensor(read_image(root / sample.image))
            size = transforms.scaled_size(*image.shape[-2:], _longest(config) / max(image.shape[-2:]))
            view = transforms.normalise(transforms.resize(image, *size))[None]
            with world.autocast():
                maps = model(view.to(world.device, memory_format=torch.channels_last))
            shown = masks_of(maps.p.float(), config)
            regions = pool_regions(maps.features.float(), shown, tag_vector(sample, num_classes)[None])
            found = regions.cls[regions.exists]
            features.append(regions.features[regions.exists].cpu())
            classes.append(found.cpu())
            photos += [sample] * len(found)
            masks += list(shown[0, found].cpu().numpy())
            bar.advance(1)
    return Found(torch.cat(features), photos, torch.cat(classes), masks)


def _longest(config: Config) -> int:
    return config.cls.crop_size if config.cls.resize_square else config.cls.resize_long[1]


def _rows(memory: RegionMemory, classes: ClassInfo, plan: Plan, found: Found, *, epochs: int) -> list[list[object]]:
    census = {name: values.tolist() for name, values in memory.census(epochs - 1).items()}
    prototypes = memory.prototype_valid.sum(dim=1).tolist()
    seen = torch.bincount(found.cls, minlength=classes.num_classes).tolist()
    return [
        [
            classes.names[cls], int(census["slots"][cls]), int(census["filled"][cls]), prototypes[cls],
            round(census["visits"][cls], 1), round(census["age"][cls], 1), seen[cls],
        ]
        for cls in plan.classes
    ]  # fmt: skip


def _block(memory: RegionMemory, classes: ClassInfo, cls: int, found: Found, root: Path) -> Block:
    """A class's prototypes, the one of most regions first, each with its nearest regions.

    A region is that of the prototype it is nearest to; a prototype that has none shows the one region that comes nearest.
    """
    prototypes = memory.prototypes[cls, memory.prototype_valid[cls]].float().cpu()
    own = (found.cls == cls).nonzero().flatten()
    filled = int(((memory.slot_class == cls) & (memory.visits > 0)).sum())
    title = f"{classes.names[cls]}: {filled} of {int((memory.slot_class == cls).sum())} slots filled, {len(prototypes)} prototypes"
    if not len(prototypes) or not len(own):
        return Block(title, [])
    similarity = F.normalize(prototypes, dim=1) @ F.normalize(found.features[own], dim=1).T  # (K, regions of the class)
    owner = similarity.argmax(dim=0)
    number = torch.bincount(owner, minlength=len(prototypes))
    columns = []
    for k in number.argsort(descending=True, stable=True).tolist():
        order = similarity[k].argsort(descending=True)
        shown = order[owner[order] == k][:NEAREST] if number[k] else order[:1]
        tiles = [
            Tile(root / found.photo[at].image, found.mask[at], f"{similarity[k, column]:.2f} {found.photo[at].id}")
            for column, at in zip(shown.tolist(), own[shown].tolist(), strict=True)
        ]
        columns.append((f"{number[k]} of {len(own)} regions", tiles))
    return Block(title, columns)
