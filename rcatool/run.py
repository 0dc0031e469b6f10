"""A run directory: where each step's files are, what made them, whether they are current, and who may write.

Each step's directory holds a `stage.json`: written when the step begins ("running"), rewritten when it is done. Nothing else is
remembered anywhere, so what the disk says is what happened.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcatool import config_io, console, results, steps
from rcatool.config import Config
from rcatool.errors import DataError, StageError
from rcatool.files import atomic_write, read_json, write_error
from rcatool.lock import exclusive
from rcatool.outside import outside_files
from rcatool.steps import STEPS, State, Step

_RECORD = {"status": str, "fingerprint": str, "settings": dict, "inputs": dict, "outside": dict}
_DONE_RECORD = _RECORD | {"result": str, "inventory": dict}


@dataclass(frozen=True)
class StepDir:
    """The directory of a step that is being made; `resumed` if it may hold finished parts; `inputs` are the steps it uses."""

    path: Path
    name: str
    fingerprint: str
    resumed: bool
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """What a step would be made from now."""

    settings: dict[str, Any]
    outside: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str


class Run:
    """The run directory `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config_path = root / "config.yaml"
        self.log_path = root / "run.log"

    def read_config(self) -> Config:
        """The settings in force. Raises StageError before `rca prepare`, ConfigError if the file is broken."""
        if not self.config_path.exists():
            raise StageError(f"{self.root}: no run here (no config.yaml)", STEPS["prepare"].command(self.root))
        return config_io.read_config(self.config_path)

    def write_config(self, config: Config) -> None:
        """Make `config` the settings in force; a file that says the same already is left alone."""
        text = config_io.dump(config)
        if not self.config_path.exists() or self.config_path.read_bytes() != text.encode():
            atomic_write(self.config_path, text)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let no other process write to this run. Raises StageError at once, naming the holder; freed by a crash, too."""
        with exclusive(self.root / ".lock"):
            yield

    def dir(self, step: str) -> Path:
        """Where `step` keeps its files."""
        assert step in STEPS, step
        return self.root / step

    def record(self, step: str, config: Config | None = None) -> dict[str, Any] | None:
        """The `stage.json` of a step, None if it never began. Raises DataError if it is broken; `config` is for its hint."""
        path = self.dir(step) / "stage.json"
        if not path.exists():
            return None
        hint = f"{STEPS[step].command(self.root, config)} --force"
        try:
            record: dict[str, Any] = read_json(path, f"the record of {step}")
        except DataError as error:
            raise DataError(error.message, hint) from error
        needed = _DONE_RECORD if isinstance(record, dict) and record.get("status") == "done" else _RECORD
        valid = isinstance(record, dict) and all(isinstance(record.get(key), kind) for key, kind in needed.items())
        if not valid or not isinstance(record.get("inventory", {}).get("sizes", {}), dict):
            raise DataError(f"{path}: not a record of {step}", hint)
        return record

    def result_digest(self, step: str) -> str | None:
        """Digest of names and contents of a finished step's files; None if it is not finished."""
        record = self.record(step)
        return record["result"] if record and record["status"] == "done" else None

    def states(self, config: Config, *, until: str = "") -> dict[str, State]:
        """The state of every step in order (no further than `until`), if `config` were in force."""
        found: dict[str, State] = {}
        for step in steps.in_force(config).values():
            found[step.name] = self._state(step, config, found)
            if step.name == until:
                break
        return found

    def state(self, step: str, config: Config) -> State:
        """The state of one step, if `config` were in force."""
        return self.states(config, until=step)[step]

    def require(self, step: str, config: Config, *, by: str = "") -> None:
        """Raise StageError unless `step` is current; `by` is the command that needs it."""
        states = self.states(config, until=step)
        if not states[step].is_current:
            raise self._not_ready(step, config, states, by)

    def check_inputs(self, step: str, config: Config) -> None:
        """Raise StageError, naming what to type first, unless `step` has the inputs it needs."""
        self._check_inputs(steps.in_force(config)[step], config, self.states(config, until=step))

    def begin(self, step: str, config: Config, *, force: bool = False) -> StepDir | None:
        """Make the directory of `step` ready to write to; None if the step is current already.

        Resumes an unfinished or damaged step; a finished one that is stale (or `force`) goes to RUN/old. Raises StageError
        if an input is missing or stale, DataError if the record is broken (unless `force`).
        """
        states, this = self.states(config, until=step), steps.in_force(config)[step]
        if states[step].is_current and not force:
            console.log(f"{step}: up to date")
            return None
        record = self._record_or_none(step) if force else self.record(step, config)
        self._check_inputs(this, config, states)
        for name in this.optional_inputs:
            if states[name].is_outdated:
                console.warn(f"{step} leaves out {name}, which is {states[name].describe()}")
        plan, folder = self._plan(this, config, states, record), self.dir(step)
        try:
            resumed = self._make_room(step, record, "" if force else plan.fingerprint, states[step])
        except OSError as error:
            raise write_error(folder, error) from error
        self._write_record(step, {
            "format": steps.FORMAT, "step": step, "status": "running", "fingerprint": plan.fingerprint,
            "settings": plan.settings, "inputs": plan.inputs, "outside": plan.outside, "started": results.now(),
        })  # fmt: skip
        return StepDir(folder, step, plan.fingerprint, resumed, tuple(plan.inputs))

    def commit(self, step_dir: StepDir, info: dict[str, Any]) -> None:
        """Record that the step is done, with the digest of its files; `info` is kept but counts for nothing."""
        record = self.record(step_dir.name)
        assert record is not None, "commit without begin"
        assert record["status"] == "running", "commit of a finished step"
        record |= {
            "status": "done", **results.described(step_dir.path), "finished": results.now(), "versions": results.versions(),
            "command": ["rca", *sys.argv[1:]], "info": {"peak_memory_mib": results.peak_memory_mib(), **info},
        }  # fmt: skip
        self._write_record(step_dir.name, record)

    def amend(self, step: str) -> None:
        """Record the files of a finished step as they are now, after one of them was added to."""
        record = self.record(step)
        assert record is not None
        assert record["status"] == "done", "only what is done can be added to"
        self._write_record(step, record | results.described(self.dir(step)))

    def _write_record(self, step: str, record: dict[str, Any]) -> None:
        atomic_write(self.dir(step) / "stage.json", json.dumps(record, indent=1) + "\n")

    def _record_or_none(self, step: str) -> dict[str, Any] | None:
        try:
            return self.record(step)
        except DataError:  # a broken record is reported as the state of its step
            return None

    def _state(self, step: Step, config: Config, before: dict[str, State]) -> State:
        try:
            record = self.record(step.name)
        except DataError as error:
            return State("damaged", (error.message,))
        if record is None:
            return State("missing")
        plan = self._plan(step, config, before, record)
        reasons = steps.changes(record["settings"], plan.settings)
        for name in (*step.inputs, *step.optional_inputs):
            if before[name].is_in_the_way or plan.inputs.get(name) != record["inputs"].get(name):
                reasons += before[name].as_input(name)
        if record["status"] != "done":
            return State("running", tuple(dict.fromkeys(reasons)))
        if not reasons and plan.fingerprint != record["fingerprint"]:
            reasons = ["made by another version of the program"]
        if reasons:
            return State("stale", tuple(dict.fromkeys(reasons)))
        harm = results.describe_damage(*results.damage(self.dir(step.name), record["inventory"]["sizes"]))
        return State("damaged", harm) if harm else State("current")

    def _plan(self, step: Step, config: Config, before: dict[str, State], record: dict[str, Any] | None) -> _Plan:
        settings = steps.settings_used(step, config)
        outside = outside_files(settings, config.data.root, record["outside"] if record else {})
        settings |= {name: f"sha256:{file['sha256']}" for name, file in outside.items()}
        inputs: dict[str, str] = {}
        for name in (*step.inputs, *step.optional_inputs):
            digest = self.result_digest(name) if before[name].is_current else None
            if digest is not None:
                inputs[name] = digest
        return _Plan(settings, outside, inputs, steps.fingerprint(step, settings, inputs))

    def _check_inputs(self, step: Step, config: Config, states: dict[str, State]) -> None:
        wanted = [name for name in step.optional_inputs if states[name].is_in_the_way]
        for name in (*step.inputs, *wanted):
            if not states[name].is_current:
                raise self._not_ready(name, config, states, step.word)
        if step.optional_inputs and not any(states[name].is_current for name in step.optional_inputs):
            raise self._not_ready(step.optional_inputs[0], config, states, step.word)

    def _not_ready(self, step: str, config: Config, states: dict[str, State], by: str) -> StageError:
        word, state = STEPS[step].word, states[step]
        message = f"{by} needs the output of {word}" if by else f"the output of {word}"
        if state.kind != "missing":
            message += f"{', which' if by else ''} is {state.describe()}"
        elif not by:
            message += " is missing"
        first = steps.first_to_make(step, {name for name, state in states.items() if state.is_current}, config)
        return StageError(message, STEPS[first].command(self.root, config))

    def _make_room(self, step: str, record: dict[str, Any] | None, fingerprint: str, state: State) -> bool:
        """Keep, move away or remove what is in the step's directory; whether something was kept."""
        folder, same = self.dir(step), record is not None and record["fingerprint"] == fingerprint
        finished = record["inventory"]["sizes"] if record is not None and same and record["status"] == "done" else {}
        results.sweep(folder, results.damage(folder, finished)[1])  # half a file of a killed process is no output to keep
        if same:
            console.log(f"{step}: resuming ({state.describe()})")
            return True
        if record is not None and record["status"] != "done":
            console.log(f"{step}: discarding unfinished output that other settings made ({'; '.join(state.reasons)})")
            shutil.rmtree(folder)
        elif folder.exists() and any(folder.iterdir()):
            target = self._free_name(f"{step}-{record['fingerprint'][:12] if record else 'unrecorded'}")
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder, target)
            console.log(f"{step}: {state.describe()}; the earlier output is kept in {target}")
        return False

    def _free_name(self, name: str) -> Path:
        target, number = self.root / "old" / name, 2
        while target.exists():
            target, number = self.root / "old" / f"{name}-{number}", number + 1
        return target
