"""Which of the processes of a command this one is, as the launcher (`launch`, or torchrun) says in the environment."""

import os
import sys
from typing import NoReturn


def rank() -> int:
    """Number of this process, from 0; the first writes what all share."""
    return _number("RANK", 0)


def size() -> int:
    """How many processes work on this command, on all machines."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Number of this process on this machine, from 0: that of its GPU."""
    return _number("LOCAL_RANK", rank())


def local_size() -> int:
    """How many of the processes share this machine and its cores."""
    return _number("LOCAL_WORLD_SIZE", size())


def leave(code: int) -> NoReturn:
    """End this process, one of several, which has written all it had to: at once.

    The threads that ranks talk through can abort one that takes itself down piece by piece.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
