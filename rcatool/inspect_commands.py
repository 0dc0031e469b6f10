"""The commands `rca inspect ...`: what a trained network holds, and what it doubts."""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from rcatool import console
from rcatool.errors import ConfigError, StageError
from rcatool.options import DEFAULT_RUN, Debug, Device, Json, Quiet, RunDir

app = typer.Typer(help="What a trained network holds, and what it doubts.\n\nExample: rca inspect memory --class cat")

_COLUMNS = ("class", "slots", "filled", "prototypes", "mean visits", "mean age", "regions seen")


@app.command("memory")
def _memory(
    run: RunDir = DEFAULT_RUN,
    class_: Annotated[list[str] | None, typer.Option("--class", metavar="NAME", help="Only this class; can be repeated.")] = None,
    photos: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="N", help="Training photos to look for regions in.")] = 400,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="PNG to write, instead of memory.png in the run.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at --out.")] = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """The region memory: a table, and a picture of the regions nearest to each prototype.

    Example: rca inspect memory --class cat --class dog --out animals.png
    """
    console.configure(quiet=quiet)
    from rcatool import config_io
    from rcatool.data.labels import read_classes
    from rcatool.run import Run
    from rcatool.steps import STEPS

    here = Run(run)
    config = config_io.apply_settings(here.read_config(), [] if device is None else [f"runtime.device={device}"])
    here.require("train-cls", config, by="inspect memory")
    if config.cls.method == "cam":
        hint = f"{STEPS['train-cls'].command(run)} --set cls.method=rca"
        raise StageError("the network of this run has no region memory (cls.method: cam)", hint)
    names = read_classes(here.dir("prepare") / "classes.json").names
    chosen = _indices(class_ or [], names)
    target = _target(here.root, out, force)
    from rcatool.stages import inspect_memory

    rows = inspect_memory.main(here, config, inspect_memory.Plan(chosen, photos, target))
    if as_json:
        console.print_result(json.dumps([dict(zip(_COLUMNS, row, strict=True)) for row in rows], indent=2, ensure_ascii=False))
        return
    console.print_result(console.table("", _COLUMNS, rows))


@app.command("tags")
def _tags(
    run: RunDir = DEFAULT_RUN,
    most: Annotated[int, typer.Option("--most", min=1, max=1_000_000, metavar="N", help="Lines of each kind.")] = 20,
    as_json: Json = False, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Tags that the classifier doubts, and classes that it sees without a tag: where to look for mistakes in the tags.

    Example: rca inspect tags --run runs/voc --most 50
    """
    console.configure(quiet=quiet)
    from rcatool import suspects
    from rcatool.run import Run

    document = suspects.find(Run(run), most=most)
    console.print_result(json.dumps(document, indent=2, ensure_ascii=False) if as_json else suspects.table(document))


def _indices(asked: Sequence[str], names: Sequence[str]) -> list[int]:
    """The classes asked for, in their own order; all of them if none is."""
    for name in asked:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the classes are {', '.join(names)}"
            raise ConfigError(f"--class {name}: this data set has no such class", hint)
    return [index for index, name in enumerate(names) if not asked or name in asked]


def _target(run: Path, out: Path | None, force: bool) -> Path:
    """Where the picture goes; what a person named and is there already is left alone unless `force`."""
    if out is None:
        return run / "memory.png"
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a name that ends in .png", f"--out {out.with_suffix('.png')}")
    if out.is_dir() or (out.exists() and not force):
        raise ConfigError(f"--out {out}: is there already", "name another file" if out.is_dir() else "--force replaces it")
    return out
