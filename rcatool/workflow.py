"""What the commands do, without the command line: find out whether there is work, take the lock, call the stages.

Stages are imported only when there is work for them, so that a command with nothing to do loads no torch.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rcatool import config_io, console, process
from rcatool.config import Config
from rcatool.config_data import Data
from rcatool.errors import ConfigError, SetupError
from rcatool.launch import launch, on_first, together
from rcatool.leave_pages import leave_pages, pages_due
from rcatool.loading import limits_watched, load
from rcatool.outside import NO_FILES
from rcatool.run import Run
from rcatool.steps import Step, in_force, is_needed

if TYPE_CHECKING:
    from rcatool.stages.verify_data import Verified

CAMS = "make-pseudo/cams"
AFTER_PREPARE = ("train-cls", "make-pseudo", "train-seg", "eval")


@dataclass(frozen=True)
class Request:
    """The options that commands share."""

    run: Path
    assignments: tuple[str, ...] = ()
    force: bool = False
    device: str | None = None
    procs: int = 1


def prepare(dataset: str, request: Request, assignments: Sequence[str], preset: str | None = None) -> None:
    """Make the manifest of a data set; `assignments` are the command's own options as settings."""
    run = Run(request.run)
    base = _base_config(run, dataset, preset)
    if dataset == "shapes" and not base.data.root:
        assignments = [f"data.root={(run.root / 'shapes').absolute()}", *assignments]
    kept = _absolute(config_io.apply_settings(base, [f"data.dataset={dataset}", *assignments, *request.assignments]))
    with _writing(run):
        record = run.dir("prepare") / "stage.json"
        before = record.read_bytes() if record.exists() else None  # as bytes: a record that is broken is made anew
        _call("prepare", run, _on_device(kept, request), force=request.force)
        # Only now: a data set that cannot be used must not replace the settings of a run that works.
        run.write_config(kept)
        if record.read_bytes() != before or pages_due(run):
            leave_pages(run, "prepare", kept)


def verify(request: Request) -> "Verified":
    """Check every file of the run's data set; settings given with the command, such as data.root, are kept if all is well."""
    run = Run(request.run)
    kept = _absolute(config_io.apply_settings(run.read_config(), request.assignments))
    run.require("prepare", kept, by="prepare --verify")
    with _writing(run):
        from rcatool.stages import verify_data

        found = verify_data.main(run, kept)
        if not found.lines:
            run.write_config(kept)
    return found


def run_stage(word: str, request: Request) -> None:
    """Bring the steps of one command up to date, in one process or several."""
    with together():
        run = Run(request.run)
        stored, kept = _settings(run, request)
        has_work = request.force or on_first(lambda: _has_work(run, word, kept))
        due = not has_work and on_first(lambda: pages_due(run))  # the last command was killed before it left them
        if not has_work and not due and kept == stored:
            console.log(f"{word}: up to date")
            return
        first = _steps_of(word, kept)[0].name
        if has_work and _launched(request, run_stage, word, check=lambda: run.check_inputs(first, kept)):
            return
        with _writing(run, together=True):
            on_first(lambda: run.write_config(kept))
            if has_work:
                on_first(lambda: run.check_inputs(first, kept))  # before torch is loaded
                _call(word, run, _on_device(kept, request), force=request.force)
            else:
                console.log(f"{word}: up to date")
            if has_work or due:
                on_first(lambda: leave_pages(run, word, _on_device(kept, request)))


def import_cams(request: Request, assignments: Sequence[str]) -> None:
    """Make other people's CAM files the CAMs of a run; `assignments` are the command's own options as settings."""
    run = Run(request.run)
    stored = run.read_config()
    kept = _absolute(config_io.apply_settings(stored, [*assignments, *request.assignments]))
    run.check_inputs(CAMS, kept)
    with _writing(run):
        _call("import-cams", run, _on_device(kept, request), force=request.force)
        # Only now: files that cannot be used must not replace the settings of a run that works.
        run.write_config(kept)
        leave_pages(run, "import-cams", kept)


