"""The galleries of a report: strips of photos as data, bounded in number and in bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rcatool import summary
from rcatool.data.manifest import Sample, split
from rcatool.errors import RcaError
from rcatool.report.panels import Album, Panel, colours, data_uri, draw_panels, name_of, present_in
from rcatool.report.photo_scores import RANDOM, SEED, Single, choose, choose_for_classes, class_iou, photo_miou
from rcatool.score_tables import TARGETS, percent
from rcatool.tally import PhotoTable, read_photo_tables

LONG_SIDE, SMALL_SIDE = 300, 220  # pixels of a panel: of those all see, of those for a single class
MOST_BYTES = 5_000_000  # of all pictures of a page
FOR_CLASSES, RESERVE = 1_200_000, 1_500_000  # of those for single classes in each gallery; what these leave for others
NETWORKS, LABELS = ("seg", "seg_1"), ("pseudo_2", "pseudo")  # what a gallery is made for: the first that was scored


@dataclass
class Budget:
    """How many bytes of pictures a page still has room for, and what was left out or could not be read."""

    left: int = MOST_BYTES
    left_out: int = 0
    broken: list[str] = field(default_factory=list)

    def spend(self, size: int, *, most: int | None = None) -> bool:
        """Whether `size` bytes have room (and are no more than `most`), which they then take."""
        if size > self.left or (most is not None and size > most):
            return False
        self.left -= size
        return True


@dataclass(frozen=True)
class Cell:
    """A picture of a strip: title, data URI, alternative text, width, height, and its mIoU or nothing."""

    title: str
    uri: str
    alt: str
    width: int
    height: int
    score: str = ""


@dataclass(frozen=True)
class Strip:
    """A photo on the page: its pictures, a legend of (name, colour), its score, and the mask values that the filter finds it by.

    `extra`: shown only where the filter asks for one of its classes.
    """

    photo_id: str
    panels: Sequence[Cell]
    legend: Sequence[tuple[str, str]]
    score: str = ""
    labels: Sequence[int] = ()
    extra: bool = False

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(len(cell.uri) for cell in self.panels)


@dataclass(frozen=True)
class Group:
    """Strips under a heading."""

    title: str
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Gallery:
    """Groups of strips under a heading with a sentence about them."""

    title: str
    about: str
    groups: Sequence[Group]


def galleries(album: Album, tables: dict[str, PhotoTable], budget: Budget) -> list[Gallery]:
    """What there is to see: predictions and labels by score where they were scored, and tune photos, for which every step has a picture."""
    found = []
    for kinds in (NETWORKS, LABELS):
        target = next((kind for kind in kinds if kind in tables and tables[kind].ids), None)
        if target is not None:
            found.append(_by_score(album, target, tables[target], budget))
    samples = list(album.samples.values())
    rest = [part for part in ("tune", "train") if split(samples, part)]
    shown = {strip.photo_id for gallery in found for group in gallery.groups for strip in group.strips}
    if rest and (rest[0] == "tune" or not found):
        photos = _random(split(samples, rest[0]), shown)
        about = f"Random {rest[0]} photos, of which every step that has run has left a picture."
        found.append(Gallery("Step by step", about, [Group("random", list(_strips(album, photos, budget)))]))
    return [gallery for gallery in found if any(group.strips for group in gallery.groups)]


def read_tables(album: Album) -> dict[str, PhotoTable]:
    """The counts of each photo by target; none where eval stored none. Raises DataError for a broken file."""
    path = summary.metrics_path(album.run).with_name("per_image.npz")
    return read_photo_tables(path) if path.is_file() else {}


def filter_of(album: Album, found: Sequence[Gallery]) -> list[tuple[int, str]]:
    """(mask value, name) of the classes that some strip shows."""
    values = {value for gallery in found for group in gallery.groups for strip in group.strips for value in strip.labels}
    return [(value, album.labels[value]) for value in sorted(values)]


def _by_score(album: Album, target: str, table: PhotoTable, budget: Budget) -> Gallery:
    miou, iou = photo_miou(table, len(album.labels)), class_iou(table, len(album.labels))
    unknown = [index for index, photo in enumerate(table.ids) if photo not in album.samples]
    miou[unknown], iou[unknown] = np.nan, np.nan
    chosen = choose(miou)
    strips: dict[str, list[Strip]] = {}
    for title, indices in (("worst", chosen.worst), ("best", chosen.best), ("random", chosen.random)):
        photos = [(album.samples[table.ids[index]], float(miou[index])) for index in indices]
        strips[title] = list(_strips(album, photos, budget))
    singles = choose_for_classes(iou, {index for kind in chosen for index in kind})
    for single, strip in _for_classes(album, table, iou, singles, budget):
        strips["worst" if single.worst else "best"].append(strip)
    known = next((album.samples[photo].split for photo in table.ids if photo in album.samples), "")
    about = f"By the mIoU of each photo, over the labels in its truth or prediction; {len(table.ids)} {known} photos."
    return Gallery(TARGETS[target].capitalize(), about, [Group(title, found) for title, found in strips.items()])


def _for_classes(
    album: Album, table: PhotoTable, iou: np.ndarray, singles: Sequence[Single], budget: Budget
) -> Iterable[tuple[Single, Strip]]:
    """The strips for single classes, as many as have room; what has none is not missed."""
    room = FOR_CLASSES
    for single in singles:
        sample = album.samples[table.ids[single.index]]
        try:
            panels = draw_panels(album, sample, long_side=SMALL_SIDE)
        except RcaError:  # the first of its kind is named with the others
            continue
        words = f"{album.labels[single.label]} {percent(float(iou[single.index, single.label]))} %"
        strip = replace(strip_of(album, sample.id, panels, words), extra=True)
        if not budget.spend(strip.size, most=min(room, budget.left - RESERVE)):
            return
        room -= strip.size
        yield single, strip


def _random(samples: Sequence[Sample], shown: set[str]) -> list[tuple[Sample, None]]:
    free = [sample for sample in samples if sample.id not in shown]
    drawn = np.random.default_rng(SEED).permutation(len(free))[:RANDOM]
    return [(free[place], None) for place in sorted(drawn.tolist())]


def _strips(album: Album, photos: Iterable[tuple[Sample, float | None]], budget: Budget) -> Iterable[Strip]:
    for sample, miou in photos:
        try:
            panels = draw_panels(album, sample, long_side=LONG_SIDE)
        except RcaError as error:
            budget.broken.append(error.message)
            continue
        told = miou is None or any(panel.miou is not None for panel in panels)  # beside the pictures
        strip = strip_of(album, sample.id, panels, "" if told else f"{percent(miou)} %")
        if budget.spend(strip.size):
            yield strip
        else:
            budget.left_out += 1


def strip_of(album: Album, photo_id: str, panels: Sequence[Panel], score: str = "") -> Strip:
    """Panels as they stand on the page."""
    table, present = colours(), present_in(panels)
    legend = [(name_of(album, value), "#{:02x}{:02x}{:02x}".format(*table[value])) for value in present]
    scores = ["" if panel.miou is None else f"{percent(panel.miou)} %" for panel in panels]
    cells = [
        Cell(panel.title, data_uri(panel.image), f"{panel.title} of {photo_id}: {panel.words}", *panel.image.size, score)
        for panel, score in zip(panels, scores, strict=True)
    ]
    return Strip(photo_id, cells, legend, score, [value for value in present if value < len(album.labels)])
