"""The deep heads: all at once against one by one, forward and gradients; sizes of the released layout (spec 2.2, D16)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.models.heads import CONVS, HeadKind, SeparateHeads, deep_head

D, WIDTH, CLASSES = 6, 5, 4
Forward = Callable[[SeparateHeads, Tensor], Tensor]
FORWARDS = pytest.mark.parametrize("forward", [SeparateHeads.forward, SeparateHeads.grouped])


def heads() -> SeparateHeads:
    torch.manual_seed(0)
    made = SeparateHeads(D, CLASSES, width=WIDTH)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made


def features() -> Tensor:
    return torch.randn(2, D, 7, 5, generator=torch.Generator().manual_seed(1))


def literal(head: nn.Module, x: Tensor) -> Tensor:
    """The layers of one head, written out."""
    for place in CONVS:
        layer = head[place]  # type: ignore[index]
        x = F.conv2d(x, layer.weight, layer.bias, padding=0 if place == 6 else 1)
        x = x if place == 6 else x.relu()
    return x


@FORWARDS
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_separate_stacks(forward: Forward, layout: torch.memory_format) -> None:
    ours, theirs = heads().to(memory_format=layout), heads()
    x, y = features().to(memory_format=layout).requires_grad_(), features().requires_grad_()
    found, expected = forward(ours, x), torch.cat([literal(head, y) for head in theirs], dim=1)
    assert found.shape == (2, CLASSES, 7, 5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-5)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert other.grad is not None
        assert other.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5, msg=name)


@FORWARDS
def test_a_map_does_not_depend_on_other_heads(forward: Forward) -> None:
    made = heads()
    before = forward(made, features())
    with torch.no_grad():
        for parameter in made[2].parameters():
            parameter.add_(1)
    after = forward(made, features())
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
    assert not torch.equal(after[:, 2], before[:, 2])


def test_sizes_of_the_released_layout() -> None:
    with torch.device("meta"):  # 0.6 GB otherwise
        separate, shared = (HeadKind("grouped").build(512, 20, separate=separate) for separate in (True, False))
    assert sum(p.numel() for p in separate.parameters()) == 141_598_740
    assert sum(p.numel() for p in shared.parameters()) == 7_089_684  # 3 (512^2 9 + 512) + 20 (512 + 1)


def test_shared_head_is_the_plain_stack() -> None:
    torch.manual_seed(0)
    head = deep_head(D, CLASSES, width=WIDTH)
    torch.testing.assert_close(head(features()), literal(head, features()))
    assert {bool(head[place].weight.std() < 0.02) for place in CONVS} == {True}  # type: ignore[arg-type]


def test_linear_head_has_no_bias() -> None:
    torch.manual_seed(0)
    head = HeadKind().build(D, CLASSES, separate=True)
    assert [tuple(p.shape) for p in head.parameters()] == [(CLASSES, D, 1, 1)]
