"""Reading back what a training wrote to its log.jsonl."""

import json
import math
from pathlib import Path
from typing import Any


def read_log(path: Path) -> list[dict[str, Any]]:
    """The objects of a log.jsonl in order; empty without the file. A half-written line is left out; steps taken twice count once."""
    if not path.is_file():
        return []
    entries: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict):
            continue
        for field in ("step", "epoch"):  # a training that was resumed repeats what it had not finished
            if is_number(entry.get(field)):
                entries = [old for old in entries if not (is_number(old.get(field)) and old[field] >= entry[field])]
        entries.append(entry)
    return entries


def is_number(value: object) -> bool:
    """Whether a value of the log is a finite number (true and false are none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
