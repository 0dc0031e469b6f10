"""The commands `rca export ...`: labels and CAMs in the formats of other tools."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rcatool import console
from rcatool.errors import ConfigError
from rcatool.options import DEFAULT_RUN, Debug

export_app = typer.Typer(
    help="Predictions, pseudo labels, any label PNGs or CAMs in the formats of other tools.\n\nExample: rca export png --out masks"
)


class What(StrEnum):
    """Labels that a run has."""

    predictions = "predictions"
    pseudo = "pseudo"
    pseudo_2 = "pseudo_2"


class Competition(StrEnum):
    """What the network was trained on."""

    comp5 = "comp5"
    comp6 = "comp6"


class Layout(StrEnum):
    """How CAMs are stored."""

    irn = "irn"
    psa = "psa"
    npz = "npz"


class Photos(StrEnum):
    """What becomes of the photos."""

    copy = "copy"
    link = "link"
    none = "none"


RunDir = Annotated[Path, typer.Option("--run", envvar="RCA_RUN", metavar="DIR", help="Run whose labels are exported.")]
Kind = Annotated[What, typer.Option("--what", help="Which labels of the run.")]
Labels = Annotated[Path | None, typer.Option("--labels", metavar="DIR", help="A folder of label PNGs, instead of a run.")]
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="With --labels: the photos, of the same names.")]
Classes = Annotated[
    Path | None, typer.Option("--classes", metavar="FILE", help="With --labels: class names, one a line, or classes.json; else VOC's.")
]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make.")]
File = Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")]
MinArea = Annotated[int, typer.Option("--min-area", min=1, metavar="N", help="Leave out connected regions of fewer pixels.")]
Force = Annotated[bool, typer.Option("--force", help="Move aside what is at --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no news; warnings and errors only.")]

_TOLERANCE_HELP = "Simplify outlines by up to so many pixels; 0: exact."


@export_app.command("voc-server")
def _voc_server(
    context: typer.Context, out: File,
    list_: Annotated[str, typer.Option("--list", metavar="NAME|FILE", help="Photos that the server expects.")] = "test",
    comp: Annotated[Competition, typer.Option(help="comp5: trained on VOC's own data only; comp6: on others, too.")] = Competition.comp6,
    partial: Annotated[bool, typer.Option("--partial", help="Pack what there is, although it is not the list.")] = False,
    run: RunDir = DEFAULT_RUN, what: Kind = What.predictions, labels: Labels = None, images: Images = None,
    force: Force = False, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """The archive for the PASCAL VOC test server, checked.

    Example: rca export voc-server --labels predictions --images VOC2012/JPEGImages --out results.tgz
    """
    console.configure(quiet=quiet)
    source = _source(context, run, what=what, labels=labels, images=images)
    from rcatool.export import voc_server

    voc_server.main(source, out, names=list_, competition=int(comp.value[-1]), partial_list=partial, force=force)


@export_app.command("coco")
def _coco(
    context: typer.Context, out: File,
    regions: Annotated[bool, typer.Option("--regions", help="An annotation for each connected region, not for each class.")] = False,
    min_area: MinArea = 1,
    run: RunDir = DEFAULT_RUN, what: Kind = What.predictions, labels: Labels = None, images: Images = None, classes: Classes = None,
    force: Force = False, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """COCO json with run-length encoded masks.

    Example: rca export coco --run runs/voc --what pseudo --out pseudo.json
    """
    console.configure(quiet=quiet)
    source = _source(context, run, what=what, labels=labels, images=images, classes=classes)
    from rcatool.export import coco

    coco.main(source, out, regions=regions, min_area=min_area, force=force)


@export_app.command("labelme")
def _labelme(
    context: typer.Context, out: Folder,
    tolerance: Annotated[float, typer.Option(min=0.0, metavar="PX", help=_TOLERANCE_HELP)] = 1.0,
    min_area: MinArea = 1,
    run: RunDir = DEFAULT_RUN, what: Kind = What.predictions, labels: Labels = None, images: Images = None, classes: Classes = None,
    force: Force = False, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Polygons for LabelMe, to correct by hand.

    Example: rca export labelme --run runs/voc --what pseudo --out polygons
    """
    console.configure(quiet=quiet)
    source = _source(context, run, what=what, labels=labels, images=images, classes=classes)
    from rcatool.export import labelme

    labelme.main(source, out, rule=_rule(min_area, tolerance), force=force)


