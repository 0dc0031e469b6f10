"""What a training logs, as event files, read back with TensorBoard's own reader."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result
from tiny_run import TinyRun, digests

from rcatool.errors import SetupError
from rcatool.event_log import EventLog
from rcatool.log_lines import read_log

pytest.importorskip("tensorboard", reason="the extra tb is not installed")
Rca = Callable[..., Result]
ENTRIES = [
    {"step": 20, "lr": 0.5, "time": 1000.0, "loss": 2.0},
    {"step": 40, "lr": 0.25, "time": 1010.5, "loss": 1.0, "note": "text", "flag": True, "memory": {"slots": [1, 2]}},
    {"epoch": 1, "val_map": None},
    {"epoch": 2, "val_map": 0.75},
]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of the event files in a folder, as TensorBoard sees it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def of_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The numbers of a log.jsonl, by an own reading of it."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        x = entry.get("step", entry.get("epoch"))
        for name, value in entry.items():
            if name not in ("step", "epoch", "time") and isinstance(value, (int, float)):
                found.setdefault(name, []).append((x, pytest.approx(value, rel=1e-6)))
    return found


def test_numbers_come_back_and_nothing_else(tmp_path: Path) -> None:
    EventLog(tmp_path / "events", ENTRIES)
    assert scalars(tmp_path / "events") == {"lr": [(20, 0.5), (40, 0.25)], "loss": [(20, 2.0), (40, 1.0)], "val_map": [(2, 0.75)]}


def test_line_by_line_is_the_same(tmp_path: Path) -> None:
    EventLog(tmp_path / "at once", ENTRIES)
    log = EventLog(tmp_path / "one by one", ENTRIES[:1])
    for entry in ENTRIES[1:]:
        log.add(entry)
    assert scalars(tmp_path / "one by one") == scalars(tmp_path / "at once")


def test_begun_anew_nothing_is_there_twice(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "mine.txt").write_text("kept")
    for count in (1, 2):
        EventLog(tmp_path / "events", ENTRIES[:count])
    assert scalars(tmp_path / "events")["loss"] == [(20, 2.0), (40, 1.0)]
    assert len(list((tmp_path / "events").glob("*tfevents*"))) == 1
    assert (tmp_path / "events" / "mine.txt").read_text() == "kept"


def test_command(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    before = sorted(undisturbed.path.rglob("*"))
    done = rca("tensorboard", "--run", undisturbed.path, "--out", tmp_path / "events")
    assert done.code == 0
    assert f"tensorboard --logdir {tmp_path / 'events'}" in done.out
    for step in ("train-cls", "train-seg"):
        assert scalars(tmp_path / "events" / step) == of_log(undisturbed.path / step / "log.jsonl")
    document = json.loads(rca("tensorboard", "--run", undisturbed.path, "--out", tmp_path / "events", "--json").out)
    assert document["lines"] == {step: len(read_log(undisturbed.path / step / "log.jsonl")) for step in ("train-cls", "train-seg")}
    assert sorted(undisturbed.path.rglob("*")) == before


def test_a_training_writes_them_itself_and_its_result_is_the_same(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    assert rca("train-seg", "--run", run, "--set", "runtime.tensorboard=true").code == 0
    assert scalars(run / "tensorboard" / "train-seg") == of_log(run / "train-seg" / "log.jsonl")
    assert digests(run)["train-seg"] == digests(undisturbed.path)["train-seg"]
    assert "stale" not in rca("status", "--run", run).out


def test_nothing_logged_yet(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    done = rca("tensorboard", "--run", run)
    assert done.code == 4
    assert "no training has logged anything yet" in done.err
    assert f"hint: rca train-cls --run {run}" in done.err


def test_without_tensorboard(rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)  # what Python makes of a module that lacks
    with pytest.raises(SetupError, match="need the library tensorboard"):
        EventLog(tmp_path / "events")
    shutil.copytree(undisturbed.path, tmp_path / "run")
    done = rca("tensorboard", "--run", tmp_path / "run")
    assert done.code == 6
    assert "hint: pip install 'rcatool[tb]'" in done.err
    assert not (tmp_path / "run" / "tensorboard").exists()
