"""What a segmentation network's file says beside its weights, and the checks of what such a file says."""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcatool import __version__
from rcatool.data.labels import ClassInfo, palette
from rcatool.data.transforms import MEAN, STD
from rcatool.errors import DataError
from rcatool.models.deeplab import SegDesign

FORMAT = 1
MAX_SIDE = 65_535
NOT_OURS = "rca export network --run RUN --out FILE.safetensors writes one"

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Card:
    """What a network's file says beside its weights; `palette` has C + 1 colours, `long_side` is the training photos' median."""

    design: SegDesign
    classes: ClassInfo
    long_side: int
    origin: str
    palette: tuple[Colour, ...]
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    version: str = __version__

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the mask values 0..C."""
        return ("background", *self.classes.names)


def card_fields(card: Card) -> dict[str, Any]:
    """A card as JSON values, which `read_card` takes."""
    return {"format": FORMAT, **dataclasses.asdict(card), "classes": list(card.classes.names)}


def own_fields(labels: int) -> dict[str, Any]:
    """The entries of a card that are the same for all networks that this version trains, for so many `labels`."""
    flat = palette(labels)
    colours = [flat[start : start + 3] for start in range(0, len(flat), 3)]
    return {"format": FORMAT, "palette": colours, "mean": MEAN, "std": STD, "version": __version__}


def read_card(document: Mapping[str, Any], where: str) -> Card:
    """The card that a JSON object spells out; DataError saying which entry is wrong."""

    def entry(name: str, expected: str, fits: bool) -> Any:
        if not fits:
            found = json.dumps(document[name], default=str)[:60] if name in document else "missing"
            raise DataError(f"{where}: {name}: {found}, expected {expected}", NOT_OURS)
        return document[name]

    get = document.get
    unknown = sorted(document.keys() - {"format", *(field.name for field in dataclasses.fields(Card))})
    entry("format", f"{FORMAT} (another version of rcatool wrote it)", type(get("format")) is int and get("format") == FORMAT)
    if unknown:
        raise DataError(f"{where}: this version of rcatool knows no {', '.join(unknown[:3])[:60]}", "update rcatool")
    names = entry("classes", "a list of names", isinstance(get("classes"), list) and all(isinstance(n, str) for n in get("classes", ())))
    try:
        classes = ClassInfo(tuple(names))
    except DataError as error:
        raise DataError(f"{where}: classes: {error.message}") from error
    count = len(names) + 1
    colours = entry("palette", f"{count} colours [R, G, B]", _rows(get("palette"), count, lambda v: type(v) is int and 0 <= v <= 255))
    mean = entry("mean", "3 finite numbers", _rows([get("mean")], 1, _is_finite))
    std = entry("std", "3 positive numbers", _rows([get("std")], 1, lambda v: _is_finite(v) and v > 0))
    side = entry("long_side", f"pixels, 1..{MAX_SIDE}", type(get("long_side")) is int and 1 <= get("long_side", 0) <= MAX_SIDE)
    origin, version = (entry(n, "a short text", isinstance(get(n), str) and len(get(n, "")) <= 200) for n in ("origin", "version"))
    design = read_design(get("design"), where)
    return Card(design, classes, side, origin, tuple(tuple(c) for c in colours), tuple(mean), tuple(std), version)


def read_design(fields: object, where: str) -> SegDesign:
    """A SegDesign of its fields by name, lists standing for tuples; DataError where one is unknown, lacks or is of another type."""
    if not isinstance(fields, Mapping):
        raise DataError(f"{where}: design: expected an object of the network's properties", NOT_OURS)
    hints = typing.get_type_hints(SegDesign)
    known = {field.name: field for field in dataclasses.fields(SegDesign)}
    unknown = sorted(str(name) for name in fields if name not in known)
    if unknown:
        raise DataError(f"{where}: design: this version of rcatool knows no {', '.join(unknown[:3])}", "update rcatool")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    wrong = [name for name, value in values.items() if not _is_a(value, hints[name])]
    wrong += [n for n, f in known.items() if n not in values and f.default is f.default_factory is dataclasses.MISSING]
    if wrong:
        found = json.dumps(values.get(wrong[0], "missing"), default=str)[:60]
        raise DataError(f"{where}: design.{wrong[0]}: {found}, expected {hints[wrong[0]]}", NOT_OURS)
    return SegDesign(**values)


def _is_a(value: object, hint: Any) -> bool:
    """Whether a value of JSON is of an annotated type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in inner
    if origin is tuple:
        each = inner[0] if inner[-1] is Ellipsis else None
        items = value if isinstance(value, tuple) else ()
        return isinstance(value, tuple) and (all(_is_a(v, each) for v in items) if each else _all_are(items, inner))
    if origin is not None:  # a union
        return any(_is_a(value, one) for one in inner)
    if hint is float:
        return _is_finite(value)
    if hint is int:
        return type(value) is int and abs(value) <= MAX_SIDE
    return value is None if hint is type(None) else type(value) is hint


def _all_are(items: tuple[object, ...], hints: tuple[Any, ...]) -> bool:
    return len(items) == len(hints) and all(_is_a(item, hint) for item, hint in zip(items, hints, strict=True))


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _rows(value: object, count: int, fits: Any) -> bool:
    """Whether `value` is a list of `count` triples of values that fit."""
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return False
    return all(isinstance(row, (list, tuple)) and len(row) == 3 and all(fits(v) for v in row) for row in value)
