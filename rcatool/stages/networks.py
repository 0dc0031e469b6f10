"""The networks that a config describes: built for training, or loaded from a run's checkpoints.

Settings become keyword arguments here, so that the stages that train a network and those that use it cannot differ.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rcatool import console
from rcatool.checkpoint import load_state
from rcatool.config import Affinity, Config
from rcatool.config_cls import Cls
from rcatool.config_seg import Seg
from rcatool.data.datasets import Variation, tag_vector
from rcatool.data.labels import ClassInfo, read_classes
from rcatool.data.manifest import Sample, read_manifest, split
from rcatool.errors import DataError
from rcatool.models.backbones import Backbone, build_backbone, freeze, freeze_batch_norm
from rcatool.models.deeplab import DeepLab, SegDesign, build_seg
from rcatool.models.heads import HeadKind
from rcatool.models.official import OfficialNet, noise_memory
from rcatool.models.rca_net import RcaNet
from rcatool.models.region_memory import build_memory
from rcatool.models.synced_norm import sync_batch_norm
from rcatool.models.weights import load_weights, to_download
from rcatool.optim import poly, sgd, step_decay
from rcatool.ranks import rank
from rcatool.refine.affinity import AffinityNet
from rcatool.refine.irn import BoundaryNet
from rcatool.run import Run
from rcatool.steps import STEPS, last_network
from rcatool.world import World

M = TypeVar("M", bound=nn.Module)
DROPOUT_STREAM = 2  # numbers of the other streams: stages/train_cls.py
ClsNet = RcaNet | OfficialNet
AffinityModel = AffinityNet | BoundaryNet
AFFINITY_NETS: dict[str, type[AffinityNet] | type[BoundaryNet]] = {"affinity": AffinityNet, "irn": BoundaryNet}


def cls_network(config: Config, tags: Tensor, *, pretrained: bool) -> ClsNet:
    """The classification network for training photos with tags (n, C) bool; `pretrained` loads the backbone's weights."""
    backbone = _backbone(config.cls, pretrained=pretrained)
    settings, memory = config.memory, None
    head = HeadKind(config.cls.head, config.cls.head_width)
    if config.cls.method == "official":
        memory = noise_memory(tags, backbone.out_channels, size=settings.size, prototypes=settings.prototypes)
        return OfficialNet(backbone, tags.shape[1], memory, head=head)
    if config.cls.method == "rca":
        memory = build_memory(
            tags, backbone.out_channels, design=settings.design, size=settings.size, prototypes=settings.prototypes
        )
    return RcaNet(
        backbone,
        tags.shape[1],
        memory,
        attention=settings.attention,
        attention_temperature=settings.attention_temperature,
        feature_scale=config.cls.feature_scale,
        projection=settings.projection if settings.contrast_weight > 0 else 0,
        head=head,
        background=config.cls.saliency_weight > 0,
    )


def pretrained_seg(run: Run, config: Config, num_classes: int, world: World) -> DeepLab:
    """The segmentation network before its training: on the weights that `seg.weights` names, or on the trained classifier's backbone."""
    model = build_seg(seg_design(config.seg), num_classes)
    if config.seg.weights == "train-cls":
        model.backbone.load_state_dict(load_cls(run, config, world).backbone.state_dict())
    else:
        _load_backbone(model.backbone, config.seg)
    return world.place(model)


def seg_design(settings: Seg) -> SegDesign:
    """What of `settings` makes the segmentation network what it is."""
    return SegDesign(
        backbone=settings.backbone,
        output_stride=settings.output_stride,
        aspp_rates=settings.aspp_rates,
        head=settings.head,
        head_width=settings.head_width,
        input_scales=settings.input_scales,
    )


def _backbone(settings: Cls, *, pretrained: bool) -> Backbone:
    backbone = build_backbone(settings.backbone, output_stride=settings.output_stride)
    if pretrained:
        _load_backbone(backbone, settings)
    return backbone


def _load_backbone(backbone: Backbone, settings: Cls | Seg) -> None:
    if backbone.output_stride != settings.output_stride:
        console.log(f"{settings.backbone}: a feature cell is {backbone.output_stride} pixels wide, not {settings.output_stride}")
    if url := to_download(settings.backbone, settings.weights):
        console.log(f"{settings.backbone}: downloading ImageNet's weights, once: {url}")
    load_weights(backbone, settings.backbone, settings.weights)


