"""Augmentation: planted patterns show where each pixel goes, and that a label goes with its image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2.functional import adjust_hue

from rcatool.data.labels import IGNORE
from rcatool.data.transforms import (
    MEAN,
    STD,
    color_jitter,
    crop_and_pad,
    crop_box,
    draw_view,
    normalise,
    resize,
    scaled_size,
    shift_hue,
    to_tensor,
    view_image,
    view_label,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(rng(seed).integers(0, 256, (3, height, width), np.uint8))


def augment(
    image: Tensor, label: Tensor | None, *, size: tuple[int, int], crop_size: int, flip: bool, jitter: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor | None]:
    """Image and label seen in the same random way."""
    view = draw_view(size, crop_size, flip=flip, rng=rng)
    return view_image(image, view, jitter=jitter, rng=rng), None if label is None else view_label(label, view)


def denormalise(image: Tensor) -> Tensor:
    """Back to 0..255."""
    return (image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255


def test_to_tensor_moves_the_channels() -> None:
    image = rng().integers(0, 256, (4, 5, 3), np.uint8)
    tensor = to_tensor(image[:, ::-1])  # a view with negative strides
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (3, 4, 5)
    assert all(tensor[c, y, 4 - x] == image[y, x, c] for y in range(4) for x in range(5) for c in range(3))


def test_normalise_by_hand() -> None:
    image = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1)
    expected = [(v / 255 - m) / s for v, m, s in zip((0, 128, 255), MEAN, STD, strict=True)]
    assert normalise(image).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_resize() -> None:
    image = noise(8, 12)
    assert resize(image, 8, 12) is image
    assert resize(image, 5, 20).shape == (3, 5, 20)
    half = resize(image, 4, 6).float()
    constant = resize(torch.full((3, 8, 12), 77, dtype=torch.uint8), 5, 7)
    assert (constant == 77).all()
    assert half.mean() == pytest.approx(float(image.float().mean()), abs=4)
    larger = torch.nn.functional.interpolate(image[None].float(), size=(13, 31), mode="bilinear", align_corners=False)[0]
    assert (resize(image, 13, 31).float() - larger).abs().max() < 1.1  # rounded to whole numbers
    assert resize(image, 1, 1).tolist() == image.float().mean(dim=(1, 2), keepdim=True).round().tolist()
    assert resize(image, 1, 7).shape == (3, 1, 7)


@pytest.mark.parametrize(("size", "scale", "expected"), [((10, 20), 0.5, (5, 10)), ((3, 7), 1.5, (4, 10)), ((2, 900), 0.1, (1, 90))])
def test_scaled_size(size: tuple[int, int], scale: float, expected: tuple[int, int]) -> None:
    assert scaled_size(*size, scale) == expected


def test_jitter_changes_colours_within_reason() -> None:
    image = noise(6, 6)
    assert color_jitter(image, 0.0, rng()) is image
    first, second = color_jitter(image, 0.3, rng(1)), color_jitter(image, 0.3, rng(1))
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
    assert not torch.equal(first, color_jitter(image, 0.3, rng(2)))
    grey = torch.full((3, 6, 6), 100, dtype=torch.uint8)  # only brightness can change it
    for seed in range(20):
        value = color_jitter(grey, 0.3, rng(seed))
        assert value.float().std() <= 1
        assert 69 <= int(value.min()) <= int(value.max()) <= 131


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 10), st.integers(0, 999))
def test_a_crop_holds_as_much_of_the_image_as_fits(height: int, width: int, crop: int, seed: int) -> None:
    array = torch.arange(1, height * width + 1).view(height, width)
    box = crop_box(height, width, crop, rng(seed))
    out = crop_and_pad(array, crop, box, fill=0)
    assert out.shape == (crop, crop)
    rows, columns = min(height, crop), min(width, crop)
    inside = out.nonzero()
    assert len(inside) == rows * columns
    top, left = inside.amin(dim=0).tolist()
    window = out[top : top + rows, left : left + columns]
    y, x = divmod(int(window[0, 0]) - 1, width)
    assert torch.equal(window, array[y : y + rows, x : x + columns])


def test_every_place_of_a_crop_is_drawn() -> None:
    boxes = {crop_box(7, 3, 5, rng(seed)) for seed in range(200)}
    assert boxes == {(top, 0, 0, pad) for top in range(3) for pad in range(3)}
    assert crop_box(5, 5, 5, rng()) == (0, 0, 0, 0)


def test_without_changes_the_image_stays() -> None:
    image, label = noise(8, 8), torch.from_numpy(rng().integers(0, 21, (8, 8), np.uint8))
    piece, moved = augment(image, label, size=(8, 8), crop_size=8, flip=False, jitter=0.0, rng=rng())
    assert torch.equal(piece, normalise(image))
    assert torch.equal(moved, label)


def test_half_of_the_images_are_mirrored() -> None:
    image = noise(8, 8)
    pieces = [augment(image, None, size=(8, 8), crop_size=8, flip=True, jitter=0.0, rng=rng(seed))[0] for seed in range(200)]
    mirrored = sum(torch.equal(piece, normalise(image).flip(-1)) for piece in pieces)
    assert sum(torch.equal(piece, normalise(image)) for piece in pieces) == 200 - mirrored
    assert 70 < mirrored < 130


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 40), st.integers(6, 40), st.integers(8, 32), st.integers(0, 999))
def test_image_and_label_move_together(height: int, width: int, crop: int, seed: int) -> None:
    # The label is planted in the image: bright where it is 9. Pixels that are neither dark nor bright lie on an edge.
    generator = rng(seed)
    label = 9 * torch.from_numpy(generator.integers(0, 2, (5, 6), np.uint8)).repeat_interleave(8, 0).repeat_interleave(8, 1)
    image = (50 + 150 * (label == 9).byte()).expand(3, -1, -1).contiguous()
    piece, moved = augment(image, label, size=(height, width), crop_size=crop, flip=True, jitter=0.0, rng=generator)
    assert moved is not None
    assert piece.shape == (3, crop, crop)
    inside = moved != IGNORE
    assert int(inside.sum()) == min(height, crop) * min(width, crop)
    assert (piece[:, ~inside] == 0).all()  # the mean colour
    value = denormalise(piece)[0]
    clear = inside & ((value < 60) | (value > 190))
    assert torch.equal(value[clear] > 125, moved[clear] == 9)
    assert set(moved.unique().tolist()) <= {0, 9, IGNORE}


def test_a_planted_pixel_is_found_again() -> None:
    for seed in range(30):
        image, label = torch.zeros(3, 12, 16, dtype=torch.uint8), torch.zeros(12, 16, dtype=torch.uint8)
        image[:, 5, 9], label[5, 9] = 255, 4
        piece, moved = augment(image, label, size=(12, 16), crop_size=10, flip=True, jitter=0.0, rng=rng(seed))
        assert torch.equal(denormalise(piece)[0] > 128, moved == 4)


def test_jitter_leaves_padding_at_the_mean_and_the_label_alone() -> None:
    image, label = noise(6, 6), torch.ones(6, 6, dtype=torch.uint8)
    plain, expected = augment(image, label, size=(6, 6), crop_size=10, flip=False, jitter=0.0, rng=rng(3))
    changed, moved = augment(image, label, size=(6, 6), crop_size=10, flip=False, jitter=0.5, rng=rng(3))
    assert torch.equal(moved, expected)
    assert (changed[:, moved == IGNORE] == 0).all()
    assert not torch.equal(changed, plain)


@pytest.mark.parametrize("amount", [-0.5, -0.1, -0.03, 0.0, 0.05, 0.1, 1 / 3])
def test_hue_turns_as_torchvision_turns_it(amount: float) -> None:
    image = torch.randint(0, 256, (3, 64, 65), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image[:, :8] = image[:1, :8]  # greys
    image[:, 8] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None]
    image[:2, 9] = 200  # two channels lead
    difference = (shift_hue(image, amount).int() - adjust_hue(image, amount).int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 2e-3
    assert torch.equal(shift_hue(image, amount)[:, :8], image[:, :8])
