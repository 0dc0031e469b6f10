"""A photo in, a label map of its size out, whatever the photo is given as."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_network import NAMES, small_network
from torch.nn import functional as F

import rcatool
from rcatool.data import transforms
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.network_file import write_network
from rcatool.overlay import draw_overlay
from rcatool.refine.crf import crf_params, dense_crf
from rcatool.seg_inference import best_class, photo_probabilities
from rcatool.segmenter import Segmenter, network_size
from rcatool.tiling import Tiling
from rcatool.world import World

RED, GREEN = (200, 0, 0), (0, 200, 0)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coloured noise with some structure: uint8 (H, W, 3)."""
    rng = np.random.default_rng([seed, height, width])
    small = Image.fromarray(rng.integers(0, 256, (max(1, height // 12), max(1, width // 12), 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """On the CPU, for photos with a long side of 96 pixels."""
    return Segmenter(small_network(), device="cpu")


# ---- label maps


@pytest.mark.parametrize("size", [(64, 96), (61, 90), (200, 33), (7, 5)])
def test_a_photo_of_one_tile_is_segmented_as_eval_does(segmenter: Segmenter, size: tuple[int, int]) -> None:
    photo = picture(*size)
    view = transforms.normalise(transforms.to_tensor(photo))[None]
    expected = best_class(photo_probabilities(small_network().model, [view], size, world=World(torch.device("cpu"), None)))
    found = segmenter(photo, scale="original")
    assert found.mask.dtype == np.uint8
    np.testing.assert_array_equal(found.mask, expected)
    assert found.network_size == size
    assert len(np.unique(found.mask)) > 1 or max(size) < 8


@torch.inference_mode()
def test_probabilities_against_plain_float64(segmenter: Segmenter) -> None:
    photo = picture(150, 210)
    images = F.interpolate(torch.from_numpy(photo).permute(2, 0, 1)[None].float(), size=(69, 96), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    logits = small_network().model.double()((images.round().double() / 255 - mean) / std)
    expected = F.interpolate(logits.softmax(dim=1), size=(150, 210), mode="bilinear", align_corners=False)[0].numpy()
    found = segmenter(photo, probabilities=True)
    assert found.network_size == (69, 96)
    assert found.probabilities is not None
    assert found.probabilities.shape == (4, 150, 210)
    # Resizing rounds to whole grey levels, where the two may differ by one.
    assert np.abs(found.probabilities - expected).mean() < 1e-3
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.mask, found.probabilities.argmax(axis=0))
    assert np.mean(found.mask == expected.argmax(axis=0)) > 0.99


@pytest.mark.parametrize("size", [(64, 96), (61, 90), (33, 96)])
def test_flip_and_crf_are_those_of_eval(size: tuple[int, int]) -> None:
    """Beside the functions that eval calls, which have oracles of their own."""
    photo = picture(*size)
    view = transforms.normalise(transforms.to_tensor(photo))
    views = torch.stack([view, view.flip(-1)])
    with torch.inference_mode():
        expected = photo_probabilities(small_network().model, [views], size, world=World(torch.device("cpu"), None))
    found = Segmenter(small_network(), device="cpu", flip=True)(photo, scale="original", probabilities=True)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    refined = dense_crf(photo, expected.numpy(), crf_params("deeplab", 10))
    assert np.mean(refined.argmax(axis=0) != expected.numpy().argmax(axis=0)) > 0.01  # there is something to see
    found = Segmenter(small_network(), device="cpu", flip=True, crf=True)(photo, scale=96)
    assert found.network_size == (size if size[1] == 96 else (65, 96))
    if size[1] == 96:
        assert np.mean(found.mask == refined.argmax(axis=0)) > 0.999


def test_a_mirrored_photo_has_the_mirrored_mask() -> None:
    photo = picture(64, 96)
    segmenter = Segmenter(small_network(), device="cpu", flip=True)
    one, other = (segmenter(np.ascontiguousarray(image), probabilities=True) for image in (photo, photo[:, ::-1]))
    assert one.probabilities is not None
    assert other.probabilities is not None
    np.testing.assert_allclose(one.probabilities, other.probabilities[..., ::-1], atol=1e-5)
    assert len(np.unique(one.mask)) > 1


@pytest.mark.parametrize("scale", ["original", 200])
def test_a_crf_wants_the_whole_photo(scale: Any) -> None:
    segmenter = Segmenter(small_network(), device="cpu", crf=True, tiling=Tiling(128, 64))
    with pytest.raises(ConfigError, match="takes a photo as a whole"):
        segmenter(picture(20, 20), scale=scale)


def test_tiles_change_nothing_where_they_overlap_by_the_field_of_view() -> None:
    photo = picture(300, 420)
    whole = Segmenter(small_network(), device="cpu")(photo, scale="original", probabilities=True)
    told: list[tuple[int, int]] = []
    tiled = Segmenter(small_network(), device="cpu", tiling=Tiling(192, 64))
    found = tiled(photo, scale="original", probabilities=True, advance=lambda *count: told.append(count))
    assert told[-1] == (6, 6)
    np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=1e-5)
    assert np.mean(found.mask == whole.mask) > 0.9999


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((400, 800), "auto", (250, 500)),
        ((50, 25), "auto", (500, 250)),
        ((4000, 6000), "auto", (333, 500)),
        ((4000, 6000), "original", (4000, 6000)),
        ((4000, 6000), 900, (600, 900)),
        ((1, 5000), "auto", (1, 500)),
        ((1, 1), 7, (7, 7)),
    ],
)
def test_scales(size: tuple[int, int], scale: int, expected: tuple[int, int]) -> None:
    assert network_size(size, scale, 500) == expected


@pytest.mark.parametrize("scale", [0, -1, 0.5, 70_000, True, "half", None])
def test_scales_that_cannot_be(segmenter: Segmenter, scale: int) -> None:
    with pytest.raises(ConfigError, match="scale"):
        segmenter(picture(20, 20), scale=scale)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (97, 96)])
