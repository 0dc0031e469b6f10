"""Pretrained backbone weights: by torchvision's name or from a file, strictly."""

import re
import urllib.error
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from rcatool.errors import DataError, SetupError
from rcatool.models.backbones import Backbone
from rcatool.models.weight_files import is_mxnet, read_state

# Parts of a classification network that a backbone does not have.
_CLASSIFIER = ("classifier.", "fc.", "fc8.")
# torchvision's own DenseNet file has `norm.1` where its network has `norm1`.
_OLD_DENSE = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")


def load_weights(backbone: Backbone, name: str, weights: str) -> None:
    """Fill `backbone` (built as `name`) with `weights`: `none` (left as it is), `imagenet`, or the path of a state dict.

    A state dict has the network's published parameter names, may be half precision and may hold the classifier, which is
    left out. Raises `SetupError` if the download fails and `DataError` if the file does not fit, naming the differences.
    """
    if weights == "none":
        return
    expected = backbone.body.state_dict()
    if name.startswith("timm:"):
        state = _timm_state(backbone, name, weights)
    else:
        state = _download(name) if weights == "imagenet" else _read_file(Path(weights))
        state = {_OLD_DENSE.sub(r"\1\2", key): value for key, value in state.items() if not key.startswith(_CLASSIFIER)}
    check_state(state, expected, weights)
    backbone.body.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()}, strict=False)


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], weights: str) -> None:
    """Raise `DataError` unless `state` has the names and shapes of `expected` and finite numbers; `weights` names the file."""
    # num_batches_tracked plays no part in inference and is missing in converted files.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in expected]
    wrong = [
        f"{key} {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    for what, names in (("lack", missing), ("have unknown", unknown), ("have the wrong shape for", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            hint = "check that the file belongs to this backbone"
            raise DataError(f"{weights}: these weights {what} {', '.join(names[:3])}{more}", hint)
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DataError(f"{weights}: {key} holds numbers that are not finite")


def _read_file(path: Path) -> Mapping[str, Tensor]:
    if path.is_file() and is_mxnet(path):
        raise DataError(f"{path}: weights of MXNet, to be converted first", hint=f"rca convert-weights {path} OUT.safetensors")
    return read_state(path)


def _timm_state(backbone: Backbone, name: str, weights: str) -> dict[str, Tensor]:
    from rcatool.models.timm_networks import downloaded_state, fitted_state

    name, stride = name.removeprefix("timm:"), backbone.output_stride
    given = None if weights == "imagenet" else _read_file(Path(weights))
    state = downloaded_state(name, stride) if given is None else fitted_state(name, stride, given, weights)
    return {f"net.{key}": value for key, value in state.items()}


def to_download(name: str, weights: str) -> str:
    """The address that `load_weights` will download from; empty where it reads a file, or none, or has the file already."""
    if weights != "imagenet" or name in ("tiny", "resnet38") or name.startswith("timm:"):
        return ""
    url, cached = _place(name)
    return "" if cached.exists() else url


def _place(name: str) -> tuple[str, Path]:
    """Where torchvision has the weights of a network, and the file that they are kept in."""
    url: str = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def _download(name: str) -> Mapping[str, Tensor]:
    if name == "tiny":
        raise SetupError("there are no ImageNet weights for the backbone `tiny`", hint="--set cls.weights=none --set seg.weights=none")
    if name == "resnet38":
        hint = "rca convert-weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params OUT.safetensors, then --set cls.weights=OUT.safetensors"
        raise SetupError("the ImageNet weights of resnet38 have no place to be downloaded from by themselves", hint)
    url, cached = _place(name)
    try:
        if not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            digest = cached.stem.rsplit("-", 1)[1]  # the file's name ends in the start of its hash
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=digest, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise SetupError(
            f"the ImageNet weights of {name} could not be downloaded ({error})",
            hint=f"put {url} at {cached}, or name a file: --set cls.weights=PATH (seg.weights=PATH)",
        ) from error
    try:
        return read_state(cached)  # not torchvision's own reader, which would execute a pickle
    except DataError as error:
        raise DataError(error.message, hint="delete it, and it is downloaded again") from error