@export_app.command("yolo")
def _yolo(
    context: typer.Context, out: Folder,
    tolerance: Annotated[float, typer.Option(min=0.0, metavar="PX", help=_TOLERANCE_HELP)] = 0.0,
    min_area: MinArea = 1,
    photos: Annotated[Photos, typer.Option(help="Put the photos beside the labels, where the trainer looks for them.")] = Photos.copy,
    run: RunDir = DEFAULT_RUN, what: Kind = What.predictions, labels: Labels = None, images: Images = None, classes: Classes = None,
    force: Force = False, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """A data set of polygons for YOLO segmentation.

    Example: rca export yolo --run runs/voc --what pseudo --min-area 20 --out yolo
    """
    console.configure(quiet=quiet)
    source = _source(context, run, what=what, labels=labels, images=images, classes=classes)
    from rcatool.export import yolo

    yolo.main(source, out, rule=_rule(min_area, tolerance), photos=photos.value, force=force)


@export_app.command("png")
def _png(
    context: typer.Context, out: Folder,
    rgb: Annotated[bool, typer.Option("--rgb", help="RGB pictures in the colours of the classes, to look at.")] = False,
    run: RunDir = DEFAULT_RUN, what: Kind = What.predictions, labels: Labels = None, images: Images = None, classes: Classes = None,
    force: Force = False, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Palette PNGs, with the table of classes.

    Example: rca export png --run runs/voc --out masks
    """
    console.configure(quiet=quiet)
    source = _source(context, run, what=what, labels=labels, images=images, classes=classes)
    from rcatool.export import png

    png.main(source, out, rgb=rgb, force=force)


@export_app.command("cams")
def _cams(
    out: Folder,
    format_: Annotated[Layout, typer.Option("--format", help="irn: what its walk takes; psa: {class: map}; npz: ours.")] = Layout.irn,
    run: RunDir = DEFAULT_RUN, force: Force = False, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """The CAMs of a run, for other people's programs.

    Example: rca export cams --run runs/voc --format irn --out cams
    """
    console.configure(quiet=quiet)
    from rcatool.export import cams
    from rcatool.run import Run

    cams.main(Run(run), out, layout=format_.value, force=force)


def _source(
    context: typer.Context, run: Path, *, what: What, labels: Path | None, images: Path | None, classes: Path | None = None
) -> Any:
    """What the options name: the labels of a run, or those of a folder."""
    from rcatool.export import source
    from rcatool.run import Run

    given = [f"--{name}" for name in ("run", "what") if _is_typed(context, name)]
    if labels is not None and given:
        raise ConfigError(f"--labels and {given[0]} are both given, which name two sources", "leave one of them out")
    if labels is not None:
        return source.from_folder(labels, images=images, classes=classes)
    for option, value in {"--images": images, "--classes": classes}.items():
        if value is not None:
            raise ConfigError(f"{option} goes with --labels DIR; a run knows its own", f"leave out {option}")
    return source.from_run(Run(run), what.value)


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line; one from the environment is a default that others may override."""
    found = context.get_parameter_source(name)
    return found is not None and found.name == "COMMANDLINE"


def _rule(min_area: int, tolerance: float) -> Any:
    from rcatool.export.outlines import Rule

    if not math.isfinite(tolerance):
        raise ConfigError(f"--tolerance: expected a number of pixels, got {tolerance}")
    return Rule(min_area=min_area, tolerance=tolerance)
