"""Accumulated maps: against a dictionary filled photo by photo, planted patterns that must come back to their place, and whole runs."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import TinyRun, assign, results
from torch import Tensor
from torch.nn import functional as F

from rcatool.cams import load_cam
from rcatool.checkpoint import load_state
from rcatool.data.manifest import read_manifest, split
from rcatool.data.transforms import MEAN, STD, View, draw_view, scaled_size, view_image, view_label
from rcatool.models.accumulator import AccumulationRule, AttentionAccumulator, map_to_photo

SIZES = [(16, 24), (9, 13), (8, 8), (30, 10)]
TAGS = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
EVERYTHING = AccumulationRule("confidence", 0.0)


def new() -> AttentionAccumulator:
    return AttentionAccumulator(TAGS, SIZES, stride=4)


def step(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maps, scores, photos and views of a batch of crops of 16 pixels, drawn as in training."""
    rng = np.random.default_rng(seed)
    photos = rng.permutation(4)[:3]
    views = [draw_view(scaled_size(*SIZES[photo], rng.uniform(0.5, 2.0)), 16, flip=True, rng=rng) for photo in photos]
    maps = torch.from_numpy(rng.normal(size=(3, 3, 4, 4)).astype(np.float32))
    score = torch.from_numpy(rng.uniform(size=(3, 3)).astype(np.float32))
    return maps, score, torch.from_numpy(photos), torch.stack([view.numbers for view in views])


def feed(accumulator: AttentionAccumulator, *seeds: int, rule: AccumulationRule = EVERYTHING, last: bool = False) -> AttentionAccumulator:
    for seed in seeds:
        maps, score, photos, views = step(seed)
        accumulator.update(maps, score, where=(photos, views), crop_size=16, rule=rule, last=last)
    return accumulator


def same(first: AttentionAccumulator, second: AttentionAccumulator) -> bool:
    return torch.equal(first.values, second.values) and torch.equal(first.seen, second.seen)


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(8, 32), st.integers(0, 999))
def test_every_pixel_of_a_crop_comes_back_to_its_place(height: int, width: int, crop: int, seed: int) -> None:
    """Each pixel of a photo has a number of its own; the numbers of a crop, put back, are those of the photo where it was."""
    view = draw_view((height, width), crop, flip=True, rng=np.random.default_rng(seed))
    label = torch.from_numpy(np.random.default_rng(seed).integers(1, 255, (height, width), np.uint8))
    seen = view_label(label, view)
    back = map_to_photo(seen[None].float(), view.numbers, (height, width), crop)[0]
    inside = back > 0
    assert int(inside.sum()) == min(height, crop) * min(width, crop)
    torch.testing.assert_close(back[inside], label[inside].float(), atol=0.05, rtol=0)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_a_ramp_comes_back_from_any_size(scale: float, mirror: bool) -> None:
    """A photo that grows brighter to the right and downwards, resized, cropped, mirrored and averaged over cells as a network does."""
    height, width, crop = 96, 128, 64
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    photo = torch.stack([rows / height, columns / width, rows * 0]).mul(255).round().to(torch.uint8)
    for seed in range(12):
        view = draw_view(scaled_size(height, width, scale), crop, flip=False, rng=np.random.default_rng(seed))._replace(mirror=mirror)
        piece = view_image(photo, view, jitter=0.0, rng=np.random.default_rng(0))
        values = piece * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        back = map_to_photo(F.avg_pool2d(values[:2], 8), view.numbers, (24, 32), crop)
        expected = F.avg_pool2d(torch.stack([rows / height, columns / width]), 4)
        y = (torch.arange(24) + 0.5) / 24 * view.size[0] - view.box[0]
        x = (torch.arange(32) + 0.5) / 32 * view.size[1] - view.box[1]
        bottom, right = (min(crop, side) - 12 for side in view.size)  # a cell and a half away from the border and from what was added
        clear = ((y > 12) & (y < bottom))[:, None] & ((x > 12) & (x < right))
        assert clear.sum() >= 20
        assert (back - expected)[:, clear].abs().max() < 0.01


