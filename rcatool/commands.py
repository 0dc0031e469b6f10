"""The commands of the command line and their options. What they do is in `workflow`; `cli` runs them.

Everything that takes long to import is imported inside the command that needs it, so that `rca --help` is quick.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rcatool import __version__, console
from rcatool.errors import SetupError

app = typer.Typer(
    name="rca",
    help="From photos and image tags to a segmentation network and an honest score.",
    epilog="Try it: rca demo. Your photos: rca prepare folder --images DIR --tags FILE, then rca run.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
prepare_app = typer.Typer(help="Read a data set, check every file, and start a run.")
app.add_typer(prepare_app, name="prepare")

RunDir = Annotated[Path, typer.Option("--run", envvar="RCA_RUN", metavar="DIR", help="Run directory: everything is read and written here.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the run; can be repeated.")]
Force = Annotated[bool, typer.Option("--force", help="Make it again although it is up to date; the old output goes to DIR/old.")]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N, for this command only.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no news; warnings, errors and results only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of tables.")]
Preset = Annotated[str | None, typer.Option("--config", metavar="PRESET|FILE", help="Settings to start from, instead of the run's own.")]

DEFAULT_RUN = Path("runs/default")
DEMO_RUN = Path("runs/demo")
@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        console.print_result(f"rca {__version__}")
    elif context.invoked_subcommand is None:
        console.print_result(context.get_help())


@prepare_app.command("voc")
def _prepare_voc(
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder with JPEGImages, or the VOCdevkit around it.")],
    train_list: Annotated[str | None, typer.Option(metavar="NAME", help="List of training photos.")] = None,
    val_list: Annotated[str | None, typer.Option(metavar="NAME", help="List of photos to score the network on.")] = None,
    tune_list: Annotated[str | None, typer.Option(metavar="NAME", help="List of photos to choose thresholds on.")] = None,
    tags: Annotated[str | None, typer.Option(metavar="FILE", help="Tags: a text file, cls_labels.npy, or `masks`.")] = None,
    config: Preset = None, run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Pascal VOC, or any data set in its layout.

    Example: rca prepare voc --root VOCdevkit/VOC2012 --train-list trainaug --val-list val
    """
    # A name that is no file from here may be one in ROOT.
    tag_file = _full(Path(tags)) if tags and tags != "masks" and _full(Path(tags)).is_file() else tags
    _prepare(
        "voc", _request(run, set_, force, device, quiet), config,
        {"root": _full(root), "train_list": train_list, "val_list": val_list, "tune_list": tune_list, "tags": tag_file},
    )  # fmt: skip


