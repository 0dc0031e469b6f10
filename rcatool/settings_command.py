"""The command `rca settings`; `commands` adds it to the command line."""

import json
from typing import Annotated

import typer

from rcatool import console
from rcatool.errors import ConfigError
from rcatool.options import Debug, Json

Name = Annotated[str | None, typer.Argument(metavar="NAME", help="A section, or a setting; without: all.", show_default=False)]
Markdown = Annotated[bool, typer.Option("--markdown", help="As the page docs/settings.md.")]


def settings(name: Name = None, as_markdown: Markdown = False, as_json: Json = False, debug: Debug = False) -> None:
    """Every setting: what it may be, its default, what it means, which step a change makes stale.

    Example: rca settings pseudo
    """
    from rcatool import config_io, settings_table

    if as_markdown:
        if name is not None or as_json:
            raise ConfigError("--markdown is the whole page", "leave out NAME and --json")
        console.print_result(settings_table.markdown().rstrip("\n"))
        return
    rows = settings_table.all_settings()
    if name is not None:
        rows = [row for row in rows if row.name == name or row.name.startswith(f"{name}.")]
        if not rows:
            config_io.apply_settings(config_io.Config(), [f"{name}=0"])  # says that there is none, and what is alike
    if as_json:
        console.print_result(json.dumps([row.as_dict() for row in rows], indent=2, ensure_ascii=False))
        return
    cells = [(row.name, row.values.replace("`", ""), row.default, row.meaning, ", ".join(row.steps)) for row in rows]
    console.print_result(console.table("", ("setting", "values", "default", "meaning", "makes stale"), cells))
