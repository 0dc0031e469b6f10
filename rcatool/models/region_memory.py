"""The region memory, which keeps regions over the whole training set, and the aggregation over its prototypes.

Regions come from `regions`; each step ends with `RegionMemory.update`; once per epoch `refresh_prototypes`; in every forward
pass `aggregate` (spec 1.4, 1.6).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.kmeans import kmeans
from rcatool.models.regions import Regions
from rcatool.ranks import take_first

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


@dataclass(frozen=True)
class WriteRule:
    """What enters the memory: tags that score above `confidence`; of an old entry, `momentum` is kept (0: it is overwritten)."""

    momentum: float
    confidence: float


class RegionMemory(nn.Module):
    """One flat bank of region features, a class per slot, with k-means prototypes per class (spec 1.4, 1.6).

    Buffers: bank (S, D), slot_class (S,), visits (S,) times written, written (S,) the epoch it was last written in, cursor (C,)
    next slot of a ring, prototypes (C, K, D) and prototype_valid (C, K). Nothing here has a gradient; a slot that was never
    written (visits 0) takes part in nothing. `slots` (n, C) gives each training photo's slot per class, -1 for none; without it
    (fifo, ring-ema) classes own `size` slots each.
    """

    def __init__(self, width: int, *, slot_class: Tensor, num_classes: int, prototypes: int, slots: Tensor | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("bank", torch.zeros(len(slot_class), width))
        self.register_buffer("slot_class", slot_class)
        self.register_buffer("visits", torch.zeros(len(slot_class), dtype=torch.long))
        self.register_buffer("written", torch.zeros(len(slot_class), dtype=torch.long))
        self.register_buffer("cursor", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("prototypes", torch.zeros(num_classes, prototypes, width))
        self.register_buffer("prototype_valid", torch.zeros(num_classes, prototypes, dtype=torch.bool))
        self.register_buffer("slots", slots, persistent=False)

    bank: Tensor
    slot_class: Tensor
    visits: Tensor
    written: Tensor
    cursor: Tensor
    prototypes: Tensor
    prototype_valid: Tensor
    slots: Tensor | None

    @property
    def entries(self) -> tuple[Tensor, Tensor]:
        """All entries, until `update` changes them: features (S, D) and classes (S,), -1 where nothing was written yet."""
        # Picking the written ones takes twice as long as the contrast with those that are not.
        return self.bank, self.slot_class.where(self.visits > 0, -1)

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
    def update(self, regions: Regions, photo: Tensor, score: Tensor, *, rule: WriteRule, epoch: int = 0) -> Tensor:
        """Write the regions whose tag scores above `rule.confidence` (strictly); returns which of them (R,) bool.

        photo (B,) training index of each image, score (B, C) probabilities. First write copies; later ones keep
        `rule.momentum` of the old entry. Entries are written in batch order, so that a batch equals its parts.
        """
        sure = (score[regions.image, regions.cls] > rule.confidence) & torch.isfinite(regions.features).all(dim=1)
        features, cls = regions.features[sure].to(self.bank.dtype), regions.cls[sure]
        slot = self._slots(photo[regions.image[sure]], cls)
        turn = _rank(slot)  # a slot that is written twice is written in turn
        for now in range(int(turn.max()) + 1 if len(turn) else 0):
            which = slot[turn == now]
            keep = rule.momentum * (self.visits[which] > 0).to(self.bank.dtype)[:, None]
            self.bank[which] = keep * self.bank[which] + (1 - keep) * features[turn == now]
            self.visits[which] += 1
            self.written[which] = epoch
        return sure

    def _slots(self, photo: Tensor, cls: Tensor) -> Tensor:
        """The slot (R,) of each region; rings move on."""
        if self.slots is not None:
            return self.slots[photo, cls]
        size = len(self.bank) // self.num_classes
        slot = cls * size + (self.cursor[cls] + _rank(cls)) % size
        self.cursor.copy_((self.cursor + torch.bincount(cls, minlength=self.num_classes)) % size)
        return slot

    @torch.no_grad()
    def refresh_prototypes(self, *, seed: int, iterations: int) -> None:
        """Recompute the prototypes: k-means of each class's written entries."""
        features, classes = self.valid_entries
        count = self.prototypes.shape[1]
        centres, exists = kmeans(features, classes, self.num_classes, count, seed=seed, iterations=iterations)
        self.prototypes.copy_(centres)
        self.prototype_valid.copy_(exists)
        take_first(self.prototypes, self.prototype_valid)  # processes may round sums differently

    def census(self, epoch: int) -> dict[str, Tensor]:
        """How the memory stands at `epoch`, per class (C,): slots, how many are filled, and of those the mean visits and age in epochs."""
        filled = self.visits > 0

        def per_class(value: Tensor) -> Tensor:
            return torch.zeros(self.num_classes, dtype=torch.float64).index_add_(0, self.slot_class.cpu(), value.double().cpu())

        number = per_class(filled)
        mean = {"visits": per_class(self.visits), "age": per_class((epoch - self.written) * filled)}
        return {
            "slots": per_class(torch.ones_like(filled)),
            "filled": number,
            **{name: total / number.clamp(min=1) for name, total in mean.items()},
        }


def _rank(values: Tensor) -> Tensor:
    """How often each of the values (R,) has come before it."""
    return (values[:, None] == values).tril(-1).sum(dim=1)


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
