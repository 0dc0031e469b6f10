"""Files that somebody made to do harm: pipes and devices in the place of files, bombs, loops, and names that are code elsewhere.

What runs nothing that is pickled is held by `test_npy.py`, `test_npz.py`, `test_weights.py` and the tables of bad inputs; those hold
paths that lead out of a folder, aliases of YAML that multiply, and archives that inflate without end, too.
"""

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from breaks import png
from broken import PREPARE_FOLDER, PREPARE_VOC, Case, Rca, check_answer, make_data_sets
from PIL import Image

from rcatool.data.photos import read_image
from rcatool.errors import DataError
from rcatool.stages.voc_download import unpack

Make = Callable[[Path], None]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


# ---- what never ends


@pytest.mark.parametrize("make", [pipe, zeros])
@pytest.mark.parametrize(
    ("line", "path", "code", "message"),
    [
        (PREPARE_FOLDER, "photos/b.jpg", 3, r"photos/b\.jpg: cannot be decoded \(a pipe or a device, not a file\)"),
        (PREPARE_FOLDER + " --masks masks", "masks/b.png", 3, r"masks/b\.png: cannot be decoded \(a pipe or a device"),
        (PREPARE_FOLDER, "tags.csv", 2, r"data\.tags: .*tags\.csv is not a file"),
        (PREPARE_VOC, "voc/JPEGImages/a2.jpg", 3, r"a2\.jpg: cannot be decoded \(a pipe or a device, not a file\)"),
        (PREPARE_VOC, "voc/SegmentationClassAug/a2.png", 3, r"a2\.png: cannot be decoded \(a pipe or a device, not a file\)"),
        (PREPARE_VOC, "voc/tags.txt", 3, r"no tags: neither .*tags\.txt nor .*Annotations is there"),
        (PREPARE_VOC + " --val-list ../b.txt", "voc/ImageSets/b.txt", 2, "no list '../b.txt'"),
        (PREPARE_FOLDER + " --config my.yaml", "my.yaml", 2, r"my\.yaml: cannot be read \(a pipe or a device, not a file\)"),
    ],
)
def test_a_pipe_or_a_device_is_not_waited_for(
    rca: Rca, monkeypatch: pytest.MonkeyPatch, make: Make, line: str, path: str, code: int, message: str
) -> None:
    make_data_sets()
    monkeypatch.setenv("RCA_RUN", "run")
    Path(path).unlink(missing_ok=True)
    make(Path(path))
    check_answer(rca(*line.split()), Case(path, (), line, code, message))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.params"])
def test_weights_that_never_end(tmp_path: Path, name: str) -> None:
    from rcatool.models.weight_files import read_state

    pipe(tmp_path / name)
    with pytest.raises(DataError, match="a pipe or a device, not a file"):
        read_state(tmp_path / name)


def test_cam_files_that_never_end(tmp_path: Path) -> None:
    from rcatool.cam_files import LAYOUTS, read_maps
    from rcatool.cams import load_cam
    from rcatool.data.npy import read_tag_vectors

    pipe(tmp_path / "a.npz")
    zeros(tmp_path / "a.npy")
    with pytest.raises(DataError):
        load_cam(tmp_path / "a.npz", size=(2, 2))
    for layout in ("npz", "irn", "psa"):
        with pytest.raises(DataError):
            read_maps(tmp_path / ("a.npz" if layout == "npz" else "a.npy"), layout=LAYOUTS[layout])
    with pytest.raises(DataError):
        read_tag_vectors(tmp_path / "a.npy")


# ---- bombs and loops


def tiff_entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value)


def looping_exif() -> bytes:
    """EXIF data of one directory, whose next is itself, and whose directories of camera and place are itself, too."""
    entries = [tiff_entry(0x0112, 3, 1, 6), tiff_entry(0x8769, 4, 1, 8), tiff_entry(0x8825, 4, 1, 8)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_exif_that_leads_to_itself(tmp_path: Path) -> None:
    """The photo is read, and turned as the first directory says."""
    pixels = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=looping_exif())
    assert np.array_equal(read_image(tmp_path / "p.png"), np.rot90(pixels, -1))
    Image.fromarray(pixels).save(tmp_path / "p.jpg", exif=b"Exif\0\0" + looping_exif())
    assert read_image(tmp_path / "p.jpg").shape == (16, 12, 3)


def test_a_tiff_whose_pages_go_round(tmp_path: Path) -> None:
    """The first page is read; a file whose pages go round has no last one."""
    from rcatool.data.photos import has_more_pictures

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    start = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[start : start + 2])[0]
    end = start + 2 + 12 * entries
    data[end : end + 4] = struct.pack("<I", start)
    (tmp_path / "p.tif").write_bytes(data)
    assert read_image(tmp_path / "p.tif").shape == (5, 6, 3)
    assert has_more_pictures(tmp_path / "p.tif") in (True, False)


