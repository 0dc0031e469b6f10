"""Regions of objects in a batch: found on the maps, pooled from the features, mixed, and contrasted with the memory.

Flow of one step (spec 1.3-1.5): `region_masks` -> `pool_regions` -> `mix_regions` -> `region_contrast`, then
`region_memory.RegionMemory.update`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.ranks import all_rows, rank, size


@dataclass(frozen=True)
class Regions:
    """The pseudo-regions of a batch, one per (image, tag) with a mask that is not empty.

    features (R, D); image (R,) position in the batch; cls (R,) class.
    """

    features: Tensor
    image: Tensor
    cls: Tensor


@dataclass(frozen=True)
class Mixed:
    """Anchors of the contrast: features (R, D) mixed by weight omega (R,) from classes cls (R,) and partner (R,)."""

    features: Tensor
    cls: Tensor
    partner: Tensor
    omega: Tensor

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
    """Masked average pooling (Eq. 2): features (B, D, h, w), masks (B, C, h, w) bool, tags (B, C) in {0, 1}.

    Each class is pooled from the unmasked features; a region without a pixel is left out. No gradient passes the mask.
    """
    tagged = tags > 0
    # Of each image its own classes only, T at most: the others' sums would be thrown away, a tenfold of them with VOC's tags.
    classes = tagged.int().argsort(dim=1, descending=True, stable=True)[:, : _most(tagged)]  # (B, T)
    own = masks.gather(1, classes[:, :, None, None].expand(-1, -1, *masks.shape[2:]))
    weight = own.to(features.dtype).flatten(2)  # (B, T, hw)
    area = weight.sum(dim=2)
    with torch.autocast(features.device.type, enabled=False):  # which would round the sums to half precision
        sums = torch.bmm(weight, features.flatten(2).transpose(1, 2))  # (B, T, D)
    image, place = (tagged.gather(1, classes) & (area > 0)).nonzero(as_tuple=True)
    return Regions(sums[image, place] / area[image, place].unsqueeze(1), image, classes[image, place])


def _most(tagged: Tensor) -> int:
    """The most tags that an image has, for tags (B, C) bool."""
    return int(tagged.sum(dim=1).max()) if len(tagged) else 0


def gather_regions(regions: Regions, batch: int) -> Regions:
    """The regions of all processes' shares of a batch in the order of their ranks, each share being of `batch` images, which may differ.

    Every process gets the same, so that its loss and its memory stay the same as the others' (spec 2.6). In a single process these are
    the regions themselves.
    """
    if size() == 1:
        return regions
    images = all_rows(torch.tensor([batch]))
    first = int(images[: rank()].sum())
    return Regions(all_rows(regions.features), all_rows(regions.image + first), all_rows(regions.cls))


def mix_regions(regions: Regions, *, mixup_beta: float, generator: torch.Generator) -> Mixed:
    """Region mix-up (spec 1.5): each region with one of another image and another class, omega ~ Beta(beta, beta).

    A region without such a partner, and every region where `mixup_beta` is 0, stays as it is (omega 1).
    """
    count = len(regions.cls)
    partner = torch.arange(count, device=regions.cls.device)
    omega = torch.ones(count, dtype=regions.features.dtype, device=regions.features.device)
    if mixup_beta > 0 and count > 1:
        allowed = (regions.image[:, None] != regions.image) & (regions.cls[:, None] != regions.cls)
        able = allowed.any(dim=1)
        weight = (allowed | ~able[:, None]).double().cpu()
        drawn = torch.multinomial(weight, 1, generator=generator).squeeze(1)
        shape = torch.full((2, count), mixup_beta, dtype=torch.float64)
        gamma = torch._standard_gamma(shape, generator=generator)  # Beta(b, b) as a share of two Gamma(b) draws
        share = (gamma[0] / gamma.sum(dim=0)).to(omega)
        partner = torch.where(able, drawn.to(partner.device), partner)
        omega = torch.where(able, share, omega)
    mixed = omega[:, None] * regions.features + (1 - omega[:, None]) * regions.features[partner]
    return Mixed(mixed, regions.cls, regions.cls[partner], omega)


def region_contrast(mixed: Mixed, memory: Tensor, memory_cls: Tensor, *, temperature: float) -> Tensor:
    """Semantic contrast (Eq. 4, mixed as in spec 1.5) of anchors with memory (S, D) of classes (S,): scalar, mean over regions.

    Each positive has its own denominator: itself and all negatives. An entry of class -1 takes no part. A term whose class has no
    entry yet, or no negative, does not count; without any term the loss is 0. Computed in float32 or better.
    """
    anchors, memory = mixed.features, memory.detach()
    wide = torch.promote_types(anchors.dtype, torch.float32)
    with torch.autocast(anchors.device.type, enabled=False):  # which would compare in half precision
        lengths = memory.to(wide).norm(dim=1).clamp(min=1e-12)  # not the memory normalised: a copy of it takes as long as the product
        similarity = F.normalize(anchors.to(wide), dim=1) @ memory.to(wide).T / (lengths * temperature)  # (R, S)
    loss, counted = similarity.sum() * 0, similarity.new_zeros(())
    for target, weight in ((mixed.cls, mixed.omega), (mixed.partner, 1 - mixed.omega)):
        positive = target[:, None] == memory_cls  # (R, S)
        negative = (memory_cls >= 0) & ~positive
        usable = positive.any(dim=1) & negative.any(dim=1)
        # A large finite number instead of -inf keeps the gradient of rows without negatives finite.
        negatives = similarity.masked_fill(~negative, torch.finfo(wide).min / 4).logsumexp(dim=1)
        each = F.softplus(negatives[:, None] - similarity).masked_fill(~positive, 0)
        mean = each.sum(dim=1) / positive.sum(dim=1).clamp(min=1)
        loss = loss + (weight * mean)[usable].sum()
        counted = counted + weight[usable].sum()
    return loss / counted.clamp(min=torch.finfo(wide).tiny)
