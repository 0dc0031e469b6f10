"""Online attention accumulation (OAA; spec 3.1): what the class maps showed over the epochs, kept per training photo and tag.

Different epochs look at different parts of an object; the maximum over them covers more of it than any one does. Photos are
told apart by their index, and every map is put back where it belongs in its photo, so the order, the crop and the mirror
of a training step do not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool.cams import cam_size
from rcatool.ranks import take_largest

Rule = Literal["topk", "confidence"]


@dataclass(frozen=True)
class AccumulationRule:
    """Which tags of a photo are added to: those among its k highest scores, k the number of its tags, or of probability >= `threshold`."""

    rule: Rule
    threshold: float

    def passes(self, score: Tensor, keys: Tensor) -> Tensor:
        """Which of the classes `keys` (K,) pass, as (K,) bool, for probabilities of all classes (C,)."""
        if self.rule == "confidence":
            return score[keys] >= self.threshold
        return (score[None] > score[keys, None]).sum(dim=1) < len(keys)


class AttentionAccumulator(nn.Module):
    """The accumulated maps of training photos with tags (n, C) bool and `sizes` (H, W), at one cell per `stride` pixels.

    Buffers, on the CPU: values uint8, the maps of all (photo, tag) pairs one after another, each (ceil(H / stride),
    ceil(W / stride)), 255 its maximum; seen (pairs,) bool. Both belong to the checkpoint of a training.
    """

    def __init__(self, tags: Tensor, sizes: Sequence[tuple[int, int]], *, stride: int) -> None:
        super().__init__()
        photo, self.cls = tags.nonzero(as_tuple=True)
        self.grids = [cam_size(*size, stride) for size in sizes]
        cells = torch.tensor([self.grids[number][0] * self.grids[number][1] for number in photo.tolist()], dtype=torch.long)
        self.starts = F.pad(cells.cumsum(0), (1, 0)).tolist()  # of each pair's cells, and the end
        self.first = F.pad(tags.sum(dim=1).cumsum(0), (1, 0)).tolist()  # of each photo's pairs, and the end
        self.register_buffer("values", torch.zeros(self.starts[-1], dtype=torch.uint8))
        self.register_buffer("seen", torch.zeros(len(photo), dtype=torch.bool))

    values: Tensor
    seen: Tensor

    @torch.no_grad()
    def update(
        self, maps: Tensor, score: Tensor, *, where: tuple[Tensor, Tensor], crop_size: int, rule: AccumulationRule, last: bool = False
    ) -> int:
        """Take the maximum with class maps (B, C, h, w) of crops of `crop_size` pixels; returns how many pairs were added to.

        score (B, C) probabilities; where: photo indices (B,) and views (B, 7) as `data.transforms.View.numbers`. A map is its
        positive part over its maximum within the photo. In the `last` epoch a pair that nothing was added to yet needs no score.
        """
        score, photos, views = score.cpu(), where[0].tolist(), where[1].cpu()
        pairs: list[int] = []
        found: list[Tensor] = []
        for place, number in enumerate(photos):
            own = torch.arange(self.first[number], self.first[number + 1])
            chosen = rule.passes(score[place], self.cls[own])
            own = own[chosen | ~self.seen[own] if last else chosen]
            if len(own):
                raw = maps[place, self.cls[own].to(maps.device)].float().relu()
                found += [one.flatten() for one in map_to_photo(raw, views[place], self.grids[number], crop_size)]
                pairs += own.tolist()
        return self._write(pairs, found)

    def _write(self, pairs: list[int], found: list[Tensor]) -> int:
        """Take the maximum of pairs and flat maps that are positive somewhere; one transfer from the device for all."""
        if not pairs:
            return 0
        peaks = torch.stack([one.max() for one in found])
        levels = [(one / peak * 255).round() for one, peak in zip(found, peaks, strict=True)]
        usable = (torch.isfinite(peaks) & (peaks > 0)).tolist()
        flat = torch.cat([one.nan_to_num(0).to(torch.uint8) for one in levels]).cpu()
        for pair, good, one in zip(pairs, usable, flat.split([len(one) for one in found]), strict=True):
            if good:
                piece = self.values[self.starts[pair] : self.starts[pair + 1]]
                torch.maximum(piece, one, out=piece)
                self.seen[pair] = True
        return sum(usable)

    def share(self) -> None:
        """Take the maximum over all processes, each of which has seen its share of the photos."""
        take_largest(self.values, self.seen)

    def merge(self, other: "AttentionAccumulator") -> None:
        """Take the maximum with another accumulator of the same photos, as of another process."""
        torch.maximum(self.values, other.values, out=self.values)
        self.seen |= other.seen

    def photo_cam(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What was accumulated for a photo: keys (K,) int64, its tags, ascending; maps (K, h, w) float32 in [0, 1], zero if never seen."""
        first, end = self.first[number], self.first[number + 1]
        cells = self.values[self.starts[first] : self.starts[end]].view(end - first, *self.grids[number])
        return self.cls[first:end].numpy(), cells.numpy().astype(np.float32) / 255


def map_to_photo(maps: Tensor, view: Tensor, grid: tuple[int, int], crop_size: int) -> Tensor:
    """Maps (K, h, w) of a crop, put back in its whole photo: (K, *grid) float32, zero where the crop did not reach.

    view (7,) as `data.transforms.View.numbers`. The middle of every cell of the photo is looked up in the crop, bilinearly.
    """
    height, width, top, left, pad_top, pad_left, mirror = view.tolist()
    rows, columns = (torch.arange(count, device=maps.device, dtype=torch.float32) + 0.5 for count in grid)
    y = rows / grid[0] * height - top + pad_top  # pixels of the crop
    x = columns / grid[1] * width - left + pad_left
    inside = ((y >= 0) & (y < crop_size))[:, None] & ((x >= 0) & (x < crop_size))
    x = crop_size - x if mirror else x
    places = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1) / crop_size * 2 - 1  # grid_sample wants (x, y) in [-1, 1]
    return F.grid_sample(maps[None], places[None], mode="bilinear", padding_mode="border", align_corners=False)[0] * inside
