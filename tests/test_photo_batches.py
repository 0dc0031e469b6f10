"""Photos of one size that go through a network together, against the same photos one by one."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from PIL import Image
from tiny_run import TinyRun, assign, contents
from torch import nn

from rcatool.cams import load_cam
from rcatool.config import Cam
from rcatool.data.datasets import MultiScaleDataset
from rcatool.data.loaders import view_batches
from rcatool.data.manifest import Sample, draft
from rcatool.models.backbones import build_backbone
from rcatool.models.rca_net import RcaNet
from rcatool.pool import in_background
from rcatool.seg_inference import batch_probabilities, photo_probabilities
from rcatool.stages.photo_cams import batch_maps
from rcatool.world import World

WORLD = World(torch.device("cpu"), None)
SIZES = [(40, 48), (48, 40), (40, 48), (40, 48), (48, 40), (33, 48), (40, 48)]


@pytest.fixture
def photos(tmp_path: Path) -> MultiScaleDataset:
    """Photos of noise in three sizes, with different tags."""
    samples = []
    for number, size in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        made = draft(str(number), "train", image=f"{number}.png", mask=None, classes=(number % 3, 3))
        samples.append(Sample(**{**vars(made), "size": size}))
    return MultiScaleDataset(samples, tmp_path, scales=(0.5, 1.0), flip=True)


@pytest.mark.parametrize("most", [1, 2, 3, 8])
@pytest.mark.parametrize("workers", [0, 1])
def test_every_photo_once_and_no_batch_of_two_sizes(photos: MultiScaleDataset, most: int, workers: int) -> None:
    batches = list(view_batches(photos, most=most, workers=workers, pin=False))
    ids = [sample.id for samples, _ in batches for sample in samples]
    assert sorted(ids) == [str(number) for number in range(7)]
    assert ids == sorted(ids) or most > 1
    assert max(len(samples) for samples, _ in batches) == min(most, 4)
    assert len(batches) == {1: 7, 2: 4, 3: 4, 8: 3}[most]
    for samples, views in batches:
        assert len({sample.size for sample in samples}) == 1
        for sample, own in zip(samples, views, strict=True):
            expected = photos[int(sample.id)][1]
            assert all(torch.equal(found, view) for found, view in zip(own, expected, strict=True))


@pytest.mark.parametrize("rounds", [0, 2])
def test_maps_of_a_batch_are_those_of_its_photos(photos: MultiScaleDataset, rounds: int) -> None:
    torch.manual_seed(0)
    model = RcaNet(build_backbone("tiny", output_stride=16), 4).eval()
    model.p_head.weight.data.normal_()
    settings = Cam(region_rounds=rounds)
    for samples, views in view_batches(photos, most=8, workers=0, pin=False):
        found = batch_maps(model, samples, views, settings=settings, world=WORLD)
        for sample, own, (cam, columns, scores) in zip(samples, views, found, strict=True):
            expected = next(batch_maps(model, [sample], [own], settings=settings, world=WORLD))
            with torch.inference_mode():
                logits = [model(view).final.mean(dim=(0, 2, 3)) for view in own]
            np.testing.assert_allclose(scores, torch.stack(logits).mean(dim=0), atol=1e-4)
            np.testing.assert_allclose(cam, expected[0], atol=1e-4)
            assert cam.max() == 1
            if rounds:
                torch.testing.assert_close(columns, expected[1], rtol=0, atol=1e-4)
            else:
                assert columns is expected[1] is None


def test_probabilities_of_a_batch_are_those_of_its_photos(photos: MultiScaleDataset) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(build_backbone("tiny", output_stride=16), nn.Conv2d(96, 5, 1)).eval()
    for samples, views in view_batches(photos, most=8, workers=0, pin=False):
        size = samples[0].size
        for own, found in zip(views, batch_probabilities(model, views, size, world=WORLD), strict=True):
            torch.testing.assert_close(found, photo_probabilities(model, own, size, world=WORLD), rtol=0, atol=1e-5)
            torch.testing.assert_close(found.sum(dim=0), torch.ones(size), rtol=0, atol=1e-5)


def test_a_run_in_batches_is_the_run_photo_by_photo(rca: Callable[..., Result], undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/cams")
    done = rca("run", "--run", run, *assign("runtime.photo_batch=4", "runtime.device=cpu"))
    assert done.code == 0, done.err
    files = sorted((run / "make-pseudo" / "cams").glob("*.npz"))
    assert len(files) == 16
    for file in files:
        with np.load(undisturbed.path / "make-pseudo" / "cams" / file.name) as arrays:
            expected, size = arrays["cam"], tuple(arrays["size"].tolist())
        np.testing.assert_allclose(load_cam(file, size=size)[1], expected.astype(np.float32), atol=2e-3)  # half precision, and rounding
    assert set(contents(run / "eval" / "predictions")) == set(contents(undisturbed.path / "eval" / "predictions"))
    assert rca("run", "--run", run, *assign("runtime.photo_batch=1")).err == "everything is up to date\n"


def test_work_in_the_background_is_done_at_the_end() -> None:
    done: list[int] = []

    def slow(number: int) -> None:
        time.sleep(0.01)
        done.append(number)

    with in_background(2) as later:
        for number in range(9):
            later(partial(slow, number))
    assert sorted(done) == list(range(9))
    with in_background(0) as later:
        later(partial(slow, 9))
        assert done[-1] == 9


@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize("bad", [0, 4])
def test_an_error_in_the_background_is_raised(most: int, bad: int) -> None:
    def work(number: int) -> None:
        if number == bad:
            raise OSError(f"no space for {number}")

    with pytest.raises(OSError, match=f"no space for {bad}"), in_background(most) as later:  # noqa: PT012
        for number in range(5):
            later(partial(work, number))


