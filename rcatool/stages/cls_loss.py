"""The loss of a training step of stage 1 (spec 1.7), and what the region memory took in."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.config import Config
from rcatool.models.official import OfficialNet
from rcatool.models.official_loss import OfficialRule, official_loss
from rcatool.models.rca_net import Maps, RcaNet
from rcatool.models.region_memory import RegionMemory, WriteRule
from rcatool.models.regions import Regions, gather_regions, mix_regions, pool_regions, region_contrast, region_masks
from rcatool.models.saliency_loss import saliency_loss
from rcatool.ranks import all_rows, joint_norm


@dataclass
class Intake:
    """Regions that were found and stored in an epoch, per class (C,) int64 on the device, for the log."""

    found: Tensor
    stored: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.stored = torch.zeros_like(self.found)

    def count(self, regions: Regions, stored: Tensor) -> None:
        """Add regions, of which `stored` (R,) bool went into the memory."""
        self.found.index_add_(0, regions.cls, regions.exists.long())
        self.stored.index_add_(0, regions.cls, stored.long())


@dataclass(frozen=True)
class StepState:
    """Where training stands: the epoch (from 0), whether gradients are measured in this step, the mix-up's generator."""

    epoch: int
    generator: torch.Generator
    intake: Intake
    probe: bool = False
    accumulate: Callable[..., object] | None = None  # takes maps (B, C, h, w), probabilities (B, C), where=(photo, view)


def step_loss(model: RcaNet | OfficialNet, batch: tuple[Tensor, ...], config: Config, state: StepState) -> dict[str, Tensor]:
    """The loss of a batch of `ClsDataset` by the network's method; of the batch, the images are on the device."""
    if isinstance(model, RcaNet):
        return rca_loss(model, batch, config, state)
    contrast = config.memory.contrast_weight > 0 and state.epoch >= config.memory.contrast_start
    images, tags, photo, *more = batch
    maps = model(images)
    losses, regions, score = official_loss(model, maps, tags, official_rule(config), generator=state.generator if contrast else None)
    if state.accumulate is not None:
        state.accumulate(maps.final.detach(), score, where=(photo, more[0]))
    regions, photo, score = gather_regions(regions, len(photo)), all_rows(photo), all_rows(score)
    sure = model.memory.update(regions, photo, score, rule=write_rule(config), epoch=state.epoch)
    state.intake.count(regions, sure)
    return losses


def official_rule(config: Config) -> OfficialRule:
    """The settings that the released code's loss has."""
    names = ("contrast_weight", "temperature", "mixup_beta", "confidence")
    return OfficialRule(p_weight=config.cls.p_weight, **{name: getattr(config.memory, name) for name in names})


def rca_loss(model: RcaNet, batch: tuple[Tensor, ...], config: Config, state: StepState) -> dict[str, Tensor]:
    """The total loss of a batch of `ClsDataset`, with its terms; then the memory is written.

    Main term on O, p_weight x the same on P, contrast_weight x the semantic contrast; the plain CAM has P alone. Either map's
    saliency loss comes with saliency_weight on top (spec 3.2). With
    `state.probe`, `grad_*` is the norm of each weighted term's gradient in F.
    """
    images, tags, photo, *more = batch
    maps = model(images)
    o_score = maps.final.float().mean(dim=(2, 3))
    if state.accumulate is not None:
        state.accumulate(maps.final.detach(), o_score.detach().sigmoid(), where=(photo, more[0]))
    on_device = tags.to(images.device, non_blocking=True)
    everyone = all_rows(on_device)
    terms = {"loss_o": (1.0, F.multilabel_soft_margin_loss(all_rows(o_score), everyone))}
    if model.memory is not None:
        p_score = all_rows(maps.p.float().mean(dim=(2, 3)))
        terms["loss_p"] = config.cls.p_weight, F.multilabel_soft_margin_loss(p_score, everyone)
        regions = gather_regions(find_regions(maps.features.float(), maps.p.float(), tags, config), len(tags))
        if config.memory.contrast_weight > 0 and state.epoch >= config.memory.contrast_start:
            terms["loss_contrast"] = config.memory.contrast_weight, _contrast(model, model.memory, regions, config, state)
        stored = replace(regions, features=regions.features.detach())
        score = all_rows(o_score.detach().sigmoid())
        sure = model.memory.update(stored, all_rows(photo), score, rule=write_rule(config), epoch=state.epoch)
        state.intake.count(regions, sure)
    if config.cls.saliency_weight > 0:
        terms |= _saliency_terms(maps, on_device, more[-1].to(images.device, non_blocking=True), config)
    total = sum((weight * term for weight, term in terms.values()), start=o_score.new_zeros(()))
    losses = {"loss": total, **{name: term for name, (_, term) in terms.items()}}
    if state.probe:
        for name, (weight, term) in terms.items():
            gradient = torch.autograd.grad(weight * term, maps.features, retain_graph=True, allow_unused=True)[0]
            losses[name.replace("loss", "grad")] = total.new_zeros(()) if gradient is None else joint_norm(gradient)
    return losses


def _saliency_terms(maps: Maps, tags: Tensor, saliency: Tensor, config: Config) -> dict[str, tuple[float, Tensor]]:
    """The saliency loss of the final map and, where that is not P, of P, with their weights."""
    settings = config.cls
    rule = {"overlap": settings.saliency_overlap, "share": settings.saliency_share}
    weights = {"loss_saliency": (maps.final, maps.grounds[-1], settings.saliency_weight)}
    if maps.o is not None:
        weights["loss_saliency_p"] = maps.p, maps.grounds[0], settings.saliency_weight * settings.p_weight
    return {
        name: (weight, saliency_loss(torch.cat([classes, ground], dim=1), tags, saliency, **rule))
        for name, (classes, ground, weight) in weights.items()
    }


def find_regions(features: Tensor, p: Tensor, tags: Tensor, config: Config) -> Regions:
    """The regions of features (B, D, h, w) that maps P (B, C, h, w) show of the tags (B, C), best on the CPU."""
    return pool_regions(features, masks_of(p, config), tags)


def masks_of(p: Tensor, config: Config) -> Tensor:
    """The masks (B, C, h, w) bool that the settings find in maps P; the released code's rule is its own."""
    if config.cls.method == "official":
        return region_masks(p, region_map="softmax")
    settings = config.memory
    return region_masks(
        p, region_map=settings.region_map, region_threshold=settings.region_threshold, region_theta=settings.region_theta
    )


def write_rule(config: Config) -> WriteRule:
    """The `memory` settings of what is stored; a fifo forgets what it overwrites."""
    settings = config.memory
    return WriteRule(momentum=0.0 if settings.design == "fifo" else settings.momentum, confidence=settings.confidence)


def _contrast(model: RcaNet, memory: RegionMemory, regions: Regions, config: Config, state: StepState) -> Tensor:
    """The contrast against the memory as it was before this batch; both sides go through the projection if there is one."""
    bank, bank_cls = memory.entries
    mixed = mix_regions(regions, mixup_beta=config.memory.mixup_beta, generator=state.generator)
    if model.projection is not None:
        mixed, bank = mixed.through(model.projection), model.projection(bank)
    return region_contrast(mixed, bank, bank_cls, temperature=config.memory.temperature)