@pytest.mark.parametrize("scale", ["auto", "original"])
def test_odd_sizes(segmenter: Segmenter, size: tuple[int, int], scale: str) -> None:
    found = segmenter(picture(*size), scale=scale)  # type: ignore[arg-type]
    assert found.mask.shape == size
    assert found.mask.max() <= len(NAMES)


# ---- what a photo may be


def test_a_path_a_picture_and_an_array_are_one(segmenter: Segmenter, tmp_path: Path) -> None:
    photo = picture(80, 60)
    Image.fromarray(photo).save(tmp_path / "a.png")
    expected = segmenter(photo).mask
    photo.setflags(write=False)
    for given in (photo, tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png"), Image.fromarray(photo)):
        np.testing.assert_array_equal(segmenter(given).mask, expected)


def test_exif_rotation_and_other_modes(segmenter: Segmenter, tmp_path: Path) -> None:
    photo = picture(40, 64)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(photo)).save(tmp_path / "turned.png", exif=exif)
    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        np.testing.assert_array_equal(segmenter(given).mask, segmenter(photo).mask)
    grey = Image.fromarray(photo).convert("L")
    np.testing.assert_array_equal(segmenter(grey).mask, segmenter(np.repeat(np.asarray(grey)[..., None], 3, axis=2)).mask)
    clear = Image.fromarray(np.dstack([photo, np.zeros((40, 64), np.uint8)]))
    np.testing.assert_array_equal(segmenter(clear).mask, segmenter(np.full((40, 64, 3), 255, np.uint8)).mask)
    assert segmenter(Image.fromarray(photo).convert("CMYK")).mask.shape == (40, 64)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (4, 5, 4), (0, 5, 3)])
def test_arrays_that_are_no_photo(segmenter: Segmenter, shape: tuple[int, ...]) -> None:
    for array in (np.zeros(shape, np.uint8), np.zeros((4, 5, 3))):
        with pytest.raises(DataError, match=r"expected RGB uint8 \(H, W, 3\)"):
            segmenter(array)


def test_pictures_that_cannot_be_read(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.jpg: no such file"):
        segmenter(tmp_path / "none.jpg")
    Image.fromarray(picture(300, 300)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:4000])
    with Image.open(tmp_path / "cut.jpg") as opened:
        for given in (tmp_path / "cut.jpg", opened):
            with pytest.raises(DataError, match=r"cut.jpg: cannot be decoded"):
                segmenter(given)
    with pytest.raises(DataError, match="the F picture: cannot be decoded"):
        segmenter(Image.new("F", (4, 4)))


def test_an_output_that_is_not_finite_is_an_error() -> None:
    network = small_network()
    with torch.no_grad():
        network.model.head.branches[0].bias.fill_(float("inf"))  # type: ignore[union-attr]
    with pytest.raises(DataError, match="not finite"):
        Segmenter(network, device="cpu")(picture(20, 20))


# ---- many photos


