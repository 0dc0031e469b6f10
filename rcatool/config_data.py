"""The rules that all settings share, and the settings of the data."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# Upper bounds keep numbers within what C code and single precision can hold.
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]
Unit = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(gt=0, le=8)]
Scales = Annotated[tuple[Scale, ...], Field(min_length=1, max_length=16)]


class Section(BaseModel):
    """Rules that all sections share: frozen, no unknown names, finite numbers, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Data(Section):
    """Where the photos, tags and masks are; written by `rca prepare`."""

    dataset: Literal["voc", "coco", "folder", "shapes"] = Field("voc", description="layout of the data set")
    root: str = Field("", description="folder that all paths are relative to (absolute; not fingerprinted, so data may move)")
    images: str = Field("", description="folder: photos, relative to root")
    tags: str = Field(
        "", description="tag file, relative to root or absolute, or `masks` (voc), `folders` (folder); empty: the data set's own"
    )
    masks: str = Field(
        "", description="mask folder (folder: or a COCO-style JSON file), relative to root; empty: SegmentationClass(Aug) (voc), none"
    )
    saliency: str = Field("", description="folder: saliency maps, one 8-bit PNG per photo, relative to root; empty: none")
    train_list: str = Field("train", description="voc: list of training photos, by name under ImageSets/Segmentation")
    val_list: str = Field("val", description="voc: list of photos to score the segmentation network on")
    tune_list: str = Field("", description="voc: list of photos to choose settings and thresholds on; empty: none")
    test_list: str = Field("", description="voc: list of photos to predict only, without tags and masks; empty: none")
    val_fraction: Unit = Field(0.0, description="folder: share of the photos held out for val where no `split` column says so")
    tune_fraction: Unit = Field(0.0, description="folder, coco: share of the photos (coco: of the training photos) held out for tune")
    coco_photos: Literal["annotated", "all"] = Field("annotated", description="coco: photos with an annotation (the field's lists), or all")
    coco_masks: str = Field("", description="coco: folder that masks are made in, relative to root; empty: rcatool-masks/RULE")
    coco_overlap: Literal["small-over-large", "annotation-order"] = Field(
        "small-over-large", description="coco: which object is on top in a mask: the one of smaller area, or the later one in the file"
    )
    coco_crowd: Literal["object", "background", "ignore"] = Field(
        "object", description="coco: crowds in masks: objects like others, left out, or ignore (255) where no object is"
    )
    coco_void: Annotated[int, Field(ge=0, le=31)] = Field(0, description="coco: pixels of ignore (255) around each object in masks")
    shapes_train: Positive = Field(240, description="shapes: number of generated training images")
    shapes_val: Positive = Field(60, description="shapes: number of generated val images")
    shapes_size: Annotated[int, Field(ge=32, le=1024)] = Field(96, description="shapes: side of a generated image, pixels")
    shapes_seed: Natural = Field(0, description="shapes: seed of the generator")
