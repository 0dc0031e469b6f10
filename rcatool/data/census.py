"""What a data set holds, for a person to check: counts, how much the masks cover, suspicious files, digests.

The document, RUN/prepare/summary.json, names no folder: the same data set gives the same document wherever it lies.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rcatool.data.colours import ColourCount, Hues, swapped
from rcatool.data.labels import IGNORE, ClassInfo, class_to_mask, mask_to_class
from rcatool.data.manifest import SPLITS, Sample, first_few
from rcatool.data.mask_digest import set_digest
from rcatool.data.phash import near_pairs

FORMAT = 1
BACKGROUND = 0
_SHOWN = 3  # names of suspicious photos in a line


@dataclass(frozen=True)
class Look:
    """What a look into one photo and its mask found."""

    sample: Sample
    pixels: Mapping[int, int] | None = None  # mask value -> number of pixels; None without a mask
    mask_digest: str = ""  # of the mask's content
    hash: bytes | None = None  # perceptual; None for a photo that shows nothing
    hues: Hues | None = None
    more_pictures: bool = False  # the photo's file holds an animation or several pages
    problems: tuple[str, ...] = ()

    @property
    def in_mask(self) -> frozenset[int] | None:
        """The classes with a pixel; None without a mask."""
        if self.pixels is None:
            return None
        return frozenset(mask_to_class(value) for value in self.pixels if value not in (BACKGROUND, IGNORE))


class Census:
    """Counts photo after photo; keeps a few dozen bytes of each."""

    def __init__(self, info: ClassInfo) -> None:
        self.info = info
        self._photos: Counter[str] = Counter()
        self._tags: Counter[tuple[str, int]] = Counter()  # (split, class)
        self._tags_per_photo: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._seen: Counter[tuple[str, int]] = Counter()  # (split, class): photos with a pixel of it
        self._pixels: defaultdict[str, Counter[int]] = defaultdict(Counter)  # by mask value
        self._masks: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self._compared: Counter[str] = Counter()  # photos with tags and a mask
        self._ids: list[tuple[str, str, bytes | None]] = []  # split, id, hash
        self._first: dict[str, tuple[str, str]] = {}  # digest of a photo's file -> split, id
        self._suspicious: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._colours = ColourCount()

    def add(self, look: Look) -> None:
        """Count one photo that has no problems."""
        sample, split = look.sample, look.sample.split
        self._photos[split] += 1
        self._tags.update((split, c) for c in sample.classes)
        self._tags_per_photo[split][len(sample.classes)] += 1
        self._ids.append((split, sample.id, look.hash))
        if look.hues is not None:
            self._colours.add(look.hues)
        if look.hash is None:
            self._suspicious["empty_photos"].append({"id": sample.id, "split": split})
        if look.more_pictures:
            self._suspicious["more_pictures"].append({"id": sample.id, "split": split})
        equal = self._first.setdefault(sample.sha256, (split, sample.id))
        if equal != (split, sample.id):
            self._suspicious["equal_photos"].append({"id": sample.id, "split": split, "same_as": equal[1]})
        if look.pixels is not None:
            self._add_mask(look, look.pixels)

    def _add_mask(self, look: Look, pixels: Mapping[int, int]) -> None:
        sample, split = look.sample, look.sample.split
        self._pixels[split].update(pixels)
        self._masks[split].append((sample.id, look.mask_digest))
        seen, tags = look.in_mask or frozenset(), set(sample.classes)
        self._seen.update((split, c) for c in seen)
        self._compared[split] += bool(tags)
        for kind, odd in (("tag_without_pixel", tags - seen), ("pixel_without_tag", seen - tags)):
            if odd and tags:  # without tags there is nothing to compare
                names = [self.info.names[c] for c in sorted(odd)]
                self._suspicious[kind].append({"id": sample.id, "split": split, "classes": names})

    def document(self) -> dict[str, Any]:
        """Return all of it, as JSON values in an order that depends on the data alone."""
        splits = [split for split in SPLITS if self._photos[split]]
        unseen = [name for c, name in enumerate(self.info.names) if not self._tags["train", c]]
        kinds = ("tag_without_pixel", "pixel_without_tag", "equal_photos", "empty_photos", "more_pictures")
        suspicious: dict[str, list[Any]] = {kind: sorted(self._suspicious[kind], key=_place) for kind in kinds}
        suspicious |= {"near_duplicates": self._near_duplicates(), "classes_without_training_photo": unseen}
        return {
            "format": FORMAT,
            "splits": {split: self._split(split) for split in splits},
            "classes": {name: {split: self._class(c, split) for split in splits} for c, name in enumerate(self.info.names)},
            "suspicious": suspicious,
            "colours": self._colours.document(),
        }

    def _split(self, split: str) -> dict[str, Any]:
        counts = self._tags_per_photo[split]
        return {
            "photos": self._photos[split],
            "tagged": self._photos[split] - counts[0],
            "with_mask": len(self._masks[split]),
            "with_mask_and_tags": self._compared[split],
            "tags_per_photo": {str(number): counts[number] for number in sorted(counts)},
            "background": self._share(split, BACKGROUND),
            "void": self._share(split, IGNORE),
            "ids_digest": set_digest((image_id, "") for part, image_id, _ in self._ids if part == split),
            "masks_digest": set_digest(self._masks[split]) if self._masks[split] else None,
        }

    def _class(self, c: int, split: str) -> dict[str, Any]:
        return {"tagged": self._tags[split, c], "in_masks": self._seen[split, c], "pixels": self._share(split, class_to_mask(c))}

    def _share(self, split: str, value: int) -> float | None:
        """Return the share of the pixels of a split's masks that have a value; None without masks."""
        total = self._pixels[split].total()
        return round(self._pixels[split][value] / total, 6) if total else None

    def _near_duplicates(self) -> list[dict[str, Any]]:
        """Return the pairs of photos of different splits that look the same."""
        shown = sorted((SPLITS.index(split), image_id, code) for split, image_id, code in self._ids if code is not None)
        groups = np.array([group for group, _, _ in shown])
        pairs = near_pairs([code for _, _, code in shown], groups)
        return [{"ids": [shown[i][1], shown[j][1]], "splits": [SPLITS[groups[i]], SPLITS[groups[j]]], "bits": bits} for i, j, bits in pairs]


