"""A server on this machine that hands out tiny archives in the official layout; nothing here goes to a network."""

import functools
import hashlib
import http.server
import tarfile
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Result
from small_voc import make_voc, write_mat

from rcatool.data.labels import read_mask
from rcatool.errors import SetupError
from rcatool.stages import voc_download
from rcatool.stages.voc_download import Archive

Rca = Callable[..., Result]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the folder `served`."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Without lines on stderr."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def pack(folder: Path, archive: Path, mode: str) -> str:
    """Pack a folder under its own name; return the archive's MD5."""
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, folder.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


@pytest.fixture
def archives(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Archive, Archive]:
    """VOC with masks of two photos, SBD with masks of two, on the server."""
    base = make_voc(tmp_path / "made" / "VOCdevkit" / "VOC2012")
    (base / "SegmentationClassAug").rename(base / "SegmentationClass")
    for image_id in ("a2", "a3"):
        mask = read_mask(base / "SegmentationClass" / f"{image_id}.png", num_classes=20)
        (base / "SegmentationClass" / f"{image_id}.png").unlink()
        write_mat(tmp_path / "made" / "benchmark_RELEASE" / "dataset" / "cls" / f"{image_id}.mat", (mask != 255) * mask)
    found = []
    for name, folder, mode in (("voc.tar", "VOCdevkit", "w"), ("benchmark.tgz", "benchmark_RELEASE", "w:gz")):
        md5 = pack(tmp_path / "made" / folder, tmp_path / "served" / name, mode)
        found.append(Archive(f"{server}/{name}", md5, name, folder, 1000))
    monkeypatch.setattr(voc_download, "_archives", lambda: tuple(found))
    return found[0], found[1]


def test_the_official_archives() -> None:
    voc, sbd = voc_download._archives()
    assert voc.url.endswith("/VOCtrainval_11-May-2012.tar")
    assert sbd.url.endswith("/benchmark.tgz")
    assert all(len(bytes.fromhex(archive.md5)) == 16 for archive in (voc, sbd))


def test_from_nothing_to_a_manifest(rca: Rca, archives: tuple[Archive, Archive], tmp_path: Path) -> None:
    words = ("prepare", "voc", "--root", "data", "--download", "--run", "run", "--set", "runtime.workers=0")
    done = rca(*words)
    assert done.code == 0, done.err
    assert "SegmentationClassAug, 5 of 5 photos have one" in done.err
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["VOCdevkit", "benchmark_RELEASE"]
    for path in (tmp_path / "served").iterdir():
        path.unlink()
    again = rca(*words)  # all is there, so nothing is asked of the server
    assert again.code == 0
    assert "downloading" not in again.err
    assert "up to date" in again.err


def test_sbd_that_is_there_is_not_downloaded(rca: Rca, archives: tuple[Archive, Archive], tmp_path: Path) -> None:
    (tmp_path / "served" / "benchmark.tgz").unlink()
    words = ("prepare", "voc", "--root", "data", "--download", "--sbd", tmp_path / "made" / "benchmark_RELEASE", "--run", "run")
    assert rca(*words, "--set", "runtime.workers=0").code == 0


@pytest.mark.parametrize("root", ["made/VOCdevkit", "made/VOCdevkit/VOC2012"])
def test_photos_that_are_there_are_not_downloaded(archives: tuple[Archive, Archive], tmp_path: Path, root: str) -> None:
    (tmp_path / "served" / "voc.tar").unlink()
    voc_download.download(tmp_path / root, with_sbd=True)
    assert (tmp_path / root / "benchmark_RELEASE" / "dataset").is_dir()


def test_a_run_that_was_stopped_between_the_archives_goes_on(archives: tuple[Archive, Archive], tmp_path: Path) -> None:
    sbd = tmp_path / "served" / "benchmark.tgz"
    content = sbd.read_bytes()
    sbd.unlink()
    with pytest.raises(SetupError, match=r"benchmark\.tgz: cannot be downloaded or unpacked .*File not found"):
        voc_download.download(tmp_path / "data", with_sbd=True)
    (tmp_path / "served" / "voc.tar").unlink()
    sbd.write_bytes(content)
    voc_download.download(tmp_path / "data", with_sbd=True)
    assert (tmp_path / "data" / "benchmark_RELEASE" / "dataset" / "cls" / "a2.mat").is_file()


def fail(rca: Rca, tmp_path: Path) -> Result:
    done = rca("prepare", "voc", "--root", "data", "--download", "--run", "run")
    assert done.code == 6
    assert "Traceback" not in done.err
    assert not (tmp_path / "data" / "VOCdevkit").exists()
    assert not (tmp_path / "run").exists()
    return done


def test_another_content_than_the_official_one(rca: Rca, archives: tuple[Archive, Archive], tmp_path: Path) -> None:
    with open(tmp_path / "served" / "voc.tar", "ab") as handle:
        handle.write(b"x")
    assert "voc.tar: cannot be downloaded or unpacked (File not found or corrupted.)" in fail(rca, tmp_path).err


def test_an_archive_that_is_none(rca: Rca, archives: tuple[Archive, Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served" / "voc.tar").write_bytes(b"no archive")
    voc = Archive(archives[0].url, hashlib.md5(b"no archive").hexdigest(), "voc.tar", "VOCdevkit", 1000)
    monkeypatch.setattr(voc_download, "_archives", lambda: (voc, archives[1]))
    assert "cannot be downloaded or unpacked" in fail(rca, tmp_path).err
    assert list((tmp_path / "data").glob(".unpacking*")) == []


def test_no_network(rca: Rca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Archive("http://127.0.0.1:9/voc.tar", "0" * 32, "voc.tar", "VOCdevkit", 1000)
    monkeypatch.setattr(voc_download, "_archives", lambda: (nowhere, nowhere))
    error, hint = fail(rca, tmp_path).err.splitlines()[-2:]
    assert error.startswith("error: http://127.0.0.1:9/voc.tar: cannot be downloaded or unpacked (")
    assert f"rca prepare voc --root {tmp_path / 'data'} --sbd {tmp_path / 'data'}/benchmark_RELEASE" in hint


def test_too_little_room_is_said_before_anything_is_fetched(rca: Rca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voc = Archive("http://127.0.0.1:9/voc.tar", "0" * 32, "voc.tar", "VOCdevkit", 2 * 10**9)
    sbd = Archive("http://127.0.0.1:9/sbd.tgz", "0" * 32, "sbd.tgz", "benchmark_RELEASE", 10**9)
    monkeypatch.setattr(voc_download, "_archives", lambda: (voc, sbd))
    usage = namedtuple("usage", "total used free")
    for free, enough in ((3.9e9, False), (4.1e9, True)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage(0, 0, int(free)))
        assert ("GB free, 4.0 GB needed" in fail(rca, tmp_path).err) != enough
