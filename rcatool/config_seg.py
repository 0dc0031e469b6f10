"""Settings of the segmentation network, `seg`, and of its second round, `second`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rcatool.config_cls import Backbone
from rcatool.config_data import Natural, NonNegative, Positive, PositiveFloat, Scale, Scales, Section, Unit


class Seg(Section):
    """The segmentation network."""

    backbone: Backbone = Field("resnet101", description="network, dilated (as cls.backbone)")
    weights: str = Field(
        "imagenet", description="`imagenet`, `none`, the path of a state dict, or `train-cls`: the trained classifier's backbone"
    )
    output_stride: Literal[8, 16] = Field(8, description="input pixels per feature cell")
    head: Literal["deeplab-v2", "deeplab-v3+"] = Field(
        "deeplab-v2", description="v2: sum of dilated 3x3 convolutions; v3+: these beside 1x1 and image pooling, decoded at stride 4"
    )
    aspp_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        (6, 12, 18, 24), description="dilation rates of the head's 3x3 convolutions (v3+: usually [6, 12, 18], at stride 8 twice that)"
    )
    head_width: Annotated[int, Field(ge=16, le=1024, multiple_of=16)] = Field(256, description="deeplab-v3+: channels of its layers")
    input_scales: Annotated[tuple[Scale, ...], Field(max_length=4)] = Field(
        (), description="further sizes at which the network sees its input, the highest logit counting: [0.5, 0.75]; []: off"
    )
    labels: Literal["pseudo", "truth"] = Field(
        "pseudo", description="what is learned: pseudo labels, or the photos' own masks (the fully supervised reference)"
    )
    loss: Literal["ce", "balanced"] = Field(
        "ce", description="cross-entropy: mean over all pixels, or mean over background pixels + mean over all others"
    )
    noise: Literal["none", "confidence", "teacher", "gce"] = Field(
        "none", description="against wrong labels: weights from the CAM, correction by the average network (needs ema), or a robust loss"
    )
    noise_start: Natural = Field(2, description="teacher, gce: passes without it, until the network knows something")
    margin: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="confidence: lead of the label's score in the CAM from which a pixel counts in full; half at a tie"
    )
    teacher_confidence: Unit = Field(0.9, description="teacher: probability from which its class (background or a tag) replaces a label")
    gce_power: Annotated[float, Field(gt=0, le=1)] = Field(
        0.7, description="gce: q of (1 - p^q) / q; near 0: cross-entropy, 1: every pixel counts alike"
    )
    epochs: Positive = Field(20, description="passes over the training photos")
    batch_size: Positive = Field(10, description="photos per step")
    crop_size: Annotated[int, Field(ge=32, le=2048)] = Field(321, description="side of the square training crop, pixels")
    resize_scale: tuple[Scale, Scale] = Field((0.5, 1.5), description="range of the random scale before cropping")
    flip: bool = Field(True, description="mirror half of the training photos")
    color_jitter: Unit = Field(0.3, description="strength of colour changes; 0: off")
    lr: PositiveFloat = Field(2.5e-4, description="learning rate of the backbone at the start")
    head_lr: PositiveFloat = Field(2.5e-3, description="learning rate of the ASPP head at the start")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD momentum")
    weight_decay: NonNegative = Field(5e-4, description="SGD weight decay, on weights only")
    poly_power: PositiveFloat = Field(0.9, description="power of the poly learning-rate schedule")
    poly_every: Positive = Field(1, description="steps that a learning rate is kept for; deeplab-pytorch has 10")
    freeze_bn: bool = Field(True, description="keep batch norm at its pretrained statistics")
    freeze_early: bool = Field(False, description="keep the layers up to the backbone's first level (stride 8) as pretrained")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of the average of the weights that becomes the result, such as 0.999; 0: off"
    )
    validate_every: Natural = Field(0, description="passes between two scores on the tune photos, whose masks are read for it; 0: never")
    keep: Literal["last", "best"] = Field("last", description="result: the last weights, or those with the best score on the tune photos")

    @model_validator(mode="after")
    def _ordered(self) -> "Seg":
        if self.resize_scale[0] > self.resize_scale[1]:
            raise ValueError(f"resize_scale: {self.resize_scale[0]} > {self.resize_scale[1]}, expected [smallest, largest]")
        return self

    @model_validator(mode="after")
    def _possible(self) -> "Seg":
        if self.noise == "teacher" and self.ema == 0:
            raise ValueError("noise: the teacher is the average of the weights, so set seg.ema, too, for example to 0.999")
        if self.noise == "confidence" and self.labels == "truth":
            raise ValueError("noise: confidence weighs pseudo labels by their CAMs, and seg.labels is truth")
        if self.keep == "best" and self.validate_every == 0:
            raise ValueError("keep: the best needs scores to choose by, so set seg.validate_every, too, for example to 1")
        return self


class Second(Section):
    """A second round: predictions of the trained network become labels, and the network is trained again on them."""

    enabled: bool = Field(False, description="make these labels and train on them after train-seg; eval then scores both networks")
    scales: Scales = Field((0.75, 1.0, 1.25), description="sizes the network of the first round sees each photo at")
    flip: bool = Field(True, description="also the mirrored photo")
    crf: Literal["none", "seed", "irn", "deeplab"] = Field(
        "none", description="dense CRF at full size on background and tags: constants as pseudo.crf, or those of eval.crf"
    )
    confidence: Unit = Field(0.0, description="pixels whose best probability (after the CRF) is below this become ignore (255); 0: none")
