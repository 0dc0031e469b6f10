"""What a log.jsonl holds, as an event file for TensorBoard.

tensorboard is an extra: `pip install 'rcatool[tb]'`. Of it only the file format is used; nothing of it runs in the background.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rcatool.errors import SetupError
from rcatool.files import write_error
from rcatool.log_lines import is_number

FOLDER = "tensorboard"  # in the run, with a folder for each training step
_X_FIELDS = ("step", "epoch", "time")


class EventLog:
    """The event file of one training: every number of a line of its log, under the name that it has there.

    The x axis is the step, or the epoch for lines that have no step. Lists (the memory's counts per class) are left out.
    """

    def __init__(self, folder: Path, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        """Begin the file anew with `entries`, what the log holds already. Raises `SetupError` without tensorboard, or disk."""
        check_tensorboard()
        self._path = folder / f"events.out.tfevents.{time.time_ns()}"  # a new name: a TensorBoard that is open reads on
        self._time = time.time()
        records = [_record(wall_time=self._time, file_version="brain.Event:2"), *map(self._event, entries)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            old = list(folder.glob("events.out.tfevents.*"))
            self._append(records)
            for path in old:
                path.unlink()
        except OSError as error:
            raise write_error(self._path, error) from error

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one line of the log. Raises `SetupError` if the disk is full."""
        try:
            self._append([self._event(entry)])
        except OSError as error:
            raise write_error(self._path, error) from error

    def _event(self, entry: Mapping[str, Any]) -> bytes:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._time = entry["time"] if is_number(entry.get("time")) else self._time
        x = entry.get("step", entry.get("epoch", 0))
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in entry.items()
            if name not in _X_FIELDS and is_number(value)
        ]
        return _record(wall_time=self._time, step=int(x) if is_number(x) else 0, summary=Summary(value=values))

    def _append(self, records: Iterable[bytes]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self._path.open("ab") as file:
            writer = RecordWriter(file)
            for record in records:
                writer.write(record)


def check_tensorboard() -> None:
    """Raise `SetupError` where tensorboard does not load."""
    try:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError as error:
        raise SetupError(f"event files need the library tensorboard, which does not load ({error})", "pip install 'rcatool[tb]'") from error


def _record(**fields: Any) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    encoded: bytes = Event(**fields).SerializeToString()
    return encoded
