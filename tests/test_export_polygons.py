"""Outlines of label maps: filled again, by others' code, they give the map back."""

from collections import deque

import numpy as np
import pytest
from drawing import FILLS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from rcatool.export.polygons import label_regions, segments

pytest.importorskip("pycocotools")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

VALUES = range(1, 255)


def picture(*rows: str) -> np.ndarray:
    """A label map from text: `.` is background, a digit is itself, # is 255."""
    return np.array([[{".": 0, "#": 255}.get(c) if c in ".#" else int(c) for c in row] for row in rows], dtype=np.uint8)


def redrawn(label: np.ndarray, fill: str, **options: float) -> np.ndarray:
    drawn = np.zeros_like(label)
    for segment in segments(label, VALUES, **options):  # type: ignore[arg-type]
        inside = FILLS[fill](label.shape, segment.points)
        assert not drawn[inside].any(), "two exact outlines share a pixel"
        drawn[inside] = segment.value
    return drawn


def flooded(label: np.ndarray) -> list[tuple[int, frozenset[tuple[int, int]]]]:
    """The 4-connected regions by a queue: (value, pixels)."""
    seen, found = set(), []
    for start in np.ndindex(*label.shape):
        if start in seen or label[start] in (0, 255):
            continue
        queue, region = deque([start]), {start}
        while queue:
            y, x = queue.popleft()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                within = 0 <= near[0] < label.shape[0] and 0 <= near[1] < label.shape[1]
                if within and near not in region and label[near] == label[start]:
                    region.add(near)
                    queue.append(near)
        seen |= region
        found.append((int(label[start]), frozenset(region)))
    return found


maps = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 1, 2, 254, 255]))
)
binary_maps = st.tuples(st.integers(1, 16), st.integers(1, 16)).flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1)))
HAND_MADE = {
    "pixel": picture("1"),
    "row": picture("111"),
    "all": picture("11", "11"),
    "ring": picture("111", "1.1", "111"),
    "ring of two": picture("11111", "1.1.1", "11111"),
    "ring in ring": picture("1111111", "1.....1", "1.111.1", "1.1.1.1", "1.111.1", "1.....1", "1111111"),
    "filled hole": picture("1111", "1221", "1221", "1111"),
    "holes touch": picture("11111", "1.111", "11.11", "11111"),
    "hole open at a corner": picture("1111", "1.11", "11.1", "111."),
    "hole touches a corner outside": picture("111.", "1.1.", "11..", "...."),
    "corner": picture("1.", ".1"),
    "checks": picture("1.1", ".1.", "1.1"),
    "void": picture("1#", "##"),
    "comb": picture("11111", "1.1.1", "1.1.1", "1.1.1"),
    "stairs of holes": picture("111111", "1.1.11", "11.1.1", "1.11.1", "111111"),
    "nothing": picture("..", ".."),
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made(name: str, fill: str) -> None:
    label = HAND_MADE[name]
    assert np.array_equal(redrawn(label, fill), np.where(label == 255, 0, label))


@pytest.mark.parametrize("fill", FILLS)
@settings(deadline=None, max_examples=60)
@given(label=maps | binary_maps)
def test_any_map_comes_back(fill: str, label: np.ndarray) -> None:
    assert np.array_equal(redrawn(label, fill), np.where(label == 255, 0, label))


@settings(deadline=None, max_examples=80)
@given(label=maps | binary_maps, min_area=st.integers(1, 6))
def test_regions_are_those_of_a_flood(label: np.ndarray, min_area: int) -> None:
    wanted = sorted((value, sorted(region)) for value, region in flooded(label) if len(region) >= min_area)
    numbers, value_of, areas = label_regions(label, VALUES, min_area=min_area)
    found = [(int(value_of[i]), sorted(map(tuple, np.argwhere(numbers == i).tolist()))) for i in range(1, len(value_of))]
    assert sorted(found) == wanted
    assert [len(region) for _, region in found] == areas[1:].tolist()
    assert sorted(s.area for s in segments(label, VALUES, min_area=min_area)) == sorted(len(region) for _, region in wanted)


@settings(deadline=None, max_examples=80)
@given(label=maps | binary_maps)
def test_points_are_corners_inside_the_picture(label: np.ndarray) -> None:
    for segment in segments(label, VALUES):
        points = segment.points
        assert (points > 0).all()
        assert (points < [label.shape[1], label.shape[0]]).all()
        assert set((points * 4 % 4).ravel().tolist()) <= {1.0, 3.0}  # a quarter inside the border of a pixel, nowhere else
        steps = np.roll(points, -1, axis=0) - points
        assert ((steps != 0).sum(axis=1) <= 1).all()  # along rows and columns


def distance_to(line: np.ndarray, point: np.ndarray) -> float:
    """Of a point from a closed line, by trying many places on each of its pieces."""
    share = np.linspace(0, 1, 257)[:, None]
    return min(
        float(np.hypot(*((1 - share) * a + share * b - point).T).min()) for a, b in zip(line, np.roll(line, -1, axis=0), strict=True)
    )


@settings(deadline=None, max_examples=40)
@given(label=binary_maps, tolerance=st.sampled_from([0.4, 0.8, 1.5, 4.0]))
def test_simple_outlines_stay_within_the_tolerance(label: np.ndarray, tolerance: float) -> None:
    exact, simple = segments(label, VALUES), segments(label, VALUES, tolerance=tolerance)
    assert [(s.value, s.area) for s in exact] == [(s.value, s.area) for s in simple]
    for before, after in zip(exact, simple, strict=True):
        assert 3 <= len(after.points) <= len(before.points)
        corners = set(map(tuple, before.points.tolist()))
        assert set(map(tuple, after.points.tolist())) <= corners
        assert max(distance_to(after.points, point) for point in before.points) <= tolerance + 0.1


def test_simplifying_saves_points_where_there_are_stairs() -> None:
    disc = np.hypot(*np.mgrid[-40:41, -40:41]) <= 38
    disc &= np.hypot(*np.mgrid[-45:36, -40:41]) > 8  # with a hole
    (exact,), (simple,) = segments(disc.astype(np.uint8), VALUES), segments(disc.astype(np.uint8), VALUES, tolerance=1.0)
    assert len(simple.points) * 3 < len(exact.points)
    filled = FILLS["coco"](disc.shape, simple.points)
    assert (filled & disc).sum() / (filled | disc).sum() > 0.96


def test_a_large_map_of_specks_in_reasonable_steps() -> None:
    # No recursion, no list per pixel: 22,500 pixels of noise have one region with a thousand holes.
    label = (np.random.default_rng(0).random((150, 150)) < 0.75).astype(np.uint8)
    found = segments(label, VALUES)
    assert sum(segment.area for segment in found) == int(label.sum())
    assert np.array_equal(redrawn(label, "pillow"), label)


@pytest.mark.parametrize("fill", ["pillow", "coco"])
def test_real_masks_come_back(fill: str, voc_part: object) -> None:
    folder = voc_part / "VOC2012" / "SegmentationClassAug"  # type: ignore[operator]
    for path in sorted(folder.glob("*.png"))[::150]:
        label = np.array(Image.open(path))
        assert np.array_equal(redrawn(label, fill), np.where(label == 255, 0, label)), path
