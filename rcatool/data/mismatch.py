"""Faults of a data set that no single photo shows: tags that do not mean what the masks show, masks that are off by one class.

Works on the census of `data.census`, which lists for each photo the tags without a pixel and the pixels without a tag.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

_FEWEST = 5  # photos that tell
_MOST_WRONG = 0.5  # share of a class's photos whose masks may lack it: cropped and tiny objects, sloppy tags
_SHIFTED = 0.6  # share of the photos with a mismatch that a shift must explain; with neighbours among a photo's tags it does not


def mismatches(document: Mapping[str, Any]) -> list[str]:
    """A line for each fault, the most telling one first; empty where tags and masks go together or cannot be compared."""
    names = list(document["classes"])
    missing, extra = (_classes(document, kind) for kind in ("tag_without_pixel", "pixel_without_tag"))
    shift = _shift(missing, extra, names, document)
    if shift:
        return [shift]
    return [line for name in names if (line := _never_matches(name, missing, extra, document))]


def _classes(document: Mapping[str, Any], kind: str) -> dict[tuple[str, str], set[str]]:
    """The odd classes of each photo, by split and id."""
    return {(entry["split"], entry["id"]): set(entry["classes"]) for entry in document["suspicious"][kind]}


def _shift(
    missing: Mapping[tuple[str, str], set[str]], extra: Mapping[tuple[str, str], set[str]], names: list[str], document: Mapping[str, Any]
) -> str:
    """The line that says that masks are off by one class, if they are."""
    compared = sum(split["with_mask_and_tags"] for split in document["splits"].values())
    place = {name: number for number, name in enumerate(names)}
    if len(missing) < _FEWEST or len(missing) < _MOST_WRONG * compared:
        return ""
    for by in (1, -1):
        # The last class has nowhere to go: it is lost, as background or as a value that is refused.
        moved = {photo: {place[name] + by for name in classes} & set(range(len(names))) for photo, classes in missing.items()}
        there = {photo: {place[name] for name in extra.get(photo, ())} for photo in missing}
        explained = sum(moved[photo] <= there[photo] for photo in missing)
        told = set().union(*(moved[photo] & there[photo] for photo in missing))  # of one class alone, it would be a confused name
        if len(told) >= min(2, len(names) - 1) and explained >= _SHIFTED * len(missing):
            return (
                f"the masks are off by one class: in {explained} of {len(missing)} photos that do not match, their values are one too "
                f"{'high' if by > 0 else 'low'} for the tags (background is 0, the first class 1; is the list of classes the masks' own?)"
            )
    return ""


def _never_matches(
    name: str, missing: Mapping[tuple[str, str], set[str]], extra: Mapping[tuple[str, str], set[str]], document: Mapping[str, Any]
) -> str:
    """The line about a class whose tag is wrong in most photos that have a mask, if it is such a one."""
    without = [photo for photo, classes in missing.items() if name in classes]
    masked = [split for split, about in document["splits"].items() if about["with_mask"] == about["photos"]]
    tagged = sum(document["classes"][name][split]["tagged"] for split in masked)
    wrong = sum(split in masked for split, _ in without)
    if wrong < _FEWEST or wrong <= _MOST_WRONG * tagged:
        return ""
    instead = Counter(other for photo in without for other in extra.get(photo, ()))
    other, count = max(instead.items(), key=lambda item: item[1], default=("", 0))
    shown = f"; {count} of these masks show {other!r} in its place: are the two names confused?" if count >= _MOST_WRONG * wrong else ""
    return f"the tag {name!r} does not match the masks: {wrong} of {tagged} photos with it have no pixel of it{shown}"
