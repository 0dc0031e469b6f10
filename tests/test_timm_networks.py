"""Networks of timm as backbones, against timm's own features and preprocessing; all with random weights."""

import builtins
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from rcatool.data.transforms import normalise, to_tensor
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.models.backbones import Backbone, build_backbone, freeze_batch_norm
from rcatool.models.weights import load_weights

timm = pytest.importorskip("timm")

CONVOLUTIONAL = ("resnet18", "mobilenetv3_small_050", "convnext_atto")
TRANSFORMERS = {"vit_tiny_patch16_224": 16, "deit_tiny_distilled_patch16_224": 16, "vit_small_patch14_reg4_dinov2": 14}
CLIP = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"


@functools.cache
def backbone(name: str, stride: int = 16) -> Backbone:
    torch.manual_seed(1)
    return build_backbone(f"timm:{name}", output_stride=stride).eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *TRANSFORMERS, CLIP])
@torch.inference_mode()
def test_size_is_ceil_of_input_over_stride(name: str) -> None:
    model = backbone(name)
    for height, width in ((64, 64), (33, 47), (15, 100)):
        levels = model.pyramid(noise(2, 3, height, width))
        assert levels[-1].shape == (2, model.out_channels, -(-height // model.output_stride), -(-width // model.output_stride))
        assert len(levels) == 3
        assert all(level.shape[0] == 2 and level.ndim == 4 for level in levels)
        assert levels[0].shape[-1] >= levels[1].shape[-1] >= levels[2].shape[-1]
        assert levels[-1].std() > 0


@pytest.mark.parametrize(
    ("name", "stride", "own"),
    [("resnet18", 8, 8), ("resnet18", 16, 16), ("convnext_atto", 8, 8), ("mobilenetv3_small_050", 8, 32), ("vit_tiny_patch16_224", 8, 16)],
)
def test_a_stride_is_kept_where_the_network_can_be_dilated(name: str, stride: int, own: int) -> None:
    model = build_backbone(f"timm:{name}", output_stride=stride)
    assert model.output_stride == own
    assert model.training


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@torch.inference_mode()
def test_convolutional_features_are_timms(name: str) -> None:
    """At multiples of 32, where no image has to be resized, and of a network that is not dilated: timm's own features."""
    images, model = noise(1, 3, 64, 96), build_backbone(f"timm:{name}", output_stride=16).eval()
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(model.body.net.state_dict())
    coarse = theirs.forward_features(images)
    step = 32 // model.output_stride
    torch.testing.assert_close(model(images)[..., ::step, ::step], coarse, rtol=1e-3, atol=1e-4 * float(coarse.abs().max()))
    if name == "resnet18":
        first, second, _ = model.pyramid(images)
        trunk = nn.Sequential(theirs.conv1, theirs.bn1, theirs.act1, theirs.maxpool, theirs.layer1, theirs.layer2)
        torch.testing.assert_close(first, trunk(images))
        torch.testing.assert_close(second, theirs.layer3(trunk(images)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.inference_mode()
def test_transformer_features_are_timms_patch_tokens(name: str) -> None:
    side, model = TRANSFORMERS[name], backbone(name)
    images = noise(1, 3, 5 * side, 3 * side)
    net = model.body.net
    tokens = net.forward_features(images * model.body.scale + model.body.shift)[0, net.num_prefix_tokens :]
    features = model(images)[0]
    assert features.shape == (net.num_features, 5, 3)
    for row in range(5):
        for column in range(3):
            torch.testing.assert_close(features[:, row, column], tokens[row * 3 + column])


def test_a_patch_is_where_it_is_in_the_image() -> None:
    """The gradient of a cell of a transformer's embedding touches its own patch alone: rows are rows, columns are columns."""
    model = build_backbone("timm:vit_tiny_patch16_224", output_stride=16)
    images = noise(1, 3, 48, 64).requires_grad_()
    net = model.body.net
    net.blocks = nn.Sequential(*(nn.Identity() for _ in net.blocks))
    model(images)[0, :, 1, 2].square().sum().backward()
    rows, columns = images.grad[0].abs().sum(dim=0).nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 31, 32, 47)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", CLIP])
@torch.inference_mode()
def test_images_come_with_the_constants_of_the_weights(name: str) -> None:
    """Our image, normalised for ImageNet, gives what timm gives for its own preprocessing of the same photo."""
    model = backbone(name)
    net = model.body.net
    photo = np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    settings = timm.data.resolve_model_data_config(net) | {"crop_pct": 1.0}
    theirs = timm.data.create_transform(**settings, is_training=False)(Image.fromarray(photo))
    ours = normalise(to_tensor(photo))
    adapted = ours[None] * model.body.scale + model.body.shift
    torch.testing.assert_close(adapted[0], theirs, rtol=1e-4, atol=1e-5)
    if name != "resnet18":
        assert not torch.allclose(ours, theirs, atol=1e-3) or settings["mean"] == (0.485, 0.456, 0.406)
    features = model(ours[None])
    step = 32 // model.output_stride if name == "resnet18" else 1
    expected = net.forward_features(theirs[None])
    if expected.ndim == 3:
        expected = expected[:, net.num_prefix_tokens :].transpose(1, 2).unflatten(2, features.shape[-2:])
    assert expected.shape == features.shape, step
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


def test_constants_differ_between_networks() -> None:
    # The test above would say nothing if all networks had ImageNet's.
    assert not torch.allclose(backbone(CLIP).body.scale, torch.ones(1, 3, 1, 1), atol=1e-3)
    torch.testing.assert_close(backbone("resnet18").body.scale, torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, "vit_tiny_patch16_224"])
def test_early_layers_are_those_that_the_first_level_depends_on(name: str) -> None:
    model = build_backbone(f"timm:{name}", output_stride=16)
    model.pyramid(noise(2, 3, 64, 64))[0].square().sum().backward()
    early = {parameter for layer in model.early_layers for parameter in layer.parameters()}
    touched = {parameter for parameter in model.parameters() if parameter.grad is not None}
    assert early
    assert early <= touched
    assert {name for name, parameter in model.body.net.named_parameters() if parameter in touched - early} <= {"pos_embed", "cls_token"}


def test_all_batch_norms_are_frozen() -> None:
    model = build_backbone("timm:mobilenetv3_small_050", output_stride=16).train()
    freeze_batch_norm(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(noise(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    assert len(norms) > 20
    assert not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_weights_from_a_file(name: str, suffix: str, tmp_path: Path) -> None:
    theirs = timm.create_model(name)  # with its classifier
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, path)
    else:
        safetensors.torch.save_file(theirs.state_dict(), path)
    model = build_backbone(f"timm:{name}", output_stride=16)
    load_weights(model, f"timm:{name}", str(path))
    loaded = model.body.net.state_dict()
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in loaded.items())


@torch.inference_mode()
def test_position_embeddings_of_another_size_are_resized(tmp_path: Path) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224", img_size=96).state_dict(), tmp_path / "weights.pth")
    model = build_backbone("timm:vit_tiny_patch16_224", output_stride=16)
    load_weights(model, "timm:vit_tiny_patch16_224", str(tmp_path / "weights.pth"))
    assert model(noise(1, 3, 40, 40)).shape == (1, 192, 3, 3)


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda s: {k: v for k, v in s.items() if k != "conv1.weight"}, r"do not fit timm:resnet18 .lack conv1\.weight"),
    "unknown": (lambda s: s | {"layer9.weight": torch.ones(1)}, r"do not fit timm:resnet18 .unknown layer9\.weight"),
    "shape": (lambda s: s | {"layer1.0.conv1.weight": torch.ones(1, 2)}, "do not fit timm:resnet18 .*size mismatch"),
    "not finite": (lambda s: s | {"conv1.weight": torch.full((64, 3, 7, 7), float("nan"))}, "not finite"),
    "list": (lambda s: list(s.values()), "holds list"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    spoil, message = MISFITS[case]
    path, model = tmp_path / "weights.pth", build_backbone("timm:resnet18", output_stride=16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(spoil(timm.create_model("resnet18", num_classes=0).state_dict()), path)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: .*{message}") as caught:
        load_weights(model, "timm:resnet18", str(path))
    assert len(caught.value.message) < 400
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("resnet17", "has no network 'resnet17'", "timm:resnet18"),
        ("vit_tiny_patch16_224.augreg", "has no weights 'augreg' of vit_tiny_patch16_224", "augreg_in21k"),
        ("mixer_s32_224", "gives no feature maps of images of any size", "choose another"),
    ],
)
def test_names_that_cannot_be_used(name: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_backbone(f"timm:{name}", output_stride=16)
    assert hint in str(caught.value.hint)


def test_a_network_whose_weights_nobody_has() -> None:
    name = next(name for name in ("convnext_atto_rms", "efficientnet_b0_g16_evos", "resnet18") if not timm.list_pretrained(name))
    with pytest.raises(SetupError, match=f"weights of {name} could not be downloaded"):
        load_weights(build_backbone(f"timm:{name}", output_stride=16), f"timm:{name}", "imagenet")


def test_without_a_network_the_download_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_backbone("timm:resnet18", output_stride=16)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to the hub")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    with pytest.raises(SetupError, match="resnet18 could not be downloaded .no route to the hub") as caught:
        load_weights(model, "timm:resnet18", "imagenet")
    assert "weights=PATH" in str(caught.value.hint)


def test_the_download_is_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, model = timm.create_model("resnet18").state_dict(), build_backbone("timm:resnet18", output_stride=8)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(theirs))
    load_weights(model, "timm:resnet18", "imagenet")
    assert torch.equal(model.body.net.layer4[1].conv2.weight, theirs["layer4.1.conv2.weight"])


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "timm":
            raise ImportError("No module named 'timm'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match="needs the library timm") as caught:
        build_backbone("timm:resnet18", output_stride=16)
    assert caught.value.hint == "pip install 'rcatool[timm]'"
