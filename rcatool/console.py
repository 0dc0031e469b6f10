"""What a person sees: log lines, progress bars and tables on stderr; results on stdout.

Nothing but a command's result goes to stdout, so that `--json` and pipes work. On a process of rank above 0 all is silent.
"""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rcatool import process

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

_NUMBER = re.compile(r"[-+]?[\d,.]+(e[-+]?\d+)?\s?%?|-|–|", re.IGNORECASE)
_PLAIN_INTERVAL = 60.0  # seconds between two lines of progress where there is no terminal


@dataclass
class _Output:
    quiet: bool = False
    log_path: Path | None = None


_output = _Output()


class Bar(Protocol):
    """What `progress` yields."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more items; `note` is shown beside the bar."""


def configure(*, quiet: bool) -> None:
    """Set whether log lines and progress are shown; warnings, errors and results always are."""
    _output.quiet = quiet


def is_quiet() -> bool:
    """Whether log lines and progress are hidden."""
    return _output.quiet


def attach_log(path: Path | None) -> None:
    """From now on also append log lines, warnings and errors, with the time, to the file `path`; None: no longer."""
    _output.log_path = path


def note(message: str) -> None:
    """One line for the attached log file only."""
    _append(message)


def log(message: str) -> None:
    """One line of news."""
    if not _silent():
        _stderr().print(message, markup=False, highlight=False, emoji=False, soft_wrap=True)
    _append(message)


def warn(message: str) -> None:
    """One line about something that may not be what the person wants; shown even when quiet."""
    _labelled("warning", message, "yellow")


def error(message: str, hint: str | None = None) -> None:
    """What went wrong, in one line, and what to do, in another."""
    _labelled("error", message, "bold red")
    if hint:
        _labelled("hint", hint, "cyan")


def print_result(renderable: "RenderableType") -> None:
    """Print a command's result to stdout, in the first process; text goes out exactly as it is."""
    if _off_rank():
        return
    if isinstance(renderable, str):
        print(renderable, flush=True)
        return
    from rich.console import Console

    # A pipe has no width: let a table be as wide as its content.
    Console(width=None if sys.stdout.isatty() else 500).print(renderable)
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "RenderableType":
    """A table to print; columns of numbers are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    cells = [[str(cell) for cell in row] for row in rows]
    result = Table(title=Text(title) if title else None, title_justify="left")
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(_NUMBER.fullmatch(row[index]) for row in cells)
        result.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        result.add_row(*(Text(cell) for cell in row))
    return result


@contextmanager
def progress(task: str, total: int) -> Iterator[Bar]:
    """Show how far `task` is: a bar with rate and time left on a terminal, else one line per minute, nothing when quiet."""
    if _silent():
        yield _NoBar()
    elif _stderr().is_terminal:
        with _rich_progress() as bars:
            yield _RichBar(bars, bars.add_task(task, total=total, rate="", note=""))
    else:
        yield _PlainBar(task, total)


class _NoBar:
    def advance(self, n: int = 1, note: str = "") -> None:
        """Nothing to show."""


class _PlainBar:
    """One line per minute, for logs of batch jobs."""

    def __init__(self, task: str, total: int) -> None:
        self._task, self._total, self._done = task, total, 0
        self._start = self._last = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count, and print a line if a minute has passed since the last."""
        self._done += n
        now = time.monotonic()
        if now - self._last < _PLAIN_INTERVAL:
            return
        self._last = now
        rate = self._done / (now - self._start)
        left = _clock((self._total - self._done) / rate) if rate > 0 else "?"
        log(f"{self._task}: {self._done}/{self._total}, {rate:.1f}/s, {left} left {note}".rstrip())


class _RichBar:
    """A bar of rich; its rate is the mean since the start, which does not jump about."""

    def __init__(self, bars: "Progress", task_id: "TaskID") -> None:
        self._bars, self._task_id = bars, task_id

    def advance(self, n: int = 1, note: str = "") -> None:
        """Move the bar."""
        task = self._bars.tasks[0]
        rate = (task.completed + n) / task.elapsed if task.elapsed else 0.0
        self._bars.update(self._task_id, advance=n, rate=f"{rate:.1f}/s", note=note)


def _rich_progress() -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    def text(field: str) -> TextColumn:
        return TextColumn(field, markup=False)

    return Progress(
        text("{task.description}"), BarColumn(), MofNCompleteColumn(), text("{task.fields[rate]}"),
        TimeElapsedColumn(), text("left"), TimeRemainingColumn(), text("{task.fields[note]}"),
        console=_stderr(), transient=True,
    )  # fmt: skip


@cache
def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _off_rank() -> bool:
    return process.rank() != 0


def _silent() -> bool:
    return _output.quiet or _off_rank()


def _labelled(label: str, message: str, style: str) -> None:
    if not _off_rank():
        from rich.text import Text

        _stderr().print(Text.assemble((f"{label}:", style), " ", message), highlight=False, soft_wrap=True)
    _append(f"{label}: {message}")


def _append(message: str) -> None:
    if _output.log_path is None or _off_rank():
        return
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        with open(_output.log_path, "a", encoding="utf-8", errors="backslashreplace") as handle:
            handle.write(f"{stamp} {message}\n")
    except OSError:
        # The log is a convenience: the files that matter are written by `files`, which reports a full disk.
        _output.log_path = None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
