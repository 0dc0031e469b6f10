"""A segmentation network as ONNX, for programs without torch, and the check that it computes the same.

Input `image`: uint8 (B, 3, H, W), RGB as read, any B, H and W; the normalisation is part of the graph. Output `logits`: float32
(B, C + 1, h, w), background first, not enlarged. The card of the network (names, colours, size of the training photos) is in the
file's metadata, under `rcatool`.
"""

import io
import json
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rcatool.data import transforms
from rcatool.errors import SetupError
from rcatool.network_card import card_fields
from rcatool.network_file import KEY, Network

TOLERANCE = 1e-3  # of logits
CHECKED_SCALES = (1.0, 0.6, 1.37)  # long sides at which it is compared, of that of the training photos
_TRACED = (64, 96)  # pixels


class Compared(NamedTuple):
    """The largest difference of logits on a batch, and the batch's shape (B, 3, H, W)."""

    shape: tuple[int, ...]
    difference: float


class _FromPixels(nn.Module):
    """The network with its normalisation: uint8 images -> logits."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = network.model
        for name, values in (("mean", network.card.mean), ("std", network.card.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model((image.float() / 255 - self.mean) / self.std)
        return logits.float()


def onnx_bytes(network: Network) -> bytes:
    """The network as an ONNX file. Raises SetupError where the library is missing, or cannot express the network."""
    onnx = _onnx()
    example = torch.zeros(1, 3, *_TRACED, dtype=torch.uint8)
    axes = {"image": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch", 2: "rows", 3: "columns"}}
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # That the exporter is an older one, and what it takes for constant: the check at other sizes finds what matters.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _FromPixels(network).eval(), (example,), buffer, input_names=["image"], output_names=["logits"], dynamic_axes=axes,
                dynamo=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        why = f"torch cannot write this network as ONNX ({_short(error)})"
        raise SetupError(why, "try another seg.backbone, or a newer torch") from error
    model = onnx.load_from_string(buffer.getvalue())
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(card_fields(network.card) | {"digest": network.digest}, ensure_ascii=False)
    return bytes(model.SerializeToString())


def compare(network: Network, data: bytes, photos: Sequence[np.ndarray]) -> list[Compared]:
    """Logits of onnxruntime against torch, both on the CPU: photos uint8 (H, W, 3) at three sizes, the last one with its mirror image.

    Raises SetupError where onnxruntime is missing or refuses the file.
    """
    runtime = _onnxruntime()
    assert photos, "nothing to compare on"
    try:
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return [_compared(network, session, batch) for batch in _batches(network, photos)]
    except _runtime_errors() as error:
        raise SetupError(f"onnxruntime cannot run this network ({_short(error)})", "pip install -U 'rcatool[onnx]'") from error


def check(found: Sequence[Compared]) -> None:
    """Raise SetupError unless all differences are small enough."""
    worst = max(found, key=lambda one: one.difference if one.difference == one.difference else float("inf"))
    if not worst.difference <= TOLERANCE:
        what = f"differ from torch's by {worst.difference:.3g} on images {worst.shape}, more than {TOLERANCE:g}"
        raise SetupError(f"the logits of the ONNX file {what}: not kept", "other versions may do: pip install -U torch 'rcatool[onnx]'")


def _batches(network: Network, photos: Sequence[np.ndarray]) -> list[Tensor]:
    batches = []
    for place, scale in enumerate(CHECKED_SCALES):
        image = transforms.to_tensor(photos[place % len(photos)])
        factor = scale * network.card.long_side / max(image.shape[-2:])
        image = transforms.resize(image, *transforms.scaled_size(*image.shape[-2:], factor))
        last = place == len(CHECKED_SCALES) - 1
        batches.append(torch.stack([image, image.flip(-1)] if last else [image]))
    return batches


@torch.inference_mode()
def _compared(network: Network, session: Any, batch: Tensor) -> Compared:
    expected = network.model(transforms.normalise(batch, network.card.mean, network.card.std)).float().numpy()
    found = session.run(["logits"], {"image": batch.numpy()})[0]
    same = found.shape == expected.shape
    return Compared(tuple(batch.shape), float(np.abs(found - expected).max()) if same else float("inf"))


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise _missing("onnx") from error
    return onnx


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime") from error
    return onnxruntime


def _missing(name: str) -> SetupError:
    return SetupError(f"export onnx needs the library {name}, which is not installed", "pip install 'rcatool[onnx]'")


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its classes have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names)


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
