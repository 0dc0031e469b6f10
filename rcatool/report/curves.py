"""What the training steps wrote to log.jsonl, as curves: losses, scores on the way, learning rate and images per second."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcatool.log_lines import is_number
from rcatool.report.chart import Line

BATCH = {"train-cls": "cls.batch_size", "make-pseudo/affinity": "affinity.batch_size"}  # other trainings: seg.batch_size
RATE = "images/s"
# Titles of fields; others are called by their own name.
TITLES = {
    "loss": "loss", "loss_o": "loss of the final map", "loss_p": "loss of the first map", "loss_contrast": "contrast loss",
    "val_map": "mAP of the tags, val", "tune_miou": "mIoU, tune", "lr": "learning rate", RATE: RATE,
    "memory_fill": "share of the memory filled", "prototypes": "prototypes",
}  # fmt: skip
SHARES = ("val_map", "tune_miou", "memory_fill")  # shown in percent
_X_FIELDS = ("step", "epoch", "time")


@dataclass(frozen=True)
class Curve:
    """One field of a log over steps or epochs."""

    field: str
    x_name: str
    line: Line

    @property
    def title(self) -> str:
        """What it is called on the page."""
        return TITLES.get(self.field, self.field.replace("_", " "))

    @property
    def is_main(self) -> bool:
        """Whether it is among what people look at first."""
        return self.field.startswith("loss") or self.field in ("val_map", "tune_miou", "lr", RATE)


def curves(entries: Iterable[Mapping[str, Any]], batch_size: int | None) -> list[Curve]:
    """The curves of a log's numbers: losses first, then scores, rate, learning rate, and the others by name.

    images/s: between two lines of the log, unless an epoch ended between them, whose validation would count as training.
    """
    points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    before: Mapping[str, Any] | None = None
    for entry in entries:
        x_name = "step" if is_number(entry.get("step")) else "epoch"
        if not is_number(entry.get(x_name)):
            continue
        for field, value in entry.items():
            if field not in _X_FIELDS and is_number(value):
                points[field, x_name].append((float(entry[x_name]), float(value)))
        if x_name == "step":
            rate = _rate(before, entry, batch_size)
            if rate is not None:
                points[RATE, x_name].append((float(entry["step"]), rate))
        before = entry if x_name == "step" else None
    found = [Curve(field, x_name, Line(TITLES.get(field, field), line)) for (field, x_name), line in points.items()]
    return sorted(found, key=_order)


def _rate(before: Mapping[str, Any] | None, entry: Mapping[str, Any], batch_size: int | None) -> float | None:
    if before is None or batch_size is None or not (is_number(before.get("time")) and is_number(entry.get("time"))):
        return None
    seconds = entry["time"] - before["time"]
    return batch_size * (entry["step"] - before["step"]) / seconds if seconds > 0 else None


def _order(curve: Curve) -> tuple[int, str]:
    first = ("loss", "val_map", "tune_miou", RATE, "lr")
    if curve.field in first:
        return (0 if curve.field == "loss" else 2 + first.index(curve.field)), curve.field
    return (1 if curve.field.startswith("loss") else 9), curve.field
