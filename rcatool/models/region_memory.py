"""The method: regions of objects, the memory that keeps them over the whole training set, contrast and aggregation.

Flow of one step (spec 1.3-1.6): `pool_regions` -> `mix_regions` -> `region_contrast` against the memory ->
`RegionMemory.update`; once per epoch `refresh_prototypes`; in every forward pass `aggregate`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.kmeans import kmeans

Attention = Literal["cosine", "centred", "dot"]


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
    weight = masks.to(features.dtype).flatten(2)  # (B, C, hw)
    area = weight.sum(dim=2)
    with torch.autocast(features.device.type, enabled=False):  # which would round the sums to half precision
        sums = torch.bmm(weight, features.flatten(2).transpose(1, 2))  # (B, C, D)
    image, cls = ((tags > 0) & (area > 0)).nonzero(as_tuple=True)
    return Regions(sums[image, cls] / area[image, cls].unsqueeze(1), image, cls)


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

    Each positive has its own denominator: itself and all negatives. A term whose class has no entry yet, or no
    negative, does not count; without any term the loss is 0. Computed in float32 or better.
    """
    anchors, memory = mixed.features, memory.detach()
    wide = torch.promote_types(anchors.dtype, torch.float32)
    with torch.autocast(anchors.device.type, enabled=False):  # which would compare in half precision
        similarity = F.normalize(anchors.to(wide), dim=1) @ F.normalize(memory.to(wide), dim=1).T / temperature  # (R, S)
    loss, counted = similarity.sum() * 0, similarity.new_zeros(())
    for target, weight in ((mixed.cls, mixed.omega), (mixed.partner, 1 - mixed.omega)):
        positive = target[:, None] == memory_cls  # (R, S)
        usable = positive.any(dim=1) & ~positive.all(dim=1)
        # A large finite number instead of -inf keeps the gradient of rows without negatives finite.
        negatives = similarity.masked_fill(positive, torch.finfo(wide).min / 4).logsumexp(dim=1)
        each = F.softplus(negatives[:, None] - similarity).masked_fill(~positive, 0)
        mean = each.sum(dim=1) / positive.sum(dim=1).clamp(min=1)
        loss = loss + (weight * mean)[usable].sum()
        counted = counted + weight[usable].sum()
    return loss / counted.clamp(min=torch.finfo(wide).tiny)


def aggregate(features: Tensor, prototypes: Tensor, *, attention: Attention, attention_temperature: float) -> Tensor:
    """Semantic aggregation (spec 1.6): each pixel of features (B, D, h, w) as a softmax mix of prototypes (M, D).

    Non-parametric attention over all prototypes; without prototypes (M = 0) the context is zero. `dot` with
    temperature 1 is the paper's form; `cosine` compares directions; `centred` compares directions as seen from the mean
    prototype, and takes that mean off the context: what all prototypes share tells no class from another.
    """
    if not len(prototypes):
        return torch.zeros_like(features)
    value = prototypes.to(features.dtype)  # (M, D)
    query = features.flatten(2).transpose(1, 2)  # (B, hw, D)
    if attention == "centred":
        centre = value.mean(dim=0)
        query, value = query - centre, value - centre
    key = value
    if attention != "dot":
        query, key = F.normalize(query, dim=2), F.normalize(value, dim=1)
    logits = query @ key.T / attention_temperature
    share = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=2)
    return (share.to(features.dtype) @ value).transpose(1, 2).view_as(features)


