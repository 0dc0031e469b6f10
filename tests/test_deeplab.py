"""The segmentation network: its head is the sum of dilated convolutions."""

import torch
from torch import Tensor, nn

from rcatool.models.backbones import Backbone
from rcatool.models.deeplab import DeepLab, SegDesign, build_seg
from rcatool.models.seg_heads import SummedAspp

RATES = (1, 2, 5)


class Identity(nn.Module):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


def head(num_classes: int = 2) -> DeepLab:
    """A network that is its head alone, on three feature channels."""
    return DeepLab(Backbone(Identity(), 3, 1), SummedAspp(3, num_classes + 1, rates=RATES)).double()


def test_logits_equal_a_loop_over_branches_and_taps() -> None:
    net = head()
    features = torch.randn(1, 3, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.zeros(1, 3, 7, 9, dtype=torch.float64)
    for branch, rate in zip(net.head.branches, RATES, strict=True):
        padded = nn.functional.pad(features, (rate, rate, rate, rate))
        for i in range(3):
            for j in range(3):
                window = padded[:, :, i * rate : i * rate + 7, j * rate : j * rate + 9]
                expected += torch.einsum("od,bdhw->bohw", branch.weight[:, :, i, j], window)
        expected += branch.bias[:, None, None]
    torch.testing.assert_close(net(features), expected, rtol=0, atol=1e-12)


def test_a_pixel_is_seen_at_each_rate() -> None:
    net, features = head(), torch.zeros(1, 3, 15, 15, dtype=torch.float64)
    features[:, :, 7, 7] = 1
    seen = {(int(y) - 7, int(x) - 7) for y, x in net(features)[0, 0].abs().gt(0).nonzero()}
    assert seen == {(i * rate, j * rate) for rate in RATES for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_head_starts_small_and_takes_the_heads_learning_rate() -> None:
    net = build_seg(SegDesign("tiny", 8, RATES), 4)
    weights, biases = [branch.weight for branch in net.head.branches], [branch.bias for branch in net.head.branches]
    assert all(bool((bias == 0).all()) for bias in biases)
    assert all(0.009 < float(weight.detach().std()) < 0.011 for weight in weights)
    assert {id(p) for p in net.heads()} == {id(p) for p in (*weights, *biases)}
    backbone = {id(p) for p in net.backbone.parameters()}
    assert backbone | {id(p) for p in net.heads()} == {id(p) for p in net.parameters()}
    assert not backbone & {id(p) for p in net.heads()}


def test_one_map_for_background_and_each_class() -> None:
    net = build_seg(SegDesign("tiny", 8, (6, 12)), 4).eval()
    assert net(torch.zeros(2, 3, 33, 48)).shape == (2, 5, 5, 6)  # rates larger than the map are no problem
