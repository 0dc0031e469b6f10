"""rca predict: what may be named, what is written, what is kept, and what goes wrong in one line. And rca export network."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from small_network import small_network
from tiny_run import TinyRun, snapshot

from rcatool.data.labels import palette
from rcatool.errors import ConfigError
from rcatool.network_file import write_network
from rcatool.photo_inputs import find_photos
from rcatool.segmenter import Segmenter
from rcatool.stages import predict as stage

Rca = Callable[..., Result]


def photo(seed: int, height: int = 40, width: int = 60) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a network's file and, in `photos`, three photos of different kinds."""
    write_network(tmp_path / "net.safetensors", small_network())
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    photo(0).save(tmp_path / "photos" / "a.jpg")
    photo(1, 33, 20).convert("L").save(tmp_path / "photos" / "sub" / "b.PNG")
    photo(2).convert("CMYK").save(tmp_path / "photos" / "c.tif")
    (tmp_path / "photos" / "notes.txt").write_text("x")
    return tmp_path


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "predictions.json").read_text())
    return found


MODEL = ("--model", "net.safetensors", "--device", "cpu")


# ---- what is written


@pytest.mark.parametrize("waiting", [0, 2])  # 2: as on a GPU, whose files other threads write
def test_a_folder_of_photos_without_a_run(rca: Rca, here: Path, waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "waiting_writes", lambda _: waiting)
    code, out, err = rca("predict", "photos", *MODEL, "--out", "out")
    assert code == 0, err
    assert "3 photos: masks and predictions.json in out" in out
    assert "1 text file" in err
    written = sorted(path.relative_to(here / "out").as_posix() for path in (here / "out").rglob("*") if path.is_file())
    assert written == ["a.png", "c.png", "overlays/a.jpg", "overlays/c.jpg", "overlays/sub/b.jpg", "predictions.json", "sub/b.png"]
    segmenter = Segmenter(small_network(), device="cpu")
    for name, source in (("a", "a.jpg"), ("sub/b", "sub/b.PNG"), ("c", "c.tif")):
        expected = segmenter(here / "photos" / source)
        with Image.open(here / "out" / f"{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.getpalette()[:768] == palette()  # type: ignore[index]
            np.testing.assert_array_equal(np.array(mask), expected.mask)
        with Image.open(here / "out" / "overlays" / f"{name}.jpg") as drawn:
            assert drawn.mode == "RGB"
            assert max(drawn.size) >= 480
        record = document(here / "out")["photos"][name]
        assert record["size"] == list(expected.mask.shape)
        assert record["network_size"] == list(expected.network_size)
        assert {name: entry["pixels"] for name, entry in record["classes"].items()} == {k: n for k, n in expected.pixels().items() if n}
        assert sum(entry["share"] for entry in record["classes"].values()) == pytest.approx(1, abs=1e-5)
        assert record["seconds"] >= 0
        assert record["photo"] == str(Path("photos") / source)
    assert document(here / "out")["model"]["digest"] == small_network().digest
    assert document(here / "out")["failed"] == {}


def test_json_and_no_overlay(rca: Rca, here: Path) -> None:
    code, out, _ = rca("predict", "photos/a.jpg", *MODEL, "--out", "out", "--no-overlay", "--json", "--scale", "80")
    assert code == 0
    assert json.loads(out) == document(here / "out")
    assert document(here / "out")["settings"] == {"scale": 80, "tile": 1024, "overlap": 256}
    assert document(here / "out")["photos"]["a"]["network_size"] == [53, 80]
    assert sorted(path.name for path in (here / "out").iterdir()) == ["a.png", "predictions.json"]


def test_a_large_photo_in_tiles(rca: Rca, here: Path) -> None:
    photo(3, 200, 300).save(here / "large.png")
    options = ("--scale", "original", "--no-overlay", "--tile", "128", "--overlap", "64")
    assert rca("predict", "large.png", *MODEL, "--out", "tiles", *options).code == 0
    assert rca("predict", "large.png", *MODEL, "--out", "whole", *options[:3]).code == 0
    masks = [np.array(Image.open(here / folder / "large.png")) for folder in ("tiles", "whole")]
    assert np.mean(masks[0] == masks[1]) > 0.999
    assert masks[0].shape == (200, 300)


def test_of_a_run_and_of_its_file(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.path
    assert rca("export", "network", "--run", run, "--out", "net.safetensors").code == 0
    photos = undisturbed.data / "JPEGImages"
    before = snapshot(run)
    assert rca("predict", photos, "--run", run, "--out", "a", "--no-overlay").code == 0
    assert rca("predict", photos, "--model", "net.safetensors", "--out", "b", "--no-overlay").code == 0
    assert snapshot(run) == before
    names = sorted(path.name for path in (tmp_path / "a").glob("*.png"))
    assert len(names) == 22
    assert len({np.array(Image.open(tmp_path / "a" / name)).max() for name in names}) > 1
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert document(tmp_path / "a")["model"]["digest"] == document(tmp_path / "b")["model"]["digest"]
    # Of one network: results of the run's are kept when its file is named.
    assert rca("predict", photos, "--model", "net.safetensors", "--out", "a", "--no-overlay").code == 0


def test_the_network_must_be_current(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    photo(0).save(tmp_path / "a.png")
    for line in ("predict a.png --out o", "export network --out n.safetensors", "export onnx --out n.onnx"):
        code, _, err = rca(*line.split(), "--run", run)
        assert code == 4
        assert "needs the output of train-seg" in err
        assert "rca train-seg --run" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "run"]


# ---- what may be named


def test_files_and_patterns(rca: Rca, here: Path) -> None:
    assert rca("predict", "photos/**/*", "photos/a.jpg", "photos", *MODEL, "--out", "out", "--no-overlay").code == 0
    assert sorted(document(here / "out")["photos"]) == ["a", "c", "sub/b"]
    photo(4).save(here / "photos" / "odd[1].png")
    assert rca("predict", "photos/odd[1].png", *MODEL, "--out", "odd").code == 0
    assert list(document(here / "odd")["photos"]) == ["odd[1]"]


def test_results_below_the_photos_are_no_photos(rca: Rca, here: Path) -> None:
    for words in (["photos"], ["photos/**/*"]):
        for _ in range(2):
            assert rca("predict", *words, *MODEL, "--out", "photos/masks").code == 0
        assert sorted(document(here / "photos" / "masks")["photos"]) == ["a", "c", "sub/b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["photos/*.webp"], "no photo there"),
        (["empty"], "empty: no photo there"),
        (["twice"], r"x.jpg and twice/x.png would both be x.png"),
        (["cases"], "would both be"),
        (["photos/a.jpg", "other/a.jpg"], "photos/a.jpg and other/a.jpg would both be a.png"),
        (["photos", "--out", "photos"], "--out: photos is the folder of the photos"),
        (["twice/x.png", "--out", "twice"], "twice/x.png is one of the photos"),
        (["photos", "--out", "net.safetensors"], "is a file"),
        (["photos", "--scale", "0.5"], "--scale: '0.5', expected auto, original, or the long side in pixels"),
        (["photos", "--scale", "0"], "--scale: '0'"),
        (["photos", "--scale", "99999999999"], "--scale"),
        (["photos", "--tile", "1000"], "tile: 1000, expected a multiple of 64"),
        (["photos", "--overlap", "640"], "overlap: 640"),
        (["photos", "--run", "runs/x"], "--model and --run are both given"),
    ],
)
def test_mistakes_are_found_before_work_starts(rca: Rca, here: Path, words: list[str], message: str) -> None:
    (here / "empty").mkdir()
    for name in ("twice/x.jpg", "twice/x.png", "cases/ü.png", "cases/Ü.jpg", "other/a.jpg"):
        (here / name).parent.mkdir(exist_ok=True)
        photo(5).save(here / name)
    before = snapshot(here)
    code, out, err = rca("predict", *words, *([] if "--out" in words else ["--out", "out"]), *MODEL)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) <= 3
    assert snapshot(here) == before


def test_one_photo_by_two_ways_is_one(here: Path) -> None:
    os.symlink(here / "photos", here / "again")
    found = find_photos([str(here / "photos"), str(here / "again"), str(here / "photos" / "a.jpg")], here / "out")
    assert [each.name for each in found.photos] == ["a", "c", "sub/b"]
    os.symlink(here / "photos" / "c.tif", here / "again" / "a.tif")
    with pytest.raises(ConfigError, match=r"both be a.png"):
        find_photos([str(here / "photos")], here / "out")


def test_networks_that_cannot_be_read(rca: Rca, here: Path) -> None:
    (here / "bad.safetensors").write_bytes(b"x" * 100)
    code, _, err = rca("predict", "photos", "--model", "bad.safetensors", "--out", "out")
    assert code == 3
    assert "bad.safetensors: not a readable safetensors file" in err
    assert "rca export network" in err
    assert rca("predict", "photos", "--model", "none.safetensors", "--out", "out").code == 3
    assert rca("predict", "photos", *MODEL[:2], "--device", "cuda:99", "--out", "out").code == 6
    assert rca("predict", "photos", "--run", "nothing", "--out", "out").code == 4
    assert not (here / "out").exists()


# ---- what goes wrong with photos, and what is kept


def test_unreadable_photos_are_named_and_the_others_finished(rca: Rca, here: Path) -> None:
    (here / "photos" / "b1.jpg").write_bytes((here / "photos" / "a.jpg").read_bytes()[:300])
    (here / "photos" / "b2.jpg").write_bytes(b"")
    code, out, err = rca("predict", "photos", *MODEL, "--out", "out", "--json")
    assert code == 3
    assert "error: 2 of 5 photos could not be predicted: photos/b1.jpg" in err
    assert "photos/b2.jpg: not an image" in err
    assert sorted(json.loads(out)["photos"]) == ["a", "c", "sub/b"]
    assert sorted(json.loads(out)["failed"]) == ["b1", "b2"]
    assert (here / "out" / "c.png").exists()
    photo(7).save(here / "photos" / "b1.jpg")
    (here / "photos" / "b2.jpg").unlink()
    assert rca("predict", "photos", *MODEL, "--out", "out").code == 0
    assert document(here / "out")["failed"] == {}
    assert len(document(here / "out")["photos"]) == 4


def test_only_what_changed_is_done_again(rca: Rca, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    read = stage.read_image
    monkeypatch.setattr(stage, "read_image", lambda path: (seen.append(path), read(path))[1])
    line = ("predict", "photos", *MODEL, "--out", "out")

    def again(*more: str) -> list[str]:
        seen.clear()
        assert rca(*line, *more).code == 0
        return [path.name for path in seen]

    assert again() == ["a.jpg", "c.tif", "b.PNG"]
    before = snapshot(here / "out")
    assert again() == []
    after = snapshot(here / "out")
    changed = {path for path in after if after[path][1] != before[path][1]}
    assert changed == set()
    photo(9).save(here / "photos" / "a.jpg")
    assert again() == ["a.jpg"]
    (here / "out" / "c.png").unlink()
    assert again() == ["c.tif"]
    old = (here / "out" / "overlays" / "c.jpg").read_bytes()
    (here / "out" / "overlays" / "c.jpg").unlink()
    times = (here / "out" / "c.png").stat().st_mtime_ns
    assert again() == ["c.tif"]  # for the overlay alone
    assert (here / "out" / "overlays" / "c.jpg").read_bytes() == old
    assert (here / "out" / "c.png").stat().st_mtime_ns == times
    assert again("--force") == ["a.jpg", "c.tif", "b.PNG"]
    photo(11).save(here / "new.png")
    assert rca("predict", "new.png", *MODEL, "--out", "out").code == 0
    assert sorted(document(here / "out")["photos"]) == ["a", "c", "new", "sub/b"]


def test_mirror_image_and_crf(rca: Rca, here: Path) -> None:
    line = ("predict", "photos", *MODEL, "--device", "cpu", "--no-overlay", "--scale", "64")
    assert rca(*line, "--out", "plain").code == 0
    assert not {"flip", "crf"} & set(document(here / "plain")["settings"])
    assert rca(*line, "--out", "better", "--flip", "--crf").code == 0
    assert document(here / "better")["settings"] == {**document(here / "plain")["settings"], "flip": True, "crf": True}
    network = Segmenter.load(here / "net.safetensors", device="cpu", flip=True, crf=True)
    photos = {name: here / about["photo"] for name, about in document(here / "better")["photos"].items()}
    assert len(photos) > 2
    for name, path in photos.items():
        np.testing.assert_array_equal(np.asarray(Image.open(here / "better" / f"{name}.png")), network(path, scale=64).mask)
    assert any((here / "better" / f"{name}.png").read_bytes() != (here / "plain" / f"{name}.png").read_bytes() for name in photos)
    done = rca(*line, "--out", "better")
    assert done.code == 2
    assert "other settings (scale 64, tile 1024, overlap 256, flip True, crf True)" in done.err
    done = rca("predict", "photos", *MODEL, "--out", "large", "--crf", "--scale", "original")
    assert done.code == 2
    assert "takes a photo as a whole" in done.err
    assert not (here / "large").exists()


def test_results_of_different_networks_or_settings_are_not_mixed(rca: Rca, here: Path) -> None:
    line = ("predict", "photos", "--device", "cpu", "--out", "out", "--no-overlay", "--model")
    assert rca(*line, "net.safetensors").code == 0
    write_network(here / "two.safetensors", small_network(spread=0.4))
    for more, message in (("two.safetensors", "another network (net.safetensors)"), ("net.safetensors --scale 40", "other settings")):
        before = snapshot(here / "out")
        code, _, err = rca(*line, *more.split())
        assert code == 2
        assert f"out has predictions of {message}" in err
        assert snapshot(here / "out") == before
        assert rca(*line, *more.split(), "--force").code == 0
        assert rca(*line, "net.safetensors", "--force").code == 0
    for content in ("x", "[]", "{}"):
        (here / "out" / "predictions.json").write_text(content)
        assert rca(*line, "net.safetensors").code == 3
    assert rca(*line, "net.safetensors", "--force").code == 0


def test_what_was_done_before_an_interruption_is_kept(rca: Rca, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = stage.write_mask, []

    def stops(path: Path, mask: np.ndarray) -> None:
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(path, mask)

    monkeypatch.setattr(stage, "write_mask", stops)
    assert rca("predict", "photos", *MODEL, "--out", "out").code == 130
    assert list(document(here / "out")["photos"]) == ["a"]
    calls.append("")
    assert rca("predict", "photos", *MODEL, "--out", "out").code == 0
    assert calls == ["a.png", "c.png", "", "c.png", "b.png"]
    assert list(document(here / "out")["photos"]) == ["a", "c", "sub/b"]


def test_out_of_memory_says_what_to_lower(rca: Rca, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Segmenter, "_probabilities", full)
    code, _, err = rca("predict", "photos", *MODEL, "--out", "out")
    assert code == 6
    assert "predict: out of memory" in err
    assert "--tile" in err


# ---- rca export network


def test_export_network(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    line = ("export", "network", "--run", undisturbed.path, "--out")
    code, _, err = rca(*line, "net.safetensors")
    assert code == 0
    assert "rca predict PHOTOS --model net.safetensors" in err
    first = (tmp_path / "net.safetensors").read_bytes()
    code, _, err = rca(*line, "net.safetensors")
    assert code == 2
    assert "net.safetensors is there already" in err
    assert rca(*line, "net.safetensors", "--force").code == 0
    assert (tmp_path / "net.safetensors").read_bytes() == first
    assert (tmp_path / "net-old.safetensors").read_bytes() == first
    code, _, err = rca(*line, "net.pth")
    assert code == 2
    assert "--out net.safetensors" in err
