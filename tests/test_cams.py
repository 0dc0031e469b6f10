"""CAM files: a round trip, a table of broken ones, and resizing as torch does it."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcatool.cams import cam_size, load_cam, load_full_cam, normalise, resize, save_cam
from rcatool.errors import DataError

SIZE = (8, 12)
KEYS = np.array([1, 4, 19])


def maps(count: int = 3, height: int = 2, width: int = 3, seed: int = 0) -> np.ndarray:
    return normalise(np.random.default_rng(seed).random((count, height, width), dtype=np.float32))


def test_cam_size_is_rounded_up() -> None:
    assert [cam_size(8, 12, 4), cam_size(9, 12, 4), cam_size(1, 1, 16), cam_size(5, 7, 1)] == [(2, 3), (3, 3), (1, 1), (5, 7)]


def test_normalise_by_hand() -> None:
    cam = np.array([[[0, 2], [4, 1]], [[0, 0], [0, 0]], [[0.5, 0], [0, 0.25]]], np.float32)
    expected = [[[0, 0.5], [1, 0.25]], [[0, 0], [0, 0]], [[1, 0], [0, 0.5]]]
    assert normalise(cam).tolist() == expected
    assert normalise(cam[:0]).shape == (0, 2, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 20), st.integers(0, 20), st.integers(0, 99))
def test_enlarging_is_torchs_bilinear(height: int, width: int, more_rows: int, more_columns: int, seed: int) -> None:
    cam, size = maps(2, height, width, seed), (height + more_rows, width + more_columns)
    expected = torch.nn.functional.interpolate(torch.from_numpy(cam)[None], size=size, mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(resize(cam, *size), expected.numpy(), atol=1e-5)


def test_resizing_no_map_gives_no_map() -> None:
    assert resize(np.zeros((0, 2, 3), np.float32), 8, 12).shape == (0, 8, 12)


def test_round_trip(tmp_path: Path) -> None:
    path, cam = tmp_path / "a.npz", maps()
    save_cam(path, KEYS, cam, SIZE)
    keys, loaded = load_cam(path, size=SIZE)
    assert (keys.dtype, loaded.dtype) == (np.int64, np.float32)
    assert keys.tolist() == KEYS.tolist()
    np.testing.assert_array_equal(loaded, cam.astype(np.float16).astype(np.float32))
    first = path.read_bytes()
    save_cam(path, KEYS, cam, SIZE)
    assert path.read_bytes() == first  # digests of results depend on it


def test_full_size_maps_reach_one_again(tmp_path: Path) -> None:
    path, size = tmp_path / "a.npz", (16, 20)
    cam = np.zeros((3, 4, 5), np.float32)
    cam[0, 1, 2], cam[2, 2, 3], cam[2, 2, 2] = 1, 1, 0.5  # peaks between the pixels of the full size
    save_cam(path, KEYS, cam, size)
    keys, full = load_full_cam(path, size=size)
    assert keys.tolist() == KEYS.tolist()
    assert full.shape == (3, *size)
    assert full.min() >= 0
    assert full.max(axis=(1, 2)).tolist() == [1, 0, 1]
    enlarged = resize(cam, *size)
    assert enlarged[2].max() < 0.9
    np.testing.assert_allclose(full[2] * enlarged[2].max(), enlarged[2], atol=1e-6)


def test_a_photo_without_tags_has_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_cam(path, KEYS[:0], maps(0), SIZE)
    keys, full = load_full_cam(path, size=SIZE)
    assert keys.dtype == np.int64
    assert (keys.shape, full.shape) == ((0,), (0, *SIZE))


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    good = {"keys": KEYS.astype(np.uint16), "cam": maps().astype(np.float16), "size": np.array(SIZE, np.int32)}
    return {name: value for name, value in (good | changes).items() if value is not None}


def spoiled(value: float) -> np.ndarray:
    cam = maps()
    cam[1, 0, 2] = value
    return cam


BROKEN_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no keys": ({"keys": None}, "not a readable CAM file"),
    "no maps": ({"cam": None}, "not a readable CAM file"),
    "no size": ({"size": None}, "not a readable CAM file"),
    "text keys": ({"keys": np.array(["a", "b", "c"])}, "wrong shape or type"),
    "float keys": ({"keys": KEYS.astype(float)}, "wrong shape or type"),
    "keys in two dimensions": ({"keys": KEYS[None]}, "wrong shape or type"),
    "whole numbers": ({"cam": maps().astype(np.uint8)}, "wrong shape or type"),
    "one map without its axis": ({"cam": maps()[0]}, "wrong shape or type"),
    "size of three": ({"size": np.array([8, 12, 3])}, "wrong shape or type"),
    "other photo": ({"size": np.array([12, 8])}, r"a photo of 12x8, expected 8x12"),
    "a key too few": ({"keys": KEYS[:2]}, "do not belong together"),
    "keys in disorder": ({"keys": KEYS[::-1]}, "do not belong together"),
    "a key twice": ({"keys": np.array([1, 1, 4])}, "do not belong together"),
    "no pixel": ({"cam": np.zeros((3, 0, 3))}, "do not belong together"),
    "not a number": ({"cam": spoiled(np.nan)}, r"not in \[0, 1\]"),
    "infinite": ({"cam": spoiled(np.inf)}, r"not in \[0, 1\]"),
    "negative": ({"cam": spoiled(-0.01)}, r"not in \[0, 1\]"),
    "above one": ({"cam": spoiled(1.01)}, r"not in \[0, 1\]"),
}


@pytest.mark.parametrize("case", BROKEN_ARRAYS)
def test_wrong_arrays_are_named(case: str, tmp_path: Path) -> None:
    changes, message = BROKEN_ARRAYS[case]
    path = tmp_path / "a.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*" + message) as caught:
        load_cam(path, size=SIZE)
    assert "make-pseudo" in str(caught.value.hint)


def plain_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, maps())


def huge_shape(path: Path) -> None:
    save_cam(path, KEYS, maps(), SIZE)
    content = path.read_bytes()
    header = b"(3, 2, 3), }" + b" " * 10
    assert content.count(header) == 1
    path.write_bytes(content.replace(header, b"(3, 2, 3333333333), }".ljust(len(header))))


BROKEN_FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": Path.mkdir,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no maps here"),
    "pickle": lambda path: path.write_bytes(pickle.dumps([1, 2])),
    "plain array": plain_array,
    "huge shape": huge_shape,
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_files_are_named(case: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    BROKEN_FILES[case](path)
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_cam(path, size=SIZE)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.npz", tmp_path / "executed"
    np.savez(path, **arrays(cam=np.array([Evil(trace)], dtype=object)))
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_cam(path, size=SIZE)
    assert not trace.exists()


def test_no_flipped_byte_and_no_cut_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_cam(path, KEYS, maps(), SIZE)
    content = path.read_bytes()
    expected = load_cam(path, size=SIZE)
    spoilt = [content[:i] + bytes([content[i] ^ 0x81]) + content[i + 1 :] for i in range(0, len(content), 3)]
    spoilt += [content[:end] for end in range(0, len(content), 17)]
    refused = 0
    for data in spoilt:
        path.write_bytes(data)
        try:
            found = load_cam(path, size=SIZE)
        except DataError:
            refused += 1
        else:  # a byte that means nothing, such as a date
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert refused > len(spoilt) / 2
