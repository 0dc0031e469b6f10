"""Backbones against torchvision's own networks: names, sizes, and values where dilation must not change them."""

import functools

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from rcatool.models.backbones import Backbone, build_backbone, freeze, freeze_batch_norm
from rcatool.models.frozen import fold_batch_norm

PUBLISHED = ("vgg16", "resnet50", "resnet101", "mobilenet_v2", "densenet169")
WIDTHS = {"vgg16": 512, "resnet38": 4096, "resnet50": 2048, "resnet101": 2048, "mobilenet_v2": 1280, "densenet169": 1664, "tiny": 96}
STRIDED = ("resnet50", "resnet101", "mobilenet_v2")  # down to 1/32 by strided convolutions alone
CLASSIFIER = ("classifier.", "fc.")


def shapes_only(name: str, stride: int) -> Backbone:
    """A backbone without values: quick to build, and enough to ask for names and sizes."""
    with torch.device("meta"):
        return build_backbone(name, output_stride=stride).eval()


@functools.cache
def torchvision_net(name: str) -> nn.Module:
    """torchvision's network with reproducible values that keep activations in range, batch norm statistics included."""
    with torch.device("meta"):
        net = torchvision.models.get_model(name, weights=None)
    if name == "vgg16":
        net.classifier = nn.Identity()  # half a gigabyte that no test looks at
    generator = torch.Generator().manual_seed(len(name))
    net.to_empty(device="cpu")
    for key, value in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.zero_()
        elif value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif key.endswith(("running_var", "weight")):
            value.uniform_(0.5, 1.0, generator=generator)
        else:
            value.normal_(0, 0.1, generator=generator)
    return net.eval()


