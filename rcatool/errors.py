"""The errors a person can cause: one line that says what is wrong, a hint that says what to type, an exit code.

Anything else that escapes is a bug, and shows its traceback (exit code 1).
"""

from collections.abc import Sequence


class RcaError(Exception):
    """Base of all errors that are the input's fault, not the program's.

    `message` names the thing (dotted setting or path), what was found and what was expected, in one line; `hint` is
    something to type or to do next.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = hint

    def __reduce__(self) -> tuple[type["RcaError"], tuple[str, str | None]]:
        # The default would drop the hint when a worker process sends the error to its parent.
        return type(self), (self.message, self.hint)


class ConfigError(RcaError):
    """A setting or a command-line value that cannot be used (exit code 2)."""

    exit_code = 2


class DataError(RcaError):
    """A file of the data set, or of the run, that is missing, broken or does not fit (exit code 3)."""

    exit_code = 3


def together(errors: Sequence[DataError]) -> DataError:
    """One error for those of several files, of which there is at least one: the first, and how many more there are."""
    others = f" (and {len(errors) - 1} more like it)" if len(errors) > 1 else ""
    return DataError(f"{errors[0].message}{others}", errors[0].hint)


class StageError(RcaError):
    """A command in the wrong order, or a run directory in use (exit code 4)."""

    exit_code = 4


class TrainingError(RcaError):
    """Training that went wrong: a loss that is not finite (exit code 5)."""

    exit_code = 5


class SetupError(RcaError):
    """Something the machine lacks: a device, a library, memory, disk space, network (exit code 6)."""

    exit_code = 6


class ProcessLost(SetupError):
    """One of several processes has stopped, and this one cannot go on without it."""
