"""What the page of a run says of its making: warnings, settings, commands, versions, steps. Plain values for the template."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from rcatool import config_io, summary
from rcatool.config import Config
from rcatool.errors import RcaError
from rcatool.run import Run
from rcatool.steps import in_force

Document = Mapping[str, Any]
_WARNING = re.compile(r"^(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?P<kind>warning|error): (?P<text>.*)$")
_MOST_WARNINGS = 40


def warnings_of(run: Run) -> list[tuple[str, str, str]]:
    """(time, kind, text) of the warnings and errors in run.log, the latest first, each text once."""
    try:
        text = run.log_path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found: dict[str, tuple[str, str, str]] = {}
    for line in text.splitlines():
        match = _WARNING.match(line)
        if match:
            found.pop(match["text"], None)
            found[match["text"]] = (match["time"], match["kind"], match["text"])
    return list(found.values())[::-1][:_MOST_WARNINGS]


def changed_settings(run: Run, config: Config) -> dict[str, Any]:
    """The settings that differ from those the run began with, a preset or the defaults: (name, there, here, meaning)."""
    name, base = _base(run, config)
    rows = [
        (dotted, shown(config_io.get(base, dotted)), shown(config_io.get(config, dotted)), field.description or "")
        for dotted, field in config_io.settings().items()
        if config_io.get(base, dotted) != config_io.get(config, dotted)
    ]
    return {"base": name, "rows": rows}


def _base(run: Run, config: Config) -> tuple[str, Config]:
    words = record_of(run, "prepare").get("command", [])
    chosen = next((after for word, after in zip(words, words[1:], strict=False) if word == "--config"), None)
    if chosen is None and config.data.dataset == "shapes":
        chosen = "shapes"
    if chosen is None:
        return "the defaults", Config()
    try:
        return f"the preset {chosen}", config_io.read_config(config_io.find_preset(chosen))
    except RcaError:  # a file that is gone, or of another version
        return "the defaults", Config()


def commands_of(run: Run, config: Config) -> list[str]:
    """The commands that made what the run holds, in order, each once."""
    lines = [shlex.join(record_of(run, name).get("command", [])) for name in in_force(config)]
    return [line for line in dict.fromkeys(lines) if line]


def versions_of(run: Run, config: Config) -> list[tuple[str, str]]:
    """Versions of the program and its libraries that the last finished step was made with."""
    found = [record_of(run, name).get("versions") for name in in_force(config)]
    return list(next((versions for versions in reversed(found) if isinstance(versions, dict)), {}).items())


def step_rows(run: Run, config: Config) -> dict[str, Any]:
    """How each step stands, when it was done, and what to type next."""
    document = summary.status(run, config)
    rows = [
        {
            "step": each["step"], "state": each["state"], "finished": (each["finished"] or "").replace("T", " ")[:16],
            "reasons": "; ".join(each["reasons"]), "memory": _memory(record_of(run, each["step"])),
        }
        for each in document["steps"]
    ]  # fmt: skip
    return {"rows": rows, "next": document["next"]}


def _memory(record: Document) -> str:
    peak = record.get("info", {}).get("peak_memory_mib")
    return f"{peak:,} MiB" if isinstance(peak, int) else ""


def record_of(run: Run, step: str) -> dict[str, Any]:
    """The record of a step; empty where there is none or it is broken, which the table of steps says."""
    try:
        return run.record(step) or {}
    except RcaError:
        return {}


def shown(value: Any) -> str:
    """A setting or a value of a protocol as people write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    return "none" if value is None else str(value) or '""'


def photo_counts(census: Document) -> list[tuple[str, int, int]]:
    """(split, photos, photos with a mask) of the data set."""
    return [(name, counts["photos"], counts["with_mask"]) for name, counts in census["splits"].items() if counts["photos"]]