def affinity_network(run: Run, config: Config, world: World) -> AffinityModel:
    """The network of `refine.method` affinity or irn, on the trained backbone of the classifier or the one `affinity.weights` names."""
    if config.affinity.weights == "train-cls":
        backbone = load_cls(run, config, world).backbone
    else:
        backbone = build_backbone(config.cls.backbone, output_stride=config.cls.output_stride)
        load_weights(backbone, config.cls.backbone, config.affinity.weights)
    return AFFINITY_NETS[config.refine.method](backbone.cpu())


def seed_dropout(seed: int, epoch: int) -> None:
    """Let what a network draws while it trains (dropout) depend on (seed, epoch) alone, so that resuming changes nothing.

    Several processes draw differently: what is dropped then depends on their number, too.
    """
    torch.manual_seed(stream_seed(seed, epoch, DROPOUT_STREAM, *([rank()] if rank() else [])))


def stream_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def freeze_layers(model: ClsNet | DeepLab, settings: Cls | Seg) -> None:
    """Freeze what `settings` say: to be repeated whenever the model was put in training mode."""
    if settings.freeze_bn:
        freeze_batch_norm(model)
    sync_batch_norm(model, setting="cls.freeze_bn" if isinstance(settings, Cls) else "seg.freeze_bn")
    if settings.freeze_early:
        freeze(model.backbone.early_layers)


def make_optimizer(model: ClsNet | DeepLab, settings: Cls | Seg) -> torch.optim.SGD:
    """SGD over what is trained, with the rates of `settings`; what they freeze is frozen first."""
    freeze_layers(model, settings)
    names = ("lr", "head_lr", "momentum", "weight_decay", "nesterov", "decay_all")
    return sgd(model, model.heads(), **{name: getattr(settings, name) for name in names if hasattr(settings, name)})


def lr_schedule(settings: Cls | Seg | Affinity, epoch: int, steps: int) -> tuple[int, Callable[[int], float]]:
    """The steps done before an `epoch` of `steps`, and the factor of the learning rates at a step."""
    if isinstance(settings, Cls) and settings.schedule == "step":
        factor = step_decay(epoch, settings.step_epochs)
        return epoch * steps, lambda step: factor
    every = settings.poly_every if isinstance(settings, Seg) else 1
    return epoch * steps, lambda step: poly(step, settings.epochs * steps, settings.poly_power, every=every)


def variation(settings: Cls | Seg, seed: int) -> Variation:
    """How the training photos of `settings` are varied."""
    return Variation(settings.crop_size, settings.flip, settings.color_jitter, seed)


def load_cls(run: Run, config: Config, world: World) -> ClsNet:
    """The trained classification network of a run, in eval mode on the device."""
    classes, samples = read_data(run)
    model = cls_network(config, tag_matrix(split(samples, "train"), classes.num_classes), pretrained=False)
    return _load(model, run.dir("train-cls") / "final.pt", classes, _again(run, "train-cls"), world)


def load_seg(run: Run, config: Config, world: World, *, step: str = "") -> DeepLab:
    """The trained segmentation network of a run, in eval mode on the device: that of `step`, or the last there is."""
    classes, _ = read_data(run)
    model, name = build_seg(seg_design(config.seg), classes.num_classes), step or last_network(config)
    return _load(model, run.dir(name) / "final.pt", classes, _again(run, name), world)


def load_affinity(run: Run, config: Config, world: World) -> AffinityModel:
    """The trained affinity network of a run, in eval mode on the device."""
    classes, _ = read_data(run)
    backbone = build_backbone(config.cls.backbone, output_stride=config.cls.output_stride)
    path = run.dir("make-pseudo/affinity") / "final.pt"
    return _load(AFFINITY_NETS[config.refine.method](backbone), path, classes, _again(run, "make-pseudo/affinity"), world)


def read_data(run: Run) -> tuple[ClassInfo, list[Sample]]:
    """Classes and manifest of a prepared run."""
    classes = read_classes(run.dir("prepare") / "classes.json")
    return classes, read_manifest(run.dir("prepare") / "manifest.jsonl", num_classes=classes.num_classes)


def tag_matrix(samples: Sequence[Sample], num_classes: int) -> Tensor:
    """The tags of samples as (n, C) bool."""
    return torch.stack([tag_vector(sample, num_classes) for sample in samples]) > 0


def _again(run: Run, step: str) -> str:
    return f"{STEPS[step].command(run.root)} --force"


def _load(model: M, path: Path, classes: ClassInfo, hint: str, world: World) -> M:
    try:
        state = load_state(path)
    except DataError as error:
        raise DataError(error.message, hint) from error
    if state.get("classes") != list(classes.names):
        raise DataError(f"{path}: trained for other classes than this data set has", hint=hint)
    try:
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: does not fit the network of the settings", hint=hint) from error
    return world.place(model).eval()
