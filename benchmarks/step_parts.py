"""What a training step and an epoch of RCA do beside their networks: regions, contrast, memory and prototypes, here and as released."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import released
import torch
from torch import Tensor

from rcatool.config import Config
from rcatool.models.official_loss import clamped_contrast, mix_with_any, pool_in_turn
from rcatool.models.region_memory import RegionMemory, WriteRule
from rcatool.models.regions import Regions, mix_regions, pool_regions, region_contrast, region_masks
from rcatool.stages.cls_loss import find_regions, write_rule

WIDTH, SIDE = 512, 46  # of VGG16's features, at 368 pixels


class Parts:
    """Features, maps and tags (8, C) of a batch, and the released model without its networks."""

    def __init__(self, checkout: Path, device: str, tags: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        self.device = torch.device(device)
        self.tags, self.photo = tags, torch.arange(len(tags))
        self.their_tags = tags.to(device)
        features = torch.randn(len(tags), WIDTH, SIDE, SIDE, generator=generator).to(device)
        self.their_features = features.clone().requires_grad_()
        self.features = features.contiguous(memory_format=torch.channels_last).requires_grad_()  # as our networks make them
        self.maps = torch.randn(*tags.shape, SIDE, SIDE, generator=generator).to(device)
        self.score = torch.ones_like(self.their_tags)  # all are stored
        self.theirs = released.without_networks(released.build(checkout, self.device), self.maps)
        self.generator = torch.Generator().manual_seed(0)

    def functions(self, memories: dict[str, RegionMemory], settings: dict[str, Config]) -> dict[str, Callable[[], None]]:
        """What is timed: a step of each, what of the released one is none of it, and the prototypes of each."""
        functions: dict[str, Callable[[], None]] = {
            "released": lambda: self.released(self.their_tags, 2, None),
            "released_rest": self.released_rest,
            "released_prototypes": lambda: self.released(torch.zeros_like(self.their_tags), 1, 0),
        }
        for name, memory in memories.items():
            functions[name] = partial(self.official, memory) if name == "official" else partial(self.paper, memory, settings[name])
            functions[f"{name}_prototypes"] = partial(memory.refresh_prototypes, seed=0, iterations=30)
        return functions

    def released(self, tags: Tensor, epoch: int, index: int | None) -> None:
        """Its forward pass, and the contrast's gradient; `index` 0 after epoch 0 makes it cluster."""
        self.their_features.grad = None
        with released.on(self.device):
            contrast = self.theirs(self.their_features, tags, epoch, index)[2]
        if bool(tags.any()):
            contrast.backward()

    def released_rest(self) -> None:
        """Its forward pass without any tag, and without its memory, which it joins anew in every step."""
        queues = {name: getattr(self.theirs, name) for name in (f"queue{c}" for c in range(released.CLASSES))}
        for name, queue in queues.items():
            setattr(self.theirs, name, queue[:0])
        self.released(torch.zeros_like(self.their_tags), 2, None)
        for name, queue in queues.items():
            setattr(self.theirs, name, queue)

    def official(self, memory: RegionMemory) -> None:
        """The same, as `cls.method: official` does it."""
        self.features.grad = None
        masks = region_masks(self.maps, region_map="softmax")
        anchors = pool_regions(self.features, masks, self.tags)
        mixed = mix_with_any(anchors, mixup_beta=8.0, generator=self.generator)
        clamped_contrast(mixed, anchors.image, memory.bank, num_classes=self.tags.shape[1], temperature=0.07).backward()
        regions = pool_in_turn(self.features.detach(), masks, self.tags, stored=self.score > 0.7)
        memory.update(regions, self.photo, self.score, rule=WriteRule(0.99, 0.7))

    def paper(self, memory: RegionMemory, settings: Config) -> None:
        """The same, as `cls.method: rca` does it."""
        self.features.grad = None
        regions: Regions = find_regions(self.features, self.maps, self.tags, settings)
        bank, bank_cls = memory.entries
        mixed = mix_regions(regions, mixup_beta=8.0, generator=self.generator)
        region_contrast(mixed, bank, bank_cls, temperature=0.07).backward()
        memory.update(regions, self.photo, self.score, rule=write_rule(settings))


def summary(seconds: dict[str, dict[str, float]], *, steps_per_epoch: int) -> dict[str, Any]:
    """The released code's time over ours: of a step's part, of the prototypes, and of an epoch of both."""
    result: dict[str, Any] = {"seconds": seconds}
    for clock in ("wall_s", "cpu_s"):
        taken = {name: each[clock] for name, each in seconds.items()}
        rest = taken["released_rest"]
        step, prototypes = taken["released"] - rest, taken["released_prototypes"] - rest
        result[f"times_released_by_{clock}"] = {
            name: {
                "step": round(step / taken[name], 1),
                "prototypes": round(prototypes / taken[f"{name}_prototypes"], 1),
                "epoch": round((steps_per_epoch * step + prototypes) / (steps_per_epoch * taken[name] + taken[f"{name}_prototypes"]), 1),
            }
            for name in taken if f"{name}_prototypes" in taken and name != "released"
        }
    return result
