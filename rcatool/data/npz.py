"""Archives of arrays (.npz), read without trusting them: no pickle, no more memory than allowed, one family of errors."""

import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from rcatool.files import plain

MAX_BYTES = 2**30  # ten maps of a photo of 24 megapixels, in single precision
# What reading a broken archive raises: RuntimeError for its odd flags, TypeError for a plain array, MemoryError for a huge shape and
# OverflowError for one that no computer could hold, the errors of Python's parser for the description of an array.
BROKEN = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, MemoryError, OverflowError, SyntaxError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_npz(path: Path, *, most: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """Read the arrays of an archive by name; one of BROKEN where it is missing, broken, or inflates to more than `most` bytes."""
    with warnings.catch_warnings(), plain(path).open("rb") as file:
        warnings.simplefilter("ignore")  # about descriptions that Python 2 has written
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise TypeError("a single array")
        with loaded as archive:
            size = sum(member.file_size for member in archive.zip.infolist()) if archive.zip else 0
            if size > most:
                raise ValueError(f"it inflates to {size >> 20} MiB, more than {most >> 20}")
            arrays = {name: archive[name] for name in archive.files}
    strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:  # NumPy gives the bytes of what does not begin like an array
        raise ValueError(f"{strange[0]!r} is no array")
    return arrays
