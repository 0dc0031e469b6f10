"""The command `rca import-cams`; `commands` adds it to the command line."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rcatool import console
from rcatool.options import DEFAULT_RUN, Debug, Force, Json, Quiet, RunDir, Settings, full, request


class Format(StrEnum):
    """The programs whose files can be read."""

    irn = "irn"
    psa = "psa"
    seam = "seam"
    puzzlecam = "puzzlecam"
    clip_es = "clip-es"
    mctformer = "mctformer"
    npz = "npz"


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of CAM files, named like the photos.")]
FormatOption = Annotated[Format, typer.Option("--format", help="The program that wrote the files, or one that writes the same.")]
First = Annotated[
    int | None, typer.Option("--first-class", min=0, max=1, metavar="0|1", help="Number of the first class in the files, if not the usual.")
]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Leave photos without a file out of the labels (all ignore).")]


def import_cams(
    directory: Folder, format_: FormatOption, first_class: First = None, allow_missing: AllowMissing = False,
    run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False, quiet: Quiet = False, debug: Debug = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Make other people's CAM files the CAMs of a run, instead of training a network of ours (train-cls is not needed).

    Example: rca import-cams irn/result/cam --format irn --run runs/irn
    """
    from rcatool import workflow

    settings = {"source": full(directory), "source_format": format_.value, "source_first": -1 if first_class is None else first_class}
    settings["source_missing"] = str(allow_missing).lower()
    workflow.import_cams(request(run, set_, force, None, quiet), [f"cam.{name}={value}" for name, value in settings.items()])
    if as_json:
        from rcatool import summary

        console.print_result(summary.status_json(run))
