"""The settings of stage 1: the classification network and its region memory."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rcatool.config_data import Natural, NonNegative, Positive, PositiveFloat, Section, Unit

NETWORKS = ("vgg16", "resnet38", "resnet50", "resnet101", "mobilenet_v2", "densenet169", "tiny")


def _known_network(name: str) -> str:
    if name not in NETWORKS and not re.fullmatch(r"timm:[\w.-]+", name):
        raise ValueError(f"{name[:60]!r} is not one of {', '.join(NETWORKS)}, timm:NAME")
    return name


Backbone = Annotated[str, AfterValidator(_known_network)]


class Cls(Section):
    """Stage 1: the classification network whose maps become seeds."""

    method: Literal["rca", "cam", "official"] = Field(
        "rca", description="rca: with region memory; cam: the plain baseline, no memory; official: the released code's, to compare with"
    )
    backbone: Backbone = Field(
        "resnet50", description="network, made fully convolutional (timm:NAME: any of timm's; `tiny`: four small blocks, for tests)"
    )
    weights: str = Field("imagenet", description="`imagenet` (torchvision's or timm's download), `none`, or the path of a state dict")
    output_stride: Literal[8, 16] = Field(16, description="input pixels per feature cell")
    epochs: Positive = Field(10, description="passes over the training photos")
    batch_size: Positive = Field(16, description="photos per step")
    crop_size: Annotated[int, Field(ge=32, le=2048)] = Field(448, description="side of the square training crop, pixels")
    resize_long: tuple[Positive, Positive] = Field((320, 640), description="range the long side is drawn from before cropping, pixels")
    resize_square: bool = Field(False, description="resize photos to crop_size x crop_size instead, whatever their shape; no crop")
    flip: bool = Field(True, description="mirror half of the training photos")
    color_jitter: Unit = Field(0.3, description="strength of brightness, contrast and saturation changes (hue: a third of it); 0: off")
    shuffle: bool = Field(True, description="draw a new order of the photos for each epoch")
    lr: PositiveFloat = Field(0.01, description="learning rate of the backbone at the start")
    head_lr: PositiveFloat = Field(0.1, description="learning rate of the heads at the start")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD momentum")
    nesterov: bool = Field(False, description="Nesterov's form of the momentum")
    weight_decay: NonNegative = Field(1e-4, description="SGD weight decay, on weights only")
    decay_all: bool = Field(False, description="weight decay on biases, too; batch norm's scales then train at the weights' rate")
    schedule: Literal["poly", "step"] = Field("poly", description="learning rate: poly, or a tenth from each of step_epochs on")
    poly_power: PositiveFloat = Field(0.9, description="power of the poly learning-rate schedule")
    step_epochs: tuple[Positive, ...] = Field((5, 10), description="epochs (from 0) that the step schedule goes down at")
    freeze_bn: bool = Field(True, description="keep batch norm at its pretrained statistics")
    freeze_early: bool = Field(False, description="keep the layers up to the backbone's first level (stride 8) as pretrained")
    head: Literal["1x1", "grouped"] = Field(
        "1x1", description="1x1: the paper's; grouped: three 3x3 layers before it, for O in a stack for each class (many parameters)"
    )
    head_width: Positive = Field(512, description="channels of a grouped head's hidden layers")
    saliency_weight: NonNegative = Field(0.0, description="weight of the saliency loss of EPS (needs data.saliency); 0: off")
    saliency_overlap: Unit = Field(0.4, description="a class stands out if more than this share of its pixels is salient")
    saliency_share: Unit = Field(0.5, description="share of the foreground classes, beside the background, in the estimated saliency")
    validate_every: Natural = Field(1, description="passes between two measurements of the tags' mAP on held-out photos; 0: never")
    p_weight: NonNegative = Field(0.4, description="rca, official: weight of the classification loss of the first map P")
    feature_scale: Unit = Field(1.0, description="rca: factor of F beside the context in the O head's input; 1: the paper's concatenation")

    accumulate: Literal["none", "topk", "confidence"] = Field(
        "none", description="keep the maximum of a photo's maps over epochs (cam.maps): of tags in the top k, or of enough probability"
    )
    accumulate_threshold: Unit = Field(0.1, description="least probability of a tag whose map is kept (accumulate confidence)")
    accumulate_start: Natural = Field(1, description="first epoch (from 0) whose maps are kept")
    accumulate_stride: Annotated[int, Field(ge=1, le=32)] = Field(8, description="pixels of the photo per kept cell")

    @model_validator(mode="after")
    def _ordered(self) -> "Cls":
        if self.resize_long[0] > self.resize_long[1]:
            raise ValueError(f"resize_long: {self.resize_long[0]} > {self.resize_long[1]}, expected [smallest, largest]")
        return self


class Memory(Section):
    """The region memory: what is stored, contrasted and aggregated (method rca).

    Of these, `official` has size, momentum, confidence, contrast_weight (of a sum over images), contrast_start, temperature,
    mixup_beta, prototypes, prototypes_start and kmeans_iterations.
    """

    design: Literal["instance-ema", "fifo", "ring-ema"] = Field(
        "instance-ema", description="one slot per (photo, tag), or `size` slots per class"
    )
    size: Positive = Field(500, description="slots per class (fifo, ring-ema)")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="share of the old entry kept when a slot is written again")
    confidence: Unit = Field(0.3, description="a region is stored only if the tag's score exceeds this")
    region_map: Literal["raw", "relu", "softmax"] = Field("raw", description="what of P is thresholded into a region")
    region_threshold: Literal["mean", "max"] = Field("mean", description="above the spatial mean, or above region_theta x maximum")
    region_theta: Unit = Field(0.3, description="share of the maximum (region_threshold max)")
    contrast_weight: NonNegative = Field(
        2e-4, description="weight of the semantic contrast (mean over regions) beside a mean classification loss; 0: off"
    )
    contrast_start: Natural = Field(2, description="first epoch (from 0) with the contrast")
    temperature: PositiveFloat = Field(0.07, description="temperature of the contrast")
    projection: Natural = Field(0, description="width of a linear layer that the contrast looks at regions through; 0: none")
    mixup_beta: NonNegative = Field(8.0, description="Beta parameter of the region mix-up; 0: off")
    prototypes: Natural = Field(10, description="k-means prototypes per class for the aggregation; 0: no aggregation")
    prototypes_start: Natural = Field(1, description="first epoch (from 0) with the aggregation")
    kmeans_iterations: Positive = Field(30, description="most Lloyd iterations")
    attention: Literal["cosine", "centred", "dot"] = Field(
        "cosine", description="similarity of a pixel and a prototype; centred: seen from the mean prototype"
    )
    attention_temperature: PositiveFloat = Field(0.07, description="temperature of the aggregation's softmax")
