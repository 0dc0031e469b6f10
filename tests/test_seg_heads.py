"""DeepLab's heads against torchvision's and against layers written out; the fine level of each backbone; several input sizes."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.transforms.v2 import functional as T

from rcatool.models.backbones import build_backbone, freeze_batch_norm
from rcatool.models.deeplab import SegDesign, build_seg
from rcatool.models.seg_heads import DecoderHead, PooledAspp

V3 = "deeplab-v3+"
FINE = {"vgg16": 256, "resnet38": 256, "resnet50": 256, "mobilenet_v2": 24, "densenet169": 256, "tiny": 48}
PLACES = {"vgg16": "15", "mobilenet_v2": "3", "densenet169": "denseblock1"}  # relu3_3, the last block at stride 4, the first dense block
VIT = "vit_tiny_patch16_224"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: nn.Module) -> nn.Module:
    """Random values everywhere, in eval mode: scales, shifts and biases that a fresh network has at 1 and 0, too."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = noise(*parameter.shape, seed=number) * (0.3 if parameter.ndim < 2 else (2 / parameter[0].numel()) ** 0.5)
    return module.eval()


def in_groups(module: nn.Module) -> nn.Module:
    """torchvision's module with group norm in place of batch norm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(8, child.num_features))
        else:
            in_groups(child)
    return module


def test_aspp_is_torchvisions() -> None:
    ours = shaken(PooledAspp(24, 32, rates=(2, 3, 5)))
    theirs = in_groups(ASPP(24, [2, 3, 5], 32)).eval()
    mine, other = list(ours.state_dict().values()), theirs.state_dict()
    assert [value.shape for value in mine] == [value.shape for value in other.values()]
    theirs.load_state_dict(dict(zip(other, mine, strict=True)))
    features = noise(2, 24, 7, 9)
    torch.testing.assert_close(ours(features), theirs(features), rtol=0, atol=1e-5)


def layer(state: dict[str, Tensor], name: str, x: Tensor, *, groups: int) -> Tensor:
    """Convolution, normalisation by groups of channels and ReLU, by their definitions."""
    weight = state[f"{name}.0.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    parts = x.reshape(len(x), groups, -1)
    centred = parts - parts.mean(dim=2, keepdim=True)
    x = (centred / (centred.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    return (x * state[f"{name}.1.weight"][:, None, None] + state[f"{name}.1.bias"][:, None, None]).clamp(min=0)


def test_decoder_by_its_definition() -> None:
    head = shaken(DecoderHead((5, 24), 4, width=32, rates=(1, 2))).double()
    fine, features = noise(2, 5, 11, 14).double(), noise(2, 24, 3, 4).double()
    state = dict(head.named_parameters())
    pyramid = T.resize(head.aspp(features), [11, 14], antialias=False)
    x = torch.cat([pyramid, layer(state, "fine", fine, groups=4)], dim=1)
    for name in ("merge.0", "merge.1"):
        x = layer(state, name, x, groups=8)
    expected = torch.einsum("oc,bchw->bohw", state["classify.weight"][:, :, 0, 0], x) + state["classify.bias"][:, None, None]
    torch.testing.assert_close(head(fine, features), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FINE)
def test_fine_level_is_at_stride_4(name: str) -> None:
    with torch.device("meta"):
        model = build_backbone(name, output_stride=8).eval()
        fine, last = model.fine_and_last(torch.empty(2, 3, 33, 47))
    assert fine.shape == (2, FINE[name], 9, 12)
    assert last.shape == (2, model.out_channels, 5, 6)
    if name in PLACES:
        assert list(dict(model.body.features.named_children()))[model.body.fine] == PLACES[name]


@torch.inference_mode()
def test_fine_level_is_the_layers() -> None:
    images = noise(1, 3, 40, 32)
    layers = {
        "mobilenet_v2": lambda body: body.features[:4](images),
        "resnet50": lambda body: body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(images))))),
    }
    for name, expected in layers.items():
        model = build_backbone(name, output_stride=16).eval()
        fine, last = model.fine_and_last(images)
        assert torch.equal(fine, expected(model.body))
        assert torch.equal(last, model(images))
        assert float(fine.std()) > 0


@pytest.mark.parametrize(("name", "stride"), [("resnet18", 4), ("convnext_atto", 4), ("mobilenetv3_small_050", 4), (VIT, 16)])
@torch.inference_mode()
def test_fine_level_of_timm(name: str, stride: int) -> None:
    pytest.importorskip("timm")
    model, images = build_backbone(f"timm:{name}", output_stride=16).eval(), noise(1, 3, 64, 96)
    fine, last = model.fine_and_last(images)
    assert fine.shape[-2:] == (64 // stride, 96 // stride)
    assert torch.equal(last, model(images))
    if name == "resnet18":
        net = model.body.net
        stem = net.maxpool(net.act1(net.bn1(net.conv1(images * model.body.scale + model.body.shift))))
        assert torch.equal(fine, net.layer1(stem))


@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2", f"timm:{VIT}"])
@pytest.mark.parametrize("head", ["deeplab-v2", V3])
def test_every_head_on_every_kind_of_backbone(backbone: str, head: str) -> None:
    if backbone.startswith("timm:"):
        pytest.importorskip("timm")
    net = build_seg(SegDesign(backbone, 16, (2, 4), head, 16), 3)
    assert all(module.training for module in net.modules())
    assert all(int(value) == 0 for name, value in net.state_dict().items() if name.endswith("num_batches_tracked"))
    freeze_batch_norm(net)
    logits = net(noise(1, 3, 50, 70))  # a batch of one, in training
    stride = 4 if head == V3 and not backbone.startswith("timm:") else 16
    assert logits.shape == (1, 4, -(-50 // stride), -(-70 // stride))
    logits.square().sum().backward()
    assert {id(p) for p in net.heads()} == {id(p) for name, p in net.named_parameters() if name.startswith("head.")}
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.heads())


def test_a_photos_logits_do_not_depend_on_its_batch() -> None:
    net = build_seg(SegDesign("tiny", 8, (1, 2), V3, 32), 3).eval()
    net.head.train()  # as in training with batch norm frozen, but for the dropout
    net.head.aspp.project[1].eval()
    images = noise(3, 3, 48, 48)
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]), rtol=1e-4, atol=1e-5)


def test_head_that_gives_logits_starts_small() -> None:
    head = build_seg(SegDesign("tiny", 8, (1, 2), V3, 256), 20).head
    assert 0.009 < float(head.classify.weight.detach().std()) < 0.011
    assert bool((head.classify.bias == 0).all())


@pytest.mark.parametrize("head", ["deeplab-v2", V3])
def test_several_input_sizes(head: str) -> None:
    scales = (0.5, 0.75)
    net = build_seg(SegDesign("tiny", 8, (1, 2), head, 16, scales), 3)
    shaken(net.head)
    net.eval()
    images = noise(2, 3, 45, 61)
    with torch.inference_mode():
        own, half, three_quarters, highest = net.outputs(images)
        assert torch.equal(net(images), highest)
        net.input_scales = ()
        assert torch.equal(net(images), own)
        assert torch.equal(net.outputs(images)[0], own)
        expected = own
        for size, found in (((22, 30), half), ((33, 45), three_quarters)):
            alone = net(T.resize(images, list(size), antialias=False))
            torch.testing.assert_close(found, alone)
            expected = torch.stack([expected, T.resize(alone, list(own.shape[-2:]), antialias=False)]).amax(dim=0)
    torch.testing.assert_close(highest, expected)
    assert bool((highest > own).any())
    assert bool((highest == own).any())


def test_smallest_photo_at_several_sizes() -> None:
    net = build_seg(SegDesign("tiny", 8, (6,), input_scales=(0.1,)), 3).eval()
    assert net(torch.zeros(1, 3, 1, 5)).shape == (1, 4, 1, 1)


@pytest.mark.parametrize("head", ["deeplab-v2", V3])
def test_a_design_is_all_that_a_network_is_rebuilt_from(head: str) -> None:
    design = SegDesign("tiny", 16, (1, 3), head, 48, (0.5,))
    net = build_seg(design, 5).eval()
    assert SegDesign(**asdict(design)) == design
    again = build_seg(SegDesign(**json.loads(json.dumps(asdict(design)))), 5).eval()  # JSON has lists only
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(noise(1, 3, 40, 40)), net(noise(1, 3, 40, 40)))