@pytest.mark.parametrize("batch", [1, 3])
def test_many_photos_are_as_one_by_one(segmenter: Segmenter, batch: int) -> None:
    sizes = [(64, 96), (64, 96), (64, 96), (64, 96), (96, 64), (32, 48), (64, 96)]
    photos = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    shapes: list[tuple[int, ...]] = []
    hook = segmenter._model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    together = list(segmenter.many(iter(photos), batch=batch, probabilities=True))
    hook.remove()
    assert [shape[0] for shape in shapes] == ([1] * 7 if batch == 1 else [3, 1, 1, 1, 1])
    assert len(together) == len(photos)
    for photo, found in zip(photos, together, strict=True):
        alone = segmenter(photo, probabilities=True)
        assert found.mask.shape == photo.shape[:2]
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-5)


def test_large_photos_in_a_batch_go_tile_by_tile() -> None:
    small = Segmenter(small_network(), device="cpu", tiling=Tiling(128, 64))
    photos = [picture(150, 130, seed=seed) for seed in range(2)]
    for photo, found in zip(photos, small.many(photos, batch=2, scale="original"), strict=True):
        np.testing.assert_array_equal(found.mask, small(photo, scale="original").mask)


def test_photos_are_read_when_their_turn_comes(segmenter: Segmenter) -> None:
    def photos() -> object:
        yield picture(20, 20)
        raise DataError("the second")

    found = segmenter.many(photos())  # type: ignore[arg-type]
    assert next(found).mask.shape == (20, 20)
    with pytest.raises(DataError, match="the second"):
        next(found)


# ---- what is said of a photo


def test_shares_and_pixels(segmenter: Segmenter) -> None:
    found = segmenter(picture(70, 90))
    expected = Counter(found.classes[value] for row in found.mask.tolist() for value in row)
    assert found.classes == ("background", *NAMES)
    assert found.pixels() == {name: expected[name] for name in found.classes}
    assert found.shares() == pytest.approx({name: expected[name] / 6300 for name in found.classes})


def test_an_overlay_shows_photo_and_colours() -> None:
    photo = np.full((600, 800, 3), 100, np.uint8)
    mask = np.zeros((600, 800), np.uint8)
    mask[100:300, 100:400], mask[400:500, 500:700] = 1, 2
    drawn = draw_overlay(photo, mask, ("background", "cat", "dog"), ((0, 0, 0), RED, GREEN), long_side=1600)
    assert drawn.mode == "RGB"
    assert drawn.width == 800
    assert 600 < drawn.height < 680  # the legend
    pixels = np.asarray(drawn).astype(int)
    assert pixels[50, 50].tolist() == [100, 100, 100]
    for (row, column), colour in (((200, 250), RED), ((450, 600), GREEN)):
        np.testing.assert_allclose(pixels[row, column], [0.55 * 100 + 0.45 * part for part in colour], atol=1)
    legend = pixels[600:]
    places = [np.argwhere((legend == colour).all(axis=2)) for colour in (RED, GREEN)]
    assert all(len(place) > 50 for place in places)
    assert places[0][:, 1].max() < places[1][:, 1].min()  # the larger class comes first
    half = draw_overlay(photo, mask, ("background", "cat", "dog"), ((0, 0, 0), RED, GREEN), long_side=400)
    assert half.width == 400
    tiny = draw_overlay(photo[:30, :40], mask[:30, :40], ("background", "cat", "dog"), ((0, 0, 0), RED, GREEN), long_side=400)
    assert tiny.width == 400


def test_a_legend_of_many_long_names_fits() -> None:
    names = ["background", *(f"a rather long name of the class number {n}" for n in range(1, 60))]
    mask = np.arange(60, dtype=np.uint8).repeat(100).reshape(60, 100)
    drawn = draw_overlay(np.zeros((60, 100, 3), np.uint8), mask, names, [(n, n, n) for n in range(60)], long_side=1600)
    assert drawn.width == 480
    assert drawn.height > 288 + 59 * 13


# ---- loading


def test_loading_a_file(tmp_path: Path) -> None:
    write_network(tmp_path / "a.safetensors", small_network())
    photo = picture(40, 50)
    found = Segmenter.load(str(tmp_path / "a.safetensors"), device="cpu")(photo)
    np.testing.assert_array_equal(found.mask, Segmenter(small_network(), device="cpu")(photo).mask)
    with pytest.raises(SetupError, match="not a device"):
        Segmenter.load(tmp_path / "a.safetensors", device="gpu")
    with pytest.raises(DataError, match="no such file"):
        Segmenter.load(tmp_path / "b.safetensors")
    with pytest.raises(DataError, match="no run directory"):
        Segmenter.load(tmp_path)


def test_the_package_offers_it_without_loading_torch() -> None:
    assert rcatool.Segmenter is Segmenter
    assert {"Segmenter", "Segmentation", "score"} <= set(rcatool.__all__)
    code = "import sys, rcatool; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
