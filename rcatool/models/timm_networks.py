"""Any network of timm as a backbone: convolutional ones dilated where they can be, vision transformers with their patch tokens as the map.

timm is an extra: `pip install 'rcatool[timm]'`.
"""

import difflib
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.data.transforms import MEAN, STD
from rcatool.errors import ConfigError, DataError, SetupError

# What a network raises that cannot do what is asked of it: an option that it lacks, an image of a size that is not its own.
_CANNOT = (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError, AttributeError)
_CLASSIFIER = ("head", "classifier.", "fc.")
_PROBE = (97, 161)  # pixels: no multiple of anything


class TimmNetwork(nn.Module):
    """Images (B, 3, H, W) as `data.transforms.normalise` makes them -> up to two earlier levels and the features before the classifier.

    Features are as the network makes them: those of transformers, ConvNeXt and the like are signed. Images take the constants
    that the network was trained with and, where the network asks for it, the next size that is a `multiple` of some pixels, by
    interpolation, so that the cells of a map always cover the image.
    """

    def __init__(self, net: nn.Module, *, multiple: int) -> None:
        super().__init__()
        self.net = net
        self.multiple = multiple
        reductions = [info["reduction"] for info in net.feature_info]  # type: ignore[union-attr]
        self.taps, self.fine = _taps(reductions), _first_at(reductions, 4)
        mean, std = (torch.tensor(net.pretrained_cfg[part]) for part in ("mean", "std"))  # type: ignore[index]
        self.register_buffer("scale", (torch.tensor(STD) / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((torch.tensor(MEAN) - mean) / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, *, fine: bool = False, last: bool = True) -> list[Tensor]:
        images = images * self.scale + self.shift
        size = [-(-side // self.multiple) * self.multiple for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        taps = sorted({self.fine, *self.taps}) if fine else self.taps
        options = {"indices": taps, "norm": False, "output_fmt": "NCHW"}
        if not last:
            stopped: list[Tensor] = self.net.forward_intermediates(images, stop_early=True, intermediates_only=True, **options)  # type: ignore[operator]
            return stopped
        features, levels = self.net.forward_intermediates(images, **options)  # type: ignore[operator]
        return [*levels, self._as_map(features, size)]

    def _as_map(self, features: Tensor, size: list[int]) -> Tensor:
        """The last features, which are tokens (B, prefix + hw, D), channels last, or a map already, as (B, D, h, w)."""
        if features.ndim == 3:
            tokens = features[:, getattr(self.net, "num_prefix_tokens", 0) :].transpose(1, 2)
            return tokens.unflatten(2, (size[0] // self.multiple, size[1] // self.multiple))
        return features.permute(0, 3, 1, 2) if getattr(self.net, "output_fmt", "NCHW") == "NHWC" else features

    @property
    def early_layers(self) -> list[nn.Module]:
        """The layers up to the first level."""
        layers: list[nn.Module] = []
        inside: nn.Module = self.net
        for name in str(self.net.feature_info[self.taps[0]]["module"]).split("."):  # type: ignore[index]
            children = dict(inside.named_children())
            layers += [children[other] for other in list(children)[: list(children).index(name)]]
            inside = children[name]
        return [*layers, inside]


def build_timm(name: str, output_stride: int) -> tuple[TimmNetwork, int, int]:
    """A randomly initialised network by timm's name, its number of features and its output stride.

    The stride is the one asked for where the network can be dilated, else the network's own: 32 for most, a transformer's patch.
    Raises `SetupError` without timm and `ConfigError` for a name that timm does not know or a network that gives no maps.
    """
    net = _create(name, output_stride)
    stride, problem = int(net.feature_info[-1]["reduction"]), "its maps are not at its stride"  # type: ignore[index, union-attr]
    for multiple in (_patch(net), stride):
        network = TimmNetwork(net, multiple=multiple).eval()
        try:
            with torch.no_grad():
                levels = network(torch.zeros(1, 3, *_PROBE))
        except _CANNOT as error:
            problem = _short(error)
            continue
        if levels[-1].shape[-2:] == tuple(-(-side // stride) for side in _PROBE):
            return network.train(), levels[-1].shape[1], stride
    why = f"timm:{name} gives no feature maps of images of any size ({problem})"
    raise ConfigError(why, "choose another network, such as timm:resnet18 or timm:vit_small_patch16_224")


def downloaded_state(name: str, output_stride: int) -> dict[str, Tensor]:
    """The values that timm downloads for a network, by parameter name. Raises `SetupError` where there are none."""
    try:
        return _create(name, output_stride, pretrained=True).state_dict()
    except (*_CANNOT, OSError) as error:  # the errors of the hub's client are OSErrors
        hint = "name a file (cls.weights=PATH, seg.weights=PATH), or none"
        raise SetupError(f"timm's weights of {name} could not be downloaded ({_short(error)})", hint) from error


def fitted_state(name: str, output_stride: int, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The values of `state` for a network, by timm's parameter names.

    Position embeddings of another size are resized, names of the network's publisher are translated where timm can, and a
    classifier is left out. Raises `DataError` naming `source` where anything is missing, unknown or of another shape.
    """
    net = _create(name, output_stride)
    wrong: list[str] = []

    def note(_: nn.Module, keys: Any) -> None:  # timm itself would go on with random values
        unknown = [key for key in keys.unexpected_keys if not key.startswith(_CLASSIFIER)]
        wrong.extend([f"{what} {', '.join(names[:3])}" for what, names in (("lack", keys.missing_keys), ("unknown", unknown)) if names])

    net.register_load_state_dict_post_hook(note)
    from timm.models import load_pretrained

    rename = getattr(sys.modules[_timm(name).model_entrypoint(name.partition(".")[0]).__module__], "checkpoint_filter_fn", None)
    config = {**net.pretrained_cfg, "state_dict": dict(state), "source": ""}  # type: ignore[dict-item]
    try:
        load_pretrained(net, config, num_classes=0, filter_fn=rename)
    except (*_CANNOT, KeyError, IndexError) as error:
        wrong.append(_short(error))
    if wrong:
        raise DataError(f"{source}: these weights do not fit timm:{name} ({'; '.join(wrong)})", "check that they belong to it")
    return net.state_dict()


def _create(name: str, output_stride: int, **options: Any) -> nn.Module:
    """timm's network without its classifier, for images of any size, dilated where it can be."""
    timm = _timm(name)
    for can in ({"dynamic_img_size": True}, {"output_stride": output_stride}):
        try:
            with torch.device("meta"):
                timm.create_model(name, num_classes=0, **can)
        except _CANNOT:
            continue
        return timm.create_model(name, num_classes=0, **can, **options)
    return timm.create_model(name, num_classes=0, **options)


def _timm(name: str) -> Any:
    """The library; ConfigError where it does not know `name`."""
    try:
        import timm
    except ImportError as error:
        raise SetupError(f"timm:{name} needs the library timm", "pip install 'rcatool[timm]'") from error
    network, _, tag = name.partition(".")
    if not timm.is_model(network):
        known, hint = timm.list_models(), "timm.list_models() has all names"
        raise ConfigError(f"timm:{name}: timm {timm.__version__} has no network {network!r}", _near(network, known, hint))
    tags = timm.list_pretrained(network)
    if tag and f"{network}.{tag}" not in tags:
        what = f"timm:{name}: timm {timm.__version__} has no weights {tag!r} of {network}"
        raise ConfigError(what, _near(name, tags, "leave out the tag"))
    return timm


def _near(name: str, known: list[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean timm:{' or timm:'.join(near)}?" if near else otherwise


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}..."


def _patch(net: nn.Module) -> int:
    """The side of the patches that an image is cut into, 1 for a network that reads any size."""
    size = getattr(getattr(net, "patch_embed", None), "patch_size", 1)
    return int(size if isinstance(size, int) else max(size))


def _taps(reductions: list[int]) -> list[int]:
    """Two of the network's stages beside the last: the first at stride 8 (or the finest), and the one before the last.

    Of a transformer, whose blocks are all of one stride, those at a third and two thirds of its depth.
    """
    last = len(reductions) - 1
    if len(set(reductions)) == 1:
        return sorted({(last + 1) // 3 - 1, 2 * (last + 1) // 3 - 1} - {-1})
    return sorted({_first_at(reductions, 8), last - 1})


def _first_at(reductions: list[int], stride: int) -> int:
    """The first stage but the last at the coarsest stride up to this one, or at the finest there is; of a transformer its first tap."""
    if len(set(reductions)) == 1:
        return _taps(reductions)[0]
    wanted = max((reduction for reduction in reductions[:-1] if reduction <= stride), default=min(reductions))
    return reductions.index(wanted)
