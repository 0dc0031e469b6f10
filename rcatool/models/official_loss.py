"""What a training step of the released code does beyond its network (spec 2.3, steps 7 and 8), for `official`.

Vectorised over the regions of a batch; the values are those of the code's loops. Departures from the paper that are kept:
D5 (`pool_in_turn`), D11 (a sum over images), D12 (a clamped denominator), D13 (a region may be mixed with itself).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.models.official import OfficialNet
from rcatool.models.rca_net import Maps
from rcatool.models.regions import (
    Mixed,
    Regions,
    beta_shares,
    gather_regions,
    list_tags,
    maps_of,
    mean_regions,
    mix_pairs,
    pool_regions,
    region_masks,
)
from rcatool.ranks import all_rows

CLAMP = 1e-4  # least value of a denominator (D12)


@dataclass(frozen=True)
class OfficialRule:
    """The numbers of the released code's step; contrast_weight is that of a sum over the images of a batch."""

    p_weight: float
    contrast_weight: float
    temperature: float
    mixup_beta: float
    confidence: float


def official_loss(
    model: OfficialNet, maps: Maps, tags: Tensor, rule: OfficialRule, *, generator: torch.Generator | None
) -> tuple[dict[str, Tensor], Regions, Tensor]:
    """The total loss of the maps of a batch with tags (B, C), best on the CPU, with its terms; then what the memory is to be written with:
    the regions and the tags' scores (B, C), of this process's share of the batch. Without a `generator`, which draws the mix-up, there is
    no contrast.
    """
    assert maps.o is not None
    o_score = maps.o.float().mean(dim=(2, 3))
    everyone = all_rows(tags.to(o_score.device, non_blocking=True))
    losses = {
        "loss_o": F.multilabel_soft_margin_loss(all_rows(o_score), everyone),
        "loss_p": F.multilabel_soft_margin_loss(all_rows(maps.p.float().mean(dim=(2, 3))), everyone),
    }
    total = losses["loss_o"] + rule.p_weight * losses["loss_p"]
    masks = region_masks(maps.p.float(), region_map="softmax")
    if generator is not None:
        anchors = gather_regions(pool_regions(model.contrast_features(maps.features).float(), masks, tags), len(tags))  # D6
        mixed = mix_with_any(anchors, mixup_beta=rule.mixup_beta, generator=generator)
        losses["loss_contrast"] = clamped_contrast(
            mixed, anchors.image, model.memory.bank, num_classes=tags.shape[1], temperature=rule.temperature
        )
        total = total + rule.contrast_weight * losses["loss_contrast"]
    score = o_score.detach().sigmoid()
    regions = pool_in_turn(maps.features.detach().float(), masks, tags, stored=score > rule.confidence)
    return {"loss": total, **losses}, regions, score


def mix_with_any(regions: Regions, *, mixup_beta: float, generator: torch.Generator) -> Mixed:
    """Mix each region with one of any image, drawn first, and then of any class of it (D13); omega ~ Beta(beta, beta)."""
    count, device = len(regions.cls), regions.cls.device
    drawn = torch.rand(count, generator=generator, dtype=torch.float64).to(device, non_blocking=True)
    omega = beta_shares(count, mixup_beta, generator).to(regions.features, non_blocking=True)
    upto = per_image_share(regions.image, regions.exists).cumsum(dim=0)
    partner = torch.searchsorted(upto, drawn * upto[-1:], right=True).clamp(max=max(count - 1, 0))
    return mix_pairs(regions, partner, omega)


def per_image_share(image: Tensor, exists: Tensor) -> Tensor:
    """Weights (R,) float64 of regions with image positions (R,): those of an image that exist sum to one, the others have none."""
    number = ((image[:, None] == image) & exists).sum(dim=1)
    return exists.double() / number.clamp(min=1)


def clamped_contrast(mixed: Mixed, image: Tensor, bank: Tensor, *, num_classes: int, temperature: float) -> Tensor:
    """The contrast as the code computes it: mean over the regions of an image, then a sum over images (D11): scalar.

    bank (C N, D), the slots of a class together. The largest similarity is taken off all, and denominators are kept above
    `CLAMP` (D12). `image` (R,) is the region's position in the batch.
    """
    with torch.autocast(bank.device.type, enabled=False):  # which would compare in half precision
        logits = F.normalize(mixed.features, dim=1) @ F.normalize(bank.detach(), dim=1).T / temperature  # (R, C N)
    logits = logits - logits.detach().amax(dim=1, keepdim=True)
    by_class = logits.view(len(logits), num_classes, len(bank) // num_classes)  # (R, C, N)
    mass = by_class.exp().sum(dim=2)
    row, classes = (torch.arange(number, device=logits.device) for number in (len(logits), num_classes))
    each = torch.zeros_like(mixed.omega)
    for target, weight in ((mixed.cls, mixed.omega), (mixed.partner, 1 - mixed.omega)):
        positive = by_class[row, target]  # (R, N)
        others = target[:, None] != classes
        negatives = (mass * others).sum(dim=1, keepdim=True)
        each = each + weight * ((negatives + positive.exp()).clamp(min=CLAMP).log() - positive).mean(dim=1)
    return (each * per_image_share(image, mixed.exists).to(each)).sum()


def pool_in_turn(features: Tensor, masks: Tensor, tags: Tensor, *, stored: Tensor) -> Regions:
    """The regions of tags (B, C), pooled as the code does, class after class: each mask is applied to what the masks of the
    image's earlier tags that are `stored` (B, C) have left of features (B, D, h, w), and the sum divided by its own area (D5).
    """
    tagged = list_tags(tags, features.device)
    passed = masks | ((tags.to(stored.device, non_blocking=True) > 0) & stored).logical_not()[:, :, None, None]
    left = passed.to(features.dtype).cumprod(dim=1) * masks
    return mean_regions(features, maps_of(left, tagged), maps_of(masks, tagged).sum(dim=2), tagged)
