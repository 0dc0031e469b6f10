"""The region memory on the page: a picture drawn from photos of one colour each, taken apart again; pictures that do not belong."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from tiny_run import TinyRun

from rcatool.region_picture import LAYOUT, Block, Tile, draw_blocks, save_picture
from rcatool.report import prototypes as page_part
from rcatool.report.galleries import Budget
from rcatool.report.prototypes import MOST_CROPS, Crop, prototypes
from rcatool.run import Run

RED, BLUE, GREEN = (200, 40, 40), (40, 40, 200), (40, 160, 40)


def tile(folder: Path, colour: tuple[int, int, int], caption: str) -> Tile:
    path = folder / f"{colour[0]}-{colour[1]}-{colour[2]}.png"
    if not path.exists():
        Image.new("RGB", (100, 80), colour).save(path)
    return Tile(path, np.ones((8, 10), bool), caption)


def draw(run: Path, blocks: list[Block], about: str | None = None) -> Path:
    picture = draw_blocks(blocks, lambda _: None)
    path = run / "memory.png"
    with path.open("wb") as file:
        save_picture(picture, file, about=Run(run).result_digest("train-cls") or "" if about is None else about)
    return path


def colour_of(crop: Crop) -> tuple[int, int, int]:
    with Image.open(io.BytesIO(base64.b64decode(crop.uri.partition(",")[2]))) as picture:
        assert picture.size == (crop.width, crop.height)
        middle = picture.convert("RGB").getpixel((crop.width // 2, crop.height // 2))
    assert isinstance(middle, tuple)
    return min((RED, BLUE, GREEN), key=lambda colour: sum(abs(a - b) for a, b in zip(colour, middle, strict=True)))


@pytest.fixture
def run(undisturbed: TinyRun, tmp_path: Path) -> Path:
    return undisturbed.copy(tmp_path / "run")


def test_crops_titles_and_captions_come_back(run: Path, tmp_path: Path) -> None:
    red, blue, green = (tile(tmp_path, colour, f"0.9 {name} é") for colour, name in ((RED, "r"), (BLUE, "b"), (GREEN, "g")))
    draw(run, [Block("kite: 3 of 4", [("two", [red, blue]), ("one", [green])]), Block("none", []), Block("ox", [("x", [blue])])])
    budget = Budget()
    owners = prototypes(Run(run), budget)
    found = [(owner.title, [(heading, [(colour_of(c), c.caption) for c in crops]) for heading, crops in owner.columns]) for owner in owners]
    r, b, g = ((RED, "0.9 r é"), (BLUE, "0.9 b é"), (GREEN, "0.9 g é"))
    assert found == [("kite: 3 of 4", [("two", [r, b]), ("one", [g])]), ("ox", [("x", [b])])]
    crops = [crop for owner in owners for _, each in owner.columns for crop in each]
    assert Budget().left - budget.left == sum(len(crop.uri) for crop in crops)
    assert crops[0].alt == "a region of kite: likeness and photo 0.9 r é"


def test_many_are_thinned_class_by_class(run: Path, tmp_path: Path) -> None:
    red, blue = tile(tmp_path, RED, "r"), tile(tmp_path, BLUE, "b")
    blocks = [Block(f"class {k}", [(f"{c}", [red, blue, blue]) for c in range(10)]) for k in range(40)]
    draw(run, blocks)
    owners = prototypes(Run(run), Budget())
    assert [owner.title for owner in owners] == [block.title for block in blocks]
    shown = [[len(crops) for _, crops in owner.columns] for owner in owners]
    assert shown == [[1] * (MOST_CROPS // 40)] * 40
    assert {colour_of(crops[0]) for owner in owners for _, crops in owner.columns} == {RED}  # the nearest one


def test_they_keep_within_their_bytes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(run, [Block("a", [("x", [tile(tmp_path, RED, "r")] * 3)])])
    [owner] = prototypes(Run(run), Budget())
    size = len(owner.columns[0][1][0].uri)
    monkeypatch.setattr(page_part, "MOST_BYTES", 2 * size)
    budget = Budget()
    [owner] = prototypes(Run(run), budget)
    assert (len(owner.columns[0][1]), Budget().left - budget.left) == (2, 2 * size)
    assert prototypes(Run(run), Budget(size - 1)) == []


def test_a_picture_of_another_network_is_not_shown(run: Path, tmp_path: Path) -> None:
    blocks = [Block("a", [("x", [tile(tmp_path, RED, "r")])])]
    path = draw(run, blocks, about="another")
    budget = Budget()
    assert prototypes(Run(run), budget) == []
    with Image.open(path) as picture:  # without a layout, as earlier versions drew it
        Image.fromarray(np.asarray(picture)).save(path)
    assert prototypes(Run(run), budget) == []
    path.unlink()
    assert prototypes(Run(run), budget) == []
    assert budget.broken == []


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"about": 1}',
     '{"about": "RUN", "blocks": [{"title": "a", "columns": [{"heading": "x", "tiles": [[0, 0, 9999, 9, ""]]}]}]}',
     '{"about": "RUN", "blocks": [{"title": "a", "columns": [{"heading": "x", "tiles": [[-5, 0, 9, 9, ""]]}]}]}', "no picture"],
)  # fmt: skip
def test_what_is_broken_is_named_on_the_page(run: Path, text: str) -> None:
    path = run / "memory.png"
    if text == "no picture":
        path.write_bytes(b"no picture")
    else:
        about = PngImagePlugin.PngInfo()
        about.add_itxt(LAYOUT, text.replace("RUN", Run(run).result_digest("train-cls") or ""))
        Image.new("RGB", (60, 40)).save(path, pnginfo=about)
    budget = Budget()
    assert prototypes(Run(run), budget) == []
    assert len(budget.broken) == 1
    assert "memory.png" in budget.broken[0]


def test_training_leaves_a_picture_of_its_network(undisturbed: TinyRun) -> None:
    with Image.open(undisturbed.path / "memory.png") as picture:
        document = json.loads(picture.info[LAYOUT])
    assert document["about"] == Run(undisturbed.path).result_digest("train-cls")
    assert len(document["blocks"]) == 4
    text = (undisturbed.path / "report.html").read_text(encoding="utf-8")
    assert all(block["title"] in text for block in document["blocks"] if block["columns"])
