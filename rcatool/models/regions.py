"""Regions of objects in a batch: found on the maps, pooled from the features, mixed, and contrasted with the memory.

Flow of one step (spec 1.3-1.5): `region_masks` -> `pool_regions` -> `mix_regions` -> `region_contrast`, then
`region_memory.RegionMemory.update`. How many regions a batch has is known from its tags, before a GPU has worked on it; those that
turn out to be empty are marked, not left out, so that nothing has to be counted on the device, and the step never waits for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.ranks import all_rows, rank, size


@dataclass(frozen=True)
class Regions:
    """The pseudo-regions of a batch, one per (image, tag), image after image.

    features (R, D); image (R,) position in the batch; cls (R,) class; exists (R,) bool, whether its mask has a pixel: one without takes
    part in nothing.
    """

    features: Tensor
    image: Tensor
    cls: Tensor
    exists: Tensor


@dataclass(frozen=True)
class Tagged:
    """The tags of a batch as lists, on the device.

    classes (B, T), T the most that one image has: its own first, then others that fill up; image (R,) and place (R,) say where in
    `classes` the tags are.
    """

    classes: Tensor
    image: Tensor
    place: Tensor


@dataclass(frozen=True)
class Mixed:
    """Anchors of the contrast: features (R, D) mixed by omega (R,) from classes cls (R,) and partner (R,); exists (R,) as of regions."""

    features: Tensor
    cls: Tensor
    partner: Tensor
    omega: Tensor
    exists: Tensor

    def through(self, layer: Callable[[Tensor], Tensor]) -> "Mixed":
        """The same anchors with their features (R, D) projected."""
        return replace(self, features=layer(self.features))


def region_masks(maps: Tensor, *, region_map: str = "raw", region_threshold: str = "mean", region_theta: float = 0.3) -> Tensor:
    """Binary masks (B, C, h, w) bool of maps P (B, C, h, w): where P exceeds its spatial mean (spec 1.3), or theta x max.

    `region_map` says what is thresholded: `raw` P, `relu` of it, or its `softmax` over the classes.
    """
    maps = maps.detach()
    if region_map == "relu":
        maps = maps.relu()
    elif region_map == "softmax":
        maps = maps.softmax(dim=1)
    if region_threshold == "mean":
        return maps > maps.mean(dim=(2, 3), keepdim=True)
    return maps > region_theta * maps.amax(dim=(2, 3), keepdim=True)


def pool_regions(features: Tensor, masks: Tensor, tags: Tensor) -> Regions:
    """Masked average pooling (Eq. 2): features (B, D, h, w), masks (B, C, h, w) bool, tags (B, C) in {0, 1}, best on the CPU.

    Each class is pooled from the unmasked features. No gradient passes the mask.
    """
    tagged = list_tags(tags, features.device)
    own = maps_of(masks, tagged).to(features.dtype)
    return mean_regions(features, own, own.sum(dim=2), tagged)


def list_tags(tags: Tensor, device: torch.device) -> Tagged:
    """List tags (B, C); where they lie on a GPU it is waited for."""
    tagged = tags > 0
    most = int(tagged.sum(dim=1).max()) if len(tagged) else 0
    classes = tagged.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    parts = classes, *tagged.gather(1, classes).nonzero(as_tuple=True)
    return Tagged(*(part.to(device, non_blocking=True) for part in parts))


def maps_of(maps: Tensor, tagged: Tagged) -> Tensor:
    """Maps (B, C, h, w) of the listed classes only: (B, T, h w). The others' sums would be thrown away, nine in ten with VOC's tags."""
    return maps.gather(1, tagged.classes[:, :, None, None].expand(-1, -1, *maps.shape[2:])).flatten(2)


def mean_regions(features: Tensor, weight: Tensor, area: Tensor, tagged: Tagged) -> Regions:
    """Sums of features (B, D, h, w) by weights (B, T, h w) of the listed classes, over areas (B, T) in cells."""
    with torch.autocast(features.device.type, enabled=False):  # which would round the sums to half precision
        sums = torch.bmm(weight, features.flatten(2).transpose(1, 2))  # (B, T, D)
    where = tagged.image, tagged.place
    cells = area[where]
    return Regions(sums[where] / cells.clamp(min=1).unsqueeze(1), tagged.image, tagged.classes[where], cells > 0)


def gather_regions(regions: Regions, batch: int) -> Regions:
    """The regions of all processes' shares of a batch in the order of their ranks, each share being of `batch` images, which may differ.

    Every process gets the same, so that its loss and its memory stay the same as the others' (spec 2.6). In a single process these are
    the regions themselves.
    """
    if size() == 1:
        return regions
    images = all_rows(torch.tensor([batch]))
    first = int(images[: rank()].sum())
    image, cls, exists = all_rows(torch.stack([regions.image + first, regions.cls, regions.exists.long()], dim=1)).unbind(dim=1)
    return Regions(all_rows(regions.features), image, cls, exists > 0)


def mix_regions(regions: Regions, *, mixup_beta: float, generator: torch.Generator) -> Mixed:
    """Region mix-up (spec 1.5): each region with one of another image and another class, omega ~ Beta(beta, beta).

    A region without such a partner, and every region where `mixup_beta` is 0, stays as it is (omega 1). Numbers are drawn on the CPU, so
    that all devices mix the same.
    """
    count, device = len(regions.cls), regions.cls.device
    partner = torch.arange(count, device=device)
    omega = torch.ones(count, dtype=regions.features.dtype, device=device)
    if mixup_beta > 0 and count > 1:
        allowed = (regions.image[:, None] != regions.image) & (regions.cls[:, None] != regions.cls) & regions.exists
        drawn = torch.rand(count, generator=generator, dtype=torch.float64).to(device, non_blocking=True)
        share = beta_shares(count, mixup_beta, generator).to(omega, non_blocking=True)
        upto = allowed.cumsum(dim=1)  # (R, R) partners so far
        number = upto[:, -1]
        nth = (drawn * number).long().minimum(number - 1)
        chosen, able = (upto <= nth[:, None]).sum(dim=1), number > 0
        partner = chosen.where(able, partner)
        omega = share.where(able, omega)
    return mix_pairs(regions, partner, omega)


def mix_pairs(regions: Regions, partner: Tensor, omega: Tensor) -> Mixed:
    """Each region, weighted by omega (R,), and its partner (R,) an index of a region, weighted by the rest."""
    features = omega[:, None] * regions.features + (1 - omega[:, None]) * regions.features[partner]
    return Mixed(features, regions.cls, regions.cls[partner], omega, regions.exists)


def beta_shares(count: int, beta: float, generator: torch.Generator) -> Tensor:
    """Numbers (count,) float64 of Beta(beta, beta), on the CPU."""
    gamma = torch._standard_gamma(torch.full((2, count), beta, dtype=torch.float64), generator=generator)
    return gamma[0] / gamma.sum(dim=0)  # Beta(b, b) as a share of two Gamma(b) draws


def region_contrast(mixed: Mixed, memory: Tensor, memory_cls: Tensor, *, temperature: float) -> Tensor:
    """Semantic contrast (Eq. 4, mixed as in spec 1.5) of anchors with memory (S, D) of classes (S,): scalar, mean over regions.

    Each positive has its own denominator: itself and all negatives. An entry of class -1, or a region without a pixel, takes no part. A
    term whose class has no entry yet, or no negative, does not count; without any term the loss is 0. Computed in float32 or better. The
    memory may change before the gradient is asked for: nothing of it is kept.
    """
    wide = torch.promote_types(mixed.features.dtype, torch.float32)
    with torch.autocast(memory.device.type, enabled=False):  # which would compare in half precision
        unit = F.normalize(mixed.features.to(wide), dim=1)
        loss: Tensor = _Contrast.apply(unit, memory.detach().to(wide), memory_cls, mixed, temperature)  # type: ignore[no-untyped-call]
    return loss


class _Contrast(torch.autograd.Function):
    """The contrast of anchors of length 1, whose gradient is made with it: of (R, S) numbers none outlives the step to come."""

    @staticmethod
    def forward(context: Any, unit: Tensor, memory: Tensor, memory_cls: Tensor, mixed: Mixed, temperature: float) -> Tensor:
        scale = 1 / (memory.norm(dim=1).clamp(min=1e-12) * temperature)  # not the memory normalised: a copy takes as long as the product
        similarity = (unit @ memory.T).mul_(scale)  # (R, S)
        loss, counted, slope = unit.new_zeros(()), unit.new_zeros(()), torch.zeros_like(similarity)
        for target, weight in ((mixed.cls, mixed.omega), (mixed.partner, 1 - mixed.omega)):
            term, usable = _add_terms(similarity, target, memory_cls, (weight * mixed.exists).to(unit.dtype), slope)
            loss, counted = loss + term, counted + usable
        counted = counted.where(counted > 0, 1.0)
        if context.needs_input_grad[0]:
            context.save_for_backward(slope.mul_(scale / counted) @ memory)
        return loss / counted

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return gradient * context.saved_tensors[0], None, None, None, None


def _add_terms(similarity: Tensor, target: Tensor, memory_cls: Tensor, weight: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the terms for classes target (R,), and of the weights (R,) of those that count; adds their derivative to slope (R, S).

    Products with masks instead of picked entries: a fifth of the time on a CPU, and a GPU need not be waited for.
    """
    known = memory_cls >= 0
    positive = (target[:, None] == memory_cls).to(similarity.dtype)  # (R, S)
    number = positive.sum(dim=1)
    weight = weight * ((number > 0) & (number < known.sum()))
    barred = positive + (~known).to(similarity.dtype)
    # A large finite number instead of -inf keeps rows without negatives finite.
    rivals = torch.add(similarity, barred, alpha=torch.finfo(similarity.dtype).min / 4)
    negatives = rivals.logsumexp(dim=1, keepdim=True)
    margin = negatives - similarity
    each = margin.clamp(min=0) + (1 + (-margin.abs()).exp()).log()  # softplus, in a third of its time
    share = (weight / number.clamp(min=1))[:, None]
    pulled = margin.sigmoid_().mul_(positive).mul_(share)
    slope.add_(rivals.sub_(negatives).exp_().mul_(pulled.sum(dim=1, keepdim=True))).sub_(pulled)
    return (each.mul_(positive).sum(dim=1, keepdim=True) * share).sum(), weight.sum()
