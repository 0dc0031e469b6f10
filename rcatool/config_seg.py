"""Settings of the segmentation network: `seg`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rcatool.config_cls import Backbone
from rcatool.config_data import NonNegative, Positive, PositiveFloat, Scale, Section, Unit


class Seg(Section):
    """The segmentation network."""

    backbone: Backbone = Field("resnet101", description="network, dilated (as cls.backbone)")
    weights: str = Field("imagenet", description="`imagenet`, `none`, or the path of a state dict")
    output_stride: Literal[8, 16] = Field(8, description="input pixels per feature cell")
    aspp_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        (6, 12, 18, 24), description="dilation rates of the summed 3x3 convolutions"
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
    freeze_bn: bool = Field(True, description="keep batch norm at its pretrained statistics")

    @model_validator(mode="after")
    def _ordered(self) -> "Seg":
        if self.resize_scale[0] > self.resize_scale[1]:
            raise ValueError(f"resize_scale: {self.resize_scale[0]} > {self.resize_scale[1]}, expected [smallest, largest]")
        return self
