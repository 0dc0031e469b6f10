"""Regions and anchors for tests: all of which exist, or those that do."""

import torch
from torch import Tensor

from rcatool.models.regions import Mixed, Regions


def regions_of(features: Tensor, image: Tensor, cls: Tensor) -> Regions:
    """Regions that all exist."""
    return Regions(features, image, cls, torch.ones(len(cls), dtype=torch.bool))


def mixed_of(features: Tensor, cls: Tensor, partner: Tensor, omega: Tensor) -> Mixed:
    """Anchors that all exist."""
    return Mixed(features, cls, partner, omega, torch.ones(len(cls), dtype=torch.bool))


def existing(regions: Regions) -> Regions:
    """Those regions that exist, alone."""
    return regions_of(*(part[regions.exists] for part in (regions.features, regions.image, regions.cls)))
