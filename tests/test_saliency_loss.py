"""The saliency loss against literal loops, its fixed points, and training with it (invariant 45)."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result
from PIL import Image
from tiny_run import CONFIG, assign
from torch import Tensor
from torch.nn import functional as F

from rcatool.data.datasets import ClsDataset, Variation
from rcatool.data.manifest import draft
from rcatool.data.saliency import read_saliency
from rcatool.models.saliency_loss import saliency_loss

Rca = Callable[..., Result]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_loops(maps: Tensor, tags: Tensor, saliency: Tensor, overlap: float, share: float) -> float:
    """Pixel by pixel; the saliency map is of the maps' size."""
    total, count = 0.0, 0
    for image in range(len(maps)):
        height, width = maps.shape[-2:]
        places = [(y, x) for y in range(height) for x in range(width)]
        q = {}
        for y, x in places:
            powers = [math.exp(float(v)) for v in maps[image, :, y, x]]
            q[y, x] = [p / sum(powers) for p in powers]
        salient = {(y, x): float(saliency[image, y, x]) for y, x in places}
        front, back = [], [maps.shape[1] - 1]
        for cls in range(tags.shape[1]):
            if tags[image, cls]:
                own = [place for place in places if q[place][cls] > 0.5]
                covered = sum(salient[place] > 0.5 for place in own) / (len(own) + 1e-4)
                (front if covered > overlap else back).append(cls)
        for place in places:
            guess = share * sum(q[place][c] for c in front) + (1 - share) * (1 - sum(q[place][c] for c in back))
            total += (guess - salient[place]) ** 2
            count += 1
    return total / count


@pytest.mark.parametrize(("overlap", "share"), [(0.4, 0.5), (0.4, 0.9), (0.0, 0.3), (0.9, 0.5)])
def test_equals_loops(overlap: float, share: float) -> None:
    maps, saliency = 3 * randn(4, 4, 5, 6), torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(1))
    tags = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0]])
    found = float(saliency_loss(maps, tags, saliency, overlap=overlap, share=share))
    assert found == pytest.approx(by_loops(maps.double(), tags, saliency, overlap, share), rel=1e-5)


def test_all_classes_standing_out_and_no_share_of_the_background() -> None:
    maps = 5 * randn(2, 4, 5, 6)
    maps[:, -1] = -9  # no background
    found = saliency_loss(maps, torch.ones(2, 3), torch.ones(2, 5, 6), overlap=-1.0, share=1.0)
    expected = F.mse_loss(maps.softmax(dim=1)[:, :-1].sum(dim=1), torch.ones(2, 5, 6))
    torch.testing.assert_close(found, expected)


def test_a_perfect_prediction_costs_nothing() -> None:
    saliency = torch.zeros(1, 4, 4)
    saliency[:, 1:3] = 1
    maps = torch.full((1, 3, 4, 4), -50.0)
    maps[:, 1, 1:3], maps[:, 2, 0], maps[:, 2, 3] = 50, 50, 50  # class 1 on the salient rows, background (last) on the others
    tags = torch.tensor([[0, 1]])
    assert float(saliency_loss(maps, tags, saliency, overlap=0.4, share=0.5)) < 1e-12
    assert float(saliency_loss(maps[:, [2, 0, 1]], tags, saliency, overlap=0.4, share=0.5)) > 0.1  # the background must be last


@pytest.mark.parametrize(("salient", "expected"), [(2, 0.0), (1, 1.0)])
def test_a_class_that_is_mostly_not_salient_is_background(salient: int, expected: float) -> None:
    """The class fills four cells, of which two or one are salient; the limit is 0.4."""
    maps = torch.full((1, 2, 2, 2), -50.0)
    maps[:, 0] = 50
    saliency = torch.zeros(1, 2, 2)
    saliency.view(-1)[:salient] = 1
    found = float(saliency_loss(maps, torch.ones(1, 1), saliency, overlap=0.4, share=1.0))
    # Standing out: the estimate is 1 everywhere; else it is 0 everywhere.
    assert found == pytest.approx(((1 - expected) * (4 - salient) + expected * salient) / 4)


def test_gradient_reaches_the_maps() -> None:
    maps = randn(2, 3, 4, 4).requires_grad_()
    saliency_loss(maps, torch.tensor([[1, 0], [1, 1]]), torch.rand(2, 8, 8), overlap=0.4, share=0.5).backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert maps.grad.abs().sum() > 0


def test_the_map_is_cut_and_mirrored_as_its_photo(tmp_path: Path) -> None:
    """A photo that is its own saliency map: in every view the two must show the same."""
    grey = np.random.default_rng(0).integers(0, 256, (6, 8), np.uint8).repeat(6, axis=0).repeat(6, axis=1)
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "s.png")
    made = draft("a", "train", image="a.png", mask=None, classes=[0])
    sample = type(made)(**{**vars(made), "size": grey.shape, "saliency": "s.png"})
    data = ClsDataset([sample], tmp_path, 1, Variation(32, True, 0.0, 0), resize_long=(40, 64), saliency=True)
    mirrored = set()
    for epoch in range(12):
        image, _, _, view, saliency = data[epoch, 0]
        mirrored.add(bool(view[-1]))
        seen = image[0] * 0.229 + 0.485  # back to [0, 1]
        inside = saliency > 0
        assert inside.any()
        torch.testing.assert_close(seen[inside], saliency[inside], atol=0.02, rtol=0)
    assert mirrored == {True, False}
    assert read_saliency(tmp_path / "s.png", grey.shape).max() <= 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated images with their masks as saliency maps."""
    from rcatool.cli import main

    folder = tmp_path_factory.mktemp("salient")
    arguments = ["prepare", "shapes", "--run", str(folder / "first"), "--root", str(folder / "data"), "--config", str(CONFIG)]
    assert main(arguments) == 0
    (folder / "data" / "sal").mkdir()
    for path in sorted((folder / "data" / "SegmentationClassAug").glob("*.png")):
        mask = np.array(Image.open(path))
        Image.fromarray(((mask > 0) & (mask < 255)).astype(np.uint8) * 255).save(folder / "data" / "sal" / path.name)
    return folder / "data"


def test_training_with_saliency(rca: Rca, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("data.saliency=sal", "cls.saliency_weight=1", "cls.epochs=2")
    assert rca("prepare", "shapes", "--run", run, "--root", data, "--config", CONFIG, *assign(*settings)).code == 0
    assert rca("train-cls", "--run", run).code == 0
    state: dict[str, Any] = torch.load(run / "train-cls" / "final.pt", weights_only=True)["model"]
    assert len(state["p_head.weight"]) == len(state["o_head.weight"]) == 5  # four classes and the background
    assert rca("make-pseudo", "--run", run).code == 0
    lines = (run / "train-cls" / "log.jsonl").read_text()
    assert '"loss_saliency"' in lines
    assert '"loss_saliency_p"' in lines


def test_without_maps_the_weight_is_refused(rca: Rca, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert rca("prepare", "shapes", "--run", run, "--root", data, "--config", CONFIG).code == 0
    result = rca("train-cls", "--run", run, *assign("cls.saliency_weight=1"))
    assert (result.code, result.err.count("\n")) == (2, 2)
    assert "cls.saliency_weight: 16 of 16 training photos have no saliency map" in result.err
