"""The command line's entry, and the one place where errors become messages and exit codes."""

import errno
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.main import get_command

from rcatool import console, process
from rcatool.commands import app
from rcatool.errors import RcaError, SetupError

# Failures of the machine, wherever they happen; other OSErrors are bugs.
_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.EIO, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
_UsageError: Any = typer.BadParameter.__base__  # typer bundles click and gives this class no name of its own
_GUESS = re.compile(r" (?:Did you mean (.+?)\?|\(Possible options: (.+)\))$")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; what a person can cause is one line and a hint, never a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` is as good as Ctrl-C
    try:
        return _dispatch(arguments)
    except RcaError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        console.error(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        return _stopped()
    finally:
        signal.signal(signal.SIGTERM, before)
        console.attach_log(None)


def _dispatch(arguments: list[str]) -> int:
    try:
        code = get_command(app)(args=arguments, prog_name="rca", standalone_mode=False)
    except _UsageError as error:
        message = error.format_message()
        guess = _GUESS.search(message)
        command = error.ctx.command_path if error.ctx else "rca"
        hint = f"did you mean {(guess[1] or guess[2]).replace(chr(39), '')}?" if guess else f"{command} --help"
        said = _GUESS.sub("", message).rstrip(".")
        console.error(said[:1].lower() + said[1:], hint)  # as our own messages begin
        return 2
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        hint = "see that the disk has room and the folder is yours"
        raise SetupError(f"{error.filename or 'a file or standard output'}: {error.strerror}", hint) from error
    except MemoryError as error:
        raise SetupError("out of memory", "--set runtime.workers=1") from error
    # typer turns Ctrl-C into this exit code by itself.
    return _stopped() if code == 130 else int(code or 0)


def _stopped() -> int:
    console.error("stopped; run the same command to resume")
    return 130


def entry() -> NoReturn:
    """The console script."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may not be text, or not in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    code = main()
    if process.size() > 1:
        process.leave(code)
    sys.exit(code)
