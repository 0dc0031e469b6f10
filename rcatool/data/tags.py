"""Tag files of the VOC family: text, `cls_labels.npy` and annotations in XML."""

from pathlib import Path
from xml.parsers import expat

import numpy as np

from rcatool.data.labels import ClassInfo
from rcatool.data.npy import read_tag_vectors
from rcatool.errors import DataError
from rcatool.files import plain

MAX_XML_BYTES = 2**20


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without byte order mark; DataError naming it."""
    try:
        return plain(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_text_tags(path: Path, info: ClassInfo) -> dict[str, list[int]]:
    """Read lines of an id and class names into id -> class indices; DataError with the line's number."""
    index = {name: c for c, name in enumerate(info.names)}
    found: dict[str, list[int]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        image_id, *names = line.split()
        unknown = [name for name in names if name not in index]
        if unknown:
            raise DataError(f"{path}:{number}: unknown class {unknown[0]!r}, expected some of {', '.join(info.names)}")
        if image_id in found:
            raise DataError(f"{path}:{number}: a second line for {image_id}")
        found[image_id] = [index[name] for name in names]
    return found


def read_vector_tags(path: Path, info: ClassInfo) -> dict[str, list[int]]:
    """Read cls_labels.npy, a 0 or 1 for each class, into id -> class indices; DataError naming the file."""
    found: dict[str, list[int]] = {}
    for image_id, vector in read_tag_vectors(path).items():
        strange = vector[~np.isin(vector, (0, 1))]
        if len(vector) != info.num_classes or len(strange):
            content = f"{len(vector)} values{f', one of them {strange[0]:g}' if len(strange) else ''}"
            raise DataError(f"{path}: {image_id} has {content}; expected {info.num_classes} of 0 or 1")
        found[image_id] = np.flatnonzero(vector).tolist()
    return found


def read_xml_tags(path: Path, info: ClassInfo) -> list[int]:
    """Read the classes of all objects, difficult ones too, of a VOC annotation; DataError naming the file."""
    try:
        if path.stat().st_size > MAX_XML_BYTES:
            raise DataError(f"{path}: more than {MAX_XML_BYTES} bytes, too large for an annotation")
        names = _object_names(plain(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (expat.ExpatError, ValueError) as error:
        raise DataError(f"{path}: not a VOC annotation ({error})") from error
    unknown = [name for name in names if name not in info.names]
    if unknown:
        raise DataError(f"{path}: unknown class {unknown[0]!r}, expected some of {', '.join(info.names)}")
    return [info.names.index(name) for name in names]


def _object_names(data: bytes) -> list[str]:
    """Return the text of annotation/object/name elements (not of object/part/name)."""
    names: list[str] = []
    path: list[str] = []

    def start(tag: str, _: dict[str, str]) -> None:
        path.append(tag)
        if path == ["annotation", "object", "name"]:
            names.append("")

    def text(content: str) -> None:
        if path == ["annotation", "object", "name"]:
            names[-1] += content

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type, which is refused")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, lambda _: path.pop(), text
    parser.StartDoctypeDeclHandler = refuse  # the only place where entities can be declared
    parser.Parse(data, True)
    return [name.strip() for name in names]
