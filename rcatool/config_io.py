"""YAML and `--set` to Config and back; every error names the setting by its dotted name.

Values arrive as text and are converted to the type that `config.py` declares.
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rcatool import yaml_text
from rcatool.config import Config
from rcatool.errors import ConfigError
from rcatool.files import plain
from rcatool.yaml_text import Entry

_LARGEST_FILE = 1 << 20  # bytes
_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_BOOLS = {"true": True, "false": False}
_RULES = {"greater than or equal to": "at least", "less than or equal to": "at most", "greater than": "more than"}


@cache
def settings() -> dict[str, FieldInfo]:
    """Every setting by its dotted name, in the order of `config.py`."""
    found: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= {f"{name}.{inner}": info for inner, info in field.annotation.model_fields.items()}
        else:
            found[name] = field
    return found


def get(config: Config, dotted: str) -> Any:
    """The value of one setting by its dotted name."""
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def read_config(path: Path, base: Config | None = None) -> Config:
    """The settings of a YAML file on top of `base` (None: the defaults). Raises ConfigError."""
    try:
        with open(plain(path), "rb") as handle:
            content = handle.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > _LARGEST_FILE:
        raise ConfigError(f"{path}: larger than {_LARGEST_FILE >> 20} MiB, which no settings file is")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    return _merge(base or Config(), yaml_text.read_mapping(text, str(path)))


def apply_settings(config: Config, assignments: Sequence[str]) -> Config:
    """`config` with the values of `--set NAME=VALUE` options, the last of a name winning. Raises ConfigError."""
    entries: dict[str, Entry] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ConfigError(f"--set {assignment}: expected NAME=VALUE", "for example: --set cls.epochs=5")
        field = settings().get(name)
        is_text = field is None or field.annotation is str
        entries[name] = Entry(text if is_text else yaml_text.read_value(text, f"--set {name}"))
    return _merge(config, entries)


def find_preset(name_or_path: str) -> Path:
    """The file that `--config` means: a path, or the name of a preset. Raises ConfigError that lists the presets."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    presets = list_presets()
    if name_or_path in presets:
        return presets[name_or_path]
    close = difflib.get_close_matches(name_or_path, presets, n=1)
    hint = f"did you mean {close[0]}?" if close else "or give the path of a .yaml file"
    raise ConfigError(f"no preset {name_or_path!r}; there are: {', '.join(presets) or 'none'}", hint)


