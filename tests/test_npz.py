"""Oracles: NumPy's own writer, and archives made by hand."""

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcatool.cams import load_cam
from rcatool.data.npz import BROKEN, read_npz
from rcatool.errors import DataError


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def put(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_writes(tmp_path: Path, save: object) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.zeros((0, 4), np.float16), "d": np.float32(3)}
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], array) and found[name].dtype == np.asarray(array).dtype for name, array in arrays.items())


GOOD = npy(np.arange(4.0))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"text", GOOD[:20], b"\x93NEMPY" + GOOD[6:], GOOD.replace(b"}", b"("), GOOD.replace(b"'descr'", b"(descr)"), GOOD[:-8],
        GOOD.replace(b"(4,)", b"(9999999999999,)"), GOOD.replace(b"(4,)", b"(-4,)"),
        GOOD.replace(b"(4,)", b"(" + b"5" * 40 + b",)"), GOOD.replace(b"<f8", b"|O8"),
        GOOD.replace(b"{", b"(" * 70, 1), GOOD.replace(b" }", b"\n }", 1), GOOD.replace(b"{'", b"  {\n '", 1),
    ],
)  # fmt: skip
def test_broken_members(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    put(path, {"keys": npy(np.arange(1)), "cam": content, "size": npy(np.array([6, 5]))})
    with contextlib.suppress(BROKEN):
        read_npz(path)
    with pytest.raises(DataError, match="a.npz: "):
        load_cam(path, size=(6, 5))


def test_a_single_array_and_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(GOOD)
    with pytest.raises(BROKEN, match="a single array"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "b.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    put(path, {"cam": npy(np.zeros(3 << 17))}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    assert read_npz(path, most=4 << 20)["cam"].shape == (3 << 17,)
    with pytest.raises(ValueError, match="it inflates to 3 MiB, more than 2"):
        read_npz(path, most=2 << 20)


@given(cut=st.integers(0, 200), flip=st.integers(0, 7))
def test_any_change_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    put(path, {"cam": bytes([*GOOD[:cut], *(byte ^ (1 << flip) for byte in GOOD[cut : cut + 1]), *GOOD[cut + 1 :]])})
    with contextlib.suppress(BROKEN):
        assert isinstance(read_npz(path)["cam"], np.ndarray)
