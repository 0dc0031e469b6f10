"""The released implementation (maeve07/RCA), run from a checkout of it beside this repository; nothing of it is in here.

What it needs and a machine may lack (cv2, matplotlib, which it imports and does not use in a step) is replaced by stand-ins, and on
a CPU `Tensor.cuda` does nothing. Otherwise it runs as it is: no line of it is changed.
"""

import contextlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.models.official import OfficialNet

CLASSES = 20
_MODULES = (
    "cv2", "matplotlib", "matplotlib.pyplot", "matplotlib.mlab", "matplotlib.ticker", "matplotlib.offsetbox",
    "mpl_toolkits", "mpl_toolkits.mplot3d",
)  # fmt: skip
# Names of the same layers, theirs and ours; those of the heads are numbered, the memory is put together.
_LAYERS = {
    "features": "backbone.body.features", "extra_convs": "p_head", "extra_F": "contrast_features", "Q": "query", "K": "key", "V": "value",
    "aggre": "attended", "concat_project": "mix",
}  # fmt: skip


def load(checkout: Path) -> ModuleType:
    """The module that holds its network."""
    if not (checkout / "models" / "rca.py").is_file():
        raise SystemExit(f"{checkout}: not a checkout of maeve07/RCA (no models/rca.py)")
    if "models.rca" not in sys.modules:
        missing = [name for name in _MODULES if importlib.util.find_spec(name.partition(".")[0]) is None]
        sys.modules.update({name: MagicMock() for name in missing})
        sys.path.insert(0, str(checkout))
    return importlib.import_module("models.rca")


@contextlib.contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Let it run on `device`, which it takes for CUDA."""
    if device.type == "cuda":
        yield
        return
    with patch.object(Tensor, "cuda", lambda self, *_, **__: self):
        yield


def build(checkout: Path, device: torch.device) -> Any:
    """Its network with VGG16, its weights drawn so that activations neither vanish nor grow, in training mode."""
    module = load(checkout)
    with tempfile.TemporaryDirectory() as folder:
        model = module.RCAModel(module.make_layers(module.cfg["D1"]), CLASSES, att_dir=folder)
    draw_weights(model)
    return model.to(device).train()


def draw_weights(model: nn.Module) -> None:
    """He's weights in every convolution: with the released start of 0.01 and no pretrained weights the features would vanish."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def optimizer(model: Any) -> torch.optim.SGD:
    """Its optimizer, as train.py makes it."""
    rates = (1e-3, 2e-3, 1e-2, 2e-2)
    groups = [{"params": group, "lr": rate} for group, rate in zip(model.get_parameter_groups(), rates, strict=True)]
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4, nesterov=True)


def loss(model: Any, images: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """Its total loss from epoch 2 on, and the contrast in it; no attention map is written (`index` None)."""
    p_score, o_score, contrast = model(images, tags, 2, None)
    total = F.multilabel_soft_margin_loss(o_score, tags) + 0.4 * F.multilabel_soft_margin_loss(p_score, tags) + 0.01 * contrast.mean()
    return total, contrast


def copy_weights(theirs: Any, ours: OfficialNet) -> None:
    """Give our network its weights, memory and prototypes."""
    state = theirs.state_dict()
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part in _LAYERS:
            found[f"{_LAYERS[part]}.{rest}"] = value
        elif part.startswith("extra_convs"):
            found[f"o_head.{part.removeprefix('extra_convs')}.{rest}"] = value
    found["memory.bank"] = torch.cat([state[f"queue{c}"] for c in range(CLASSES)])
    found["memory.prototypes"] = torch.stack([state[f"cluter{c}"] for c in range(CLASSES)])
    missing, unknown = ours.load_state_dict(found, strict=False)
    assert not unknown, unknown
    assert all(name.startswith("memory.") for name in missing), missing


def without_networks(model: Any, maps: Tensor) -> Any:
    """The same model fed with features instead of photos, whose P is `maps` and whose tags all score high: regions, contrast, memory."""
    model.features = model.extra_F = model.Q = model.K = model.V = model.aggre = nn.Identity()
    model.concat_project = _First(model.feat_dim)
    model.extra_convs = _Constant(maps)
    for c in range(CLASSES):
        setattr(model, f"extra_convs{c}", _Constant(maps[:, c : c + 1].abs() + 2))
    return model


class _Constant(nn.Module):
    """A network that always says the same."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value


class _First(nn.Module):
    """The first channels of what comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.channels]
