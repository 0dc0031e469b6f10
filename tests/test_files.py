"""Files: atomic writes under failures, safe names, digests."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcatool.errors import DataError, SetupError
from rcatool.files import (
    atomic_save,
    atomic_write,
    disk_free,
    is_path_safe,
    read_json,
    remove_leftovers,
    sha256_bytes,
    sha256_file,
    write_error,
)


@contextmanager
def full_disk(limit: int = 4096) -> Iterator[None]:
    """No file may grow beyond `limit` bytes; unlike permissions, this holds for root too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_atomic_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    atomic_write(path, "grün\n")
    assert path.read_bytes() == b"gr\xc3\xbcn\n"
    atomic_write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [entry.name for entry in path.parent.iterdir()] == ["c.txt"]


def fail(handle: BinaryIO) -> None:
    handle.write(b"half")
    raise ValueError("in the middle")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="in the middle"):
        atomic_save(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_in_mid_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from rcatool.files import atomic_save\n"
        "def write(handle): handle.write(b'new' * 9999); handle.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic_save(Path(sys.argv[1]), write)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    assert [entry.suffix for entry in tmp_path.iterdir() if entry != path] == [".tmp"]


def save_text(path: Path) -> None:
    atomic_write(path, "x" * 10_000)


def save_array(path: Path) -> None:
    atomic_save(path, lambda handle: np.savez(handle, a=np.zeros(10_000)))


def save_tensor(path: Path) -> None:
    torch = pytest.importorskip("torch")
    atomic_save(path, lambda handle: torch.save({"a": torch.zeros(10_000)}, handle))


@pytest.mark.parametrize("save", [save_text, save_array, save_tensor])
def test_full_disk_is_a_setup_error_that_names_the_file(tmp_path: Path, save: Callable[[Path], None]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with full_disk(), pytest.raises(SetupError, match=r"a\.bin: cannot be written \(File too large\)") as caught:
        save(path)
    assert "make room" in str(caught.value.hint)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"file/a\.txt: cannot be written"):
        atomic_write(tmp_path / "file" / "a.txt", "x")


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "make room"), (errno.EROFS, "--run"), (errno.EACCES, "--run")])
def test_write_error_says_what_to_do(number: int, hint: str) -> None:
    error = write_error("x/y", OSError(number, os.strerror(number)))
    assert os.strerror(number) in error.message
    assert hint in str(error.hint)


def test_sha256_of_known_text(tmp_path: Path) -> None:
    # The test vector of FIPS 180-2.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "abc") == expected


def test_sha256_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing: cannot be read"):
        sha256_file(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["2007_000032", "a", "a b", "grün", "a.b-c", "日本", "con1", "n" * 200])
def test_safe_names(name: str) -> None:
    assert is_path_safe(name)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a/b", "/a", "a\\b", "../a", "-rf", ".hidden", "a\n", "a\x00b", "\x1b[31m", "a\x7f", "con", "NUL", "Com1.txt",
        "aux.a.b", "a:b", "a*", "a?", "<a>", "a|b", 'a"b', "a.", "a ", " a", "n" * 201, "ü" * 101, "\udcff", "a\u2028b",
    ],
)  # fmt: skip
def test_unsafe_names(name: str) -> None:
    assert not is_path_safe(name)


@given(name=st.text(max_size=40))
def test_a_safe_name_is_one_file_of_that_name(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    if is_path_safe(name):
        folder = tmp_path_factory.mktemp("names")
        (folder / f"{name}.png").write_bytes(b"")
        assert os.listdir(folder) == [f"{name}.png"]


def test_read_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, "ü"]}), encoding="utf-8")
    assert read_json(path, "a test") == {"a": [1, "ü"]}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xff", b"[" * 200_000, b'{"a": 1} x'])
def test_broken_json_is_a_data_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: not valid JSON \(the record\)"):
        read_json(path, "the record")


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: no such file \(the record\)"):
        read_json(tmp_path / "a.json", "the record")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path, "a folder")


def test_disk_free_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    expected = status.f_bavail * status.f_frsize
    assert disk_free(tmp_path / "a" / "b") == pytest.approx(expected, rel=0.2)


def test_leftovers_of_the_dead_go_and_of_the_living_stay(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        names = [f"a.png.{os.getpid()}.tmp", f"b.png.{living.pid}.tmp", f"c.png.{dead.pid}.tmp", "d.png.0.tmp", f"f.{'9' * 40}.tmp"]
        for name in [*names, "g.png"]:
            (tmp_path / name).write_bytes(b"half")
        remove_leftovers([*tmp_path.glob("*.tmp"), tmp_path / "gone.tmp"])
        assert sorted(path.name for path in tmp_path.iterdir()) == [*names[:2], "g.png"]
        living.communicate(b"\n")
