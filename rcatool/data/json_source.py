"""JSON that people write: read within bounds, with errors that say where."""

import json
from pathlib import Path
from typing import Any

from rcatool.data.tag_rows import read_source
from rcatool.errors import DataError

SHOWN = 60  # characters of a wrong value in a message


def load_json(path: Path) -> Any:
    """Read a JSON file; DataError with its line where it is broken, too large, nested too deeply, or has a key twice."""
    try:
        return parse_json(read_source(path))
    except json.JSONDecodeError as error:
        hint = "a file with one JSON object a line has to be named .jsonl" if error.msg == "Extra data" else None
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg})", hint) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error


def parse_json(text: str) -> Any:
    """Parse one JSON value; ValueError (JSONDecodeError where the place is known) saying what is wrong."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def shown(value: object) -> str:
    """A wrong value for a message: short, and never its whole content."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    if not text.isprintable():
        text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")