def _place(entry: Mapping[str, Any]) -> tuple[int, str]:
    return SPLITS.index(entry["split"]), entry["id"]


def oddities(document: Mapping[str, Any]) -> list[str]:
    """Return a line for each kind of suspicious photos of a census, with the first few names."""
    found = document["suspicious"]
    masked = sum(split["with_mask_and_tags"] for split in document["splits"].values())
    among = f"{{}} of {masked} photos with a mask have "
    lines = [
        _line(f"{among}a tag without a pixel", found["tag_without_pixel"], _with_classes),
        _line(f"{among}pixels of a class they are not tagged with", found["pixel_without_tag"], _with_classes),
        _line("pairs of photos in different splits that look the same: {}", found["near_duplicates"], _pair),
        _line("photos that are there twice in one split: {}", found["equal_photos"], lambda entry: f"{entry['id']} is {entry['same_as']}"),
        _line("photos with an animation or several pages, of which the first is taken: {}", found["more_pictures"], _name),
        _line("photos that show a single tone: {}", found["empty_photos"], _name),
    ]
    unseen = found["classes_without_training_photo"]
    lines.append(f"no training photo has the tag {' or '.join(map(repr, unseen))}" if unseen else "")
    lines += [_everywhere(document), swapped(document)]
    return [line for line in lines if line]


def _everywhere(document: Mapping[str, Any]) -> str:
    """A line about the classes that every tagged training photo has: a network that knows tags only has nothing to tell them by."""
    tagged = document["splits"].get("train", {}).get("tagged", 0)
    found = [name for name, counts in document["classes"].items() if tagged > 1 and counts["train"]["tagged"] == tagged]
    if not found:
        return ""
    return f"every training photo has the tag {' and '.join(map(repr, found))}: nothing tells it from the background (add photos without)"


def _line(what: str, entries: Sequence[Mapping[str, Any]], name: Callable[[Mapping[str, Any]], str]) -> str:
    few = first_few([name(entry) for entry in entries[: _SHOWN + 1]], _SHOWN)
    return f"{what.format(len(entries))} ({few})" if entries else ""


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["id"])


def _with_classes(entry: Mapping[str, Any]) -> str:
    return f"{entry['id']}: {' '.join(entry['classes'])}"


def _pair(entry: Mapping[str, Any]) -> str:
    return " and ".join(f"{image_id} in {split}" for image_id, split in zip(entry["ids"], entry["splits"], strict=True))


def coverage(document: Mapping[str, Any]) -> Iterable[str]:
    """Yield two lines for each split of a census: tags per photo, and what its masks hold, with their digest."""
    for name, split in document["splits"].items():
        photos, tags = split["photos"], split["tags_per_photo"]
        mean = sum(int(number) * count for number, count in tags.items()) / photos
        spread = ", ".join(f"{number}: {count}" for number, count in tags.items())
        yield f"{name}: {photos} photos, {mean:.2f} tags each ({spread})"
        if split["with_mask"]:
            background, void = split["background"], split["void"]
            shares = f"background {background:.1%}, objects {1 - background - void:.1%}, void {void:.1%}"
            yield f"{name}: {split['with_mask']} masks, {shares}; digest of the masks {split['masks_digest']}"
