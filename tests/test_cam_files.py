"""CAM files of other programs. Oracles: what NumPy and torch write, arrays by hand, and payloads that are known to go off."""

import os
import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rcatool.cam_files import LAYOUTS, ImportJob, fits_photo, import_cam, read_maps
from rcatool.cams import cam_size, load_cam
from rcatool.data.npy import read_arrays
from rcatool.errors import DataError

SIZE = (12, 16)
FULL = np.random.default_rng(0).random((2, *SIZE), dtype=np.float32)
COARSE = np.random.default_rng(1).random((2, 3, 4), dtype=np.float32)
KEYS = np.array([3, 14])

# What each program's code saves for a photo of the classes 3 and 14, and the maps that are to be read from it.
WRITTEN: dict[str, tuple[str, Any, np.ndarray]] = {
    "irn, torch": ("irn", {"keys": torch.tensor(KEYS), "cam": torch.tensor(COARSE), "high_res": FULL}, FULL),
    "irn, high_res only, torch": ("irn", {"keys": torch.tensor(KEYS), "high_res": torch.tensor(FULL)}, FULL),
    "irn, cam only": ("irn", {"key": KEYS, "cam": COARSE[:, None]}, COARSE),
    "psa": ("psa", {3: FULL[0], 14: FULL[1]}, FULL),
    "psa, any order": ("psa", {14: FULL[1], 3: FULL[0]}, FULL[::-1]),
    "seam, numbers of NumPy": ("seam", {np.int64(3): FULL[0].astype(np.float64), np.int64(14): FULL[1].astype(np.float64)}, FULL),
    "mctformer": ("mctformer", {3: FULL[0], 14: FULL[1]}, FULL),
    "puzzlecam": ("puzzlecam", {"keys": np.pad(KEYS + 1, (1, 0)), "cam": torch.tensor(COARSE), "hr_cam": FULL}, FULL),
    "puzzlecam, walk": ("puzzlecam", {"keys": np.pad(KEYS + 1, (1, 0)), "rw": FULL}, FULL),
    "puzzlecam, background": ("puzzlecam", {"keys": [0, 4, 15], "rw": np.concatenate([FULL[:1], FULL])}, FULL),
    "clip-es": ("clip-es", {"keys": KEYS, "attn_highres": FULL.astype(np.float16)}, FULL.astype(np.float16)),
    "clip-es, all": ("clip-es", {"keys": KEYS, "strided_cam": COARSE, "highres": FULL + 1, "attn_highres": FULL}, FULL),
}


def job(source: Path | None, classes: tuple[int, ...] = (3, 14), stride: int = 1) -> ImportJob:
    folder = Path(source or "/nowhere").parent
    return ImportJob(source, folder / "out.npz", SIZE, classes, stride)


@pytest.mark.parametrize("case", WRITTEN)
def test_reads_what_each_program_writes(case: str, tmp_path: Path) -> None:
    name, document, expected = WRITTEN[case]
    np.save(tmp_path / "a.npy", document)
    keys, maps = read_maps(tmp_path / "a.npy", layout=LAYOUTS[name])
    assert keys.tolist() == ([14, 3] if "any order" in case else [3, 14])
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps, expected)


def test_reads_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", keys=KEYS, cam=COARSE)
    keys, maps = read_maps(tmp_path / "a.npz", layout=LAYOUTS["npz"])
    assert keys.tolist() == [3, 14]
    np.testing.assert_array_equal(maps, COARSE)


