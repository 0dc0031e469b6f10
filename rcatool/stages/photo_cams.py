"""The CAMs of photos from a trained classifier, of one photo or of several of one size, and their redrawing from regions."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rcatool.cam_inference import infer_together, merge_levels
from rcatool.cams import cam_size, normalise, resize
from rcatool.config import Cam
from rcatool.data.manifest import Sample
from rcatool.errors import DataError
from rcatool.models.rca_net import Maps
from rcatool.models.region_cam import RegionBank, RegionRule, hypercolumns, region_cam
from rcatool.stages.networks import ClsNet
from rcatool.world import World

REGION_STRIDE = 8  # pixels per cell of the comparison with regions: the finest level of most backbones
Look = tuple[np.ndarray, Tensor | None]  # a photo's CAM (K, h, w) float32 in [0, 1], and its hypercolumns (D, h', w') if they are needed


@torch.inference_mode()
def batch_maps(
    model: ClsNet, samples: Sequence[Sample], photos: Sequence[Sequence[Tensor]], *, settings: Cam, world: World
) -> Iterator[tuple[np.ndarray, Tensor | None, np.ndarray]]:
    """The looks at photos of one size, whose views go through the network together; one after the other, in order.

    A CAM is (K, ceil(H / stride), ceil(W / stride)); third come the scores (C,) float32 of every class: the mean of its final map over all
    views. DataError for a map that is not finite.
    """

    def forward(images: Tensor) -> list[Tensor]:
        maps: Maps = model(images)
        return [maps.final.float().mean(dim=(2, 3)), *_outputs(maps, settings)]

    for sample, views in zip(samples, infer_together(forward, photos, world=world), strict=True):
        keys = torch.as_tensor(sample.classes, dtype=torch.long).to(world.device)
        scores = torch.stack([score.mean(dim=0) for score, *_ in views]).mean(dim=0)
        own = [[seeds[:, keys], *rest] for _, seeds, *rest in views]
        yield *_look(merge_levels(own, _sizes(sample, settings)), sample), scores.cpu().numpy()


def _sizes(sample: Sample, settings: Cam) -> list[tuple[int, int]]:
    strides = (settings.stride, REGION_STRIDE) if settings.region_rounds else (settings.stride,)
    return [cam_size(*sample.size, stride) for stride in strides]


def _outputs(maps: Maps, settings: Cam) -> list[Tensor]:
    """The positive part of the exported map of all classes, and the hypercolumns if they are needed."""
    seeds = maps.seeds(settings.head)
    return [seeds, hypercolumns(maps.pyramid)] if settings.region_rounds else [seeds]


def _look(merged: Sequence[Tensor], sample: Sample) -> Look:
    if not bool(torch.isfinite(merged[0]).all()):
        raise DataError(f"{sample.image}: its CAM is not finite", hint="train again: rca train-cls --force, with a lower cls.lr")
    return normalise(merged[0].cpu().numpy()), merged[1] if len(merged) > 1 else None


def redraw(cam: np.ndarray, columns: Tensor, sample: Sample, *, settings: Cam, bank: RegionBank | None, photo: int) -> np.ndarray:
    """The region maps of a photo, for its CAM (K, h, w) and hypercolumns (D, h', w'): (K, h, w) float32 in [0, 1]."""
    coarse = torch.from_numpy(normalise(resize(cam, *columns.shape[-2:]))).to(columns.device)
    drawn = region_cam(columns, coarse, _region_rule(settings), bank=bank, keys=sample.classes, photo=photo)
    return normalise(resize(drawn.cpu().numpy(), *cam.shape[1:]))


def _region_rule(settings: Cam) -> RegionRule:
    return RegionRule(
        settings.region_rounds, settings.region_sure, settings.region_background, settings.region_share, settings.region_temperature
    )