class RegionMemory(nn.Module):
    """One flat bank of region features, a class per slot, with k-means prototypes per class (spec 1.4, 1.6).

    Buffers: bank (S, D), slot_class (S,), visits (S,) times written, cursor (C,) next slot of a ring,
    prototypes (C, K, D) and prototype_valid (C, K). Nothing here has a gradient; a slot that was never written
    (visits 0) takes part in nothing. `slots` (n, C) gives each training photo's slot per class, -1 for none; without it
    (fifo, ring-ema) classes own `size` slots each.
    """

    def __init__(self, width: int, *, slot_class: Tensor, num_classes: int, prototypes: int, slots: Tensor | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("bank", torch.zeros(len(slot_class), width))
        self.register_buffer("slot_class", slot_class)
        self.register_buffer("visits", torch.zeros(len(slot_class), dtype=torch.long))
        self.register_buffer("cursor", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("prototypes", torch.zeros(num_classes, prototypes, width))
        self.register_buffer("prototype_valid", torch.zeros(num_classes, prototypes, dtype=torch.bool))
        self.register_buffer("slots", slots, persistent=False)

    bank: Tensor
    slot_class: Tensor
    visits: Tensor
    cursor: Tensor
    prototypes: Tensor
    prototype_valid: Tensor
    slots: Tensor | None

    @property
    def valid_entries(self) -> tuple[Tensor, Tensor]:
        """The written entries: features (S', D) and classes (S',)."""
        written = self.visits > 0
        return self.bank[written], self.slot_class[written]

    @property
    def valid_prototypes(self) -> Tensor:
        """The prototypes that exist, over all classes: (M, D)."""
        return self.prototypes[self.prototype_valid]

    @torch.no_grad()
    def update(self, regions: Regions, photo: Tensor, score: Tensor, *, design: str, momentum: float, confidence: float) -> int:
        """Write the regions whose tag scores above `confidence` (strictly); returns how many.

        photo (B,) training index of each image, score (B, C) probabilities. First write copies; later ones keep
        `momentum` of the old entry (fifo: none). Entries are written in batch order, so that a batch equals its parts.
        """
        sure = (score[regions.image, regions.cls] > confidence) & torch.isfinite(regions.features).all(dim=1)
        keep = 0.0 if design == "fifo" else momentum
        for feature, image, cls in zip(regions.features[sure], regions.image[sure].tolist(), regions.cls[sure].tolist(), strict=True):
            slot = self._slot(int(photo[image]), cls)
            share = keep if int(self.visits[slot]) else 0.0
            self.bank[slot] = share * self.bank[slot] + (1 - share) * feature.to(self.bank.dtype)
            self.visits[slot] += 1
        return int(sure.sum())

    def _slot(self, photo: int, cls: int) -> int:
        if self.slots is not None:
            return int(self.slots[photo, cls])
        size = len(self.bank) // self.num_classes
        slot = cls * size + int(self.cursor[cls])
        self.cursor[cls] = (self.cursor[cls] + 1) % size
        return slot

    @torch.no_grad()
    def refresh_prototypes(self, *, seed: int, iterations: int) -> None:
        """Recompute the prototypes: k-means of each class's written entries, seeded per class."""
        features, classes = self.valid_entries
        self.prototype_valid.zero_()
        for cls in range(self.num_classes):
            points = features[classes == cls]
            if len(points) and self.prototypes.shape[1]:
                centres = kmeans(points, self.prototypes.shape[1], seed=seed + cls, iterations=iterations)
                self.prototypes[cls, : len(centres)] = centres
                self.prototype_valid[cls, : len(centres)] = True


def build_memory(tags: Tensor, width: int, *, design: str, size: int, prototypes: int) -> RegionMemory:
    """An empty memory for training photos with tags (n, C) bool: a slot per (photo, tag), or `size` slots per class."""
    num_classes = tags.shape[1]
    if design != "instance-ema":
        slot_class = torch.arange(num_classes).repeat_interleave(size)
        return RegionMemory(width, slot_class=slot_class, num_classes=num_classes, prototypes=prototypes)
    photo, cls = tags.nonzero(as_tuple=True)
    slots = torch.full(tags.shape, -1, dtype=torch.long)
    slots[photo, cls] = torch.arange(len(photo))
    return RegionMemory(width, slot_class=cls, num_classes=num_classes, prototypes=prototypes, slots=slots)