def test_a_map_is_divided_by_its_maximum_within_the_photo() -> None:
    """What lies in the padding beside a photo has no part in it."""
    accumulator = AttentionAccumulator(torch.tensor([[True]]), [(8, 8)], stride=4)
    maps = torch.tensor([[0.5, -1.0, 9.0, 9.0], [0.25, 0.1, 9.0, 9.0], [9.0] * 4, [9.0] * 4]).view(1, 1, 4, 4)
    view = View((8, 8), (0, 0, 0, 0), 16, False)
    # The photo is the upper left quarter of the crop. Cell centres fall on the map's own.
    accumulator.update(maps, torch.ones(1, 1), where=(torch.tensor([0]), view.numbers[None]), crop_size=16, rule=EVERYTHING)
    assert accumulator.values.tolist() == [255, 0, 128, 51]


def reference(*seeds: int) -> dict[tuple[int, int], np.ndarray]:
    """Rounded maps divided by their maximum, kept in a dictionary, one photo and one class at a time."""
    kept: dict[tuple[int, int], np.ndarray] = {}
    for seed in seeds:
        maps, _, photos, views = step(seed)
        for place, photo in enumerate(photos.tolist()):
            for cls in TAGS[photo].nonzero().flatten().tolist():
                grid = [-(-side // 4) for side in SIZES[photo]]
                one = map_to_photo(maps[place, cls].clamp(min=0)[None], views[place], (grid[0], grid[1]), 16)[0].double().numpy()
                if one.max() > 0:
                    rounded = np.round(one / one.max() * 255)
                    kept[photo, cls] = np.maximum(kept.get((photo, cls), rounded), rounded)
    return kept


def test_the_maximum_over_steps() -> None:
    seeds = range(12)
    accumulator, expected = feed(new(), *seeds), reference(*seeds)
    assert len(expected) == int(accumulator.seen.sum()) == int(TAGS.sum())
    for photo, size in enumerate(SIZES):
        keys, cam = accumulator.photo_cam(photo)
        assert keys.tolist() == TAGS[photo].nonzero().flatten().tolist()
        assert cam.shape == (len(keys), -(-size[0] // 4), -(-size[1] // 4))
        assert cam.dtype == np.float32
        for cls, one in zip(keys.tolist(), cam, strict=True):
            np.testing.assert_allclose(one * 255, expected[photo, cls], atol=1)  # a rounding on the edge
            assert one.max() == 1


def test_order_repetition_and_parts_make_no_difference() -> None:
    seeds = list(range(8))
    once = feed(new(), *seeds)
    assert same(once, feed(new(), *reversed(seeds)))
    assert same(once, feed(new(), *seeds, *seeds))
    first, second = feed(new(), *seeds[:3]), feed(new(), *seeds[3:])
    assert not same(once, first)
    first.merge(second)
    assert same(once, first)


def test_values_only_grow() -> None:
    accumulator, before = new(), torch.zeros(0)
    for seed in range(6):
        before = accumulator.values.clone()
        feed(accumulator, seed)
        assert (accumulator.values >= before).all()
    assert (accumulator.values > 0).any()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (AccumulationRule("confidence", 0.4), [True, False, True]),  # 0.4 is enough
        (AccumulationRule("confidence", 0.41), [False, False, True]),
        (AccumulationRule("topk", 0.0), [True, False, True]),  # two of three tags are among the three highest scores
    ],
)
def test_rules_by_hand(rule: AccumulationRule, expected: list[bool]) -> None:
    score = torch.tensor([0.4, 0.9, 0.1, 0.2, 0.95])
    assert rule.passes(score, torch.tensor([0, 2, 4])).tolist() == expected


def test_top_k_counts_the_photos_own_tags() -> None:
    score, rule = torch.tensor([0.3, 0.9, 0.1]), AccumulationRule("topk", 0.0)
    assert rule.passes(score, torch.tensor([1])).tolist() == [True]
    assert rule.passes(score, torch.tensor([0])).tolist() == [False]
    assert rule.passes(score, torch.tensor([0, 1])).tolist() == [True, True]


def test_the_last_epoch_fills_what_is_empty_and_nothing_else() -> None:
    never = AccumulationRule("confidence", 1.1)
    assert not feed(new(), *range(9), rule=never).seen.any()
    filled = feed(new(), *range(9), rule=never, last=True)
    assert filled.seen.all()
    accumulator = feed(new(), *range(9))
    before = accumulator.values.clone()
    feed(accumulator, *range(20, 24), rule=never, last=True)
    assert torch.equal(accumulator.values, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_maps_that_say_nothing_leave_no_trace(value: float) -> None:
    accumulator, (_, score, photos, views) = new(), step(0)
    maps = torch.full((3, 3, 4, 4), value)
    assert accumulator.update(maps, score, where=(photos, views), crop_size=16, rule=EVERYTHING, last=True) == 0
    assert not accumulator.values.any()
    assert not accumulator.seen.any()


Rca = Callable[..., object]
ON = assign("cls.accumulate=confidence", "cls.accumulate_threshold=0.05", "cls.accumulate_stride=4")


def test_a_run_that_is_stopped_keeps_the_same_maps(rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, stopped = (undisturbed.copy(tmp_path / name, until="train-cls") for name in ("straight", "stopped"))
    assert rca("train-cls", "--run", straight, *ON).code == 0
    replace, count = os.replace, itertools.count(1)

    def stopping(source: Path, target: Path) -> None:
        replace(source, target)
        if str(target).endswith("last.pt") and next(count) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopping)
        assert rca("train-cls", "--run", stopped, *ON).code == 130
    assert "extra" in load_state(stopped / "train-cls" / "last.pt")
    assert rca("train-cls", "--run", stopped).code == 0
    assert results(stopped) == results(straight)
    kept = load_state(straight / "train-cls" / "accumulated.pt")
    assert kept["seen"].float().mean() > 0.5
    check_cams_are_what_was_kept(rca, straight, kept)


def check_cams_are_what_was_kept(rca, run: Path, kept: dict[str, Tensor]) -> None:
    assert rca("make-pseudo", "--run", run, *assign("cam.maps=accumulated", "cam.stride=4")).code == 0
    train = split(read_manifest(run / "prepare" / "manifest.jsonl"), "train")
    place, compared, cells = 0, 0, 12 * 12
    for sample in train:
        keys, cam = load_cam(run / "make-pseudo" / "cams" / f"{sample.id}.npz", size=sample.size)
        assert keys.tolist() == list(sample.classes)
        own = kept["values"][place : place + cells * len(keys)].view(len(keys), -1)
        if own.any(dim=1).all():  # else the network makes the photo's maps
            np.testing.assert_allclose(cam.reshape(len(keys), -1) * 255, own.float(), atol=0.2)
            assert (cam.max(axis=(1, 2)) == 1).all()
            compared += 1
        place += own.numel()
    assert place == len(kept["values"])
    assert compared > len(train) / 2


def test_accumulation_leaves_training_alone(rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    assert rca("train-cls", "--run", run, *ON).code == 0
    with_maps, without = (load_state(root / "train-cls" / "final.pt")["model"] for root in (run, undisturbed.path))
    assert with_maps.keys() == without.keys()
    assert all(torch.equal(with_maps[name], value) for name, value in without.items())


def test_nothing_kept_is_said_before_anything_else(rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/cams")
    result = rca("make-pseudo", "--run", run, *assign("cam.maps=accumulated"))
    assert (result.code, "training keeps no maps" in result.err) == (2, True)
