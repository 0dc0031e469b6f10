"""The options that commands share, and what becomes of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rcatool import console

RunDir = Annotated[Path, typer.Option("--run", envvar="RCA_RUN", metavar="DIR", help="Run directory: everything is read and written here.")]


def _setting_names(incomplete: str) -> list[str]:
    """For the shell: the settings that start with what is typed."""
    from rcatool import config_io

    return [f"{name}=" for name in config_io.settings() if name.startswith(incomplete)]


def _preset_names(incomplete: str) -> list[str]:
    """For the shell: the presets that start with what is typed; none of them, and it offers files."""
    from rcatool import config_io

    return [name for name in config_io.list_presets() if name.startswith(incomplete)]


Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the run; can be repeated.", autocompletion=_setting_names),
]
Force = Annotated[bool, typer.Option("--force", help="Make it again although it is up to date; the old output goes to DIR/old.")]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N, for this command only.")]
Procs = Annotated[int, typer.Option("--procs", metavar="N", min=1, max=1024, help="Processes that share the work, one per GPU.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no news; warnings, errors and results only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of tables.")]
Preset = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="PRESET|FILE", help="Settings to start from, instead of the run's own.", autocompletion=_preset_names
    ),
]

DEFAULT_RUN = Path("runs/default")


def request(run: Path, assignments: Sequence[str] | None, force: bool, device: str | None, quiet: bool, procs: int = 1) -> Any:
    """The shared options as a `workflow.Request`; news are silent from now on if `quiet`."""
    from rcatool.workflow import Request

    console.configure(quiet=quiet)
    return Request(run, tuple(assignments or ()), force, device, procs)


def full(path: Path) -> Path:
    """`path` from the current folder, with ~ written out."""
    return Path(os.path.abspath(path.expanduser()))
