"""Every setting as a table: what it may be, what it is unless told otherwise, what it means, and which step it belongs to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from rcatool import config_io, yaml_text
from rcatool.config import Config
from rcatool.config_cls import NETWORKS
from rcatool.steps import NOT_FINGERPRINTED, STEPS

_ENDLESS = 1e9  # bounds from here on only keep numbers within what a computer holds
_WORDS: dict[Any, str] = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text"}
_BOUNDS = ("ge", "gt", "le", "lt", "multiple_of")


@dataclass(frozen=True)
class Setting:
    """One row: `steps` are those that a change makes stale first; what is made of their results follows."""

    name: str
    values: str
    default: str
    meaning: str
    steps: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON."""
        return asdict(self)


def all_settings() -> list[Setting]:
    """Every setting, in the order of the configuration."""
    defaults = Config()
    return [
        Setting(
            name, _values(field.annotation, field.metadata), yaml_text.write_value(config_io.get(defaults, name)),
            str(field.description), _steps(name),
        )
        for name, field in config_io.settings().items()
    ]  # fmt: skip


def markdown() -> str:
    """The page docs/settings.md."""
    lines = [
        "# Settings", "",
        "Made from the program by `make docs`; not to be edited. "
        "The same in a terminal: `rca settings`, `rca settings cls`, `rca settings cls.lr`.", "",
        "A setting is given as `--set NAME=VALUE` to any command, or in a YAML file that `--config FILE` names to the command that "
        "prepares the data. Lists are written `[1, 2]`. `RUN/config.yaml` holds those in force.",
        "A change makes the step of its section stale, and all that is made of it; `rca status` says what, `rca run` makes it again.",
    ]  # fmt: skip
    section = None
    for setting in all_settings():
        head = setting.name.rpartition(".")[0]
        if head != section:
            section = head
            lines += ["", f"## {head}" if head else "## The seed", "", *_introduction(head, setting.steps)]
            lines += ["| setting | values | default | meaning |", "|---|---|---|---|"]
        default = "empty" if setting.default == "''" else f"`{setting.default}`"
        lines.append(f"| `{setting.name}` | {setting.values} | {default} | {_cell(setting.meaning)} |")
    return "\n".join(lines) + "\n"


def _introduction(section: str, steps: Sequence[str]) -> list[str]:
    model = Config.model_fields[section].annotation if section else None
    said = [" ".join((model.__doc__ or "").split())] if model is not None else []
    stale = f"A change makes stale: {', '.join(f'`{step}`' for step in steps)}." if steps else "A change makes nothing stale."
    free = [f"`{name}` makes nothing stale." for name in NOT_FINGERPRINTED if name.startswith(f"{section}.")]
    return [" ".join([*said, stale, *free]), ""]


def _steps(name: str) -> tuple[str, ...]:
    section = name.partition(".")[0]
    owners = [step.name for step in STEPS.values() if section in step.settings and step.round == (2 if section == "second" else 1)]
    # The later ones depend on the first anyway, or only quote the settings; the trainings, that share the seed, do not.
    return tuple(owners if section == "seed" else owners[:1])


def _values(kind: Any, limits: Sequence[Any]) -> str:
    """What values a type allows, in words."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _values(options[0], [rule for extra in options[1:] for rule in getattr(extra, "metadata", [extra])])
    if origin is Literal:
        return ", ".join(f"`{option}`" for option in options)
    if origin is tuple:
        return _list(options, limits)
    if kind is str and limits:  # the one text that is checked
        return f"{', '.join(f'`{name}`' for name in NETWORKS)}, `timm:NAME`"
    return f"{_WORDS[kind]}{_range(limits)}"


def _list(options: Sequence[Any], limits: Sequence[Any]) -> str:
    if options[-1] is not Ellipsis:
        return f"{len(options)} of: {_values(options[0], ())}"
    found = {name: getattr(rule, name) for rule in limits for name in ("min_length", "max_length") if hasattr(rule, name)}
    least, most = found.get("min_length", 0), found.get("max_length")
    count = f"{least} to {most}" if most is not None else f"{least} or more" if least else "any length"
    return f"list of {count}: {_values(options[0], ())}"


def _range(limits: Sequence[Any]) -> str:
    found = {name: getattr(rule, name) for rule in limits for name in _BOUNDS if getattr(rule, name, None) is not None}
    if "ge" in found and found.get("le", _ENDLESS) < _ENDLESS:
        words = [f"{found.pop('ge')} to {found.pop('le')}"]
    else:
        words = [f"at least {found['ge']}"] if "ge" in found else []
    words += [f"above {found['gt']}"] if "gt" in found else []
    words += [f"at most {found['le']}"] if found.get("le", _ENDLESS) < _ENDLESS else []
    words += [f"below {found['lt']}"] if found.get("lt", _ENDLESS) < _ENDLESS else []
    words += [f"multiple of {found['multiple_of']}"] if "multiple_of" in found else []
    return f", {', '.join(words)}" if words else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
