"""The commands that show a run: `rca report` and `rca show`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rcatool import console
from rcatool.errors import ConfigError
from rcatool.options import DEFAULT_RUN, Debug, Quiet, RunDir

app = typer.Typer()

Replace = Annotated[bool, typer.Option("--force", help="Replace what is at --out.")]


@app.command("report")
def _report(
    run: RunDir = DEFAULT_RUN,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option("--compare", metavar="RUN_A RUN_B", help="One page of two runs, instead of --run's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Page to write, instead of report.html in the run.")] = None,
    force: Replace = False, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """A page with scores, curves, photos and settings of a run, from what there is now; also while a command is at work.

    Example: rca report --compare runs/cam runs/rca --out difference.html
    """
    from rcatool.report import compare_page, page
    from rcatool.run import Run

    console.configure(quiet=quiet)
    target = _target(out, ".html", force)
    if compare is None:
        here = Run(run)
        written = page.write_report(here, here.read_config(), target)
    else:
        written = compare_page.write_comparison(Run(compare[0]), Run(compare[1]), target)
    console.print_result(str(written))


@app.command("show")
def _show(
    photo: Annotated[str, typer.Argument(metavar="IMAGE_ID", help="A photo of the run, by its id.", show_default=False)],
    run: RunDir = DEFAULT_RUN,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="PNG to write, instead of show/ID.png in the run.")] = None,
    predict: Annotated[bool, typer.Option("--predict", help="Let the network look at the photo now where eval did not.")] = False,
    force: Replace = False, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """One photo as each step saw it, side by side: CAM, pseudo label, prediction, truth.

    Example: rca show 2007_000032 --run runs/voc
    """
    from rcatool.report import strip, terminal
    from rcatool.run import Run

    console.configure(quiet=quiet)
    here = Run(run)
    target = _target(out, ".png", force)
    picture, written = strip.show(here, here.read_config(), photo, target, predict=predict)
    kind = terminal.protocol(os.environ) if sys.stdout.isatty() else None
    if kind is not None:
        console.print_result(terminal.encoded(picture, kind))
    console.print_result(str(written))


def _target(out: Path | None, suffix: str, force: bool) -> Path | None:
    """Where the file goes that a person named; one that is there already is left alone unless `force`."""
    if out is None:
        return None
    if out.suffix.lower() != suffix:
        raise ConfigError(f"--out {out}: expected a name that ends in {suffix}", f"--out {out.with_suffix(suffix)}")
    if out.is_dir() or (out.exists() and not force):
        raise ConfigError(f"--out {out}: is there already", "name another file" if out.is_dir() else "--force replaces it")
    return out