@pytest.mark.parametrize("document", [{"keys": [-1], "attn_highres": np.zeros((3, *SIZE))}, {"keys": torch.zeros(0, dtype=torch.long)}])
def test_files_of_photos_without_a_class(document: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", document)
    assert len(read_maps(tmp_path / "a.npy", layout=LAYOUTS["clip-es"])[0]) == 0


@settings(max_examples=30, deadline=None)
@given(
    values=arrays.arrays(
        st.sampled_from(["<f2", "<f4", "<f8", "<i4", "<i8", "u1", "?"]), arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)
    ),
    data=st.data(),
)
def test_any_view_of_a_tensor_or_array_is_read_as_it_is(values: np.ndarray, data: st.DataObject, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("views") / "a.npy"
    order = data.draw(st.permutations(range(values.ndim)))
    start = data.draw(st.integers(0, 2))
    tensor = torch.from_numpy(values.copy()).permute(*order)[start:]
    np.save(path, {"tensor": tensor, "array": values.transpose(order)[start:], "fortran": np.asfortranarray(values)})  # type: ignore[arg-type]
    found = read_arrays(path)
    for name, expected in {"tensor": tensor.numpy(), "array": tensor.numpy(), "fortran": values}.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], expected)


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class Name:
    """Pickled as the function it stands for, called with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("name", ["irn", "psa", "puzzlecam", "clip-es"])
@pytest.mark.parametrize("place", ["value", "key", "instead", "inside a storage"])
def test_nothing_in_a_file_is_run(name: str, place: str, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    payload = Payload(trap)
    stored = Name(torch.storage._load_from_bytes, pickle.dumps(payload, 2))
    tensor = Name(torch._utils._rebuild_tensor_v2, stored, 0, (1,), (1,), False, {})
    document = {"value": {"keys": KEYS, "cam": payload}, "key": {payload: FULL}, "instead": payload, "inside a storage": {"keys": tensor}}
    np.save(tmp_path / "a.npy", document[place])
    with pytest.raises(DataError, match=r"a\.npy: not a dict of arrays that can be read safely"):
        read_maps(tmp_path / "a.npy", layout=LAYOUTS[name])
    assert not trap.exists()
    with suppress(Exception):  # what it leaves is no tensor
        np.load(tmp_path / "a.npy", allow_pickle=True)
    assert trap.exists()  # the trap works


def rebuilt(storage: np.ndarray, *arguments: Any) -> Name:
    """A tensor as torch would never write it."""
    content = torch.tensor(storage).__reduce_ex__(2)[1][0].__reduce__()[1][0]
    return Name(torch._utils._rebuild_tensor_v2, Name(torch.storage._load_from_bytes, content), *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, (5,), (1,)), (1, (4,), (1,)), (-1, (2,), (1,)), (0, (2, 2), (3, 1)), (0, (2,), (-1,)), (0, (1000, 1000), (0, 0)),
        (0, (2, 2), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(arguments: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", {"keys": rebuilt(np.arange(4.0), *arguments, False, {})})
    with pytest.raises(DataError, match="cannot be read|can be read safely"):
        read_arrays(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", {"keys": rebuilt(np.arange(4.0), 1, (3,), (1,), False, {})})
    assert read_arrays(tmp_path / "a.npy")["keys"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"keys": torch.nn.Parameter(torch.zeros(2))}, "names torch._utils._rebuild_parameter, which is refused"),
        ({"keys": torch.zeros(2, dtype=torch.complex64)}, "names torch.ComplexFloatStorage, which is refused"),
        ({"keys": Path("a")}, "names pathlib"),
        ({"keys": KEYS, "cam": "text"}, "a value of the kind str"),
        ({"keys": KEYS, "cam": [[1.0]]}, "a value of the kind list"),
        ({"keys": None}, "a value of the kind NoneType"),
        ({(1, 2): FULL[0]}, "a tuple as the key of a dict"),
        ([1, 2], "not a .npy file of one object"),
        ({"cam": COARSE}, r"it has no `keys`, but `cam` \(2, 3, 4\)"),
        ({"keys": KEYS, "rw": COARSE}, r"it has no `high_res`, `cam`, but `keys` \(2,\), `rw`"),
        ({"keys": [3], "cam": COARSE}, r"`cam` has the shape \(2, 3, 4\), expected 1 maps"),
        ({"keys": [3.5, 4], "cam": COARSE}, "its keys are float64, expected whole numbers"),
        ({"keys": KEYS, "cam": COARSE > 0.5}, "maps of the type bool"),
        ({3: FULL[0]}, r"it has no `keys`, but `3` \(12, 16\)"),
    ],
)
def test_what_is_something_else_is_named(document: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", document)
    with pytest.raises(DataError, match=rf"{re.escape(str(tmp_path))}/a\.npy: .*{message}"):
        read_maps(tmp_path / "a.npy", layout=LAYOUTS["irn"])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"keys": FULL}, "not numbers of classes, but `keys`"),
        ({3: FULL}, r"shapes \(2, 12, 16\), expected"),
        ({3: FULL[0], 4: COARSE[0]}, r"shapes \(12, 16\), \(3, 4\), expected"),
        ({True: FULL[0]}, "True"),
    ],
)
def test_what_is_no_dict_of_maps_is_named(document: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", document)
    with pytest.raises(DataError, match=message):
        read_maps(tmp_path / "a.npy", layout=LAYOUTS["psa"])


def test_a_broken_npz_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", keys=KEYS, cam=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"a\.npz: not a readable \.npz file"):
        read_maps(tmp_path / "a.npz", layout=LAYOUTS["npz"])
    with pytest.raises(DataError, match=r"b\.npz: not a readable \.npz file"):
        read_maps(tmp_path / "b.npz", layout=LAYOUTS["npz"])


def test_the_cam_has_the_photos_tags_their_maximum_is_1_and_nothing_is_negative(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", {3: 4 * FULL[0] - 1, 14: FULL[1], 0: FULL[0]})
    found = import_cam(job(tmp_path / "a.npy", (3, 7, 14)), layout=LAYOUTS["psa"], num_classes=20)
    assert (found.missing, found.extra, found.negative, found.fits) == (1, 1, 1, False)
    assert found.least == pytest.approx(4 * FULL[0].min() - 1)
    keys, cam = load_cam(tmp_path / "out.npz", size=SIZE)
    assert keys.tolist() == [3, 7, 14]
    expected = np.stack([np.maximum(4 * FULL[0] - 1, 0), np.zeros(SIZE), FULL[1]])
    expected /= np.maximum(expected.max(axis=(1, 2), keepdims=True), 1e-9)
    np.testing.assert_allclose(cam, expected, atol=1e-3)  # half precision


def test_a_stored_cam_of_the_stride_is_kept_and_a_finer_one_averaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", keys=KEYS, cam=COARSE)
    import_cam(job(tmp_path / "a.npz", stride=4), layout=LAYOUTS["npz"], num_classes=20)
    cam = load_cam(tmp_path / "out.npz", size=SIZE)[1]
    np.testing.assert_allclose(cam, COARSE / COARSE.max(axis=(1, 2), keepdims=True), atol=1e-3)
    step = np.zeros((2, *SIZE), np.float32)
    step[:, :, 8:] = 1
    np.savez(tmp_path / "a.npz", keys=KEYS, cam=step)
    import_cam(job(tmp_path / "a.npz", stride=4), layout=LAYOUTS["npz"], num_classes=20)
    cam = load_cam(tmp_path / "out.npz", size=SIZE)[1]
    assert cam.shape == (2, 3, 4)
    assert cam[0, 0, 0] < 0.01 < 0.99 < cam[0, 0, 3]
    assert cam[0, 0, 1] + cam[0, 0, 2] == pytest.approx(1, abs=1e-2)  # the edge lies between the two


def test_negative_values_take_nothing_from_their_neighbours(tmp_path: Path) -> None:
    maps = np.where(np.arange(16) % 2 == 0, 1.0, -1.0) * np.ones((2, *SIZE))
    maps[:, :, 8:] = 1
    np.savez(tmp_path / "a.npz", keys=KEYS, cam=maps)
    import_cam(job(tmp_path / "a.npz", stride=4), layout=LAYOUTS["npz"], num_classes=20)
    assert 0.4 < load_cam(tmp_path / "out.npz", size=SIZE)[1][0, 1, 0] < 0.6  # half of the pixels are 1, the others 0


def test_a_photo_without_a_file_has_no_maps(tmp_path: Path) -> None:
    import_cam(ImportJob(None, tmp_path / "out.npz", SIZE, (3,), 4), layout=LAYOUTS["irn"], num_classes=20)
    keys, cam = load_cam(tmp_path / "out.npz", size=SIZE)
    assert (keys.tolist(), cam.shape) == ([], (0, *cam_size(*SIZE, 4)))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({20: FULL[0]}, r"a map of class 20 \(from 0\), but there are 20 classes"),
        ({3: np.full(SIZE, np.nan)}, "values that are not finite"),
        ({3: np.full(SIZE, 1e300)}, "values that are not finite"),
        ({3: FULL[0].T}, r"maps of 16x12 do not fit the photo, 12x16, at any stride up to 32 \(turned by 90 degrees they would\)"),
        ({3: np.zeros((7, 7))}, "maps of 7x7 do not fit the photo, 12x16"),
        ({3: np.zeros((0, 16))}, "maps of 0x16 do not fit"),
    ],
)
def test_maps_that_cannot_be_the_photos_are_refused(document: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", document)
    with pytest.raises(DataError, match=rf"a\.npy: {message}"):
        import_cam(job(tmp_path / "a.npy"), layout=LAYOUTS["psa"], num_classes=20)
    assert not (tmp_path / "out.npz").exists()


def test_two_maps_of_one_class_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", keys=[3, 3], cam=COARSE)
    with pytest.raises(DataError, match="two maps of one class"):
        import_cam(job(tmp_path / "a.npz"), layout=LAYOUTS["npz"], num_classes=20)


@pytest.mark.parametrize(
    ("stored", "fits", "shifted"), [((3, 14), True, 0), ((4, 15), False, 1), ((2, 13), False, -1), ((3, 15), False, 0)]
)
def test_classes_counted_another_way_are_noticed(stored: tuple[int, ...], fits: bool, shifted: int, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", dict(zip(stored, FULL, strict=True)))
    found = import_cam(job(tmp_path / "a.npy"), layout=LAYOUTS["psa"], num_classes=20)
    assert (found.fits, found.fits_shifted) == (fits, shifted)


def test_fits_photo() -> None:
    for stride in (1, 2, 4, 8, 16, 32):
        assert fits_photo(cam_size(375, 500, stride), (375, 500))
        assert fits_photo((375 // stride, 500 // stride), (375, 500))
    assert not fits_photo((224, 224), (375, 500))
    assert not fits_photo((500, 375), (375, 500))
    assert not fits_photo((94, 63), (375, 500))
