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
        self.register_buffer("_existing", torch.zeros(0, dtype=torch.long), persistent=False)  # places of prototypes, of C K
        self.register_load_state_dict_post_hook(lambda memory, _: memory.list_prototypes())

    bank: Tensor
    slot_class: Tensor
    visits: Tensor
    written: Tensor
    cursor: Tensor
    prototypes: Tensor
    prototype_valid: Tensor
    slots: Tensor | None
    _existing: Tensor

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
        return self.prototypes.flatten(0, 1)[self._existing]

    def list_prototypes(self) -> None:
        """Note which prototypes exist, after `prototype_valid` has been changed, so that no forward pass waits for a GPU to count."""
        self._existing = self.prototype_valid.flatten().nonzero().flatten()

    @torch.no_grad()
    def update(self, regions: Regions, photo: Tensor, score: Tensor, *, rule: WriteRule, epoch: int = 0) -> Tensor:
        """Write the regions that exist and whose tag scores above `rule.confidence` (strictly); returns which of them (R,) bool.

        photo (B,) training index of each image, best on the CPU (else a GPU is waited for), score (B, C) probabilities. First write
        copies; later ones keep `rule.momentum` of the old entry. Entries are written in batch order, so that a batch equals its parts.
        """
        cls, device = regions.cls, self.bank.device
        sure = regions.exists & (score[regions.image, cls] > rule.confidence) & torch.isfinite(regions.features).all(dim=1)
        if not len(cls):
            return sure
        if self.slots is None:
            size = len(self.bank) // self.num_classes
            slot, most = self._next_slots(cls, sure, size), -(-len(cls) // size)
        else:
            most = int(torch.bincount(photo).max())  # a slot can be written as often as its photo is there
            slot = self.slots[photo.to(device, non_blocking=True)[regions.image], cls]
        turn = _rank(slot, sure)  # a slot that is written twice is written in turn
        for now in range(most):
            self._write(slot, regions.features.to(self.bank.dtype), sure & (turn == now), momentum=rule.momentum, epoch=epoch)
        return sure

    def _write(self, slot: Tensor, features: Tensor, chosen: Tensor, *, momentum: float, epoch: int) -> None:
        """Write the chosen rows (R,) of features (R, D), whose slots differ.

        The others go the way of the first chosen one and write the same as it does (or, where none is chosen, what is there):
        picking the chosen ones would have to wait for a GPU.
        """
        old, visits = self.bank[slot], self.visits[slot]
        keep = momentum * (visits > 0).to(old.dtype)[:, None]
        new = torch.where(chosen[:, None], keep * old + (1 - keep) * features, old)
        row = torch.arange(len(slot), device=slot.device).where(chosen, chosen.int().argmax())
        self.bank[slot[row]] = new[row]
        self.visits[slot[row]] = (visits + chosen)[row]
        self.written[slot[row]] = self.written[slot].masked_fill(chosen, epoch)[row]

    def _next_slots(self, cls: Tensor, sure: Tensor, size: int) -> Tensor:
        """The slot (R,) of each sure region in the ring of its class; rings of `size` slots move on."""
        slot = cls * size + (self.cursor[cls] + _rank(cls, sure)) % size
        self.cursor.copy_(self.cursor.index_add(0, cls, sure.long()) % size)
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
        self.list_prototypes()

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


def _rank(values: Tensor, counted: Tensor) -> Tensor:
    """How often each of the values (R,) has come before it, among those that are counted (R,) bool."""
    return ((values[:, None] == values) & counted).tril(-1).sum(dim=1)


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
