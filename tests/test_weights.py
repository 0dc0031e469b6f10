"""Pretrained weights: what fits is loaded, what does not is named, and nothing in a file is ever executed."""

import pickle
import re
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from rcatool.errors import DataError, SetupError
from rcatool.models.backbones import Backbone, build_backbone
from rcatool.models.weights import load_weights, to_download

FIRST = "features.0.weight"  # of the backbone `tiny`


class Evil:
    """Unpickled by an ordinary reader, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def tiny() -> Backbone:
    return build_backbone("tiny", output_stride=16)


def state_of(model: Backbone, seed: int = 0) -> dict[str, Tensor]:
    """Other values for every floating-point entry of the model's state, exact in half precision."""
    generator = torch.Generator().manual_seed(seed)
    state = model.body.state_dict()
    return {key: torch.randn(v.shape, generator=generator).half().float() if v.is_floating_point() else v for key, v in state.items()}


def assert_holds(model: Backbone, state: dict[str, Tensor]) -> None:
    loaded = model.body.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            assert loaded[key].dtype == torch.float32
            assert torch.equal(loaded[key], value.float()), key


def save(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def test_none_leaves_the_backbone_alone() -> None:
    model = tiny()
    before = {key: value.clone() for key, value in model.body.state_dict().items()}
    load_weights(model, "tiny", "none")
    assert_holds(model, before)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_state_dict_with_classifier_loads(suffix: str, half: bool, tmp_path: Path) -> None:
    model = tiny()
    state = state_of(model)
    extra = {"classifier.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    stored = {key: value.half() if half and value.is_floating_point() else value.clone() for key, value in (state | extra).items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        save(path, stored)
    else:
        safetensors.torch.save_file(stored, path)
    load_weights(model, "tiny", str(path))
    assert_holds(model, state)


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    model = tiny()
    state = {key: value for key, value in state_of(model).items() if not key.endswith("num_batches_tracked")}
    load_weights(model, "tiny", str(save(tmp_path / "weights.pth", state)))
    assert_holds(model, state)


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda s: {k: v for k, v in s.items() if k != FIRST}, rf"lack {FIRST}$"),
    "unknown": (lambda s: s | {"features.99.bias": torch.ones(1)}, r"unknown features\.99\.bias$"),
    "shape": (lambda s: s | {FIRST: torch.ones(24, 1, 3, 3)}, rf"wrong shape for {FIRST} \(24, 1, 3, 3\), expected \(24, 3, 3, 3\)$"),
    "many": (lambda s: {f"encoder.{k}": v for k, v in s.items()}, rf"lack {FIRST}, .* and \d+ more$"),
    "nan": (lambda s: s | {FIRST: torch.full((24, 3, 3, 3), float("nan"))}, rf"{FIRST} holds numbers that are not finite$"),
    "infinite": (lambda s: s | {FIRST: torch.full((24, 3, 3, 3), float("inf"))}, rf"{FIRST} holds numbers that are not finite$"),
    "wrapped": (lambda s: {"weights": s, "epoch": 3}, "not a state dict"),
    "wrapped list": (lambda s: {"state_dict": list(s.values())}, "not a state dict"),
    "empty": (lambda s: {}, "not a state dict"),
    "numbered": (lambda s: dict(enumerate(s.values())), "not a state dict"),
    "list": (lambda s: list(s.values()), "holds list, expected a dict"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named_and_not_loaded(case: str, tmp_path: Path) -> None:
    spoil, message = MISFITS[case]
    model = tiny()
    before = {key: value.clone() for key, value in model.body.state_dict().items()}
    path = save(tmp_path / "weights.pth", spoil(state_of(model)))
    with pytest.raises(DataError, match=message) as caught:
        load_weights(model, "tiny", str(path))
    assert str(path) in caught.value.message
    assert_holds(model, before)


@pytest.mark.parametrize("key", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_training_checkpoint_loads(key: str, prefix: str, tmp_path: Path) -> None:
    model, state = tiny(), state_of(tiny())
    checkpoint = {key: {f"{prefix}{name}": value for name, value in state.items()}, "epoch": 3, "optimizer": {"lr": 0.1}}
    load_weights(model, "tiny", str(save(tmp_path / "weights.pth", checkpoint)))
    assert_holds(model, state)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"not weights at all", b"\x80\x02}q\x00.", b"\xff" * 64])
def test_broken_files_are_named(name: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_weights(tiny(), "tiny", str(path))


@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_a_pickle_is_not_executed(write: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "executed"
    state = {FIRST: Evil(trace)}
    if write == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state, protocol=2))
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_weights(tiny(), "tiny", str(path))
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(trace))).close()  # as it would have been
    assert trace.exists()