@functools.cache
def backbone(name: str, stride: int) -> Backbone:
    """A backbone with the values of `torchvision_net`, loaded by name."""
    model = shapes_only(name, stride).to_empty(device="cpu")
    state = {key: value for key, value in torchvision_net(name).state_dict().items() if not key.startswith(CLASSIFIER)}
    model.body.load_state_dict(state)
    return model.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Equal up to float32 rounding through a deep network."""
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", WIDTHS)
def test_output_size_is_ceil_of_input_over_stride(name: str, stride: int) -> None:
    model = shapes_only(name, stride)
    assert model.out_channels == WIDTHS[name]
    assert model.output_stride == stride
    for height, width in ((64, 64), (33, 47), (15, 100)):
        features = model(torch.empty(2, 3, height, width, device="meta"))
        assert features.shape == (2, WIDTHS[name], -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_torchvisions(name: str, stride: int) -> None:
    with torch.device("meta"):
        published = torchvision.models.get_model(name, weights=None).state_dict()
    expected = {key: value.shape for key, value in published.items() if not key.startswith(CLASSIFIER)}
    assert {key: value.shape for key, value in shapes_only(name, stride).body.state_dict().items()} == expected


def test_vgg16_is_the_layout_of_the_paper() -> None:
    model = shapes_only("vgg16", 8)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(parameter.numel() for conv in convolutions for parameter in conv.parameters()) == 14_714_688
    assert [conv.dilation for conv in convolutions] == [(1, 1)] * 10 + [(2, 2)] * 3
    assert model(torch.empty(1, 3, 368, 368, device="meta")).shape == (1, 512, 46, 46)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", [*PUBLISHED, "tiny"])
def test_features_are_not_negative_and_not_dead(name: str, stride: int) -> None:
    model = build_backbone("tiny", output_stride=stride).eval() if name == "tiny" else backbone(name, stride)
    with torch.inference_mode():
        features = model(noise(1, 3, 48, 40))
    assert features.min() >= 0
    assert features.std() > 0


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", STRIDED)
def test_dilated_network_holds_the_strided_one(name: str, stride: int) -> None:
    # A dilated network computes the strided one's cells, and cells between them.
    images = noise(1, 3, 65, 96)
    net = torchvision_net(name)
    strided = net.features if name == "mobilenet_v2" else create_feature_extractor(net, {"layer4": "out"})
    with torch.inference_mode():
        coarse = strided(images)
        dense = backbone(name, stride)(images)
    step = 32 // stride
    assert_near(dense[..., ::step, ::step], coarse["out"] if isinstance(coarse, dict) else coarse)


@torch.inference_mode()
def test_vgg16_at_16_is_torchvisions_without_its_last_pool() -> None:
    images = noise(1, 3, 64, 48)
    assert_near(backbone("vgg16", 16)(images), torchvision_net("vgg16").features[:-1](images))


@torch.inference_mode()
def test_vgg16_at_8_smooths_where_torchvision_pools() -> None:
    images, layers, published = noise(1, 3, 64, 48), backbone("vgg16", 8).body.features, torchvision_net("vgg16").features
    before = published[:23](images)
    assert_near(layers[:23](images), before)
    assert_near(layers[23](before), nn.functional.max_pool2d(before, 3, stride=1, padding=1))
    assert_near(layers[24:](before)[..., ::2, ::2], published[24:-1](before[..., ::2, ::2]))


@torch.inference_mode()
def test_densenet_at_16_is_torchvisions_without_its_last_pool() -> None:
    images, layers, published = noise(1, 3, 64, 48), backbone("densenet169", 16).body.features, torchvision_net("densenet169").features
    assert_near(layers[:9](images), published[:9](images))  # up to and with denseblock3
    before = published.transition3.conv(published.transition3.relu(published.transition3.norm(published[:9](images))))
    assert_near(layers.transition3(published[:9](images)), before)
    tail = nn.Sequential(published.denseblock4, published.norm5, nn.ReLU())
    assert_near(backbone("densenet169", 16)(images)[..., ::2, ::2], tail(before[..., ::2, ::2]))


@torch.inference_mode()
def test_densenet_at_8_holds_the_one_at_16() -> None:
    images, fine, coarse = noise(1, 3, 64, 48), backbone("densenet169", 8).body.features, backbone("densenet169", 16).body.features
    before = fine[:8](images)  # up to and with transition2, whose pool is gone
    assert before.shape[-2:] == (8, 6)
    assert_near(fine[8:](before)[..., ::2, ::2], coarse[8:](before[..., ::2, ::2]))


def test_frozen_batch_norm_neither_learns_nor_counts() -> None:
    model = build_backbone("tiny", output_stride=8).train()
    freeze_batch_norm(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(noise(2, 3, 32, 32)).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for module in model.modules():
        frozen = isinstance(module, nn.BatchNorm2d)
        assert all(parameter.requires_grad != frozen for parameter in module.parameters(recurse=False))
    assert model.training
    assert [module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == [False] * 4


@pytest.mark.parametrize("name", [*PUBLISHED, "tiny"])
@torch.inference_mode()
def test_the_pyramid_holds_levels_of_the_published_network(name: str) -> None:
    """Fine to coarse, the last the features, the first at stride 8 or finer."""
    model, images = build_backbone("tiny", output_stride=16).eval() if name == "tiny" else backbone(name, 16), noise(1, 3, 64, 96)
    pyramid = model.pyramid(images)
    assert torch.equal(pyramid[-1], model(images))
    strides = [64 // level.shape[2] for level in pyramid]
    assert len(pyramid) == 3
    assert strides == sorted(strides)
    assert strides[0] <= 8
    assert strides[-1] == 16


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("vgg16", ("features.15", "features.22")),
        ("resnet50", ("layer2", "layer3")),
        ("mobilenet_v2", ("features.6", "features.13")),
        ("densenet169", ()),
    ],
)
@torch.inference_mode()
def test_earlier_levels_are_those_of_the_published_network(name: str, nodes: tuple[str, ...]) -> None:
    images = noise(1, 3, 64, 96)
    if name == "densenet169":  # what a block returns is what its transition takes
        net, found = torchvision_net(name), {}
        for block in ("denseblock2", "denseblock3"):
            getattr(net.features, block).register_forward_hook(lambda _, __, out, block=block: found.update({block: out}))
        net(images)
        expected = list(found.values())
    else:
        expected = list(create_feature_extractor(torchvision_net(name), list(nodes))(images).values())
    first, second, _ = backbone(name, 16).pyramid(images)
    assert_near(first, expected[0])
    if second.shape == expected[1].shape:  # resnet50's third layer is strided at 16, densenet's third block too
        assert_near(second, expected[1])


@pytest.mark.parametrize("name", [*PUBLISHED, "tiny"])
@torch.inference_mode()
def test_the_early_layers_make_the_first_level(name: str) -> None:
    model, images = build_backbone("tiny", output_stride=16).eval() if name == "tiny" else backbone(name, 16), noise(1, 3, 32, 48)
    features = images
    for layer in model.early_layers:
        features = layer(features)
    assert torch.equal(features, model.pyramid(images)[0])


@pytest.mark.parametrize("name", [*PUBLISHED, "tiny"])
def test_frozen_early_layers_take_no_part_in_training(name: str) -> None:
    model = build_backbone(name, output_stride=16).train()
    freeze(model.early_layers)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.pyramid(noise(2, 3, 64, 64))[-1].sum().backward()
    assert all(p.grad is not None for p in parameters)
    torch.optim.SGD(parameters, lr=1.0).step()
    early = {id(value) for layer in model.early_layers for value in (*layer.parameters(), *layer.buffers())}
    state = dict([*model.named_parameters(), *model.named_buffers()])
    assert all(torch.equal(value, before[key]) for key, value in state.items() if id(value) in early)
    assert any(not torch.equal(value, before[key]) for key, value in model.named_parameters() if id(value) not in early)


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2", "densenet169", "resnet38", "tiny"])
@torch.inference_mode()
def test_earlier_levels_are_those_of_the_pyramid(name: str) -> None:
    torch.manual_seed(0)
    model = build_backbone(name, output_stride=16).eval()
    images = noise(1, 3, 40, 56)
    *expected, _ = model.pyramid(images)
    found = model.earlier(images)
    assert len(found) == len(expected)
    assert all(torch.equal(first, second) for first, second in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "left"), [("vgg16", 0), ("resnet50", 1), ("mobilenet_v2", 0), ("densenet169", None), ("resnet38", 37), ("tiny", 0)]
)
@torch.inference_mode()
def test_folded_batch_norm_changes_nothing_but_the_rounding(name: str, left: int | None) -> None:
    torch.manual_seed(0)
    model = build_backbone(name, output_stride=16).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.1)
    images = noise(1, 3, 40, 56)
    expected = model.pyramid(images)
    found = fold_batch_norm(model).pyramid(images)
    for before, after in zip(expected, found, strict=True):
        assert float((before - after).abs().max()) < 1e-4 * float(before.abs().max())
    assert left in (None, sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()))


def test_batch_norm_in_training_is_not_folded() -> None:
    model = build_backbone("tiny", output_stride=16).train()
    assert fold_batch_norm(model) is model
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()) == 4
