"""The field's ImageNet weights of ResNet-38 and VGG16, under the names and for the images of our backbones."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rcatool.checkpoint import save_state
from rcatool.data.transforms import MEAN, STD
from rcatool.errors import ConfigError, DataError
from rcatool.files import atomic_write
from rcatool.models.backbones import build_backbone
from rcatool.models.weight_files import read_state, safetensors_bytes
from rcatool.models.weights import check_state

# MXNet's ResNet-38: res4b1_branch2a_weight, bn4b1_branch2a_gamma; block `a` is the first of its stage.
_MXNET = re.compile(r"(?:arg:|aux:)?(res|bn|conv)([1-7])(?:(a)|b(\d))?(?:_(branch\w+?))?_(weight|gamma|beta|moving_mean|moving_var)")
_MXNET_PARTS = {"weight": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
_RESNET38 = re.compile(r"(?:conv1a|bn7|b[2-7](?:_\d)?\.(?:conv|bn)_branch\w+)\.\w+")
# Caffe's VGG16: conv3_2.weight; the places of its convolutions in torchvision's `features`.
_CAFFE = re.compile(r"conv([1-5])_([1-3])\.(weight|bias)")
_VGG_PLACES = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
_CAFFE_MEAN = (122.675, 116.669, 104.008)  # red, green, blue, of 255


@dataclass(frozen=True)
class Converted:
    """What a file was found to hold: the backbone that it is for, its tensors, and the names that were left out."""

    backbone: str
    state: dict[str, Tensor]
    left_out: tuple[str, ...]


def convert_file(source: Path, target: Path) -> Converted:
    """Read the weight file `source` and write `target` (.safetensors, .pth or .pt) for `cls.weights`.

    Raises `ConfigError` for another kind of target and `DataError` where the file is broken or of no known layout.
    """
    if target.suffix not in (".safetensors", ".pth", ".pt"):
        raise ConfigError(f"{target}: expected a name that ends in .safetensors, .pth or .pt")
    if target.exists() and target.samefile(source):
        raise ConfigError(f"{target}: would be written over what is read", "choose another name")
    converted = convert(read_state(source), str(source))
    if target.suffix == ".safetensors":
        atomic_write(target, safetensors_bytes(converted.state))
    else:
        save_state(target, converted.state)
    return converted


def convert(state: dict[str, Tensor], source: str) -> Converted:
    """Tensors under a layout's names as those of a backbone; `source` names the file in errors.

    Layouts: ResNet-38 of MXNet, ResNet-38 of PyTorch (`b4_1.conv_branch2a.weight`), VGG16 of Caffe (`conv3_2.weight`). Layers
    that the backbone lacks, such as the classifier, are left out. Raises `DataError` naming what is missing.
    """
    layouts: dict[str, tuple[str, Callable[[str], str | None]]] = {
        "conv1a_weight": ("resnet38", _from_mxnet),
        "conv1a.weight": ("resnet38", lambda name: name if _RESNET38.fullmatch(name) else None),
        "conv1_1.weight": ("vgg16", _from_caffe),
    }
    bare = {name.removeprefix("arg:") for name in state}
    found = next((layout for mark, layout in layouts.items() if mark in bare), None)
    if found is None:
        some = ", ".join(sorted(state)[:3])
        raise DataError(f"{source}: weights of no layout to convert ({some}, ...)", "ResNet-38 of MXNet or PyTorch, or VGG16 of Caffe")
    backbone, rename = found
    renamed = {name: rename(name) for name in state}
    result = {new: state[name].float() for name, new in renamed.items() if new}
    if rename is _from_caffe and "features.0.weight" in result and "features.0.bias" in result:
        _read_our_images(result)
    with torch.device("meta"):
        expected = build_backbone(backbone, output_stride=8).body.state_dict()
    check_state(result, expected, source)
    return Converted(backbone, result, tuple(name for name, new in renamed.items() if not new))


def _from_mxnet(name: str) -> str | None:
    match = _MXNET.fullmatch(name)
    if match is None:
        return None
    kind, stage, first, later, branch, part = match.groups()
    part = _MXNET_PARTS[part]
    if branch is None:
        return {"conv": f"conv1a.{part}", "bn": f"bn7.{part}"}.get(kind)
    block = f"b{stage}" if first else f"b{stage}_{later}"
    return f"{block}.{'conv' if kind == 'res' else kind}_{branch}.{part}"


def _from_caffe(name: str) -> str | None:
    match = _CAFFE.fullmatch(name)
    if match is None:
        return None
    stage, number = int(match[1]), int(match[2])
    places = _VGG_PLACES[stage]
    return f"features.{places[number - 1]}.{match[3]}" if number <= len(places) else None


def _read_our_images(state: dict[str, Tensor]) -> None:
    """Let the first convolution, made for blue-green-red of 255 less a mean, read our red-green-blue: exact but at the border.

    Ours is x = (v / 255 - MEAN) / STD, its input v - _CAFFE_MEAN = 255 STD x + (255 MEAN - _CAFFE_MEAN).
    """
    weight = state["features.0.weight"].double().flip(1)
    if weight.shape[1] != 3:
        return  # what is wrong is said of the shapes
    shift = 255 * torch.tensor(MEAN, dtype=torch.float64) - torch.tensor(_CAFFE_MEAN, dtype=torch.float64)
    state["features.0.bias"] = (state["features.0.bias"].double() + (weight.sum(dim=(2, 3)) * shift).sum(dim=1)).float()
    state["features.0.weight"] = (weight * 255 * torch.tensor(STD, dtype=torch.float64).view(1, 3, 1, 1)).float()
