"""Augmentation of an image, alone or jointly with its label map; all randomness comes from the generator passed in."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as T

from rcatool.data.labels import IGNORE

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def to_tensor(image: np.ndarray) -> Tensor:
    """RGB uint8 (H, W, 3) -> uint8 (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()


def normalise(image: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """uint8 (..., 3, H, W) -> float32, by mean and standard deviation (ImageNet's)."""
    return T.normalize(T.to_dtype(image, torch.float32, scale=True), list(mean), list(std))


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """uint8 (3, H, W) -> uint8 (3, height, width), bilinear with antialiasing."""
    if image.shape[-2:] == (height, width):
        return image
    if height == width == 1:  # torch's resize of uint8 fails at a single pixel
        return image.float().mean(dim=(1, 2), keepdim=True).round().to(torch.uint8)
    return T.resize(image, [height, width], InterpolationMode.BILINEAR, antialias=True)


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The size at `scale`, rounded, at least one pixel."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def color_jitter(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Random brightness, contrast and saturation (1 +- strength) and hue (+- strength / 3), in random order; uint8."""
    if strength <= 0:
        return image
    factors = rng.uniform(1 - strength, 1 + strength, size=3)
    hue = float(rng.uniform(-strength / 3, strength / 3))
    changes = [
        lambda x: T.adjust_brightness(x, float(factors[0])),
        lambda x: T.adjust_contrast(x, float(factors[1])),
        lambda x: T.adjust_saturation(x, float(factors[2])),
        lambda x: shift_hue(x, hue),
    ]
    for which in rng.permutation(4):
        image = changes[which](image)
    return image


def shift_hue(image: Tensor, amount: float) -> Tensor:
    """Turn the colours of uint8 (3, H, W) by `amount` of the whole circle, keeping each pixel's highest and lowest channel.

    torchvision's `adjust_hue` in half its time, which is most of what a training photo costs: every channel is
    high - (high - low) w, w by the distance of its own direction on the circle, with no way to HSV and back. Rounded as torchvision
    does; one value in a thousand differs, by 1.
    """
    red, green, blue = image.float().unbind(0)
    low, high = torch.aminmax(image, dim=0)
    spread, high = (high - low).float(), high.float()
    leads = [high == red, high == green]
    sixth = torch.where(leads[0], green - blue, torch.where(leads[1], blue - red, red - green)).div_(spread.clamp(min=1))
    sixth.add_(torch.where(leads[0], 0.0, torch.where(leads[1], 2.0, 4.0))).add_(6 * amount)  # of the circle, from red on
    away = sixth + torch.tensor([5.0, 3.0, 1.0])[:, None, None]
    away.sub_((away / 6).floor_().mul_(6))
    share = away.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return high.sub(share.mul_(spread)).mul_(255.999 / 255).to(torch.uint8)


def crop_box(height: int, width: int, crop: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Random (top, left, pad_top, pad_left) of a square crop; a side shorter than the crop is padded at random instead."""

    def place(side: int) -> tuple[int, int]:
        offset = int(rng.integers(abs(side - crop) + 1))
        return (offset, 0) if side >= crop else (0, offset)

    (top, pad_top), (left, pad_left) = place(height), place(width)
    return top, left, pad_top, pad_left


def crop_and_pad(array: Tensor, crop: int, box: tuple[int, int, int, int], fill: float) -> Tensor:
    """Cut the box of `crop_box` out of (..., H, W); what lies outside is `fill`."""
    top, left, pad_top, pad_left = box
    piece = array[..., top : top + crop, left : left + crop]
    if piece.shape[-2:] == (crop, crop):
        return piece.contiguous()
    out = array.new_full((*array.shape[:-2], crop, crop), fill)
    out[..., pad_top : pad_top + piece.shape[-2], pad_left : pad_left + piece.shape[-1]] = piece
    return out


class View(NamedTuple):
    """How a training photo is looked at: resized to `size` (H, W), cut at the `box` of `crop_box`, mirrored afterwards."""

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    crop_size: int
    mirror: bool

    @property
    def numbers(self) -> Tensor:
        """H, W, top, left, pad_top, pad_left, mirror as int64 (7,), for a batch."""
        return torch.tensor([*self.size, *self.box, self.mirror])


def draw_view(size: tuple[int, int], crop_size: int, *, flip: bool, rng: np.random.Generator) -> View:
    """A random crop of a photo resized to `size`; with `flip`, mirrored half of the time."""
    mirror = flip and bool(rng.random() < 0.5)
    return View(size, crop_box(*size, crop_size, rng), crop_size, mirror)


def view_image(image: Tensor, view: View, *, jitter: float, rng: np.random.Generator) -> Tensor:
    """An image uint8 (3, H, W) as `view` says, in changed colours: float32 (3, S, S); what the crop adds is the mean colour."""
    top, left, *pads = view.box
    piece = resize(image, *view.size)[..., top : top + view.crop_size, left : left + view.crop_size]
    piece = crop_and_pad(normalise(color_jitter(piece, jitter, rng)), view.crop_size, (0, 0, *pads), 0.0)
    return piece.flip(-1) if view.mirror else piece


def view_map(values: Tensor, view: View) -> Tensor:
    """A map float32 (H, W) as `view` says: (S, S); what the crop adds is 0."""
    resized = T.resize(values[None], list(view.size), InterpolationMode.BILINEAR, antialias=True)[0]
    piece = crop_and_pad(resized, view.crop_size, view.box, 0.0)
    return piece.flip(-1) if view.mirror else piece


def view_label(label: Tensor, view: View) -> Tensor:
    """A label map uint8 (H, W) as `view` says, by nearest neighbour: (S, S); what the crop adds is ignore (255)."""
    label = T.resize(label[None], list(view.size), InterpolationMode.NEAREST_EXACT)[0]
    piece = crop_and_pad(label, view.crop_size, view.box, IGNORE)
    return piece.flip(-1) if view.mirror else piece
