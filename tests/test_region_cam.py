"""Region maps. Oracles: loops in double precision, a picture whose answer is drawn by hand, mirror images."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.cams import normalise, resize
from rcatool.config import Cam
from rcatool.data.manifest import Sample, draft
from rcatool.errors import DataError
from rcatool.models.backbones import build_backbone
from rcatool.models.rca_net import Maps
from rcatool.models.region_cam import RegionBank, RegionRule, hypercolumns, photo_regions, region_cam
from rcatool.stages.photo_cams import batch_maps, redraw
from rcatool.stages.region_bank import choose_photos, load_bank, make_bank
from rcatool.world import World


def rule(rounds: int, **settings: float) -> RegionRule:
    return RegionRule(rounds, sure=0.5, background=0.2, **settings)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in vector))
    return [v / length for v in vector] if length else vector


def by_loops(columns: Tensor, cam: Tensor, rounds: int, sure: float, background: float) -> np.ndarray:
    """The definition, pixel by pixel."""
    depth, height, width = columns.shape
    places = [(r, c) for r in range(height) for c in range(width)]
    pixel = {(r, c): unit(columns[:, r, c].double().tolist()) for r, c in places}
    maps = [{place: float(one[place]) for place in places} for one in cam.double()]
    for number in range(1, rounds + 1):
        highest = {place: max(one[place] for one in maps) for place in places}
        empty = [place for place in places if highest[place] < background / number]
        ground = unit([sum(pixel[place][d] for place in empty) for d in range(depth)])
        drawn = []
        for one in maps:
            peak = max(one.values())
            region = [p for p in places if one[p] > sure * peak and one[p] >= highest[p] and one[p] > 0]
            if not region:
                drawn.append(one)
                continue
            own = unit([sum(one[p] * pixel[p][d] for p in region) for d in range(depth)])
            score = {p: max(0.0, sum((own[d] - ground[d]) * pixel[p][d] for d in range(depth))) for p in places}
            top = max(score.values())
            drawn.append({p: score[p] / top if top else 0.0 for p in places})
        maps = drawn
    return np.array([[[one[r, c] for c in range(width)] for r in range(height)] for one in maps])


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
@pytest.mark.parametrize("classes", [1, 3])
def test_equal_to_the_definition(rounds: int, classes: int) -> None:
    columns, cam = randn(7, 5, 6), randn(classes, 5, 6, seed=1).relu()
    cam = cam / cam.amax(dim=(1, 2), keepdim=True)
    expected = by_loops(columns, cam, rounds, 0.5, 0.2)
    np.testing.assert_allclose(region_cam(columns, cam, rule(rounds)).numpy(), expected, atol=1e-5)


def test_the_plain_part_of_an_object_is_found() -> None:
    # An object of two textures that share one feature; the CAM sees the left half only.
    columns = torch.zeros(4, 6, 12)
    columns[3] = 1  # what all pixels share
    columns[0, 1:5, 2:10] = 1.5  # the object
    columns[1, 1:5, 2:6] = 0.5  # its striking half
    columns[2, 1:5, 6:10] = 0.5  # its plain half
    cam = torch.zeros(1, 6, 12)
    cam[0, 1:5, 2:6] = 1
    drawn = region_cam(columns, cam, rule(1))
    assert float(drawn[0, 1:5, 2:6].min()) == 1
    assert float(drawn[0, 1:5, 6:10].min()) > 0.6  # where the CAM had nothing
    outside = drawn[0].clone()
    outside[1:5, 2:10] = 0
    assert float(outside.max()) < 0.1


def test_a_class_without_a_region_keeps_its_map() -> None:
    cam = torch.stack([torch.ones(4, 5), torch.full((4, 5), 0.4), torch.zeros(4, 5)])
    drawn = region_cam(randn(6, 4, 5), cam, rule(1))
    assert torch.equal(drawn[1:], cam[1:])  # below the other class everywhere; nothing at all


def test_without_classes_there_is_nothing_to_draw() -> None:
    assert region_cam(randn(6, 4, 5), torch.zeros(0, 4, 5), rule(2)).shape == (0, 4, 5)


def test_a_photo_without_background_is_compared_with_its_regions_alone() -> None:
    columns, cam = randn(5, 4, 4).abs(), torch.ones(1, 4, 4)
    drawn = region_cam(columns, cam, rule(1))
    own = F.normalize(F.normalize(columns, dim=0).sum(dim=(1, 2)), dim=0)
    similarity = torch.tensordot(own, F.normalize(columns, dim=0), dims=1)
    torch.testing.assert_close(drawn[0], similarity / similarity.max())


def test_mirrored_features_give_mirrored_maps() -> None:
    columns, cam = randn(7, 5, 6), randn(2, 5, 6, seed=1).sigmoid()
    drawn = region_cam(columns, cam, rule(2))
    torch.testing.assert_close(region_cam(columns.flip(-1), cam.flip(-1), rule(2)), drawn.flip(-1))


def test_the_scale_of_features_does_not_matter() -> None:
    columns, cam = randn(7, 5, 6), randn(2, 5, 6, seed=1).sigmoid()
    scaled = columns * (0.1 + randn(1, 5, 6, seed=2).abs())
    torch.testing.assert_close(region_cam(scaled, cam, rule(1)), region_cam(columns, cam, rule(1)))


def test_every_level_counts_alike_in_a_hypercolumn() -> None:
    fine, coarse = randn(2, 3, 8, 6), 100 * randn(2, 5, 4, 3, seed=1)
    columns = hypercolumns([fine, coarse])
    assert columns.shape == (2, 8, 8, 6)
    torch.testing.assert_close(columns[:, :3], fine / fine.norm(dim=1, keepdim=True))
    torch.testing.assert_close(columns[:, 3:].norm(dim=1), torch.ones(2, 8, 6))


def bank(seed: int = 3) -> RegionBank:
    """Two classes with five and three regions, and four backgrounds, of photos 0 to 4."""
    sizes = (5, 3, 4)
    entries = [F.normalize(randn(size, 7, seed=seed + n), dim=1) for n, size in enumerate(sizes)]
    return RegionBank(entries, [torch.arange(size) for size in sizes])


@pytest.mark.parametrize(("cls", "photo"), [(0, 2), (1, -1), (-1, 0)])
def test_what_is_recalled_is_softmax_attention_over_other_photos(cls: int, photo: int) -> None:
    memory, region = bank(), F.normalize(randn(7, seed=9), dim=0)
    entries = [e for number, e in enumerate(memory.regions[cls].double().numpy()) if number != photo]
    weights = [math.exp(float(e @ region.double().numpy()) / 0.3) for e in entries]
    expected = unit([sum(w * e[d] for w, e in zip(weights, entries, strict=True)) for d in range(7)])
    found = memory.recall(region, cls, photo=photo, temperature=0.3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_recalling_by_a_low_temperature_is_the_nearest_by_a_high_one_the_mean() -> None:
    memory, region = bank(), F.normalize(randn(7, seed=9), dim=0)
    nearest = memory.regions[0][(memory.regions[0] @ region).argmax()]
    torch.testing.assert_close(memory.recall(region, 0, photo=-1, temperature=1e-4), nearest)
    mean = F.normalize(memory.regions[0].mean(dim=0), dim=0)
    torch.testing.assert_close(memory.recall(region, 0, photo=-1, temperature=1e6), mean, atol=1e-5, rtol=0)


def test_a_share_of_nothing_or_a_memory_of_nobody_else_changes_nothing() -> None:
    columns, cam = randn(7, 5, 6), randn(2, 5, 6, seed=1).sigmoid()
    plain = region_cam(columns, cam, rule(2))
    torch.testing.assert_close(region_cam(columns, cam, rule(2, share=0.0), bank=bank(), keys=[0, 1]), plain)
    own = RegionBank(bank().regions, [torch.zeros(len(entries)) for entries in bank().regions])
    torch.testing.assert_close(region_cam(columns, cam, rule(2), bank=own, keys=[0, 1], photo=0), plain)
    assert not torch.allclose(region_cam(columns, cam, rule(2), bank=own, keys=[0, 1], photo=1), plain, atol=1e-3)


def test_with_a_share_of_one_pixels_are_compared_with_the_memory_alone() -> None:
    columns, cam = randn(7, 5, 6), randn(2, 5, 6, seed=1).relu()
    memory, unit_columns = bank(), F.normalize(columns, dim=0)
    regions, ground = photo_regions(unit_columns, cam, sure=0.5, background=0.2)
    drawn = region_cam(columns, cam, rule(1, share=1.0), bank=memory, keys=[0, 1])
    for region, cls, found in zip(regions, (0, 1), drawn, strict=True):
        difference = memory.recall(region, cls, photo=-1, temperature=0.1) - memory.recall(ground, -1, photo=-1, temperature=0.1)
        score = torch.tensordot(difference, unit_columns, dims=1).relu()
        torch.testing.assert_close(found, score / score.max())


def test_photos_of_the_memory_are_a_bounded_choice_with_every_class() -> None:
    rng = np.random.default_rng(0)
    tags = [sorted({0, *rng.integers(0, 6, 2).tolist()}) for _ in range(60)] + [[6]]
    samples = [draft(f"p{n}", "train", image=f"p{n}.jpg", mask=None, classes=classes) for n, classes in enumerate(tags)]
    chosen = choose_photos(samples, 3, 8, seed=1)
    count = np.bincount([cls for sample in chosen for cls in sample.classes], minlength=8)
    available = np.bincount([cls for sample in samples for cls in sample.classes], minlength=8)
    assert (count >= np.minimum(3, available)).all()  # class 7 has no photo
    assert len(chosen) <= 3 * 7
    assert [s.id for s in choose_photos(samples, 3, 8, seed=1)] == [s.id for s in chosen]
    assert {s.id for s in choose_photos(samples, 3, 8, seed=2)} != {s.id for s in chosen}
    assert len(choose_photos(samples, 1000, 8, seed=1)) == len(samples)


def test_a_bank_comes_back_from_its_file(tmp_path: Path) -> None:
    photos = [draft(name, "train", image=f"{name}.jpg", mask=None, classes=classes) for name, classes in (("a", [0, 2]), ("b", [2]))]
    looks = [(photo, (randn(len(photo.classes), 8, 10).sigmoid().numpy(), randn(7, 4, 5, seed=n))) for n, photo in enumerate(photos)]
    make_bank(tmp_path / "regions.bank", looks, settings=Cam(region_background=0.9), total=2)
    memory = load_bank(tmp_path / "regions.bank", [photos[1]], num_classes=3, device=torch.device("cpu"))
    assert [owner.tolist() for owner in memory.photos] == [[-2], [], [-2, 0], [-2, 0]]
    _, (cam, columns) = looks[1]
    coarse = torch.from_numpy(normalise(resize(cam, 4, 5)))
    regions, ground = photo_regions(F.normalize(columns, dim=0), coarse, sure=0.5, background=0.9)
    torch.testing.assert_close(memory.regions[2][1], regions[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(memory.regions[-1][1], ground, atol=1e-3, rtol=0)
    (tmp_path / "regions.bank").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="regions.bank: not a readable region memory"):
        load_bank(tmp_path / "regions.bank", photos, num_classes=3, device=torch.device("cpu"))


GOOD_BANK = {"regions": np.eye(2, 4, dtype=np.float16), "classes": np.array([2, -1], np.int32), "photos": np.array(["a", "b"])}


@pytest.mark.parametrize(
    ("name", "array", "complaint"),
    [
        ("regions", np.eye(3, 4, dtype=np.float16), "equally many"),
        ("regions", np.zeros(2, np.float16), "wrong shape or type"),
        ("regions", np.eye(2, 4, dtype=np.int32), "wrong shape or type"),
        ("regions", np.full((2, 4), np.nan, np.float16), "not finite"),
        ("classes", np.array([3, -1], np.int32), "class 3, expected numbers below 3"),
        ("classes", np.array([0, -2], np.int32), "expected numbers below 3"),
        ("classes", np.array([[0, 1]], np.int32), "equally many"),
        ("photos", np.array([1, 2]), "wrong shape or type"),
    ],
)
def test_a_bank_of_other_arrays_is_refused(tmp_path: Path, name: str, array: np.ndarray, complaint: str) -> None:
    path, device = tmp_path / "regions.bank", torch.device("cpu")
    with path.open("wb") as file:
        np.savez(file, **GOOD_BANK)
    assert [len(part) for part in load_bank(path, [], num_classes=3, device=device).regions] == [0, 0, 1, 1]
    with path.open("wb") as file:
        np.savez(file, **{**GOOD_BANK, name: array})
    with pytest.raises(DataError, match=complaint):
        load_bank(path, [], num_classes=3, device=device)


def test_maps_that_show_nothing_make_no_bank(tmp_path: Path) -> None:
    photo = draft("a", "train", image="a.jpg", mask=None, classes=[0])
    looks = [(photo, (np.zeros((1, 8, 10), np.float32), randn(7, 4, 5)))]
    with pytest.raises(DataError, match="no CAM shows a region"):
        make_bank(tmp_path / "regions.bank", looks, settings=Cam(region_background=0.0), total=1)
    assert list(tmp_path.iterdir()) == []


@torch.inference_mode()
def test_of_a_network_and_over_views() -> None:
    """The exported CAM: merged over scales and mirror images, of the stored size, in [0, 1], and not that without regions."""
    torch.manual_seed(0)
    backbone = build_backbone("tiny", output_stride=8).eval()
    views = [randn(2, 3, 40, 48), randn(2, 3, 60, 72, seed=1)]
    made = draft("a", "train", image="a.jpg", mask=None, classes=[0, 1])
    photo = Sample(**{**vars(made), "size": (40, 48)})

    def forward(images: Tensor) -> Maps:
        pyramid = backbone.pyramid(images)
        return Maps(pyramid, pyramid[-1][:, :2], None)

    model: Any = forward
    world, settings = World(torch.device("cpu"), None), Cam(region_rounds=2)
    first, columns, _ = next(batch_maps(model, [photo], [views], settings=settings, world=world))
    assert columns is not None
    cam = redraw(first, columns, photo, settings=settings, bank=None, photo=0)
    plain, nothing, _ = next(batch_maps(model, [photo], [views], settings=Cam(region_rounds=0), world=world))
    assert nothing is None
    np.testing.assert_allclose(first, plain, atol=1e-6)
    assert cam.shape == plain.shape == (2, 10, 12)
    assert cam.max() == 1
    assert cam.min() >= 0
    assert np.abs(cam - plain).max() > 0.1
