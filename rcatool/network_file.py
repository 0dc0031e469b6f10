"""A segmentation network with all that is needed to use it, in one file: weights as safetensors, the rest as JSON in its header.

The header's text `rcatool` is an object: format, version (of rcatool), design (the fields of a SegDesign), classes (names), palette (RGB,
background first), mean and std (of RGB in [0, 1]), long_side (pixels of the training photos), origin (fingerprint of the step that
trained it), digest. Reading executes nothing that the file holds. A run directory is read by the same rules.
"""

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcatool.checkpoint import load_state
from rcatool.data.manifest import read_manifest, split
from rcatool.errors import ConfigError, DataError
from rcatool.files import atomic_write
from rcatool.models.deeplab import DeepLab, build_seg
from rcatool.models.weight_files import read_safetensors, safetensors_bytes
from rcatool.network_card import NOT_OURS, Card, card_fields, own_fields, read_card

KEY = "rcatool"
_PROBE = (64, 96)  # pixels
# What building a network from fields that make no sense may raise.
_SENSELESS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
_ROUNDS = ("train-seg-2", "train-seg")  # the last one first
_TRAIN_AGAIN = "rca train-seg --force"


@dataclass(frozen=True)
class Network:
    """A network in eval mode on the CPU, its card, and the digest of all that its predictions depend on."""

    card: Card
    model: DeepLab
    digest: str


def write_network(path: Path, network: Network) -> None:
    """Write a network to one file, whole or not at all."""
    text = json.dumps(card_fields(network.card) | {"digest": network.digest}, ensure_ascii=False)
    atomic_write(path, safetensors_bytes(network.model.state_dict(), {KEY: text}))


def read_network(path: Path) -> Network:
    """Read what `write_network` wrote. Raises DataError naming the file and what is wrong, SetupError for a library it needs (timm)."""
    if not path.is_file():
        raise DataError(f"{path}: no such file", NOT_OURS)
    try:
        state, texts = read_safetensors(path)
    except DataError as error:
        raise DataError(error.message, NOT_OURS) from error
    try:
        document: Any = json.loads(texts.get(KEY, "null"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its header is not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: no network of rcatool (weights alone do not say how to use them)", NOT_OURS)
    digest = document.pop("digest", None)
    return assemble(read_card(document, str(path)), state, str(path), digest=str(digest))


def read_run(root: Path, *, step: str = "") -> Network:
    """The trained segmentation network of a run directory: of `step`, or of the last round. Raises as `read_network`, with what to type."""
    name = step or next((name for name in _ROUNDS if (root / name / "final.pt").is_file()), "train-seg")
    path, hint = root / name / "final.pt", f"{_TRAIN_AGAIN} --run {root}"
    if not path.is_file():
        what = f"no trained segmentation network in this run ({name}/final.pt)" if (root / "prepare").is_dir() else "no run directory"
        raise DataError(f"{root}: {what}", f"rca run --run {root}")
    try:
        state = load_state(path)
        if "design" not in state:
            raise DataError(f"{path}: written by a version that did not say how its network is built")
        names, weights = state.get("classes"), state.get("model")
        if not isinstance(names, list) or not isinstance(weights, Mapping):
            raise DataError(f"{path}: not a trained segmentation network")
        told = {"classes": names, "design": state["design"], "origin": state.get("fingerprint"), "long_side": _long_side(root, names)}
        return assemble(read_card(own_fields(len(names) + 1) | told, str(path)), dict(weights), str(path))
    except DataError as error:
        raise DataError(error.message, error.hint or hint) from error


def assemble(card: Card, state: Mapping[str, Tensor], where: str, *, digest: str | None = None) -> Network:
    """A network of its card and weights, with the `digest` that it must have.

    Raises DataError, beginning with `where`, for a design that cannot be built, tensors that lack, are unknown, unfit or not finite.
    """
    try:
        with torch.device("meta"):  # shapes only: whatever a file says, no memory is taken
            shapes = _try(build_seg(card.design, card.classes.num_classes).eval(), card).state_dict()
        _check_tensors(state, shapes, where)
        found = _digest(card, state)
        if digest not in (None, found):
            raise DataError(f"{where}: damaged, or changed by hand: its content has another digest than it says", NOT_OURS)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to draw
            model = build_seg(card.design, card.classes.num_classes)
        model.load_state_dict(dict(state))
        return Network(card, _try(model.eval(), card), found)
    except (ConfigError, *_SENSELESS) as error:
        what = f"no network can be built from its design ({_short(error)})"
        raise DataError(f"{where}: {what}", "update rcatool, or make it again") from error


@torch.inference_mode()
def _try(model: DeepLab, card: Card) -> DeepLab:
    """The model, after it has seen an image: whatever is wrong with a design shows there."""
    logits = model(torch.zeros(1, 3, *_PROBE))
    if logits.ndim != 4 or logits.shape[1] != len(card.labels):
        raise ValueError(f"its output has the shape {tuple(logits.shape)}")
    return model


def _check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    for what, names in (("lacks", expected.keys() - state.keys()), ("has the unknown", state.keys() - expected.keys())):
        if names:
            raise DataError(f"{where}: {what} tensor {min(names)!r}, of {len(names)}: not the weights of its design", NOT_OURS)
    for name, tensor in state.items():
        found, wanted = ((str(t.dtype).removeprefix("torch."), tuple(t.shape)) for t in (tensor, expected[name]))
        if found != wanted:
            raise DataError(f"{where}: {name} is {found[0]} {found[1]}, expected {wanted[0]} {wanted[1]}", NOT_OURS)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"{where}: {name} holds numbers that are not finite", "train again, with a lower learning rate")


def _digest(card: Card, state: Mapping[str, Tensor]) -> str:
    """SHA-256 of what predictions depend on: equal for a run and for the file that was made of it."""
    told = [dataclasses.asdict(card.design), card.classes.names, card.long_side, card.mean, card.std]
    content = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name in sorted(state):
        content.update(f"\n{name} {state[name].dtype} {list(state[name].shape)}\n".encode())
        content.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _long_side(root: Path, names: list[str]) -> int:
    """The median long side of a run's training photos, pixels."""
    samples = read_manifest(root / "prepare" / "manifest.jsonl", num_classes=len(names))
    return round(statistics.median(max(sample.size) for sample in split(samples, "train")))


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
