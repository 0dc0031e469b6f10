"""Multi-scale inference: views are merged where they belong, and one photo's CAM is in [0, 1]."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.cam_inference import infer_together, merge_levels, merge_views
from rcatool.config import Cam
from rcatool.data.manifest import Sample, draft
from rcatool.errors import DataError
from rcatool.models.backbones import build_backbone
from rcatool.models.rca_net import Maps
from rcatool.stages.photo_cams import batch_maps
from rcatool.world import World

WORLD = World(torch.device("cpu"), None)
HALF_WORLD = World(torch.device("cpu"), torch.bfloat16)
STRIDE = 8


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def infer_views(forward: Callable[[Tensor], Tensor], views: Sequence[Tensor], size: tuple[int, int], world: World = WORLD) -> Tensor:
    """The merged maps of one photo."""
    return merge_levels(infer_together(lambda images: [forward(images)], [views], world=world)[0], [size])[0]


def network() -> nn.Module:
    """Images -> maps (B, 4, h, w), not negative, at stride 8."""
    torch.manual_seed(0)
    return nn.Sequential(build_backbone("tiny", output_stride=STRIDE), nn.Conv2d(96, 4, 1), nn.ReLU()).eval()


def sample(height: int, width: int, classes: tuple[int, ...]) -> Sample:
    made = draft("a", "train", image="a.jpg", mask=None, classes=classes)
    return Sample(**{**vars(made), "size": (height, width)})


def test_merging_is_the_mean_over_scales_of_the_mean_over_both_directions() -> None:
    views = [randn(2, 3, 2, 3), randn(1, 3, 5, 4, seed=1), randn(2, 3, 9, 9, seed=2)]
    expected = torch.zeros(3, 7, 6)
    for view in views:
        upright = [view[0]] if len(view) == 1 else [view[0], view[1].flip(-1)]
        for maps in upright:
            expected += F.interpolate(maps[None], size=(7, 6), mode="bilinear", align_corners=False)[0] / len(upright) / len(views)
    torch.testing.assert_close(merge_views(views, (7, 6)), expected)


def test_a_mirrored_map_lands_on_its_pixel() -> None:
    delta = torch.zeros(1, 4, 6)
    delta[0, 1, 4] = 1
    assert torch.equal(merge_views([torch.stack([delta, delta.flip(-1)])], (4, 6)), delta)


@torch.inference_mode()
def test_one_view_is_the_plain_map() -> None:
    net, image = network(), randn(1, 3, 40, 48)
    torch.testing.assert_close(infer_views(net, [image], (5, 6)), net(image)[0])


@torch.inference_mode()
def test_a_symmetric_photo_has_a_symmetric_map() -> None:
    net, half = network(), randn(1, 3, 32, 24)
    image = torch.cat([half, half.flip(-1)], dim=-1)
    assert torch.equal(image, image.flip(-1))
    views = [F.interpolate(image, scale_factor=s, mode="bilinear").repeat(2, 1, 1, 1) for s in (0.5, 1.0, 1.5)]
    views = [torch.stack([view[0], view[0].flip(-1)]) for view in views]
    merged = infer_views(net, views, (8, 12))
    assert merged.std() > 0
    torch.testing.assert_close(merged, merged.flip(-1), rtol=1e-4, atol=1e-5)
    lone = infer_views(net, [view[:1] for view in views], (8, 12))
    assert not torch.allclose(lone, lone.flip(-1), rtol=1e-2, atol=1e-3)  # strided convolutions see left and right apart


def test_inference_is_float32_under_autocast_and_without_gradient() -> None:
    net, seen = network(), []

    def forward(images: Tensor) -> Tensor:
        maps = net(images)
        seen.append(maps.dtype)
        return maps

    merged = infer_views(forward, [randn(2, 3, 32, 32)], (4, 4), HALF_WORLD)
    assert seen == [torch.bfloat16]
    assert merged.dtype == torch.float32
    assert not merged.requires_grad


def look(net: Callable[[Tensor], Tensor], views: list[Tensor], photo: Sample, settings: Cam) -> tuple[np.ndarray, Tensor | None]:
    """CAM and hypercolumns of one photo from a network that gives maps."""
    model: Any = lambda images: Maps([], net(images), None)  # noqa: E731
    return next(batch_maps(model, [photo], [views], settings=settings, world=WORLD))[:2]


def test_photo_maps_peaks_at_one_for_each_tag() -> None:
    net, photo = network(), sample(40, 48, (0, 3))
    views = [randn(2, 3, 40, 48), randn(2, 3, 60, 72)]

    def forward(images: Tensor) -> Tensor:
        maps: Tensor = net(images)
        return maps * torch.tensor([1.0, 1, 1, 0])[:, None, None]  # class 3 is seen nowhere

    cam, columns = look(forward, views, photo, Cam(region_rounds=0))
    assert columns is None
    assert cam.shape == (2, 10, 12)
    assert cam.min() >= 0
    assert cam.max(axis=(1, 2)).tolist() == [1, 0]


def test_photo_maps_of_one_plain_view_is_the_normalised_map() -> None:
    net, image = network(), randn(1, 3, 40, 48)
    with torch.inference_mode():
        expected = net(image)[0, :2]
    peak = expected.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    settings = Cam(stride=STRIDE, region_rounds=0)
    cam, _ = look(net, [image], sample(40, 48, (0, 1)), settings)
    np.testing.assert_allclose(cam, (expected / peak).numpy(), rtol=1e-4)


def test_a_cam_that_is_not_finite_is_refused() -> None:
    settings = Cam(region_rounds=0)
    with pytest.raises(DataError, match="a.jpg: its CAM is not finite"):
        look(lambda images: images[:, :1] / 0, [randn(1, 3, 8, 8)], sample(8, 8, (0,)), settings)
