"""Labels of the second round: what the network of the first says about the photos that it was trained on (part of train-seg).

train-seg/final.pt -> make-pseudo/round-2/<id>.png, for the train photos and the tune photos (to choose `second` on). Classes that a
photo is not tagged with are struck out of the network's softmax. Reads photos and tags, never a mask; photo by photo, skipping what
is there already.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rcatool import console
from rcatool.config import Config
from rcatool.data.labels import read_mask
from rcatool.data.manifest import Sample, check_images, split
from rcatool.models.deeplab import DeepLab
from rcatool.pool import parallel_map, worker_count
from rcatool.ranks import on_first, share, wait
from rcatool.run import Run
from rcatool.seg_inference import batch_probabilities
from rcatool.soft_labels import SoftJob, soft_rule, tag_names, write_labels
from rcatool.stages.networks import load_seg, read_data
from rcatool.stages.photo_batches import photo_batches
from rcatool.world import World, make_world

STEP = "make-pseudo/round-2"


def make_second_labels(run: Run, config: Config, *, force: bool) -> None:
    """Write make-pseudo/round-2 and report the tags whose class has no pixel left; nothing to do if it is current."""
    step = on_first(lambda: run.begin(STEP, config, force=force))
    if step is None:
        return
    world = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic)
    classes, samples = read_data(run)
    tagged = [sample for sample in split(samples, "train") + split(samples, "tune") if sample.classes]
    root, workers = Path(config.data.root), worker_count(config.runtime.workers)
    check_images(tagged, root)
    rule = soft_rule(config.second.crf, config.second.confidence, str(world.device), world.device.type)
    mine = share(tagged)
    todo = [sample for sample in mine if not (step.path / f"{sample.id}.png").exists()]
    crf = "" if rule.crf == "none" else f", dense CRF: {rule.backend}"
    console.log(f"{STEP}: predictions of {len(tagged)} photos, filtered by their tags{crf}")
    model = load_seg(run, config, world, step="train-seg")
    with console.progress(f"{STEP} labels", total=len(mine)) as bar:
        bar.advance(len(mine) - len(todo))
        for _ in write_labels(_predicted(model, todo, step.path, config, world), rule, workers=workers):
            bar.advance(1)
    wait()

    def commit() -> None:
        about = _count_tags(tagged, step.path, classes.names, workers=workers)
        run.commit(step, {**world.describe(), "photos": len(tagged), **about})

    on_first(commit)


def _predicted(model: DeepLab, samples: Sequence[Sample], folder: Path, config: Config, world: World) -> Iterator[SoftJob]:
    """The photos with their probabilities of background and tags."""
    root = Path(config.data.root)
    for batch, photos in photo_batches(samples, config, world, scales=config.second.scales, flip=config.second.flip):
        for sample, found in zip(batch, batch_probabilities(model, photos, batch[0].size, world=world), strict=True):
            names = tag_names(sample.classes)
            kept = found[names.tolist()].cpu().numpy()
            yield SoftJob(root / sample.image, folder / f"{sample.id}.png", names, kept)


@dataclass(frozen=True)
class _Made:
    """A label PNG of a photo with these tags."""

    label: Path
    classes: tuple[int, ...]
    size: tuple[int, int]


def _count_tags(samples: Sequence[Sample], folder: Path, names: Sequence[str], *, workers: int) -> dict[str, object]:
    """How many tags there are, and of which classes those are that have no pixel in the label of their photo."""
    made = [_Made(folder / f"{sample.id}.png", sample.classes, sample.size) for sample in samples]
    found = parallel_map(partial(_vanished, num_classes=len(names)), made, workers=workers, chunk=32)
    lost = Counter(index for classes in found for index in classes)
    tags = sum(len(sample.classes) for sample in samples)
    if lost:
        which = ", ".join(f"{names[index]} {count}" for index, count in lost.most_common(5))
        more = ", ..." if len(lost) > 5 else ""
        console.warn(f"{STEP}: {lost.total()} of {tags} tags have no pixel in the new labels of their photo ({which}{more})")
    return {"tags": tags, "vanished_tags": {names[index]: lost[index] for index in sorted(lost)}}


def _vanished(made: _Made, *, num_classes: int) -> list[int]:
    """The classes of a photo that its label lacks."""
    label = read_mask(made.label, num_classes=num_classes, size=made.size)
    wanted = np.isin(tag_names(made.classes)[1:], label)
    return [index for index, found in zip(made.classes, wanted, strict=True) if not found]
