"""The commands of the command line, but for `rca prepare`. What they do is in `workflow`; `cli` runs them.

Everything that takes long to import is imported inside the command that needs it, so that `rca --help` is quick.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rcatool import (
    __version__,
    bench_command,
    cam_commands,
    coco_command,
    console,
    inspect_commands,
    predict_commands,
    prepare_commands,
    report_commands,
    score_commands,
    settings_command,
    tensorboard_command,
    weights_command,
)
from rcatool.errors import SetupError
from rcatool.export_commands import export_app
from rcatool.options import DEFAULT_RUN, Debug, Device, Force, Json, Procs, Quiet, RunDir, Settings, request

# The order of `rca --help`: as they are used.
ORDER = (
    "demo", "prepare", "train-cls", "make-pseudo", "train-seg", "eval", "run", "predict", "status", "report", "show", "compare", "score",
    "export", "import-cams", "inspect", "settings", "tensorboard", "bench", "doctor", "convert-weights",
)  # fmt: skip


class _InOrder(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    name="rca",
    cls=_InOrder,
    help="From photos and image tags to a segmentation network and an honest score.",
    epilog="Try it: rca demo. Your photos: rca prepare folder --images DIR --tags FILE, then rca run.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
prepare_commands.app.command("coco")(coco_command.prepare_coco)
app.add_typer(prepare_commands.app, name="prepare")
export_app.command("network")(predict_commands.export_network)
export_app.command("onnx")(predict_commands.export_onnx)
app.add_typer(export_app, name="export")
app.add_typer(score_commands.app)
app.add_typer(report_commands.app)
app.command("predict")(predict_commands.predict)
app.command("bench")(bench_command.bench)
app.command("import-cams")(cam_commands.import_cams)
app.command("settings")(settings_command.settings)
app.command("tensorboard")(tensorboard_command.tensorboard)
app.command("convert-weights")(weights_command.convert_weights)
app.add_typer(inspect_commands.app, name="inspect")

Reference = Annotated[
    Path | None, typer.Option("--reference", metavar="RUN2", help="A scored run trained on true masks: which share of its mIoU is this?")
]
DEMO_RUN = Path("runs/demo")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        console.print_result(f"rca {__version__}")
    elif context.invoked_subcommand is None:
        console.print_result(context.get_help())


def _stage_command(word: str, help_text: str) -> None:
    """Add a command that brings the steps of `word` up to date."""

    @app.command(word, help=help_text)
    def command(
        run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
        procs: Procs = 1, device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
    ) -> None:  # fmt: skip
        _stage(word, request(run, set_, force, device, quiet, procs))
        if as_json:
            from rcatool import summary

            console.print_result(summary.status_json(run))


_stage_command(
    "train-cls", "Train the classification network whose maps become seeds.\n\nExample: rca train-cls --set cls.epochs=5"
)
_stage_command(
    "make-pseudo", "Export CAMs and turn them into pseudo labels.\n\nExample: rca make-pseudo --set pseudo.bg_threshold=0.4"
)
_stage_command(
    "train-seg",
    "Train the segmentation network on the pseudo labels, and with second.enabled again on what it makes of them.\n\n"
    "Example: rca train-seg --set seg.epochs=10",
)


@app.command("eval")
def _eval(
    run: RunDir = DEFAULT_RUN, reference: Reference = None, set_: Settings = None, force: Force = False,
    procs: Procs = 1, device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Score CAMs, pseudo labels and the segmentation network, as far as they are there.

    Example: rca eval --reference runs/supervised
    """
    if reference is not None:
        from rcatool import reference as references

        references.check(reference)  # before the photos are predicted, which may take long
    _stage("eval", request(run, set_, force, device, quiet, procs))
    if reference is not None:
        from rcatool import workflow

        workflow.add_reference(request(run, set_, force, device, quiet), reference)
    _print_scores(run, as_json)


@app.command("run")
def _run_all(
    run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    procs: Procs = 1, device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Every step after prepare that is missing or stale, in order.

    Example: rca run --set pseudo.bg_threshold=0.4
    """
    from rcatool import workflow

    workflow.run_all(request(run, set_, force, device, quiet, procs))
    _print_scores(run, as_json)


@app.command("demo")
def _demo(
    run: RunDir = DEMO_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """The whole pipeline on generated images, on a CPU, in minutes.

    Example: rca demo
    """
    from rcatool import workflow

    workflow.demo(request(run, set_, force, device, quiet))
    _print_scores(run, as_json)
    if not as_json:
        console.print_result(f"results: {run / 'eval' / 'metrics.json'}\nto look at: {run / 'report.html'}")


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
    """Check this machine, its libraries and the results of a run, and say what to do.

    Example: rca doctor --run runs/demo
    """
    from rcatool import doctor, run_checks
    from rcatool.run import Run

    checks = [*doctor.check_all(run), *run_checks.check_run(Run(run))]
    if as_json:
        console.print_result(json.dumps([check.as_dict() for check in checks], indent=2))
    else:
        console.print_result(doctor.report(checks))
    broken = [check.name for check in checks if check.status == "fail"]
    if broken:
        raise SetupError(f"not ready: {', '.join(broken)}", "do what the lines marked `fail` say")


def _stage(word: str, request: Any) -> None:
    from rcatool import workflow

    workflow.run_stage(word, request)


def _print_scores(run: Path, as_json: bool) -> None:
    from rcatool import score_tables, summary
    from rcatool.run import Run

    if as_json:
        console.print_result(summary.metrics_path(Run(run)).read_text(encoding="utf-8").strip())
        return
    metrics = summary.read_metrics(Run(run))
    reference = summary.read_reference(Run(run)) if metrics else None
    for table in score_tables.run_tables(metrics) if metrics else ():
        console.print_result(table)
    for table in score_tables.reference_tables(reference) if reference else ():
        console.print_result(table)
