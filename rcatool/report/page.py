"""RUN/report.html: one file with all of a run that is worth looking at. It opens from disk, and runs no script."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from rcatool import __version__, results, summary
from rcatool.config import Config
from rcatool.errors import RcaError
from rcatool.files import atomic_write
from rcatool.report import facts, galleries, sections
from rcatool.report.panels import open_album
from rcatool.report.prototypes import has_prototypes, prototypes
from rcatool.report.tag_cards import tag_cards
from rcatool.run import Run
from rcatool.steps import STEPS

NAME = "report.html"


def write_report(run: Run, config: Config, out: Path | None = None, *, truth: bool = True) -> Path:
    """Write a page (RUN/report.html) of what the run holds now, and return its path; a missing part says which command makes it.

    truth: whether masks may be opened, to be shown beside what was made.

    Raises SetupError where it cannot be written. Files of the run that are broken are named on the page.
    """
    path = run.root / NAME if out is None else out
    atomic_write(path, render("report.html", report_context(run, config, truth=truth)))
    return path


def render(template: str, context: dict[str, Any]) -> bytes:
    """A page as UTF-8. Whatever comes from outside is escaped; only drawings of `chart` are taken as they are."""
    return _templates().get_template(template).render(context).encode("utf-8", errors="backslashreplace")


@cache
def _templates() -> jinja2.Environment:
    folder = Path(__file__).with_name("templates")
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["dashed"] = _dashed
    return templates


def _dashed(text: str) -> str:
    """A number or a range in print: a minus sign before digits, a dash between them."""
    return re.sub(r"(?<=\d)-(?=\d)", "–", re.sub(r"(?<!\S)-(?=[\d.])", "−", text))


def report_context(run: Run, config: Config, *, truth: bool = True) -> dict[str, Any]:
    """All that the page of a run says, by part; a part is None or empty where the run has nothing for it."""
    broken: list[str] = []

    def part(make: Callable[[], Any], default: Any = None) -> Any:
        try:
            return make()
        except RcaError as error:
            broken.append(error.message)
            return default

    scored = summary.metrics_path(run).is_file()
    metrics = part(lambda: summary.read_metrics(run), {}) if scored else {}
    reference = part(lambda: summary.read_reference(run)) if metrics else None
    steps = part(lambda: facts.step_rows(run, config), {"rows": [], "next": None})
    budget, has_memory = galleries.Budget(), has_prototypes(config) and not config.cam.source
    return {
        **about(run),
        "steps": steps,
        "headline": sections.headline(metrics, reference),
        "charts": sections.training_charts(run),
        "threshold": sections.threshold_chart(metrics),
        "classes": sections.class_rows(metrics),
        "errors": sections.error_tables(metrics),
        **part(lambda: _photos(run, config, budget, truth=truth), {"galleries": [], "filter": [], "suspects": []}),
        "memory": prototypes(run, budget) if has_memory else [],
        "has_memory": has_memory,
        "has_scores": not config.cam.source,
        "has_cams": (run.dir("make-pseudo/cams") / "stage.json").is_file(),
        "splits": part(lambda: facts.photo_counts(summary.read_census(run)), []) if run.dir("prepare").is_dir() else [],
        "dataset": config.data.dataset,
        "warnings": facts.warnings_of(run),
        "settings": facts.changed_settings(run, config),
        "commands": facts.commands_of(run, config),
        "versions": facts.versions_of(run, config),
        "broken": broken + budget.broken,
        "left_out": budget.left_out,
        "command": {step.word: step.command(run.root, config) for step in STEPS.values()},
    }


def about(run: Run) -> dict[str, Any]:
    """What a page calls a run, and when and by what it was written."""
    return {"name": run.root.resolve().name, "path": str(run.root), "made": results.now().replace("T", " ")[:16], "version": __version__}


def _photos(run: Run, config: Config, budget: galleries.Budget, *, truth: bool) -> dict[str, Any]:
    """The parts of the page that show photos."""
    if not (run.dir("prepare") / "manifest.jsonl").is_file():
        return {"galleries": [], "filter": [], "suspects": []}
    album = open_album(run, config, truth=truth)
    suspects = tag_cards(album, budget)
    found = galleries.galleries(album, galleries.read_tables(album), budget)
    return {"galleries": found, "filter": galleries.filter_of(album, found), "suspects": suspects}
