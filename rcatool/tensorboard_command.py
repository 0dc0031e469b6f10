"""The command `rca tensorboard`; `commands` adds it to the command line."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from rcatool import console
from rcatool.errors import StageError
from rcatool.options import DEFAULT_RUN, Debug, Json, RunDir

Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for the event files, instead of tensorboard in the run.")]


def tensorboard(run: RunDir = DEFAULT_RUN, out: Out = None, as_json: Json = False, debug: Debug = False) -> None:
    """Event files of what the trainings of a run have logged, to look at with TensorBoard; also while one is at work.

    Example: rca tensorboard --run runs/voc
    """
    from rcatool.event_log import FOLDER, EventLog
    from rcatool.log_lines import read_log
    from rcatool.run import Run
    from rcatool.steps import STEPS

    here = Run(run)
    config = here.read_config()
    folder = here.root / FOLDER if out is None else out.expanduser()
    logs = {name: read_log(here.dir(name) / "log.jsonl") for name in STEPS}
    found = {name: entries for name, entries in logs.items() if entries}
    if not found:
        raise StageError(f"{run}: no training has logged anything yet", STEPS["train-cls"].command(run, config))
    for name, entries in found.items():
        EventLog(folder / name, entries)
    if as_json:
        counts = {name: len(entries) for name, entries in found.items()}
        console.print_result(json.dumps({"folder": str(folder), "lines": counts}, indent=2))
        return
    lines = ", ".join(f"{len(entries)} lines of {name}" for name, entries in found.items())
    console.print_result(f"{lines}\nlook at them: tensorboard --logdir {shlex.quote(str(folder))}")
