"""Ids of photos with free names, and splits that depend on nothing but the id."""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from rcatool.files import is_path_safe

LONGEST_ID = 160  # bytes of UTF-8, with room for a digest


def make_ids(photos: Sequence[str]) -> dict[str, str]:
    """Return photo -> id: its path without suffix, made safe for a file name; unique also where case does not count."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for photo in photos:
        name = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", os.path.splitext(photo)[0])).strip("-.")
        if len(name.encode(errors="replace")) > LONGEST_ID or not is_path_safe(name):
            name = f"photo-{_digest(photo)}"
        groups[name.casefold()].append((photo, name))
    ids = {}
    for group in groups.values():
        for photo, name in group:
            ids[photo] = name if len(group) == 1 else f"{name}-{_digest(photo)}"
    return ids


def split_of(image_id: str, *, val_fraction: float, tune_fraction: float) -> str:
    """Return train, val or tune, so that photos keep their split when other photos come.

    Ids lie on a line by their digest: val takes from its beginning, tune from its end, so that neither moves the other.
    """
    share = int(_digest(image_id), 16) / 2**32
    if share < val_fraction:
        return "val"
    return "tune" if 1 - share <= tune_fraction else "train"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
