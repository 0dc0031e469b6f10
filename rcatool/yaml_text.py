"""YAML text to settings as they were written, and values to YAML text.

All scalars stay text: YAML's guesses at types are not wanted (it reads `1e-3` as text, `2007` as a number, `on` as true).
"""

from dataclasses import dataclass
from typing import Any

import yaml

from rcatool.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """A value as written: text, or a list of values; `where` is "file:line", empty on the command line."""

    value: Any
    where: str = ""


def read_mapping(text: str, path: str) -> dict[str, Entry]:
    """The settings of a YAML file by dotted name. Raises ConfigError with file and line."""
    node = _compose(text, path)
    return {} if node is None else _entries(node, path)


def read_value(text: str, where: str) -> Any:
    """One value: text, or a list such as `[1, 2]`. Raises ConfigError naming `where`."""
    node = _compose(text, where)
    return text.strip() if node is None else _plain(node, where)


def write_value(value: Any) -> str:
    """A value on one line of YAML."""
    plain = list(value) if isinstance(value, tuple) else value
    # Only between double quotes are line breaks, of which Unicode has several, kept as they are.
    quotes = '"' if isinstance(value, str) and not value.isprintable() else None
    text: str = yaml.safe_dump(plain, default_flow_style=True, default_style=quotes, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


class _Loader(yaml.BaseLoader):
    """Composes nodes without guessing types, and refuses aliases, which can blow a small file up to any size."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)


def _compose(text: str, where: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML ({error.problem or error.context})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML ({error})") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: not valid YAML (nested too deeply)") from error


def _entries(node: yaml.Node, path: str, prefix: str = "") -> dict[str, Entry]:
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: expected NAME: VALUE lines")
    found: dict[str, Entry] = {}
    seen: set[str] = set()
    for key, value in node.value:
        where = f"{path}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{where}: a setting's name must be text")
        if key.value in seen:
            raise ConfigError(f"{where}: {prefix}{key.value} is given twice")
        seen.add(key.value)
        if isinstance(value, yaml.MappingNode):
            found |= _entries(value, path, f"{prefix}{key.value}.")
        else:
            found[prefix + key.value] = Entry(_plain(value, where), where)
    return found


def _plain(node: yaml.Node, where: str) -> Any:
    """A node as text or nested lists of texts."""
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python/"):
        raise ConfigError(f"{where}: the tag {node.tag} is not allowed")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, where) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        return node.value
    raise ConfigError(f"{where}: expected a value, got a mapping")
