"""The classification network: backbone, P head, aggregation over the memory's prototypes, O head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rcatool.models.backbones import Backbone
from rcatool.models.heads import LINEAR, HeadKind
from rcatool.models.region_memory import Attention, RegionMemory, aggregate


@dataclass(frozen=True)
class Maps:
    """Output of a forward pass: the backbone's levels, and class maps P and O (B, C, h, w); O is None for the plain CAM.

    `grounds` are the background's maps (B, 1, h, w) beside P and O, of a network that has them.
    """

    pyramid: Sequence[Tensor]
    p: Tensor
    o: Tensor | None
    grounds: Sequence[Tensor] = ()

    @property
    def features(self) -> Tensor:
        """F (B, D, h, w), the last of the backbone's levels."""
        return self.pyramid[-1]

    @property
    def final(self) -> Tensor:
        """The map that seeds are made of: O, or P where there is no O."""
        return self.p if self.o is None else self.o

    def seeds(self, head: str = "o") -> Tensor:
        """What CAMs are made of, not negative (B, C, h, w): the positive part of P or the final map, or its share beside a background."""
        first = head == "p" or self.o is None
        chosen = self.p if first else self.final
        if not self.grounds:
            return chosen.relu()
        return torch.cat([chosen, self.grounds[0 if first else 1]], dim=1).softmax(dim=1)[:, :-1]


class RcaNet(nn.Module):
    """F = backbone(I); P = 1x1(F); O = 1x1([context, s F]) with context from the memory's prototypes (paper Fig. 2, spec 1.1).

    `feature_scale` s is 1 in the paper; below 1 the context weighs more, and O is flatter over an object than P.
    Heads are 1x1 and free of bias, so that a class's score is exactly the mean of its map, or deep (`head`). Without a memory it
    is the plain CAM network. With `background` each head has one more map, the last; with `projection` there is a linear layer
    (D -> that many) for the contrast to look through. `forward` has no side effect; with the aggregation off, or before there are
    prototypes, the context is zero and O depends on F only.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        memory: RegionMemory | None = None,
        *,
        attention: Attention = "cosine",
        attention_temperature: float = 0.07,
        feature_scale: float = 1.0,
        projection: int = 0,
        head: HeadKind = LINEAR,
        background: bool = False,
    ) -> None:
        super().__init__()
        width = backbone.out_channels
        self.num_classes = num_classes
        self.backbone = backbone
        self.memory = memory
        self.attention: Attention = attention
        self.attention_temperature = attention_temperature
        self.feature_scale = feature_scale
        channels = num_classes + background
        self.p_head = head.build(width, channels, separate=False)
        self.o_head: nn.Module | None = None
        self.projection: nn.Linear | None = None
        if memory is not None:
            self.o_head = head.build(2 * width, channels, separate=True)
            if projection:
                self.projection = nn.Linear(width, projection, bias=False)

    def forward(self, images: Tensor) -> Maps:
        """Images (B, 3, H, W) float32, normalised -> maps at the backbone's output stride."""
        pyramid = self.backbone.pyramid(images)
        features = pyramid[-1]
        p = self.p_head(features)
        if self.o_head is None or self.memory is None:
            return self._split(pyramid, p)
        context = aggregate(
            features, self.memory.valid_prototypes, attention=self.attention, attention_temperature=self.attention_temperature
        )
        return self._split(pyramid, p, self.o_head(torch.cat([context, self.feature_scale * features], dim=1)))

    def _split(self, pyramid: Sequence[Tensor], *maps: Tensor) -> Maps:
        """Classes and background apart."""
        classes = [one[:, : self.num_classes] for one in maps]
        grounds = [one[:, self.num_classes :] for one in maps if one.shape[1] > self.num_classes]
        return Maps(pyramid, classes[0], classes[1] if len(classes) > 1 else None, grounds)

    def heads(self) -> list[nn.Parameter]:
        """The parameters that start from nothing and take the heads' learning rate."""
        modules = (self.p_head, self.o_head, self.projection)
        return [parameter for module in modules if module is not None for parameter in module.parameters()]
