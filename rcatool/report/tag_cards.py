"""Tag suspects on the page: photos whose tags the classifier doubts, and photos in which it sees a class without a tag."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from rcatool.data.photos import read_image
from rcatool.errors import RcaError
from rcatool.report.galleries import Budget
from rcatool.report.panels import Album, data_uri
from rcatool.score_tables import percent
from rcatool.suspects import KINDS
from rcatool.tag_scores import NAME, Doubt, doubts, read_scores

EACH = 12  # photos of each kind
SIDE = 180  # pixels of a thumbnail's long side
QUALITY = 75


@dataclass(frozen=True)
class Card:
    """A photo and one class: data URI, width, height, id, class, probability in percent, the photo's tags, whether it is unusual."""

    uri: str
    width: int
    height: int
    photo_id: str
    cls: str
    probability: str
    tags: str
    beyond: bool


def tag_cards(album: Album, budget: Budget) -> list[dict[str, Any]]:
    """Both kinds, each with its cards and counts; empty where the run has no scores of the classifier. DataError for a broken file."""
    folder = album.run.dir("make-pseudo/cams")
    if not (folder / NAME).is_file():
        return []
    scores = read_scores(folder, num_classes=album.classes.num_classes)
    both = doubts(scores, list(album.samples.values()), most=EACH)
    return [
        {"title": title, "cards": _cards(album, found.first, budget), "found": found}
        for (kind, title), found in zip(KINDS.items(), both, strict=True)
    ]


def _cards(album: Album, found: Sequence[Doubt], budget: Budget) -> list[Card]:
    cards = []
    for doubt in found:
        sample = album.samples[doubt.photo]
        try:
            photo = Image.fromarray(read_image(album.root / sample.image))
        except RcaError as error:
            budget.broken.append(error.message)
            continue
        photo.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
        uri = data_uri(photo, QUALITY)
        if not budget.spend(len(uri)):
            budget.left_out += 1
            continue
        tags = ", ".join(album.classes.names[cls] for cls in sample.classes)
        name, shown = album.classes.names[doubt.cls], percent(doubt.probability)
        cards.append(Card(uri, *photo.size, doubt.photo, name, shown, tags, doubt.beyond))
    return cards
