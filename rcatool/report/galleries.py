"""The galleries of a report: strips of photos as data, bounded in number and in bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rcatool import summary
from rcatool.data.manifest import Sample, split
from rcatool.errors import RcaError
from rcatool.report.panels import Album, Panel, colours, data_uri, draw_panels, name_of, present_in
from rcatool.report.photo_scores import RANDOM, SEED, choose, photo_miou
from rcatool.score_tables import TARGETS, percent
from rcatool.tally import PhotoTable, read_photo_tables

LONG_SIDE = 300  # pixels of a panel
MOST_BYTES = 4_500_000  # of all pictures of a page
NETWORKS, LABELS = ("seg", "seg_1"), ("pseudo_2", "pseudo")  # what a gallery is made for: the first that was scored


@dataclass
class Budget:
    """How many bytes of pictures a page still has room for, and what was left out or could not be read."""

    left: int = MOST_BYTES
    left_out: int = 0
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Strip:
    """A photo on the page: its panels as (title, data URI, alternative text, width, height), a legend of (name, colour), its score."""

    photo_id: str
    panels: Sequence[tuple[str, str, str, int, int]]
    legend: Sequence[tuple[str, str]]
    score: str = ""


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


def _by_score(album: Album, target: str, table: PhotoTable, budget: Budget) -> Gallery:
    miou = photo_miou(table, len(album.labels))
    known = [index for index, photo in enumerate(table.ids) if photo in album.samples]
    scores = np.full(len(miou), np.nan)
    scores[known] = miou[known]
    chosen = choose(scores)
    groups = []
    for title, indices in (("worst", chosen.worst), ("best", chosen.best), ("random", chosen.random)):
        photos = [(album.samples[table.ids[index]], float(scores[index])) for index in indices]
        groups.append(Group(title, list(_strips(album, photos, budget))))
    split_name = album.samples[table.ids[known[0]]].split if known else ""
    about = f"By the mIoU of each photo, over the labels in its truth or prediction; {len(table.ids)} {split_name} photos."
    return Gallery(TARGETS[target].capitalize(), about, groups)


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
        strip = strip_of(album, sample.id, panels, "" if miou is None else f"{percent(miou)} %")
        size = sum(len(uri) for _, uri, *_ in strip.panels)
        if size > budget.left:
            budget.left_out += 1
            continue
        budget.left -= size
        yield strip


def strip_of(album: Album, photo_id: str, panels: Sequence[Panel], score: str = "") -> Strip:
    """Panels as they stand on the page."""
    table = colours()
    legend = [(name_of(album, value), "#{:02x}{:02x}{:02x}".format(*table[value])) for value in present_in(panels)]
    cells = [(p.title, data_uri(p.image), f"{p.title} of {photo_id}: {p.words}", *p.image.size) for p in panels]
    return Strip(photo_id, cells, legend, score)


def memory_picture(run: Path, made: Path, budget: Budget) -> dict[str, Any] | None:
    """RUN/memory.png as `rca inspect memory` drew it, small enough for the page; None if absent, or older than the network `made`."""
    from PIL import Image

    from rcatool.data.photos import read_image

    path = run / "memory.png"
    if not path.is_file() or not made.is_file() or path.stat().st_mtime < made.stat().st_mtime:
        return None
    try:
        picture = Image.fromarray(read_image(path))
    except RcaError as error:
        budget.broken.append(error.message)
        return None
    for quality, share in ((80, 1.0), (65, 1.0), (65, 0.7), (60, 0.5)):
        size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
        uri = data_uri(picture.resize(size), quality)
        if len(uri) <= min(budget.left, MOST_BYTES // 4):
            budget.left -= len(uri)
            return {"uri": uri, "width": size[0], "height": size[1]}
    budget.left_out += 1
    return None