@prepare_app.command("folder")
def _prepare_folder(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Folder of photos.")],
    tags: Annotated[str, typer.Option(metavar="FILE|folders", help="CSV (image,tags), JSON, or `folders`: DIR/CLASS/photo.jpg.")],
    masks: Annotated[Path | None, typer.Option(metavar="DIR|FILE", help="Mask PNGs or COCO-style JSON, to measure with.")] = None,
    val_fraction: Annotated[float | None, typer.Option(metavar="F", help="Share of the photos held out for val.")] = None,
    tune_fraction: Annotated[float | None, typer.Option(metavar="F", help="Share held out for tune.")] = None,
    config: Preset = None, run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Any folder of photos, with tags from a CSV, JSON or class folders.

    Example: rca prepare folder --images photos --tags tags.csv --val-fraction 0.2
    """
    from rcatool.data.folder import common_root

    root = common_root(_full(images), masks and _full(masks))
    paths = {"images": _below(images, root), "masks": "" if masks is None else _below(masks, root)}
    paths["tags"] = tags if tags == "folders" else str(_full(Path(tags)))
    options = {"root": root, **paths, "val_fraction": val_fraction, "tune_fraction": tune_fraction}
    _prepare("folder", _request(run, set_, force, device, quiet), config, options)


@prepare_app.command("shapes")
def _prepare_shapes(
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the images go; default: RUN/shapes.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the generator.")] = None,
    config: Preset = None, run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Generated images of textured objects; a new run takes the settings of the preset `shapes`.

    Example: rca prepare shapes --run runs/shapes --seed 1
    """
    options = {"root": None if root is None else _full(root), "shapes_seed": seed}
    _prepare("shapes", _request(run, set_, force, device, quiet), config, options)


def _stage_command(word: str, help_text: str) -> None:
    """Add a command that brings the steps of `word` up to date."""

    @app.command(word, help=help_text)
    def command(
        run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
        device: Device = None, quiet: Quiet = False, debug: Debug = False,
    ) -> None:  # fmt: skip
        _stage(word, _request(run, set_, force, device, quiet))


_stage_command(
    "train-cls", "Train the classification network whose maps become seeds.\n\nExample: rca train-cls --set cls.epochs=5"
)
_stage_command(
    "make-pseudo", "Export CAMs and turn them into pseudo labels.\n\nExample: rca make-pseudo --set pseudo.bg_threshold=0.4"
)
_stage_command(
    "train-seg", "Train the segmentation network on the pseudo labels.\n\nExample: rca train-seg --set seg.epochs=10"
)


@app.command("eval")
def _eval(
    run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Score CAMs, pseudo labels and the segmentation network, as far as they are there.

    Example: rca eval --json
    """
    _stage("eval", _request(run, set_, force, device, quiet))
    _print_scores(run, as_json)


@app.command("run")
def _run_all(
    run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Every step after prepare that is missing or stale, in order.

    Example: rca run --set pseudo.bg_threshold=0.4
    """
    from rcatool import workflow

    workflow.run_all(_request(run, set_, force, device, quiet))
    _print_scores(run, as_json)


@app.command("demo")
def _demo(
    run: RunDir = DEMO_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """The whole pipeline on generated images, on a CPU, in minutes.

    Example: rca demo
    """
    from rcatool import workflow

    workflow.demo(_request(run, set_, force, device, quiet))
    _print_scores(run, as_json=False)
    console.print_result(f"results: {run / 'eval' / 'metrics.json'}")


@app.command("status")
def _status(run: RunDir = DEFAULT_RUN, as_json: Json = False, debug: Debug = False) -> None:
    """What of a run is current, stale or missing, why, and what to type next. Changes nothing.

    Example: rca status --run runs/demo
    """
    from rcatool import summary
    from rcatool.run import Run

    here = Run(run)
    document = summary.status(here, here.read_config())
    if as_json:
        console.print_result(json.dumps(document, indent=2))
        return
    console.print_result(summary.status_table(document))
    console.print_result(f"next: {document['next'] or 'nothing, everything is up to date'}")


@app.command("doctor")
def _doctor(run: RunDir = DEFAULT_RUN, as_json: Json = False, debug: Debug = False) -> None:
    """Check this machine and its libraries, and say what to do.

    Example: rca doctor
    """
    from rcatool import doctor

    checks = doctor.check_all(run)
    if as_json:
        console.print_result(json.dumps([check.as_dict() for check in checks], indent=2))
    else:
        console.print_result(doctor.report(checks))
    broken = [check.name for check in checks if check.status == "fail"]
    if broken:
        raise SetupError(f"not ready: {', '.join(broken)}", "do what the lines marked `fail` say")


def _request(run: Path, assignments: Sequence[str] | None, force: bool, device: str | None, quiet: bool) -> Any:
    from rcatool.workflow import Request

    console.configure(quiet=quiet)
    return Request(run, tuple(assignments or ()), force, device)


def _prepare(dataset: str, request: Any, preset: str | None, options: Mapping[str, object]) -> None:
    from rcatool import workflow

    given = [f"data.{name}={value}" for name, value in options.items() if value is not None]
    workflow.prepare(dataset, request, given, preset)


def _stage(word: str, request: Any) -> None:
    from rcatool import workflow

    workflow.run_stage(word, request)


def _below(path: Path, root: Path) -> str:
    """`path` relative to `root`, which is above it."""
    return _full(path).relative_to(root).as_posix()


def _full(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


def _print_scores(run: Path, as_json: bool) -> None:
    from rcatool import summary
    from rcatool.run import Run

    if as_json:
        console.print_result(summary.metrics_path(Run(run)).read_text(encoding="utf-8").strip())
        return
    metrics = summary.read_metrics(Run(run))
    if metrics:
        console.print_result(summary.class_table(metrics))
        console.print_result(summary.score_table(metrics))
