"""Saliency maps: Pillow writes, bytes are compared; the manifest that `rca prepare` makes; what cannot be used is named."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_voc import make_photo, make_voc

from rcatool.data.manifest import draft, read_manifest
from rcatool.data.saliency import add_saliency, read_saliency
from rcatool.errors import ConfigError, DataError
from rcatool.files import sha256_file

GREY = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)


def write_maps(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(GREY).save(folder / f"{name}.png")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_reads_what_pillow_wrote(mode: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).convert(mode).save(tmp_path / "a.png")
    found = read_saliency(tmp_path / "a.png", (12, 16))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GREY / 255, atol=1e-7)


def test_a_palette_is_read_by_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.eye(4, dtype=np.uint8))
    image.putpalette([200, 200, 200, 51, 51, 51])
    image.save(tmp_path / "a.png")
    np.testing.assert_allclose(read_saliency(tmp_path / "a.png", (4, 4)), np.where(np.eye(4), 51, 200) / 255, atol=1e-7)


def test_two_values_become_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "a.png")
    assert read_saliency(tmp_path / "a.png", (4, 4)).tolist() == np.eye(4).tolist()


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}: no such file"):
        read_saliency(path, (12, 16))
    Image.fromarray(GREY).save(path)
    with pytest.raises(DataError, match=r"saliency map is 12 x 16 \(H x W\), expected 16 x 12"):
        read_saliency(path, (16, 12))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        read_saliency(path, (12, 16))
    Image.fromarray(GREY.astype(np.uint16) * 256).save(path)
    with pytest.raises(DataError, match=r"a\.png: .*expected 8-bit grey"):
        read_saliency(path, (12, 16))
    Image.fromarray(np.stack([GREY, GREY, 255 - GREY], axis=-1)).save(path)
    with pytest.raises(DataError, match=r"a\.png: a coloured picture"):
        read_saliency(path, (12, 16))


def test_maps_are_found_by_id_and_by_the_path_of_the_photo(tmp_path: Path) -> None:
    write_maps(tmp_path / "sal", "a")
    write_maps(tmp_path / "sal" / "deep", "b")
    samples = [
        draft("a", "train", image="photos/a.jpg", mask=None, classes=[0]),
        draft("deep_b", "tune", image="photos/deep/b.jpg", mask=None, classes=[0]),
        draft("c", "val", image="photos/c.jpg", mask=None, classes=[0]),
    ]
    found = add_saliency(samples, tmp_path, folder="sal", images="photos")
    assert [sample.saliency for sample in found] == ["sal/a.png", "sal/deep/b.png", None]


def test_places_that_cannot_be(tmp_path: Path) -> None:
    sample = draft("a", "train", image="a.jpg", mask=None, classes=[0])
    with pytest.raises(ConfigError, match="data.saliency: .*no is not a folder"):
        add_saliency([sample], tmp_path, folder="no")
    (tmp_path / "root").mkdir()
    write_maps(tmp_path / "sal", "a")
    with pytest.raises(ConfigError, match="outside of data.root"):
        add_saliency([sample], tmp_path / "root", folder="../sal")


def test_prepare_takes_checks_and_digests_them(rca: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    base = make_voc(tmp_path / "voc")
    write_maps(base / "sal", "a1", "a2")
    arguments = ("prepare", "voc", "--root", base, "--run", "run", "--val-list", "val", "--set", "runtime.workers=1")
    code, _, err = rca(*arguments, "--set", "data.saliency=sal")
    assert (code, err.count("\n")) == (3, 2)
    assert "1 of 3 photos have no saliency map" in err
    assert "a3.jpg" in err
    make_photo(base / "sal" / "a3.png", size=(12, 15))  # coloured
    code, _, err = rca(*arguments, "--set", "data.saliency=sal")
    assert code == 3
    assert "a3.png: a coloured picture" in err
    write_maps(base / "sal", "a3")
    assert rca(*arguments, "--set", "data.saliency=sal")[0] == 0
    samples = {sample.id: sample for sample in read_manifest(tmp_path / "run/prepare/manifest.jsonl")}
    assert samples["a2"].saliency == "sal/a2.png"
    assert samples["a2"].saliency_sha256 == sha256_file(base / "sal/a2.png")[:16]
    assert samples["b1"].saliency is None
    assert rca("prepare", "--verify", "--run", "run")[0] == 0
    make_photo(base / "sal" / "a2.png")
    assert rca("prepare", "--verify", "--run", "run")[0] == 3
    assert "a2.png: other content" in (tmp_path / "run/verify-problems.txt").read_text()
