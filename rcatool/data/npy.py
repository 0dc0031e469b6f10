"""The .npy files of the field's public repositories: tags (`cls_labels.npy`) and CAMs, all of them pickled dicts."""

from pathlib import Path
from typing import Any

import numpy as np

from rcatool.data.pickled import BROKEN, Array, read_dict
from rcatool.errors import DataError
from rcatool.files import plain

MAX_TAGS = 256 * 2**20  # bytes; COCO's 123,287 photos x 80 classes take about 60 MiB
MAX_CAMS = 2**30  # bytes; ten maps of a photo of 24 megapixels, in single precision


def read_tag_vectors(path: Path) -> dict[str, np.ndarray]:
    """Read image id -> one value for each class (float64, (C,)); DataError naming the file where it is anything else."""
    what = "a tag file of the form {image id: one number for each class}"
    try:
        return {_text(key): _vector(value) for key, value in read_dict(_bytes(path, MAX_TAGS, "a tag file")).items()}
    except BROKEN as error:
        raise DataError(f"{path}: not {what} ({_short(error)})") from error


def read_arrays(path: Path) -> dict[Any, np.ndarray]:
    """Read name (or number) -> array, of a dict of arrays, tensors, numbers or lists of them that np.save has written.

    DataError naming the file where it is missing, too large or holds anything else.
    """
    try:
        table = read_dict(_bytes(path, MAX_CAMS, "a file of one photo's CAMs"))
        return {_name(key): _array(value) for key, value in table.items()}
    except BROKEN as error:
        raise DataError(f"{path}: not a dict of arrays that can be read safely ({_short(error)})") from error


def _short(error: Exception) -> str:
    """Its text; Python's own quotes the line of a pickle, which may be the rest of the file."""
    text = str(error)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _bytes(path: Path, most: int, what: str) -> bytes:
    try:
        if path.stat().st_size > most:
            raise DataError(f"{path}: more than {most >> 20} MiB, too large for {what}")
        return plain(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _text(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    if not isinstance(key, str):
        raise ValueError(f"image id {key!r} is no text")
    return key


def _name(key: object) -> str | int:
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return int(key)
    return _text(key)


def _array(value: object) -> np.ndarray:
    """Return an array, a number, or a list of them as an array; ValueError for text and containers of other kinds."""
    items = [item.value if isinstance(item, Array) else item for item in (value if isinstance(value, (list, tuple)) else [value])]
    strange = [item for item in items if not isinstance(item, (np.ndarray, np.generic, int, float))]
    if strange:
        raise ValueError(f"a value of the kind {type(strange[0]).__name__}")
    return np.asarray(items if isinstance(value, (list, tuple)) else items[0])


def _vector(value: object) -> np.ndarray:
    # A list within a list may hold it twice, and so on: small as a file, and any size as an array.
    vector = np.asarray(_array(value) if isinstance(value, (list, tuple, Array)) else value, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"a value of shape {vector.shape}")
    return vector
