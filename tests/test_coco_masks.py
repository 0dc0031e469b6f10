"""Oracles: masks encoded by pycocotools and its areas, rectangles drawn by hand, properties of random masks."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from rcatool.data import coco_masks
from rcatool.data.coco_file import parse_coco
from rcatool.errors import ConfigError, DataError, SetupError

mask_api = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")

SIZE = (12, 16)
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]  # values by the order of ids: cat 1, dog 2
VALUES: dict[int | str, int] = {3: 1, 7: 2}


def rectangle(top: int, left: int, bottom: int, right: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "segmentation": segmentation, **more}


def document(*annotations: Any, name: str = "a.jpg", size: tuple[Any, Any] = SIZE) -> dict[str, Any]:
    image = {"id": 1, "file_name": name, "height": size[0], "width": size[1]}
    return {"images": [image], "categories": CATEGORIES, "annotations": copy.deepcopy(list(annotations))}


def painted(*annotations: Any, size: tuple[Any, Any] = SIZE) -> np.ndarray:
    return coco_masks.paint(parse_coco(document(*annotations, size=size)).images[0], VALUES)


def encoded(mask: np.ndarray) -> dict[str, Any]:
    found = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths by counting, down the columns, the first of zeros."""
    runs, inside = [0], 0
    for value in mask.T.ravel().tolist():
        if value != inside:
            runs, inside = [*runs, 0], value
        runs[-1] += 1
    return runs


bits = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


@settings(max_examples=100, deadline=None)
@given(mask=bits)
def test_run_lengths_of_both_kinds(mask: np.ndarray) -> None:
    for segmentation in (encoded(mask), {"size": list(mask.shape), "counts": runs_of(mask)}):
        assert np.array_equal(painted(annotation(7, segmentation), size=mask.shape), mask * 2)


def test_long_runs() -> None:
    # Digits of several letters, and differences below zero.
    mask = np.zeros((3000, 700), np.uint8)
    mask[10:2900, 5:300] = 1
    mask[:3, 600] = 1
    assert np.array_equal(painted(annotation(3, encoded(mask)), size=mask.shape), mask)


@settings(max_examples=60, deadline=None)
@given(points=st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 20)), min_size=3, max_size=8))
def test_polygons_have_the_area_of_pycocotools(points: list[tuple[float, float]]) -> None:
    polygon = [number for point in points for number in point]
    area = int(mask_api.area(mask_api.merge(mask_api.frPyObjects([polygon], *SIZE))))
    assert int((painted(annotation(3, [polygon])) == 1).sum()) == area


def test_polygons_of_one_object_are_joined() -> None:
    mask = painted(annotation(3, [*rectangle(0, 0, 4, 4), *rectangle(6, 8, 12, 16)]))
    expected = np.zeros(SIZE, np.uint8)
    expected[0:4, 0:4] = expected[6:12, 8:16] = 1
    assert np.array_equal(mask, expected)


def test_smaller_over_larger_and_crowds_below() -> None:
    large, small = annotation(3, rectangle(0, 0, 10, 10)), annotation(7, rectangle(2, 2, 6, 6))
    crowd = annotation(7, {"size": list(SIZE), "counts": [0, 12 * 16]}, iscrowd=1)
    expected = np.full(SIZE, 255, np.uint8)
    expected[:10, :10] = 1
    expected[2:6, 2:6] = 2
    for order in ([large, small, crowd], [crowd, small, large], [small, crowd, large]):
        assert np.array_equal(painted(*order), expected)


def test_of_equal_areas_the_later_lies_above() -> None:
    left, right = annotation(3, rectangle(0, 0, 6, 6)), annotation(7, rectangle(0, 3, 6, 9))
    assert painted(left, right)[0, :10].tolist() == [1, 1, 1, 2, 2, 2, 2, 2, 2, 0]
    assert painted(right, left)[0, :10].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2, 0]


def test_a_hole_shows_what_is_behind() -> None:
    ring = np.zeros(SIZE, np.uint8)
    ring[1:9, 1:9] = 1
    ring[3:6, 3:6] = 0
    mask = painted(annotation(7, rectangle(0, 0, 12, 16)), annotation(3, encoded(ring)))
    assert np.array_equal(mask, np.where(ring == 1, 1, 2))


