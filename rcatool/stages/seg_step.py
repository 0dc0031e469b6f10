"""The loss of one step of train-seg, as `seg.loss` and `seg.noise` say, and what a training wants to know of its steps afterwards."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from rcatool.config_seg import Seg
from rcatool.data.labels import IGNORE
from rcatool.models.average import WeightAverage
from rcatool.models.deeplab import DeepLab
from rcatool.models.seg_loss import corrected, seg_loss
from rcatool.ranks import all_rows, total

FEWEST_STEPS = 50  # before which it is no news that a network predicts background only
LITTLE = 0.01  # share of the labels' foreground below which there is as good as none


@dataclass(frozen=True)
class Teacher:
    """The average of the weights, and the mask values (n, C + 1) bool, on its device, that each training photo can have."""

    average: WeightAverage
    allowed: Tensor


class StepLoss:
    """A batch -> its losses. Call `begin` before each epoch; `bad_photos` and `is_background_only` look back."""

    def __init__(self, model: DeepLab, settings: Seg, teacher: Teacher | None, *, window: int) -> None:
        """`window`: steps between two looks at the loss (runtime.log_every)."""
        self.model, self.settings, self.teacher = model, settings, teacher
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=window)
        self._epoch, self._shares, self._steps = 0, torch.zeros(2), 0

    def begin(self, epoch: int) -> None:
        """Start to count anew."""
        self._epoch, self._shares, self._steps = epoch, torch.zeros(2), 0
        self._recent.clear()

    def __call__(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Loss of (images, label (B, H, W), photo numbers (B,), and with seg.noise confidence weights (B, H, W)), float32; images on the
        device.
        """
        images = batch[0]
        label, photos, *weights = (part.to(images.device, non_blocking=True) for part in batch[1:])
        started = self._epoch >= self.settings.noise_start
        outputs = self.model.outputs(images)
        scalars: dict[str, Tensor] = {}
        if self.teacher is not None and started:
            taught = self._teach(images, label, photos)
            scalars["corrected"] = total((taught != label).sum()) / total((label != IGNORE).sum()).clamp(min=1)
            label = taught
        power = self.settings.gce_power if self.settings.noise == "gce" and started else 0.0
        weight = weights[0] if weights else None
        balanced = self.settings.loss == "balanced"
        losses = [seg_loss(logits, label, balanced=balanced, weight=weight, power=power) for logits in outputs]
        loss = torch.stack(losses).sum()
        self._recent.append((loss.detach(), photos))
        return {"loss": loss, "foreground": self._foreground(outputs[-1].detach(), label), **scalars}

    @torch.no_grad()
    def _teach(self, images: Tensor, label: Tensor, photos: Tensor) -> Tensor:
        assert self.teacher is not None
        logits = self.teacher.average.model(images)
        return corrected(label, logits, self.teacher.allowed[photos], confidence=self.settings.teacher_confidence)

    def _foreground(self, logits: Tensor, label: Tensor) -> Tensor:
        """Share of the cells that are predicted to be no background; counted beside the labels' share."""
        seen = (logits.argmax(dim=1) > 0).float()
        known = label != IGNORE
        counts = [seen.sum(), seen.new_full((), seen.numel()), (known & (label != 0)).sum(), known.sum()]
        objects, cells, foreground, pixels = total(torch.stack([count.double() for count in counts]))
        predicted, labelled = (objects / cells).float(), (foreground / pixels.clamp(min=1)).float()
        self._shares = self._shares.to(predicted.device) + torch.stack([predicted, labelled])
        self._steps += 1
        return predicted

    def bad_photos(self) -> list[int]:
        """Numbers of the photos of the first recent batch whose loss was not finite."""
        return next((all_rows(photos).tolist() for loss, photos in self._recent if not bool(torch.isfinite(loss))), [])

    def is_background_only(self, *, finished: bool) -> bool:
        """Whether the network predicted as good as nothing but background in this epoch, where labels had more; early steps say nothing."""
        predicted, labelled = (self._shares / max(self._steps, 1)).tolist()
        steps = self._steps * (self._epoch + 1)
        return predicted < LITTLE * labelled and (finished or steps >= FEWEST_STEPS)