def run_all(request: Request) -> None:
    """Bring every step after prepare up to date, in order, in one process or several."""
    with together():
        run = Run(request.run)
        stored, kept = _settings(run, request)
        on_first(lambda: run.require("prepare", kept, by="run"))
        idle = not request.force and on_first(
            lambda: all(state.is_current for name, state in run.states(kept).items() if is_needed(name, kept))
        )
        if not idle and _launched(request, run_all):
            return
        due = idle and on_first(lambda: pages_due(run))
        if not idle or due or kept != stored:
            with _writing(run, together=True):
                on_first(lambda: run.write_config(kept))
                if due:
                    on_first(lambda: leave_pages(run, "eval", _on_device(kept, request)))
                for word in AFTER_PREPARE:
                    # Asked again each time: an earlier step that came out the same as before leaves the later ones current.
                    if is_needed(word, kept) and (request.force or on_first(partial(_has_work, run, word, kept))):
                        _call(word, run, _on_device(kept, request), force=request.force)
                        on_first(partial(leave_pages, run, word, _on_device(kept, request)))
    console.log("everything is up to date" if idle else f"done: the results are in {run.root}")


def add_reference(request: Request, reference: Path) -> None:
    """Measure a run's network against that of another run, and keep that beside its scores; what is there already is left alone."""
    if process.rank() > 0:
        return
    from rcatool import reference as references
    from rcatool.summary import read_reference

    run = Run(request.run)
    document = references.measure(run.root, reference)
    references.warn(document)
    if document != read_reference(run):
        with _writing(run, together=True):
            references.store(run, document)


def demo(request: Request) -> None:
    """The whole pipeline on generated images."""
    prepare("shapes", request, [])
    run_all(Request(request.run, (), request.force, request.device))


def _has_work(run: Run, word: str, config: Config) -> bool:
    states = run.states(config)
    return any(not states[step.name].is_current for step in _steps_of(word, config))


def _steps_of(word: str, config: Config) -> list[Step]:
    return [step for step in in_force(config).values() if step.word == word]


def _base_config(run: Run, dataset: str, preset: str | None) -> Config:
    """The settings to start from: the preset or file asked for, else the run's, else the defaults (shapes: its preset)."""
    data = Data.model_validate({"dataset": dataset})
    if preset is None and run.config_path.exists():
        base = run.read_config()
    elif preset is None and dataset != "shapes":
        return Config()
    else:  # a file that does not say for which data set it is, is for this one
        base = config_io.read_config(config_io.find_preset(preset or "shapes"), Config(data=data))
    if base.data.dataset != dataset:  # paths and lists of another data set mean nothing here
        base = base.model_copy(update={"data": data})
    return base


def _absolute(config: Config) -> Config:
    """`config` with the paths that depend on the current folder written out."""
    changes = []
    for name in ("data.root", "cam.source", "cls.weights", "affinity.weights", "seg.weights"):
        value = config_io.get(config, name)
        path = Path(value).expanduser()
        if value not in NO_FILES and not path.is_absolute() and (name in ("data.root", "cam.source") or "/" in value or path.is_file()):
            changes.append(f"{name}={path.absolute()}")
        elif str(path) != value and value.startswith("~"):
            changes.append(f"{name}={path}")
    return config_io.apply_settings(config, changes)


def _on_device(config: Config, request: Request) -> Config:
    """`config` with `--device`, which holds for this command only."""
    return config if request.device is None else config_io.apply_settings(config, [f"runtime.device={request.device}"])


def _settings(run: Run, request: Request) -> tuple[Config, Config]:
    """The settings of the run, and those with the command's own."""

    def read() -> tuple[Config, Config]:
        stored = run.read_config()
        return stored, _absolute(config_io.apply_settings(stored, request.assignments))

    return on_first(read)


def _launched(request: Request, work: Callable[..., object], *arguments: object, check: Callable[[], object] | None = None) -> bool:
    """Whether several processes were asked for: they have done `work` then. What can be checked before them is."""
    if request.procs == 1:
        return False
    if process.size() > 1:
        raise ConfigError(f"--procs {request.procs}, but torchrun has started {process.size()} processes", "leave --procs out")
    if check is not None:
        check()
    launch(request.procs, work, *arguments, replace(request, procs=1))
    return True


@contextmanager
def _writing(run: Run, *, together: bool = False) -> Iterator[None]:
    """Hold the lock of a run, in the first of the processes; only some commands work `together`."""
    if not together and process.size() > 1:
        raise SetupError("this command works in a single process", "start it without torchrun")
    with ExitStack() as held:
        on_first(lambda: held.enter_context(run.lock()))
        console.attach_log(run.log_path)
        console.note(f"$ {shlex.join(['rca', *sys.argv[1:]])}")
        yield


def _call(word: str, run: Run, config: Config, *, force: bool) -> None:
    stage = load(f"stages.{word.replace('-', '_')}")
    with limits_watched(word):
        stage.main(run, config, force=force)
