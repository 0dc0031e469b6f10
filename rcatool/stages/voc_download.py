"""VOC 2012 and SBD from their servers, unpacked; torchvision knows the addresses and checks the archives' MD5."""

import errno
import http.client
import os
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rcatool import console
from rcatool.data.voc import find_devkit
from rcatool.errors import SetupError
from rcatool.files import disk_free

TIMEOUT = 60.0  # seconds without a byte
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BY_HAND = "unpack {names} in {root} yourself, then: rca prepare voc --root {root} --sbd {root}/benchmark_RELEASE"


@dataclass(frozen=True)
class Archive:
    """An archive on a server, and the folder that it unpacks to."""

    url: str
    md5: str
    filename: str
    folder: str
    bytes: int


def download(root: Path, *, with_sbd: bool) -> None:
    """Have VOC 2012 at or below ROOT, by default in ROOT/VOCdevkit, and (`with_sbd`) ROOT/benchmark_RELEASE.

    What is there is left alone. A download that was stopped starts again; an archive goes when it is unpacked. SetupError, with
    what to type instead, where there is no network, not enough room, or a broken archive.
    """
    voc, sbd = _archives()
    missing = [voc] if find_devkit(root) is None else []
    missing += [sbd] if with_sbd and not (root / sbd.folder).exists() else []
    _check_room(root, missing)
    for archive in missing:
        console.log(f"downloading {archive.url} ({archive.bytes / 1e9:.1f} GB)")
        with _failures(archive, root):
            _fetch(archive, root)


def _archives() -> tuple[Archive, Archive]:
    try:
        from torchvision.datasets import SBDataset
        from torchvision.datasets.voc import DATASET_YEAR_DICT
    except (ImportError, OSError, RuntimeError) as error:
        raise SetupError(f"torchvision does not load ({error})", "rca doctor says what to do") from error
    voc = DATASET_YEAR_DICT["2012"]
    return (
        Archive(voc["url"], voc["md5"], voc["filename"], "VOCdevkit", 2_000_000_000),
        Archive(SBDataset.url, SBDataset.md5, SBDataset.filename, "benchmark_RELEASE", 1_420_000_000),
    )


def _check_room(root: Path, archives: list[Archive]) -> None:
    """SetupError unless the disk holds each archive beside its content and that of the earlier ones."""
    unpacked, peak = 0, 0
    for archive in archives:
        peak = max(peak, unpacked + 2 * archive.bytes)
        unpacked += archive.bytes
    free = disk_free(root)
    if free < peak:
        needed = f"{peak / 1e9:.1f} GB needed for the archives and what is in them"
        raise SetupError(f"{root}: {free / 1e9:.1f} GB free, {needed}", "--root DIR on another disk")


def _fetch(archive: Archive, root: Path) -> None:
    from torchvision.datasets.utils import download_url

    download_url(archive.url, root, archive.filename, archive.md5)
    console.log(f"unpacking {archive.filename}")
    # A folder of its own, so that half an unpacked archive is never taken for the whole.
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as folder:
        unpack(root / archive.filename, Path(folder))
        os.replace(Path(folder, archive.folder), root / archive.folder)
    (root / archive.filename).unlink()


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar archive to `folder` and nowhere else: TarError where something in it leads out of there, is a device or a pipe."""
    if not hasattr(tarfile, "data_filter"):
        raise SetupError(f"{path}: this Python cannot tell which of its files lead out of a folder", "Python 3.11.4 or newer")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")


@contextmanager
def _failures(archive: Archive, root: Path) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, http.client.HTTPException, RuntimeError, tarfile.TarError, EOFError, zlib.error) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise SetupError(f"{root}: {reason}", "--root DIR on another disk") from error
        hint = _BY_HAND.format(names=archive.filename, root=root)
        raise SetupError(f"{archive.url}: cannot be downloaded or unpacked ({reason})", hint) from error
    finally:
        socket.setdefaulttimeout(before)
