"""Losses of the segmentation network: cross-entropy, plain or balanced, and what makes it bear wrong labels.

All leave out pixels of label 255; where nothing is left, a loss is 0 with a gradient of 0, not nan.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.data.labels import IGNORE
from rcatool.ranks import total


def seg_loss(
    logits: Tensor, label: Tensor, *, balanced: bool = False, weight: Tensor | None = None, power: float = 0.0
) -> Tensor:
    """Loss of logits (B, C + 1, h, w), upsampled, with labels (B, H, W) int64: one number, float32.

    Plain: the mean over the labelled pixels of the batch. `balanced`: the mean over background pixels plus the mean over all others (spec
    3.4), so that the background, three quarters of all pixels, does not outvote the objects; where the batch has only one of the two,
    the other's term is 0. `weight` (B, H, W) makes these means weighted ones; where all weights are 0 the mean is 0. `power`: see
    `pixel_loss`.
    """
    losses = pixel_loss(logits, label, power=power)
    weight = (label != IGNORE).float() if weight is None else weight * (label != IGNORE)
    if not balanced:
        return _mean(losses, weight)
    background = (label == 0).float()
    return _mean(losses, weight * background) + _mean(losses, weight * (1 - background))


def pixel_loss(logits: Tensor, label: Tensor, *, power: float = 0.0) -> Tensor:
    """Loss of each pixel (B, H, W) float32, 0 where the label is 255; logits (B, C + 1, h, w) are upsampled to the label's size.

    -log p of the label's class, or with a `power` q in (0, 1] the generalised cross-entropy (1 - p^q) / q (Zhang and Sabuncu, 2018):
    its gradient is p^q times the cross-entropy's, so a label that the network holds for impossible no longer counts.
    """
    if logits.device.type == "cpu":  # photo by photo: what a whole batch takes goes back to the system each time, and is cleared anew
        parts = zip(logits.contiguous().split(1), label.split(1), strict=True)
        return torch.cat([_pixel_loss(one, own, power) for one, own in parts])
    return _pixel_loss(logits, label, power)


def _pixel_loss(logits: Tensor, label: Tensor, power: float) -> Tensor:
    full = F.interpolate(logits.float(), size=label.shape[-2:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(full, label, ignore_index=IGNORE, reduction="none")
    return losses if power == 0 else -torch.expm1(-power * losses) / power


def corrected(label: Tensor, logits: Tensor, allowed: Tensor, *, confidence: float) -> Tensor:
    """Labels (B, H, W) int64 in which a teacher's class replaces what it is sure to be wrong.

    logits (B, C + 1, h, w) are the teacher's, allowed (B, C + 1) bool says which classes a photo can have: background and its tags. A
    pixel takes the teacher's class where its probability reaches `confidence` and the photo can have it. 255 stays 255: it also
    marks what lies outside of the photo, of which there is nothing to learn.
    """
    full = F.interpolate(logits.float(), size=label.shape[-2:], mode="bilinear", align_corners=False)
    sure, best = full.softmax(dim=1).max(dim=1)
    possible = allowed.gather(1, best.flatten(1)).view_as(best)
    return torch.where((sure >= confidence) & possible & (label != IGNORE), best, label)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the batch, of all processes' shares; 0 where all weights are 0."""
    mass, summed = total(torch.stack([weight.sum(), (values * weight).sum()]))
    return summed / torch.where(mass > 0, mass, torch.ones_like(mass))
