"""The deep heads against stacks of torch's own layers in a loop, one for each class (spec 2.2, D16)."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.models.heads import DeepHead, HeadKind

D, WIDTH, CLASSES = 6, 5, 4
CONVS = (0, 2, 4, 6)  # places of the convolutions in a stack


def separate_stacks(head: DeepHead) -> list[nn.Sequential]:
    """C networks with the weights that belong to one class each."""
    stacks = []
    for c in range(CLASSES):
        sizes = ((D, WIDTH, 3), (WIDTH, WIDTH, 3), (WIDTH, WIDTH, 3), (WIDTH, 1, 1))
        convs = [nn.Conv2d(i, o, k, padding=k // 2) for i, o, k in sizes]
        for conv, place in zip(convs, CONVS, strict=True):
            rows = slice(c * conv.out_channels, (c + 1) * conv.out_channels)
            conv.load_state_dict({"weight": head[place].weight[rows].detach(), "bias": head[place].bias[rows].detach()})
        layers = [layer for conv in convs for layer in (conv, nn.ReLU())][:-1]
        stacks.append(nn.Sequential(*layers))
    return stacks


def deep_head(seed: int = 0) -> DeepHead:
    torch.manual_seed(seed)
    head = DeepHead(D, CLASSES, width=WIDTH, separate=True)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.3)
    return head


def features() -> Tensor:
    return torch.randn(2, D, 7, 5, generator=torch.Generator().manual_seed(1))


def as_on_a_gpu(head: DeepHead, x: Tensor) -> Tensor:
    """The four launches that other devices take."""
    return nn.Sequential.forward(head, x)


@pytest.mark.parametrize("forward", [DeepHead.forward, as_on_a_gpu])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_grouped_equals_separate_stacks(forward: object, layout: torch.memory_format) -> None:
    head = deep_head()
    stacks = separate_stacks(head)
    head = head.to(memory_format=layout)
    ours, theirs = (features().to(memory_format=layout).requires_grad_() for _ in range(2))
    found, expected = forward(head, ours), torch.cat([stack(theirs) for stack in stacks], dim=1)  # type: ignore[operator]
    assert found.shape == (2, CLASSES, 7, 5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    for place in CONVS:
        for name in ("weight", "bias"):
            expected_grad = torch.cat([getattr(stack[place], name).grad for stack in stacks])
            torch.testing.assert_close(getattr(head[place], name).grad, expected_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("forward", [DeepHead.forward, as_on_a_gpu])
def test_a_map_does_not_depend_on_other_heads(forward: object) -> None:
    head = deep_head()
    before = forward(head, features())  # type: ignore[operator]
    with torch.no_grad():
        for place in CONVS:
            rows = head[place].out_channels // CLASSES
            head[place].weight[2 * rows : 3 * rows] += 1
    after = forward(head, features())  # type: ignore[operator]
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
    assert not torch.equal(after[:, 2], before[:, 2])


def test_sizes_of_the_released_layout() -> None:
    with torch.device("meta"):  # 0.6 GB otherwise
        separate = DeepHead(512, 20, width=512, separate=True)
        shared = DeepHead(512, 20, width=512, separate=False)
    assert sum(p.numel() for p in separate.parameters()) == 141_598_740
    assert sum(p.numel() for p in shared.parameters()) == 7_089_684  # 3 (512^2 9 + 512) + 20 (512 + 1)


def test_shared_head_is_the_plain_stack() -> None:
    torch.manual_seed(0)
    head = HeadKind("grouped", WIDTH).build(D, CLASSES, separate=False)
    x = features()
    expected = x
    for place in CONVS:
        layer = head[place]  # type: ignore[index]
        expected = F.conv2d(expected, layer.weight, layer.bias, padding=0 if place == 6 else 1)
        expected = expected if place == 6 else expected.relu()
    torch.testing.assert_close(head(x), expected)


def test_linear_head_has_no_bias() -> None:
    torch.manual_seed(0)
    head = HeadKind().build(D, CLASSES, separate=True)
    assert [tuple(p.shape) for p in head.parameters()] == [(CLASSES, D, 1, 1)]
