"""Scores of a network in training on the tune photos (part of train-seg, with `seg.validate_every` above 0).

This reads the masks of the tune photos, never others. The scores choose weights only with `seg.keep` best.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rcatool import console
from rcatool.config import Config
from rcatool.data.labels import read_mask
from rcatool.data.manifest import Sample, split
from rcatool.errors import ConfigError, DataError
from rcatool.metrics import confusion_matrix, scores
from rcatool.models.deeplab import DeepLab
from rcatool.ranks import share, total
from rcatool.seg_inference import batch_probabilities, best_class
from rcatool.stages.photo_batches import photo_batches
from rcatool.world import World

TUNE_PHOTOS = "a tune list (data.tune_list) or share (data.tune_fraction) of photos with masks at rca prepare"


class Best(nn.Module):
    """The best score so far and after how many epochs it came: kept in checkpoints."""

    score: Tensor
    epoch: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("score", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("epoch", torch.tensor(0))

    def update(self, score: float, epoch: int) -> bool:
        """Take in a score; whether it is better than all before."""
        better = score > float(self.score)
        if better:
            self.score.fill_(score)
            self.epoch.fill_(epoch)
        return better


def validation_photos(samples: Sequence[Sample], config: Config) -> list[Sample]:
    """The tune photos with masks, none if nothing is to be validated. ConfigError where `seg.keep` best has nothing to choose by."""
    if config.seg.validate_every == 0:
        return []
    found = [sample for sample in split(samples, "tune") if sample.mask is not None]
    if not found and config.seg.keep == "best":
        raise ConfigError("seg.keep: best, but no tune photo has a mask to choose by", f"--set seg.keep=last, or {TUNE_PHOTOS}")
    if not found:
        console.warn(f"train-seg: seg.validate_every has nothing to score: no tune photo has a mask ({TUNE_PHOTOS})")
    return found


@torch.inference_mode()
def tune_miou(model: DeepLab, samples: Sequence[Sample], root: Path, num_classes: int, *, config: Config, world: World) -> float:
    """mIoU in [0, 1] of predictions of whole photos at their own size, without tags; `model` is left in eval mode.

    Raises `DataError` for a mask that cannot be read, or where no pixel of any mask counts.
    """
    model.eval()
    mine, counts = share(samples), np.zeros((num_classes + 1, num_classes + 2), np.int64)
    with console.progress("train-seg validation", total=len(mine)) as bar:
        for batch, photos in photo_batches(mine, config, world, scales=(1.0,), flip=False):
            for sample, found in zip(batch, batch_probabilities(model, photos, batch[0].size, world=world), strict=True):
                truth = read_mask(root / str(sample.mask), num_classes=num_classes, size=sample.size)
                counts += confusion_matrix(truth, best_class(found), num_classes + 1)
                bar.advance(1)
    counts = total(torch.from_numpy(counts)).numpy()
    if not counts.any():
        raise DataError("the masks of the tune photos have no pixel that counts", "--set seg.validate_every=0 --set seg.keep=last")
    return scores(counts).miou