def cached(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision's file of `name` belongs, in a cache of the test's own; downloads fail."""

    def offline(url: str, *_: Any, **__: Any) -> None:
        raise urllib.error.URLError(f"no route to {url}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    return tmp_path / "hub" / "checkpoints" / Path(url).name


def test_imagenet_takes_what_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cached("mobilenet_v2", tmp_path, monkeypatch)
    path.parent.mkdir(parents=True)
    model = build_backbone("mobilenet_v2", output_stride=16)
    state = state_of(model)
    save(path, state | {"classifier.1.weight": torch.ones(1000, 1280)})
    load_weights(model, "mobilenet_v2", "imagenet")
    assert_holds(model, state)


def test_imagenet_densenet_has_old_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The published file says norm.1 and conv.2 where the network says norm1 and conv2.
    path = cached("densenet169", tmp_path, monkeypatch)
    path.parent.mkdir(parents=True)
    model = build_backbone("densenet169", output_stride=16)
    state = state_of(model)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in state.items()}
    assert old.keys() != state.keys()
    save(path, old)
    load_weights(model, "densenet169", "imagenet")
    assert_holds(model, state)


def test_imagenet_without_network_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cached("mobilenet_v2", tmp_path, monkeypatch)
    with pytest.raises(SetupError, match="ImageNet weights of mobilenet_v2 could not be downloaded .*no route") as caught:
        load_weights(build_backbone("mobilenet_v2", output_stride=16), "mobilenet_v2", "imagenet")
    assert str(path) in str(caught.value.hint)


def test_imagenet_downloads_once_and_checks_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cached("mobilenet_v2", tmp_path, monkeypatch)
    model = build_backbone("mobilenet_v2", output_stride=16)
    state = state_of(model)
    calls = []

    def download(url: str, target: str, *, hash_prefix: str, progress: bool) -> None:
        calls.append((Path(url).name, hash_prefix))
        save(Path(target), state)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    announced = []
    for _ in range(2):
        announced.append(to_download("mobilenet_v2", "imagenet"))
        load_weights(model, "mobilenet_v2", "imagenet")
    assert [Path(url).name for url in announced] == ["mobilenet_v2-b0353104.pth", ""]
    assert {to_download(name, weights) for name, weights in [("tiny", "none"), ("resnet38", "imagenet"), ("vgg16", "x.pth")]} == {""}
    assert calls == [("mobilenet_v2-b0353104.pth", "b0353104")]
    assert path.exists()
    assert_holds(model, state)


def test_the_cache_is_not_executed_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, trace = cached("mobilenet_v2", tmp_path, monkeypatch), tmp_path / "executed"
    path.parent.mkdir(parents=True)
    save(path, {FIRST: Evil(trace)})
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_weights(build_backbone("mobilenet_v2", output_stride=16), "mobilenet_v2", "imagenet")
    assert not trace.exists()


def test_tiny_has_no_imagenet_weights() -> None:
    with pytest.raises(SetupError, match="no ImageNet weights for the backbone `tiny`"):
        load_weights(tiny(), "tiny", "imagenet")


def test_resnet38_has_no_download() -> None:
    model = tiny()
    with pytest.raises(SetupError, match="no place to be downloaded from") as caught:
        load_weights(model, "resnet38", "imagenet")
    assert "rca convert-weights" in str(caught.value.hint)
