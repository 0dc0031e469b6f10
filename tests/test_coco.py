"""Oracles: pycocotools' own areas and encoder, painting pixel by pixel, hand-made pictures, json.load for what the reader finds."""

import json
import os
import sys
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_api
from small_coco import OFFICIAL_IDS, SIZE, TRAIN, annotation, box, document

from rcatool.data import json_window
from rcatool.data.coco_json import read_instances
from rcatool.data.coco_paint import _as_shown
from rcatool.data.coco_regions import region
from rcatool.data.coco_rule import VARIANTS, Rule, layers, paint, variant
from rcatool.data.labels import IGNORE
from rcatool.errors import ConfigError, DataError, SetupError

numbers = st.integers(0, 2**32 - 1)


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, outside first, counted one by one."""
    groups = [(value, len(list(group))) for value, group in groupby(mask.T.ravel().tolist())]
    return [0] * bool(groups[0][0]) + [length for _, length in groups]


def random_mask(rng: np.random.Generator) -> np.ndarray:
    height, width = rng.integers(1, 40, 2)
    return (rng.random((height, width)) < rng.choice([0.02, 0.5, 0.98])).astype(np.uint8)


def ring() -> np.ndarray:
    """An object with a hole."""
    mask = np.zeros(SIZE, np.uint8)
    mask[2:9, 3:12] = 1
    mask[4:6, 5:8] = 0
    return mask


# ---- one annotation


@given(seed=numbers)
def test_run_lengths_of_both_kinds_are_the_mask_they_were_made_of(seed: int) -> None:
    mask = random_mask(np.random.default_rng(seed))
    encoded = mask_api.encode(np.asfortranarray(mask))
    compressed = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    for segmentation in (compressed, {"size": list(mask.shape), "counts": runs_of(mask)}):
        pixels, dropped = region(segmentation, mask.shape)
        assert pixels.dtype == bool
        assert np.array_equal(pixels, mask)
        assert (pixels.sum(), dropped) == (mask_api.area(encoded), 0)


def test_an_object_with_a_hole() -> None:
    pixels, _ = region({"size": list(SIZE), "counts": runs_of(ring())}, SIZE)
    assert pixels.sum() == 7 * 9 - 2 * 3
    assert not pixels[4:6, 5:8].any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools.mask.decode with numpy 2
@given(seed=numbers)
def test_polygons_have_the_area_that_pycocotools_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (30, 40)
    polygons = [(rng.uniform(-0.2, 1.2, (rng.integers(3, 9), 2)) * size[::-1]).ravel().tolist() for _ in range(rng.integers(1, 4))]
    pixels, dropped = region(polygons, size)
    one_by_one = [mask_api.decode(mask_api.frPyObjects([polygon], *size)[0]) for polygon in polygons]
    assert np.array_equal(pixels, np.any(one_by_one, axis=0))  # the union
    assert (pixels.sum(), dropped) == (mask_api.area(mask_api.merge(mask_api.frPyObjects(polygons, *size))), 0)


def test_a_box_of_whole_numbers() -> None:
    pixels, _ = region([box(3, 2, 5, 4), box(12, 0, 4, 1)], SIZE)
    expected = np.zeros(SIZE, bool)
    expected[2:6, 3:8] = expected[0, 12:16] = True
    assert np.array_equal(pixels, expected)


def test_polygons_without_area_are_left_out_and_counted() -> None:
    # Two points would be a box to pycocotools, and an odd number would lose one silently.
    pixels, dropped = region([[1, 1, 4, 4], box(0, 0, 2, 2), [1, 1, 5, 1, 5, 5, 2], []], SIZE)
    assert (pixels.sum(), dropped) == (4, 3)
    assert region([], SIZE)[0].sum() == 0


def test_pycocotools_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(SetupError, match="pycocotools") as caught:
        region([box(0, 0, 2, 2)], SIZE)
    assert caught.value.hint == "pip install 'rcatool[coco]'"


# ---- the rule


def one_pixel(covering: list[tuple[int, Any]], near: list[bool], rule: Rule) -> int:
    """The value of one pixel, by the words of the rule; `covering` is (index, annotation) of all annotations, topmost unknown."""
    everything = [each for each in covering if not (each[1]["iscrowd"] and rule.crowd == "background")]
    if rule.overlap == "annotation-order":
        everything.sort(key=lambda each: -each[0])
    else:
        everything.sort(key=lambda each: (each[1]["area"], each[0]))
    if rule.crowd == "ignore":
        everything.sort(key=lambda each: each[1]["iscrowd"])
    value = 0
    for index, each in everything:
        ignored = each["iscrowd"] and rule.crowd == "ignore"
        if each["covers"] and value == 0:
            value = IGNORE if ignored else each["value"]
        elif not each["covers"] and near[index] and not ignored:
            value = IGNORE
    return value


RULES = [Rule(o, c, v) for o in ("small-over-large", "annotation-order") for c in ("object", "background", "ignore") for v in (0, 2)]


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_masks_are_those_painted_pixel_by_pixel(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        n = int(rng.integers(0, 6))
        areas, crowd = rng.choice([4.0, 4.0, 9.0, 25.5, 400.0], n), rng.random(n) < 0.3
        covers = np.zeros((n, 9, 11), bool)
        for pixels in covers:
            y, x = rng.integers(0, 8, 2)
            pixels[y : y + rng.integers(1, 6), x : x + rng.integers(1, 7)] = True
        values = rng.integers(1, 81, n)
        order = layers(areas, crowd, rule)
        regions = [(covers[i], IGNORE if crowd[i] and rule.crowd == "ignore" else int(values[i])) for i in order]
        mask = paint(regions, (9, 11), void=rule.void)
        for y, x in np.ndindex(9, 11):
            around = covers[:, max(0, y - rule.void) : y + rule.void + 1, max(0, x - rule.void) : x + rule.void + 1]
            columns = zip(areas, crowd, values, covers[:, y, x], strict=True)
            said = [{"area": a, "iscrowd": k, "value": v, "covers": covered} for a, k, v, covered in columns]
            near = [bool(rule.void and part.any()) for part in around]
            assert mask[y, x] == one_pixel(list(enumerate(said)), near, rule), (y, x)


def test_variants_are_what_their_scripts_do() -> None:
    """Two squares that overlap, the later one larger, and a crowd: worked out by hand from each script."""
    small, large, crowd = np.zeros((3, 1, 6), bool)
    small[0, 0:3] = large[0, 2:5] = crowd[0, 4:6] = True
    area, is_crowd = np.array([3.0, 4.0, 9.0]), np.array([False, False, True])
    expected = {"coco2voc": [7, 7, 7, 8, 8, 9], "recam": [7, 7, 8, 8, 8, 0], "coco2voc-border": [255] * 6}
    for name, row in expected.items():
        rule = variant(name)
        regions = [((small, large, crowd)[i], (7, 8, 9)[i]) for i in layers(area, is_crowd, rule)]
        assert paint(regions, (1, 6), void=rule.void)[0].tolist() == row, name
    assert set(expected) == set(VARIANTS)


def test_of_equal_areas_the_earlier_is_on_top() -> None:
    # coco2voc sorts by area, which keeps the order of the file, and what is painted first stays.
    assert layers(np.array([5.0, 5.0, 1.0]), np.zeros(3, bool), Rule()) == [2, 0, 1]


@pytest.mark.parametrize("name", ["eps", "RIB", "seco"])
def test_unknown_rules_are_not_guessed(name: str) -> None:
    with pytest.raises(ConfigError, match="is not known; the known ones are coco2voc, coco2voc-border, recam") as caught:
        variant(name)
    assert "--masks DIR" in str(caught.value.hint)


# ---- the file


@pytest.mark.parametrize("chunk", [1, 7, 64, 2**22])
@pytest.mark.parametrize("indent", [None, 3])
def test_what_is_read_is_what_json_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None) -> None:
    monkeypatch.setattr(json_window, "CHUNK", chunk)
    said = document("train", [9, 25, 30], TRAIN)
    said["images"][0]["flickr"] = "é \ud7ff \\\" ]},"
    said["categories"][3]["name"] = "vélo 単車"
    said = {"annotations": said.pop("annotations"), **said, "more": [[1, {"a": None}], -2.5e3, True], "last": 12}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(said, indent=indent, ensure_ascii=chunk == 7), encoding="utf-8")
    found = read_instances(path)
    data = path.read_bytes()
    assert found.categories == {each["id"]: each["name"] for each in said["categories"]}
    assert found.photo_ids == [9, 25, 30]
    assert found.names == [each["file_name"] for each in said["images"]]
    assert found.sizes == [SIZE] * 3
    columns = found.annotations
    for place, each in enumerate(TRAIN):
        kept = [getattr(columns, name)[place] for name in ("id", "image_id", "category_id", "crowd", "area")]
        assert kept == [each[name] for name in ("id", "image_id", "category_id", "iscrowd", "area")]
        assert json.loads(data[columns.offset[place] : columns.offset[place] + columns.length[place]]) == each


def test_every_cut_of_a_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    whole = json.dumps(document("train", [9], [annotation(1, 9, 1, [], 0)] * 1)).encode()
    for end in range(0, len(whole), 37):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=str(path)):
            read_instances(path)


def test_official_ids_are_80_and_rise() -> None:
    assert len(OFFICIAL_IDS) == len(set(OFFICIAL_IDS)) == 80
    assert all(a < b for a, b in pairwise(OFFICIAL_IDS))
    assert set(range(1, 91)) - set(OFFICIAL_IDS) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


# ---- photos that are turned


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_like_its_photo(tmp_path: Path, orientation: int) -> None:
    from rcatool.data.photos import read_image

    exif = Image.Exif()
    exif[0x0112] = orientation
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    path = tmp_path / "turned.png"  # without loss, so that the photo can be compared
    Image.fromarray(np.repeat(mask[..., None], 3, axis=2)).save(path, exif=exif)
    assert np.array_equal(_as_shown(mask, path), read_image(path)[..., 0])
    if orientation > 4:  # annotations of a size that the photo has when it is turned
        assert np.array_equal(_as_shown(mask.T, path), mask.T)


def test_a_photo_that_cannot_be_read_is_left_to_the_check(tmp_path: Path) -> None:
    mask = np.eye(3, dtype=np.uint8)
    (tmp_path / "broken.jpg").write_bytes(b"Exif" + os.urandom(50))
    for name in ("broken.jpg", "missing.jpg"):
        assert _as_shown(mask, tmp_path / name) is mask