WHOLE = annotation(3, rectangle(0, 0, 4, 4))
ALL = 12 * 16


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "empty or missing, expected polygons or run lengths"),
        ([], "empty or missing"),
        ("3", r'"3", expected polygons'),
        ([1, 2, 3, 4, 5, 6], "expected lists of numbers"),
        ([[1, 2, 3, 4]], "lists of at least 3 points"),  # pycocotools would take it for a box
        ([[1, 2, 3, 4, 5, 6, 7]], "lists of at least 3 points"),
        ([[1, 2, 3, 4, 5, "6"]], r'"6" is no coordinate in or near an image of 12 x 16 pixels'),
        ([[1, 2, 3, 4, 5, None]], "null is no coordinate"),
        ([[1, 2, 3, 4, 5, True]], "true is no coordinate"),
        ([[1, 2, 3, 4, 5, 1e9]], "1000000000.0 is no coordinate"),
        ([[1, 2, 3, 4, 5, float("inf")]], "is no coordinate"),
        ([[1, 2, 3, 4, 5, float("nan")]], "is no coordinate"),
        ([[1, 2, 3, 4, 5, 10**400]], "is no coordinate"),
        ({"size": [16, 12], "counts": [ALL]}, r"size: a list, expected \[12, 16\] as its image"),
        ({"counts": [ALL]}, "size: null"),
        ({"size": [12, 16], "counts": None}, "counts: expected a list"),
        ({"size": [12, 16], "counts": [ALL, "1"]}, "counts: expected a list"),
        ({"size": [12, 16], "counts": [ALL - 1]}, "do not add up to 12 x 16"),
        ({"size": [12, 16], "counts": [ALL + 1, -1]}, "do not add up"),
        ({"size": [12, 16], "counts": [0, 10**18]}, "do not add up"),
        ({"size": [12, 16], "counts": "0"}, "do not add up"),  # pycocotools would show memory that nobody wrote
        ({"size": [12, 16], "counts": "P"}, "counts: expected a list"),  # and read on behind its end
        ({"size": [12, 16], "counts": "PPPPPPPP0"}, "counts: expected a list"),
        ({"size": [12, 16], "counts": "\udcff"}, "counts: expected a list"),
    ],
)
def test_what_cannot_be_drawn_is_named(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"annotations\[1\]\.segmentation.*{message}"):
        painted(WHOLE, annotation(7, segmentation))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0, 16), r"images\[0\]\.height: 0, expected a number of pixels"),
        ((12, "16"), r'images\[0\]\.width: "16"'),
        ((12.0, 16), r"height: 12\.0"),
        ((True, 16), "height: true"),
        ((10**6, 10**6), "1000000 x 1000000 pixels, more than"),
    ],
)
def test_sizes_that_are_refused(size: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        painted(size=size)
    with pytest.raises(ValueError, match=r"annotations\[0\]\.iscrowd: 2, expected 0 or 1"):
        painted(annotation(3, rectangle(0, 0, 4, 4), iscrowd=2))


# ---- files


def write(path: Path, *annotations: Any, **options: Any) -> Path:
    path.write_text(json.dumps(document(*annotations, **options)))
    return path


def test_files_of_a_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "truth.json", WHOLE)
    assert coco_masks.draw(source, ["a.jpg", "b.jpg"]) == 1
    with Image.open(tmp_path / "truth-masks" / "a.png") as image:
        assert image.mode == "P"
        assert np.array(image).tolist() == painted(WHOLE).tolist()
    assert (tmp_path / "truth-masks" / "classes.txt").read_text() == "cat\ndog\n"
    assert coco_masks.draw(source, ["a.jpg", "b.jpg"]) == 0  # up to date


def test_a_changed_file_is_drawn_anew(tmp_path: Path) -> None:
    source = write(tmp_path / "truth.json", WHOLE)
    coco_masks.draw(source, ["a.jpg"])
    write(source, annotation(7, rectangle(0, 0, 2, 2)), name="sub/b.jpg")
    assert coco_masks.draw(source, ["a.jpg", "sub/b.jpg"]) == 1
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")) == ["truth-masks/sub/b.png"]
    (tmp_path / "truth-masks" / "sub" / "b.png").unlink()
    assert coco_masks.draw(source, ["a.jpg", "sub/b.jpg"]) == 1


def test_a_stopped_drawing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "truth.json", WHOLE)
    with monkeypatch.context() as patch:
        patch.setattr(coco_masks, "write_mask", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            coco_masks.draw(source, ["a.jpg"])
    assert coco_masks.draw(source, ["a.jpg"]) == 1


def test_somebodys_folder_is_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "truth.json", WHOLE)
    (tmp_path / "truth-masks").mkdir()
    (tmp_path / "truth-masks" / "a.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"truth-masks holds something that was not drawn from truth\.json"):
        coco_masks.draw(source, ["a.jpg"])
    assert (tmp_path / "truth-masks" / "a.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(categories=[*CATEGORIES, {"id": 0, "name": "background"}]), "a category is called background"),
        (lambda d: d.update(categories=[{"id": n, "name": f"c{n}"} for n in range(255)]), "255 categories: expected at most 254"),
        (lambda d: d["images"].append({"id": 2, "file_name": "a.png", "height": 1, "width": 1}), "would both have the mask a.png"),
        (lambda d: d["images"][0].update(file_name="z.jpg"), "none of its 1 images is one of the 2 photos"),
        (lambda d: d["annotations"][0].pop("segmentation"), r"truth\.json: annotations\[0\]\.segmentation: empty or missing"),
        (lambda d: d.clear(), "expected an object with lists of images, categories and annotations"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    content = document(WHOLE)
    change(content)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        coco_masks.draw(tmp_path / "truth.json", ["a.jpg", "a.png"])


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(SetupError, match="COCO's polygons need pycocotools") as caught:
        coco_masks.draw(write(tmp_path / "truth.json", WHOLE), ["a.jpg"])
    assert caught.value.hint == "pip install 'rcatool[coco]'"
    runs = annotation(3, {"size": list(SIZE), "counts": [ALL]})
    assert coco_masks.draw(write(tmp_path / "runs.json", runs), ["a.jpg"]) == 1  # run lengths need none
