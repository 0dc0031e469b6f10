"""manifest.jsonl: one line of JSON for each photo of a run."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from rcatool.data.labels import MAX_CLASSES, ClassInfo
from rcatool.errors import ConfigError, DataError
from rcatool.files import atomic_save, is_path_safe, plain

SPLITS = ("train", "val", "tune", "test")
SCORED_SPLITS = SPLITS[:3]  # the photos of `test` are predicted only
PREPARE_AGAIN = "rca prepare ... --force"


@dataclass(frozen=True)
class Sample:
    """One photo: where it is, what is in it, and what it looked like when it was prepared."""

    id: str  # names its outputs: <id>.png, <id>.npz
    split: str  # train, val, tune or test (photos to predict, without tags and masks), whatever the list was called
    image: str  # path relative to data.root, with /
    mask: str | None  # the same, where there is one
    size: tuple[int, int]  # (H, W), EXIF rotation applied
    classes: tuple[int, ...]  # image-level tags, sorted, in [0, C)
    bytes: int  # size of the photo's file
    sha256: str  # first 16 hex digits of the photo file's digest
    mask_sha256: str | None = None  # the same of the mask's file, where there is one
    saliency: str | None = None  # the path of its saliency map, where data.saliency names a folder of them
    saliency_sha256: str | None = None


@dataclass(frozen=True)
class Dataset:
    """What a data set's module found on disk; `rca prepare` looks into the files and fills in size, bytes and sha256."""

    info: ClassInfo
    samples: list[Sample]
    notes: tuple[str, ...] = ()  # which lists, tags and masks were taken
    warnings: tuple[str, ...] = ()  # what was left out
    skipped: str = ""  # files of other kinds, in words
    tags_from_masks: bool = False  # the samples' classes are to be read from their masks


def draft(id: str, split: str, *, image: str, mask: str | None, classes: Iterable[int]) -> Sample:
    """Return a sample whose files nobody has looked into yet."""
    return Sample(id, split, image, mask, size=(0, 0), classes=tuple(sorted(set(classes))), bytes=0, sha256="")


def below(path: Path, root: Path) -> str:
    """Return `path` relative to `root`, with /; ConfigError where it is not below it."""
    if not path.is_relative_to(root):
        raise ConfigError(f"{path} is outside of data.root, {root}")
    return path.relative_to(root).as_posix()


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, for a message."""
    return ", ".join(name if name.isprintable() else repr(name) for name in names[:most]) + (", ..." if len(names) > most else "")


def write_manifest(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples, sorted by split then id."""
    ordered = sorted(samples, key=_order)

    def write(file: BinaryIO) -> None:  # line by line: COCO's 120,000 would be a long text
        for sample in ordered:
            document = {key: value for key, value in asdict(sample).items() if value is not None}
            file.write((json.dumps(document, ensure_ascii=False) + "\n").encode())

    atomic_save(path, write)


def read_manifest(path: Path, *, num_classes: int = MAX_CLASSES) -> list[Sample]:
    """Read samples, sorted by split then id; DataError with the line's number where one cannot be used."""
    try:
        text = plain(path).read_bytes().decode()
    except FileNotFoundError:
        raise DataError(f"{path}: the list of photos is missing", PREPARE_AGAIN) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})", PREPARE_AGAIN) from error
    samples, seen = [], set()
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            sample = _parse(line, num_classes)
            if sample.id in seen:
                raise ValueError(f"id {sample.id!r} occurs twice")
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}", PREPARE_AGAIN) from error
        seen.add(sample.id)
        samples.append(sample)
    return sorted(samples, key=_order)


def split(samples: Iterable[Sample], name: str) -> list[Sample]:
    """Return the samples of one split (train, val, tune or test), in their order."""
    assert name in SPLITS, name
    return [sample for sample in samples if sample.split == name]


def check_images(samples: Sequence[Sample], root: Path) -> None:
    """Check that every photo is there with the bytes it had; DataError naming the first that is not. Masks are not touched."""
    wrong = []
    for sample in samples:
        try:
            found = os.stat(root / sample.image).st_size
        except OSError as error:
            wrong.append(f"{root / sample.image}: {error.strerror or error}")
            continue
        if found != sample.bytes:
            wrong.append(f"{root / sample.image}: {found} bytes, expected {sample.bytes}")
    if wrong:
        more = f" (and {len(wrong) - 1} more photos of {len(samples)})" if len(wrong) > 1 else ""
        raise DataError(f"{wrong[0]}{more}", PREPARE_AGAIN)


def _order(sample: Sample) -> tuple[str, str]:
    return sample.split, sample.id


def _parse(line: str, num_classes: int) -> Sample:
    """Parse one line; ValueError saying which field is wrong."""
    try:
        document = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg})") from error
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None
    if not isinstance(document, dict):
        raise ValueError("expected an object")
    _expect(isinstance(document.get("id"), str) and is_path_safe(document["id"]), document, "id", "a name usable for a file")
    _expect(document.get("split") in SPLITS, document, "split", f"one of {', '.join(SPLITS)}")
    _expect(_is_relative(document.get("image")), document, "image", "a path below data.root")
    for key in ("mask", "saliency"):
        _expect(key not in document or _is_relative(document[key]), document, key, "a path below data.root")
    size: Any = document.get("size")
    _expect(isinstance(size, list) and len(size) == 2 and all(_is_int(n, 1) for n in size), document, "size", "[H, W]")
    classes: Any = document.get("classes")
    _expect(isinstance(classes, list) and all(_is_int(c, 0) for c in classes), document, "classes", "a list of class indices")
    in_order = classes == sorted(set(classes)) and all(c < num_classes for c in classes)
    _expect(in_order, document, "classes", f"sorted indices below {num_classes}")
    _expect(_is_int(document.get("bytes"), 1), document, "bytes", "a positive number")
    _expect(_is_digest(document.get("sha256")), document, "sha256", "16 hex digits")
    optional = {key: document.get(key) for key in ("mask_sha256", "saliency", "saliency_sha256")}
    for key in ("mask_sha256", "saliency_sha256"):
        _expect(optional[key] is None or _is_digest(optional[key]), document, key, "16 hex digits")
    return Sample(
        id=document["id"], split=document["split"], image=document["image"], mask=document.get("mask"),
        size=(size[0], size[1]), classes=tuple(classes), bytes=document["bytes"], sha256=document["sha256"], **optional,
    )  # fmt: skip


def _expect(holds: bool, document: dict[str, Any], key: str, expected: str) -> None:
    if not holds:
        found = json.dumps(document[key])[:80] if key in document else "missing"
        raise ValueError(f"{key}: {found}, expected {expected}")


def _is_int(value: object, smallest: int) -> bool:
    return type(value) is int and value >= smallest  # a bool is an int to isinstance


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 16


def _is_relative(value: object) -> bool:
    if not isinstance(value, str) or not value or "\0" in value or value.encode(errors="ignore").decode() != value:
        return False  # no path: a NUL, or half of a letter, which no file system takes
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts
