"""Oracles: NumPy's own writer and reader, and payloads that are known to go off in `pickle`."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from rcatool.data import npy
from rcatool.errors import DataError

HEADER = b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }               \n"
# How Python 2 wrote it: arrays' content as text that stands for bytes.
PYTHON_2 = (
    b"\x80\x02}U\x0b2007_000032cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\n"
    b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00\x00tbs."
)


def wrapped(value: bytes) -> bytes:
    """A pickle (protocol 2) of a 0-dimensional array that holds what the pickle `value` leaves."""
    body = value.removeprefix(b"\x80\x02").removesuffix(b".")
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01)cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]" + body + b"atb."
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cls_labels.npy"


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2", "u1", "i8", "?"])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_numpy_writes(path: Path, dtype: str, protocol: int) -> None:
    table = {f"2007_{n:06d}": (np.arange(20) % (n + 2) == 0).astype(dtype) for n in range(30)}
    path.write_bytes(HEADER + pickle.dumps(np.array(table, dtype=object), protocol=protocol))
    found = npy.read_tag_vectors(path)
    assert list(found) == list(table)
    for image_id, vector in table.items():
        assert found[image_id].dtype == np.float64
        assert np.array_equal(found[image_id], vector.astype(np.float64))


def test_reads_np_save_lists_and_scalars(path: Path) -> None:
    np.save(path, {"a": [0.0, 1.0], "b": (1, 0), "c": [np.float32(1), np.float32(0)], "d": np.eye(2)[:, 1], "é": np.zeros(2)})
    found = npy.read_tag_vectors(path)
    assert {key: value.tolist() for key, value in found.items()} == {"a": [0, 1], "b": [1, 0], "c": [1, 0], "d": [0, 1], "é": [0, 0]}


def test_reads_python_2(path: Path) -> None:
    path.write_bytes(HEADER + wrapped(PYTHON_2))
    assert npy.read_tag_vectors(path)["2007_000032"].tolist() == [1, 0]


@pytest.mark.filterwarnings("ignore")  # NumPy warns about its own old names
def test_reads_the_file_of_the_field_as_numpy_does(voc_part: Path) -> None:
    path = voc_part / "cls_labels.npy"
    expected = np.load(path, allow_pickle=True, encoding="latin1").item()
    found = npy.read_tag_vectors(path)
    assert list(found) == list(expected)
    assert len(found) == 12_031
    assert np.array_equal(np.array(list(found.values())), np.array(list(expected.values())))


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["value", "key", "table", "after"])
def test_nothing_in_it_is_run(path: Path, tmp_path: Path, protocol: int, place: str) -> None:
    trap = tmp_path / "sprung"
    payload = Payload(os.mkdir, str(trap))
    table = {"value": {"a": payload}, "key": {payload: [1.0]}, "table": payload, "after": {"a": [1.0], "b": [payload, payload]}}[place]
    data = pickle.dumps(np.array(table, dtype=object), protocol=protocol)
    path.write_bytes(HEADER + data)
    with pytest.raises(DataError, match=r"cls_labels\.npy: not a tag file"):
        npy.read_tag_vectors(path)
    assert not trap.exists()
    if protocol >= 2 and place == "value":  # the trap works
        pickle.loads(data)
        assert trap.exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02cbuiltins\neval\nU\x011\x85R.", "names builtins.eval"),
        (b"\x80\x02c__builtin__\neval\nU\x011\x85R.", "names __builtin__.eval"),
        (b"\x80\x02cnumpy\nload\nU\x011\x85R.", "names numpy.load"),
        (b"\x80\x02cnumpy.core.multiarray\nfromfile\nU\x011\x85R.", "names numpy.core.multiarray.fromfile"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.", "names posix.system"),
        (b"\x80\x04\x8c\x07_codecs\x8c\x0fencode.__self__\x93.", "names _codecs.encode.__self__"),  # would walk along attributes
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.", "encoded as 'hex'"),
        (b"\x80\x02cnumpy\ndtype\nU\x08O,O,O,O8\x85R.", "values of type 'O,O,O,O8'"),
        (b"\x80\x02cnumpy\ndtype\nU\x03V99\x85R.", "values of type 'V99'"),
        (b"(ios\nsystem\nU\x04true.", "it uses INST"),  # protocol 0's way to call
        (b"\x80\x02U\x01aQ.", "it uses BINPERSID"),
        (b"\x80\x02cnumpy\ndtype\nU\x02f4\x85\x81.", "it uses NEWOBJ"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "a place beyond the end"),  # would reserve 16 GiB
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "not a tag file"),
    ],
)
def test_refused_programs(path: Path, program: bytes, message: str) -> None:
    for data in (program, wrapped(program)):
        path.write_bytes(HEADER + data)
        with pytest.raises(DataError, match=message):
            npy.read_tag_vectors(path)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not numpy",
        saved(np.zeros(3)),
        saved([1, 2]),
        saved({1: [1.0]}),
        saved({"a": "cat"}),
        saved({"a": np.zeros((2, 2))}),
        saved({"a": None}),
        saved({"a": {"b": 1}}),
        saved({"a": [1.0]})[:-5],
        saved(np.array([{"a": [1.0]}] * 2)),
        HEADER,
    ],
)
def test_refuses_what_is_no_tag_file(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a tag file"):
        npy.read_tag_vectors(path)


def test_refuses_a_huge_or_missing_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"cls_labels\.npy: cannot be read"):
        npy.read_tag_vectors(path)
    np.save(path, {"a": [1.0]})
    monkeypatch.setattr(npy, "MAX_TAGS", 10)
    with pytest.raises(DataError, match="too large"):
        npy.read_tag_vectors(path)


TUPLES = {
    "one in the other": b")" + b"\x85" * 200_000,  # to hash it overflows the stack of the process
    "each the one before twice": b")q\x00" + b"".join(bytes([104, n, 104, n, 134, 113, n + 1]) for n in range(60)),  # 2**60 of them
}


@pytest.mark.parametrize("dict_of", ["}%sK\x01s", "}(K\x01K\x02%sK\x01u"], ids=["one", "several"])
@pytest.mark.parametrize("made", TUPLES)
def test_tuples_are_no_keys(path: Path, made: str, dict_of: str) -> None:
    program = dict_of.encode("latin-1").replace(b"%s", TUPLES[made])
    path.write_bytes(HEADER + wrapped(b"\x80\x02" + program + b"."))
    with pytest.raises(DataError, match="a tuple as the key of a dict"):
        npy.read_tag_vectors(path)


def test_a_text_without_quotes_is_not_repeated_whole(path: Path) -> None:
    path.write_bytes(HEADER + wrapped(b"\x80\x02S" + b"a" * 100_000 + b"\n."))
    with pytest.raises(DataError) as caught:
        npy.read_tag_vectors(path)
    assert len(caught.value.message) < 500 + len(str(path))


def test_lists_in_lists_do_not_grow(path: Path) -> None:
    """Thirty lists, each holding the one before twice: 300 bytes of file, 8 GiB as an array."""
    value: list[object] = [1.0]
    for _ in range(30):
        value = [value, value]
    path.write_bytes(HEADER + wrapped(pickle.dumps({"a": value}, protocol=2)))
    assert path.stat().st_size < 1000
    with pytest.raises(DataError, match="a value of the kind list"):
        npy.read_tag_vectors(path)
