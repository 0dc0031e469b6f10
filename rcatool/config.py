"""Every setting that exists: its name, type, default, range and meaning.

One frozen model per section. A value keeps its name on its way: `pseudo.bg_threshold` in YAML or `--set` is
`config.pseudo.bg_threshold` in a stage and `bg_threshold=` in the function that uses it. Reading and writing files is
`config_io`'s; which section belongs to which step is `steps.STEPS`'. The rules of all sections, and `data`, are in
`config_data`, those of stage 1 in `config_cls`, of the segmentation network in `config_seg`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rcatool.config_cls import Cls, Memory
from rcatool.config_data import Data, Natural, NonNegative, Positive, PositiveFloat, Scale, Scales, Section, Unit
from rcatool.config_seg import Second, Seg

CamFormat = Literal["irn", "psa", "seam", "puzzlecam", "clip-es", "mctformer", "npz"]


class Cam(Section):
    """CAM export, or import."""

    source: str = Field("", description="folder of another program's CAM files (rca import-cams sets it); empty: our own network's CAMs")
    source_format: CamFormat = Field("irn", description="source: the program that wrote the files")
    source_first: Annotated[int, Field(ge=-1, le=1)] = Field(-1, description="source: number of its first class; -1: the format's")
    source_missing: bool = Field(False, description="source: photos without a file are left out (their labels are all ignore)")
    maps: Literal["network", "accumulated"] = Field(
        "network", description="maps of the trained network, or those that training kept of its photos (cls.accumulate)"
    )
    scales: Scales = Field((0.5, 1.0, 1.5, 2.0), description="sizes the network sees each photo at")
    flip: bool = Field(True, description="also the mirrored photo")
    stride: Annotated[int, Field(ge=1, le=16)] = Field(4, description="pixels per stored CAM cell")
    head: Literal["o", "p"] = Field("o", description="which map is exported (rca); cam has only P")
    region_rounds: Annotated[int, Field(ge=0, le=8)] = Field(
        2, description="times that maps are redrawn by comparing pixels with the photo's own regions; 0: off"
    )
    region_sure: Unit = Field(0.5, description="share of a map's maximum above which a pixel belongs to the class's region")
    region_background: Unit = Field(
        0.2, description="pixels where no map reaches this, divided by the round's number, make up the background region"
    )
    region_memory: Natural = Field(32, description="photos per class whose regions are remembered, to redraw maps with; 0: none")
    region_share: Unit = Field(0.7, description="share of what the region memory recalls in a region that pixels are compared with")
    region_temperature: PositiveFloat = Field(0.1, description="temperature of the attention that recalls")


class Refine(Section):
    """Propagation of CAMs before they become labels: a random walk along affinities of neighbouring cells."""

    method: Literal["none", "walk", "affinity", "irn"] = Field(
        "none",
        description="none: CAMs as exported; walk: along affinities of the classifier's features; affinity: of a trained network (PSA); "
        "irn: around trained class boundaries (IRN)",
    )
    walk_radius: Annotated[int, Field(ge=2, le=32)] = Field(16, description="walk: reach of a step, cells of 8 pixels")
    walk_beta: PositiveFloat = Field(8.0, description="walk: power of the affinities")
    walk_steps: Positive = Field(16, description="walk: steps")
    affinity_beta: PositiveFloat = Field(8.0, description="affinity: power of the affinities")
    affinity_steps: Positive = Field(256, description="affinity: steps")
    irn_beta: PositiveFloat = Field(10.0, description="irn: power of the affinities")
    irn_steps: Positive = Field(256, description="irn: steps")


class Affinity(Section):
    """The network whose affinities refine CAMs (refine.method affinity, irn): its labels and its training."""

    weights: str = Field("train-cls", description="of the frozen backbone (cls.backbone): `train-cls`, `imagenet`, `none`, or a path")
    photos: Natural = Field(0, description="training photos to learn from, drawn at random; 0: all")
    powers: tuple[PositiveFloat, PositiveFloat] = Field(
        (4.0, 32.0), description="affinity: backgrounds (1 - max)^power: what beats the first is object, what the second beats background"
    )
    thresholds: tuple[Unit, Unit] = Field((0.3, 0.05), description="irn: two constant backgrounds, of the same meaning")
    crf: Literal["auto", "none", "seed", "irn"] = Field(
        "auto", description="dense CRF of its labels, as pseudo.crf; auto: seed for affinity, irn for irn"
    )
    epochs: Positive = Field(5, description="passes over these photos")
    batch_size: Positive = Field(16, description="photos per step")
    crop_size: Annotated[int, Field(ge=32, le=2048)] = Field(321, description="side of the square training crop, pixels")
    resize_scale: tuple[Scale, Scale] = Field((0.5, 1.5), description="range of the random scale before cropping")
    flip: bool = Field(True, description="mirror half of the training photos")
    lr: PositiveFloat = Field(0.1, description="learning rate at the start")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD momentum")
    weight_decay: NonNegative = Field(1e-4, description="SGD weight decay, on weights only")
    poly_power: PositiveFloat = Field(0.9, description="power of the poly learning-rate schedule")

    @model_validator(mode="after")
    def _ordered(self) -> "Affinity":
        if self.resize_scale[0] > self.resize_scale[1]:
            raise ValueError(f"resize_scale: {self.resize_scale[0]} > {self.resize_scale[1]}, expected [smallest, largest]")
        if self.powers[0] > self.powers[1] or self.thresholds[0] < self.thresholds[1]:
            raise ValueError(f"powers: {self.powers}, thresholds: {self.thresholds}: the first must be the stronger background")
        return self


class Pseudo(Section):
    """CAMs to pseudo labels."""

    rule: Literal["argmax", "confidence", "conflict"] = Field(
        "argmax", description="what decides: the best score, IRN's two thresholds, or the doubts of RCA's released code"
    )
    background: Literal["threshold", "auto", "power", "saliency"] = Field(
        "threshold", description="background score: a constant, one chosen from the CAMs, (1 - max)^bg_power, or 1 - saliency"
    )
    bg_threshold: Unit = Field(0.2, description="background threshold: the constant")
    bg_power: PositiveFloat = Field(4.0, description="exponent of (1 - max)")
    crf: Literal["none", "seed", "irn"] = Field(
        "irn", description="dense CRF at full size: constants of the PSA/RCA seed CRF or of IRN's label CRF"
    )
    crf_backend: Literal["auto", "scipy", "torch", "pydensecrf"] = Field(
        "auto", description="program of the CRF; auto: scipy on the CPU, torch on a GPU; all give the same labels"
    )
    crf_iterations: Positive = Field(10, description="mean-field iterations")
    confidence: Unit = Field(0.0, description="argmax: pixels whose best score is below this become ignore (255); 0: none")
    sure_foreground: Unit = Field(0.30, description="confidence: a class must beat this constant background score")
    sure_background: Unit = Field(0.05, description="confidence: background where no class beats this; between the two: ignore (255)")
    conflict: Unit = Field(0.9, description="conflict: pixels with two scores above this become ignore (255)")
    attention: Unit = Field(0.8, description="conflict: background with a class above this becomes ignore (255)")
    uncertain: Annotated[int, Field(ge=0, le=256)] = Field(
        32, description="conflict: background of this saliency (of 255) or more becomes ignore (255); 256: none"
    )
    smallest: Unit = Field(0.01, description="conflict: photos with less than this share of foreground are ignored as a whole")


class Eval(Section):
    """Scoring."""

    scales: Scales = Field((0.75, 1.0, 1.25), description="sizes the segmentation network sees each photo at")
    flip: bool = Field(True, description="also the mirrored photo")
    crf: Literal["none", "deeplab"] = Field("none", description="dense CRF on the network's mean softmax at full size, all classes")
    threshold_step: Annotated[float, Field(ge=0.005, le=0.5)] = Field(0.02, description="step of the CAM threshold sweep over [0, 1]")


class Runtime(Section):
    """How, not what: recorded, never fingerprinted."""

    device: str = Field("auto", description="auto (CUDA where there is one, else CPU), cpu, cuda, cuda:N")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast on a GPU that has it, else fp32")
    deterministic: bool = Field(False, description="CUDA: only operations that give the same bytes each time, which may be slower")
    workers: Annotated[int, Field(ge=-1)] = Field(-1, description="data-loading and pool processes; -1: as many as cores, at most 16")
    photo_batch: Natural = Field(0, description="photos of one size that a network sees together (CAMs, predictions); 0: 8 on a GPU, or 1")
    log_every: Positive = Field(20, description="steps between two lines of log.jsonl")
    tensorboard: bool = Field(False, description="also event files of the trainings, for TensorBoard, in RUN/tensorboard (extra tb)")


class Config(Section):
    """All settings of a run."""

    data: Data = Data()
    cls: Cls = Cls()
    memory: Memory = Memory()
    cam: Cam = Cam()
    affinity: Affinity = Affinity()
    refine: Refine = Refine()
    pseudo: Pseudo = Pseudo()
    seg: Seg = Seg()
    second: Second = Second()
    eval: Eval = Eval()
    runtime: Runtime = Runtime()
    seed: Natural = Field(0, description="seed of everything random")

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        if self.seg.weights == "train-cls" and self.seg.backbone != self.cls.backbone:
            raise ValueError(f"seg.weights: train-cls has {self.cls.backbone}, and seg.backbone is {self.seg.backbone}")
        if self.second.enabled and self.seg.labels == "truth":
            raise ValueError("second.enabled: a second round mends pseudo labels, and seg.labels is truth")
        return self
