"""A small segmentation network with random weights and its card, for tests that need no training."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from rcatool.models.deeplab import SegDesign, build_seg
from rcatool.network_card import own_fields, read_card
from rcatool.network_file import Network, assemble

NAMES = ("ring", "cross", "dots")
REACH = 64  # pixels: each output of the network depends on fewer than so many inputs around it


def small_network(*, names: Sequence[str] = NAMES, long_side: int = 96, spread: float = 0.3, **design: Any) -> Network:
    """A network of the tiny backbone at stride 8; `spread` makes its classes differ. The same each time."""
    fields = asdict(SegDesign("tiny", 8, (1, 2))) | design
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_seg(SegDesign(**fields), len(names)).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.out_channels == len(names) + 1:
                nn.init.normal_(module.weight, std=spread)
    told = {"classes": list(names), "design": fields, "origin": "test", "long_side": long_side}
    return assemble(read_card(own_fields(len(names) + 1) | told, "test"), model.state_dict(), "test")
