"""The loss that affinities are learned with: like with like close, like with unlike apart, what is not sure left out (spec 3.5)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.data.labels import IGNORE
from rcatool.ranks import total
from rcatool.refine.pairs import Offset, far_ends

EPSILON = 1e-5
SHARES = {"background": 0.25, "object": 0.25, "different": 0.5}


def pair_kinds(label: Tensor, offsets: Sequence[Offset]) -> dict[str, Tensor]:
    """Which pairs of cells of label (B, h, w) int64 are of two `background` cells, one `object` class, or `different` classes.

    Masks (B, P, h, w) bool; pairs with an end that is 255, or off the grid, are in none of them.
    """
    far = torch.stack([far_ends(label, offset, outside=IGNORE) for offset in offsets], dim=1)
    near = label[:, None]
    sure = (near != IGNORE) & (far != IGNORE)
    same = sure & (near == far)
    return {"background": same & (near == 0), "object": same & (near != 0), "different": sure & (near != far)}


def affinity_loss(affinity: Tensor, label: Tensor, offsets: Sequence[Offset]) -> dict[str, Tensor]:
    """Loss of affinities (B, P, h, w) in [0, 1] for label (B, H, W) int64, read at the nearest pixel of each cell.

    A mean over the pairs of each kind, of -log a where both are alike and -log(1 - a) where not; `loss` is a quarter of the first
    two and half of the third. A kind without a pair adds nothing.
    """
    coarse = F.interpolate(label[:, None].float(), size=affinity.shape[-2:], mode="nearest-exact")[:, 0].long()
    close, apart = -(affinity + EPSILON).log(), -(1 + EPSILON - affinity).log()
    terms = {}
    for kind, mask in pair_kinds(coarse, offsets).items():
        costs = apart if kind == "different" else close
        terms[kind] = total((costs * mask).sum()) / total(mask.sum()).clamp(min=1)
    loss = torch.stack([SHARES[kind] * term for kind, term in terms.items()]).sum()
    return {"loss": loss, **{f"loss_{kind}": term for kind, term in terms.items()}}
