"""One page of two runs: scores side by side, the paired difference with its interval, and the photos that changed most."""

from pathlib import Path
from typing import Any

import numpy as np

from rcatool import comparison, config_io, summary
from rcatool.config import Config
from rcatool.data.manifest import Sample
from rcatool.errors import RcaError
from rcatool.files import atomic_write
from rcatool.report import facts, sections
from rcatool.report.galleries import LONG_SIDE, Budget, Group, Strip, strip_of
from rcatool.report.page import about, render
from rcatool.report.panels import MADE, MAPS, Album, Panel, draw_panels, open_album
from rcatool.report.photo_scores import photo_miou
from rcatool.run import Run
from rcatool.score_tables import TARGETS, percent, signed
from rcatool.tally import PhotoTable

CHANGED = 6  # photos shown that gained most, and as many that lost most
WIDEST = 0.02  # the least that fills half of a bar of differences


def write_comparison(a: Run, b: Run, out: Path | None = None) -> Path:
    """Write a page (B/compare-A.html) about two scored runs of the same photos, and return its path.

    Raises StageError or DataError where they cannot be compared (see `comparison.compare`), SetupError where it cannot be written.
    """
    path = b.root / f"compare-{a.root.resolve().name}.html" if out is None else out
    atomic_write(path, render("compare.html", compare_context(a, b)))
    return path


def compare_context(a: Run, b: Run) -> dict[str, Any]:
    """All that the page says."""
    document = comparison.compare(a.root, b.root)
    target, budget = document["target"], Budget()
    configs = [run.read_config() for run in (a, b)]
    return {
        "sides": [_side(letter, run, config) for letter, run, config in zip("AB", (a, b), configs, strict=True)],
        "target": TARGETS[target],
        "list": document["list"], "images": document["images"], "ground_truth": document["ground_truth"],
        "threshold_rule": document.get("threshold_rule", ""),
        "targets": _targets(*(summary.read_metrics(run) for run in (a, b))),
        "charts": sections.paired_charts(a, b),
        "scores": [percent(document[side]["miou"]) for side in "ab"],
        "difference": _difference(document["difference"]),
        "classes": _class_differences(document),
        "settings": _settings(*configs),
        "groups": _changed_photos(a, b, configs, target, budget),
        "broken": budget.broken, "left_out": budget.left_out,
    }  # fmt: skip


def _side(letter: str, run: Run, config: Config) -> dict[str, Any]:
    metrics = summary.read_metrics(run)
    return {
        "letter": letter, **about(run), "headline": sections.headline(metrics, None), "commands": facts.commands_of(run, config),
    }  # fmt: skip


def _difference(told: dict[str, Any]) -> dict[str, Any]:
    bounds = told["interval"]
    return {
        "miou": signed(told["miou"]), "interval": "" if bounds is None else f"{signed(bounds[0])} to {signed(bounds[1])}",
        "better": percent(told["better"], 0), "bootstrap": told["bootstrap"],
        "verdict": "" if bounds is None else "B is better" if bounds[0] > 0 else "A is better" if bounds[1] < 0 else "no difference shown",
    }  # fmt: skip


def _targets(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(target, A, B, B - A) of what both have scored on the same photos and masks."""
    rows = []
    for target, name in TARGETS.items():
        if target in a and target in b and _measured_on(a[target]) == _measured_on(b[target]):
            scores = [each[target]["miou"] for each in (a, b)]
            change = "" if None in scores else signed(scores[1] - scores[0])
            rows.append((name, *(percent(score) for score in scores), change))
    return rows


def _measured_on(scores: dict[str, Any]) -> list[Any]:
    return [scores.get("list"), scores.get("images"), scores.get("protocol", {}).get("ground_truth")]


def _class_differences(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each class, the largest gain of B first; bars begin in the middle."""
    told = document["difference"]["iou"]
    widest = max([WIDEST, *(abs(each["difference"]) for each in told.values() if each["difference"] is not None)])
    order = sorted(told, key=lambda name: -(told[name]["difference"] or 0))
    rows = []
    for name in order:
        change, bounds = told[name]["difference"], told[name]["interval"]
        share = 50 * (change or 0) / widest
        rows.append({
            "name": name, "a": percent(document["a"]["iou"][name]), "b": percent(document["b"]["iou"][name]), "change": signed(change),
            "interval": "" if bounds is None else f"{signed(bounds[0])} to {signed(bounds[1])}",
            "left": f"{50 + min(share, 0):.1f}", "width": f"{abs(share):.1f}", "sign": "minus" if share < 0 else "plus",
        })  # fmt: skip
    return rows


def _settings(a: Config, b: Config) -> list[tuple[str, str, str, str]]:
    return [
        (dotted, facts.shown(config_io.get(a, dotted)), facts.shown(config_io.get(b, dotted)), field.description or "")
        for dotted, field in config_io.settings().items()
        if config_io.get(a, dotted) != config_io.get(b, dotted)
    ]


def _changed_photos(a: Run, b: Run, configs: list[Config], target: str, budget: Budget) -> list[Group]:
    """The photos whose mIoU rose and fell most from A to B, with what both runs say of them."""
    albums = [open_album(run, config) for run, config in zip((a, b), configs, strict=True)]
    tables = [comparison.table_of(run, target) for run in (a, b)]
    change = _changes(*tables, labels=len(albums[0].labels))
    order = np.argsort(-change, kind="stable").tolist()
    gained = [index for index in order if change[index] > 0][:CHANGED]
    lost = [index for index in order[::-1] if change[index] < 0][:CHANGED]
    groups = []
    for title, indices in (("Better in B", gained), ("Better in A", lost)):
        strips = [_strip(albums, tables[0].ids[index], float(change[index]), target, budget) for index in indices]
        groups.append(Group(title, [strip for strip in strips if strip is not None]))
    return groups


def _changes(a: PhotoTable, b: PhotoTable, *, labels: int) -> np.ndarray:
    """mIoU of each photo in b less that in a (n,); 0 where a photo has none."""
    assert a.ids == b.ids
    return np.nan_to_num(photo_miou(b, labels) - photo_miou(a, labels))


def _strip(albums: list[Album], photo_id: str, change: float, target: str, budget: Budget) -> Strip | None:
    """photo | A | B | truth of a photo; None where a file cannot be read, or the page is full."""
    try:
        panels = _panels(albums, albums[0].samples[photo_id], target)
    except RcaError as error:
        budget.broken.append(error.message)
        return None
    strip = strip_of(albums[0], photo_id, panels, f"{signed(change)} points")
    if not budget.spend(strip.size):
        budget.left_out += 1
        return None
    return strip


def _panels(albums: list[Album], sample: Sample, target: str) -> list[Panel]:
    title = MADE[target][0]
    sides = [{panel.title: panel for panel in draw_panels(album, sample, long_side=LONG_SIDE)} for album in albums]
    shown = [("photo", sides[0].get("photo"))]
    shown += [(f"{letter}: {title}", side.get(title)) for letter, side in zip("AB", sides, strict=True)]
    shown.append(("truth", sides[0].get("truth")))
    return [Panel(name, panel.image, panel.words, () if target in MAPS and name != "truth" else panel.present, panel.miou)
            for name, panel in shown if panel is not None]  # fmt: skip