def list_presets() -> dict[str, Path]:
    """Name and file of each preset: inside the installed package, or in the folder `configs` beside its source."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}
    return {}


def dump(config: Config) -> str:
    """YAML with every setting written out, its meaning beside it; `read_config` gives back an equal Config."""
    lines = ["# Every setting of this run. Change one with: rca COMMAND --set NAME=VALUE"]
    section = ""
    for dotted, field in settings().items():
        head, _, name = dotted.rpartition(".")
        if head != section:
            lines += ["", f"{head}:"] if head else [""]
            section = head
        value = f"{'  ' if head else ''}{name}: {yaml_text.write_value(get(config, dotted))}"
        lines.append(f"{value:<38}  # {field.description}")
    return "\n".join(lines) + "\n"


def _merge(base: Config, entries: Mapping[str, Entry]) -> Config:
    values: dict[str, Any] = {name: getattr(base, name) for name in Config.model_fields}
    values = {name: dict(value) if isinstance(value, BaseModel) else value for name, value in values.items()}
    for dotted, entry in entries.items():
        field = settings().get(dotted)
        if field is None:
            _reject_unknown(dotted, entry)
        else:
            head, _, name = dotted.rpartition(".")
            (values[head] if head else values)[name] = _convert(entry.value, field.annotation, dotted, entry.where)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _explain(error, entries) from error


def _reject_unknown(dotted: str, entry: Entry) -> None:
    sections = list(dict.fromkeys(name.partition(".")[0] for name in settings() if "." in name))
    if dotted in sections:
        if entry.value == "" and entry.where:  # `cls:` in a file, with nothing under it
            return
        raise ConfigError(f"{dotted}: expected settings, got {_shown(entry.value)}{_at(entry.where)}")
    last_parts = [name.rpartition(".")[2] for name in settings()]
    close = difflib.get_close_matches(dotted, settings(), n=1)
    section = difflib.get_close_matches(dotted, [*sections, *settings()], n=1, cutoff=0.8)
    if section and section[0] in sections:
        raise ConfigError(f"unknown setting: {dotted}{_at(entry.where)}", f"did you mean the section {section[0]}?")
    if not close or "." not in dotted:
        alike = difflib.get_close_matches(dotted.rpartition(".")[2], last_parts, n=1)
        close = [name for name, last in zip(settings(), last_parts, strict=True) if last in alike] or close
    hint = f"did you mean {' or '.join(close)}?" if close else f"the sections are {', '.join(sections)}"
    raise ConfigError(f"unknown setting: {dotted}{_at(entry.where)}", hint)


def _convert(value: Any, declared: Any, dotted: str, where: str) -> Any:
    """`value` as the declared type; ranges are left to the model."""
    origin, options = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return _convert(value, options[0], dotted, where)
    if origin is Literal:
        for option in options:
            if str(option) == value:
                return option
        raise ConfigError(f"{dotted}: {_shown(value, quote=True)} is not one of {', '.join(map(str, options))}{_at(where)}")
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{dotted}: expected a list such as [1, 2], got {_shown(value)}{_at(where)}")
        kinds = options[:1] * len(value) if options[-1] is Ellipsis else options
        if len(kinds) != len(value):
            raise ConfigError(f"{dotted}: expected {len(kinds)} values, got {len(value)}{_at(where)}")
        return tuple(_convert(item, kind, dotted, where) for item, kind in zip(value, kinds, strict=True))
    try:
        return _scalar(value, declared)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{dotted}: expected {_TYPE_NAMES[declared]}, got {_shown(value)}{_at(where)}") from error


def _scalar(value: Any, declared: type) -> Any:
    if not isinstance(value, str):
        raise ValueError("a list where a single value belongs")
    if declared is bool:
        return _BOOLS[value.lower()]
    if declared is str:
        value.encode("utf-8")  # a name that is not UTF-8 could not be written to a file (UnicodeEncodeError is a ValueError)
    return declared(value)


def _explain(error: ValidationError, entries: Mapping[str, Entry]) -> ConfigError:
    """The first complaint of the models, in our words."""
    first = error.errors()[0]
    dotted = ".".join(part for part in first["loc"] if isinstance(part, str))
    where = entries[dotted].where if dotted in entries else ""
    if first["type"] == "value_error":  # from one of our own validators, which names the field itself
        between = ": " if dotted in settings() else "." if dotted else ""
        return ConfigError(f"{dotted}{between}{first['ctx']['error']}{_at(where)}")
    if first["type"] in ("too_short", "too_long"):
        bound = "at least {min_length}" if first["type"] == "too_short" else "at most {max_length}"
        rule, got = f"{bound.format(**first['ctx'])} values", str(first["ctx"]["actual_length"])
    else:
        rule, got = first["msg"].removeprefix("Input should be "), _shown(entries[dotted].value if dotted in entries else first["input"])
        for theirs, ours in _RULES.items():
            rule = rule.replace(theirs, ours)
    return ConfigError(f"{dotted}: expected {rule}, got {got}{_at(where)}")


def _shown(value: Any, *, quote: bool = False) -> str:
    """A value in a message: numbers and words as they are (1.5, true), other text in quotes."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    text = str(value)
    plain = text.replace(".", "").replace("-", "").isalnum() and len(text) <= 60
    return text if plain and not quote else repr(text[:60])


def _at(where: str) -> str:
    return f" ({where})" if where else ""
