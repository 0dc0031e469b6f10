"""The archive that the PASCAL VOC test server takes, as section 4.4 of the protocol notes has it.

results/VOC2012/Segmentation/comp6_test_cls/<id>.png, packed as .tgz: 8-bit PNGs with the VOC palette, values 0..20, as large as
the photos, one for each photo of the test list. The same labels give the same bytes.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from rcatool import console
from rcatool.data.labels import IGNORE, VOC_CLASSES, palette
from rcatool.data.manifest import first_few
from rcatool.data.tags import read_text
from rcatool.data.voc import PACKAGED_LISTS
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.export.place import check_free, move_aside
from rcatool.export.png import encode
from rcatool.export.source import Item, Source, read_label
from rcatool.export.work import for_each
from rcatool.files import atomic_save

COMPETITIONS = (5, 6)  # 5: trained on nothing but VOC's own photos and labels; 6: on anything else, too
_SUFFIXES = (".tgz", ".tar.gz")

Packed = dict[str, tuple[int, tuple[int, ...]]]  # member -> checksum and shape of its label map


def main(source: Source, out: Path, *, names: str = "test", competition: int = 6, partial_list: bool = False, force: bool = False) -> None:
    """Write the archive `out`, read it back, and give it its name only if it holds what it should.

    Of a run that has a split `test`, those photos. `names` is a packaged list or a file of ids; other labels than those of the list are
    refused, unless `partial_list`. Raises
    ConfigError for options that do not fit, DataError naming the photo for a label that the server would refuse.
    """
    assert competition in COMPETITIONS, competition
    if not out.name.lower().endswith(_SUFFIXES):
        raise ConfigError(f"--out: {out} is no name of a packed archive", "let it end in .tgz")
    if source.classes.names != VOC_CLASSES:
        raise ConfigError(f"the {source.classes.num_classes} classes are not VOC's 20 in their order", "the server scores those only")
    if any(item.photo is None for item in source.items):
        raise ConfigError("the server refuses labels that are not of their photo's size", "add --images DIR (VOC2012/JPEGImages)")
    tested = [item for item in source.items if item.split == "test"]
    source = replace(source, items=tested or source.items)  # a run has predictions of val, too
    _check_ids([item.id for item in source.items], names, allowed=partial_list)
    target = check_free(out, force=force, keep=source.folders)
    folder = f"results/VOC2012/Segmentation/comp{competition}_test_cls"
    in_order = replace(source, items=sorted(source.items, key=lambda item: item.id))
    members = for_each(partial(_encode, folder=folder), in_order, task="export voc-server")

    def write(handle: BinaryIO) -> None:
        packed = pack(handle, members)
        handle.flush()
        with console.progress("reading it back", total=len(packed)) as bar:
            for _ in check(Path(handle.name), packed):
                bar.advance(1)
        move_aside(target)  # only now that all is well

    atomic_save(target, write)
    console.log(f"export: {len(source.items)} photos in {out}, read back and checked ({folder})")


def pack(handle: BinaryIO, members: Iterable[tuple[str, bytes, int, tuple[int, ...]]]) -> Packed:
    """Write (path, PNG, checksum, shape) of sorted members, and the folders above them, without times and owners."""
    packed: Packed = {}
    folders: set[str] = set()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path, content, checksum, shape in members:
            for folder in reversed(Path(path).parents[:-1]):
                if folder.as_posix() not in folders:
                    folders.add(folder.as_posix())
                    tar.addfile(_entry(folder.as_posix(), tarfile.DIRTYPE, 0o755))
            tar.addfile(_entry(path, tarfile.REGTYPE, 0o644, len(content)), BytesIO(content))
            packed[path] = (checksum, shape)
    return packed


def check(archive: Path, packed: Packed) -> Iterable[str]:
    """Read an archive; yield each member's path. Raises SetupError where it does not hold what was `packed`, in that order."""
    colours, found = palette(), []
    try:
        with gzip.open(archive) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is None:
                    continue  # a folder
                with Image.open(BytesIO(file.read()), formats=("PNG",)) as image:
                    label = np.array(image)
                    right = image.mode == "P" and image.getpalette() == colours
                if not right or packed.get(member.name) != (zlib.crc32(label.tobytes()), label.shape):
                    raise OSError(f"{member.name} is not what was written")
                found.append(member.name)
                yield member.name
            while unpacked.read(1 << 20):  # the checksum of the whole is at the very end
                pass
        if found != list(packed):
            raise OSError(f"{len(found)} photos, expected {len(packed)}")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise SetupError(f"{archive}: reads back differently ({error})", "see that the disk is sound, then try again") from error


def _encode(item: Item, *, folder: str) -> tuple[str, bytes, int, tuple[int, ...]]:
    label = read_label(item)
    if IGNORE in label:
        count = int(np.count_nonzero(label == IGNORE))
        raise DataError(f"{item.label}: {count} pixels of {item.id} have the value {IGNORE}; the server takes 0..20 only",
                        "give every pixel a class, as `rca eval` does for predictions")  # fmt: skip
    return f"{folder}/{item.id}.png", encode(label), zlib.crc32(label.tobytes()), label.shape


def _entry(path: str, kind: bytes, mode: int, size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)  # time, owner and group are 0 and nameless by default
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry


def _check_ids(ids: list[str], names: str, *, allowed: bool) -> None:
    """DataError, or a warning where that is `allowed`, unless `ids` are those of the list."""
    expected = _read_list(names)
    missing, extra = sorted(set(expected) - set(ids)), sorted(set(ids) - set(expected))
    if not missing and not extra:
        return
    parts = [f"{len(found)} {what} ({first_few(found, 3)})" for found, what in ((missing, "missing"), (extra, "not in it")) if found]
    message = f"{len(ids)} labels for the {len(expected)} photos of the list {names}: {', '.join(parts)}"
    if not allowed:
        raise DataError(message, "the server takes the whole list only; --partial packs what there is, --list NAME|FILE another list")
    console.warn(f"export: {message}; the server will not score this archive")


def _read_list(names: str) -> list[str]:
    path = PACKAGED_LISTS / f"{names}.txt"
    if not path.is_file() or path.parent != PACKAGED_LISTS:
        path = Path(names).expanduser()
    if not path.is_file():
        there = ", ".join(sorted(path.stem for path in PACKAGED_LISTS.glob("*.txt")))
        raise ConfigError(f"--list: {names} is no file, nor one of {there}")
    ids = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    if not ids:
        raise DataError(f"{path}: the list is empty")
    return ids