@pytest.mark.parametrize("colour", [0, 2, 3])
def test_a_png_that_claims_60000_by_60000(tmp_path: Path, colour: int) -> None:
    (tmp_path / "p.png").write_bytes(png(60_000, 60_000, colour=colour))
    with pytest.raises(DataError, match="pixels, refused"):
        read_image(tmp_path / "p.png")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_in_a_png_that_inflates(tmp_path: Path, kind: bytes) -> None:
    """256 MiB of text or of a colour profile in 256 KiB: left out or refused, and never unpacked whole."""
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    packed = zlib.compress(bytes(1 << 28))
    head = {b"zTXt": b"x\0\0", b"iTXt": b"x\0\x01\0\0\0", b"iCCP": b"x\0\0"}[kind]
    (tmp_path / "p.png").write_bytes(data[:33] + chunk(kind, head + packed) + data[33:])
    import tracemalloc

    tracemalloc.start()
    try:
        assert read_image(tmp_path / "p.png").shape == (5, 6, 3)
    except DataError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 32 << 20


def test_a_huge_cell_of_a_csv(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data_sets()
    monkeypatch.setenv("RCA_RUN", "run")
    Path("tags.csv").write_text(f'image,tags\na.jpg,"{"cat;" * 200_000}"\n')
    check_answer(rca(*PREPARE_FOLDER.split()), Case("", (), "", 3, r"tags\.csv:2: not valid CSV \(field larger than field limit"))
    Path("tags.csv").write_text(f"image,tags\na.jpg,{'c' * 100_000}\n")
    assert rca(*PREPARE_FOLDER.split()).code in (0, 3)


# ---- names


def test_names_of_files_are_text_in_the_report(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo whose name is code for a browser, and one whose name is code for a terminal."""
    make_data_sets()
    monkeypatch.setenv("RCA_RUN", "run")
    names = ("<img src=x onerror=alert(1)>.jpg", "a' onmouseover='alert(1)' \".jpg", "${{7*7}}&lt;b&gt;.jpg")
    for old, new in zip("abc", names, strict=True):
        Path("photos", f"{old}.jpg").rename(Path("photos", new))
    rows = [f'"{name.replace(chr(34), chr(34) * 2)}",<script>alert(2)</script>' for name in names]
    Path("tags.csv").write_text("image,tags\n" + "\n".join(rows) + "\n")
    done = rca(*PREPARE_FOLDER.split())
    assert done.code == 0, done.err
    assert rca("report").code == 0
    page = Path("run/report.html").read_text()
    for code in ("<script>alert", "<img src=x", "onmouseover='alert", "</script>alert"):
        assert code not in page
    assert "&lt;script&gt;alert(2)" in page


def test_a_photo_named_by_an_escape_sequence(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data_sets()
    monkeypatch.setenv("RCA_RUN", "run")
    Path("photos/b.jpg").rename("photos/\x1b]0;owned\x07b.jpg")
    Path("tags.csv").write_text("image,tags\na.jpg,cat\n\x1b]0;owned\x07b.jpg,dog\n")
    done = rca(*PREPARE_FOLDER.split())
    assert "\x1b" not in done.out + done.err
    assert rca("report").code in (0, 4)


# ---- archives


HOSTILE = {
    "upwards": [("../outside.txt", tarfile.REGTYPE, "")],
    "upwards from inside": [("VOCdevkit/../../outside.txt", tarfile.REGTYPE, "")],
    "through a link": [("VOCdevkit", tarfile.SYMTYPE, ".."), ("VOCdevkit/outside.txt", tarfile.REGTYPE, "")],
    "a link to a file": [("VOCdevkit/a.jpg", tarfile.LNKTYPE, "../outside.txt")],
    "a pipe": [("VOCdevkit/a.jpg", tarfile.FIFOTYPE, "")],
    "a device": [("VOCdevkit/a.jpg", tarfile.CHRTYPE, "")],
}


@pytest.mark.parametrize("how", HOSTILE)
def test_an_archive_that_leads_out_of_its_folder(tmp_path: Path, how: str) -> None:
    """Nothing is written outside of the folder that it is unpacked to, and nothing but files and folders inside."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind, link in HOSTILE[how]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, link, int(kind == tarfile.REGTYPE)
            tar.addfile(entry, io.BytesIO(b"x"))
    (tmp_path / "in" / "deep").mkdir(parents=True)
    with pytest.raises(tarfile.TarError):
        unpack(tmp_path / "a.tar", tmp_path / "in" / "deep")
    assert not list(tmp_path.rglob("outside.txt"))
    assert not list(tmp_path.rglob("a.jpg"))


def test_an_absolute_path_in_an_archive_stays_below_its_folder(tmp_path: Path) -> None:
    away = tmp_path / "away" / "x.txt"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo(str(away))
        entry.name = str(away)
        tar.addfile(entry)
    unpack(tmp_path / "a.tar", tmp_path / "in")
    assert not away.exists()
    assert (tmp_path / "in" / str(away).lstrip("/")).is_file()
