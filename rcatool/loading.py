"""Modules that need torch are loaded here, when there is work for them, and what the machine lacks for them becomes a message."""

import importlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from rcatool.errors import SetupError

# What to lower when a command runs out of memory.
_LOWER = {
    "prepare": "--set runtime.workers=1",
    "train-cls": "a smaller cls.batch_size or cls.crop_size, or --set runtime.workers=1",
    "import-cams": "--set runtime.workers=1",
    "make-pseudo": "--set runtime.workers=1, or smaller cam.scales",
    "train-seg": "a smaller seg.batch_size, seg.crop_size or second.scales, or --set runtime.workers=1",
    "eval": "--set runtime.workers=1, or smaller eval.scales",
    "bench": "a smaller batch_size or crop_size, such as --set cls.batch_size=4",
    "predict": "a smaller --tile, such as 512",
}
_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "CUDA out of memory", "Caught MemoryError in DataLoader")
_LOST_WORDS = "DataLoader worker (pid"  # ... is killed by signal, or: exited unexpectedly
_UNREPEATABLE = " does not have a deterministic implementation"


@contextmanager
def limits_watched(word: str) -> Iterator[None]:
    """Turn what a machine cannot do into a SetupError that says what to change: memory, a process that is gone, determinism."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch watches its processes by a handler of signals that raises an error, which could come in the middle of our message.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        lower = f"try {_LOWER[word]}; then the same command resumes"
        if _is_out_of_memory(error):
            raise SetupError(f"{word}: out of memory", lower) from error
        if _LOST_WORDS in str(error):
            raise SetupError(f"{word}: a process that reads photos died (out of memory?)", lower) from error
        if _UNREPEATABLE in str(error):
            what = str(error).partition(_UNREPEATABLE)[0]
            raise SetupError(f"{word}: {what} has no deterministic kind on this device", "--set runtime.deterministic=false") from error
        raise


def load(module: str) -> ModuleType:
    """A module of rcatool that needs torch; SetupError where torch, or another library, does not load."""
    try:
        return importlib.import_module(f"rcatool.{module}")
    except (ImportError, OSError, RuntimeError) as error:  # what torch and torchvision raise that are broken, or do not fit together
        if isinstance(error, ImportError) and (error.name or "").startswith("rcatool"):
            raise
        word = module.rpartition(".")[2].replace("_", "-")
        raise SetupError(f"{word}: a library does not load ({error})", "rca doctor says which, and what to do") from error


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))):
        return True
    return any(words in str(error) for words in _MEMORY_WORDS)
