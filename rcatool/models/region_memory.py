"""The region memory, which keeps regions over the whole training set, and the aggregation over its prototypes.

Regions come from `regions`; each step ends with `RegionMemory.update`; once per epoch `refresh_prototypes`; in every forward
pass `aggregate` (spec 1.4, 1.6).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.kmeans import kmeans
from rcatool.models.regions import Regions

Attention = Literal["cosine", "centred", "dot"]


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
