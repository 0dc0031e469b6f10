"""The picture of regions: boxes by hand, pixels inside and outside of a region, places of columns."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcatool.region_picture import BOX, CELL, DIM, PAPER, Block, Tile, draw_blocks, region_box, tile_image


def photo(folder: Path, size: tuple[int, int], colour: tuple[int, int, int] = (200, 100, 40)) -> Path:
    path = folder / f"{size[0]}x{size[1]}-{colour[0]}.png"
    Image.new("RGB", size, colour).save(path)
    return path


def mask(rows: slice, columns: slice, shape: tuple[int, int] = (8, 10)) -> np.ndarray:
    made = np.zeros(shape, bool)
    made[rows, columns] = True
    return made


def test_box_by_hand() -> None:
    assert region_box(mask(slice(2, 4), slice(5, 10)), (100, 80)) == (50, 20, 100, 40)
    assert region_box(mask(slice(0, 8), slice(0, 10)), (33, 17)) == (0, 0, 33, 17)
    assert region_box(mask(slice(0, 0), slice(0, 0)), (33, 17)) == (0, 0, 33, 17)


def test_a_region_is_bright_and_the_rest_dim(tmp_path: Path) -> None:
    # A ring: the middle lies within the box and outside of the region.
    ring = mask(slice(0, 8), slice(0, 10)) & ~mask(slice(3, 5), slice(4, 6))
    image = np.asarray(tile_image(Tile(photo(tmp_path, (100, 80)), ring, ""))).astype(int)
    height, width = image.shape[:2]
    assert abs(image[height // 4, width // 4] - (200, 100, 40)).max() <= 2
    assert abs(image[height // 2, width // 2] - [DIM * value for value in (200, 100, 40)]).max() <= 2
    assert (image[0, 1:-1] == BOX).all()


@pytest.mark.parametrize("size", [(400, 30), (30, 400), (120, 90), (5, 5)])
def test_a_tile_fits_its_cell(tmp_path: Path, size: tuple[int, int]) -> None:
    image = tile_image(Tile(photo(tmp_path, size), mask(slice(2, 5), slice(3, 9)), ""))
    assert image.width <= CELL[0]
    assert image.height <= CELL[1]
    assert image.width >= CELL[0] - 1 or image.height >= CELL[1] - 1


def test_columns_side_by_side_and_blocks_below_each_other(tmp_path: Path) -> None:
    everywhere = mask(slice(0, 8), slice(0, 10))
    red, blue = (Tile(photo(tmp_path, (120, 90), colour), everywhere, "0.9") for colour in ((250, 0, 0), (0, 0, 250)))
    blocks = [Block("first " * 90, [("a", [red, red]), ("b", [blue])]), Block("empty", []), Block("last", [("c", [blue])])]
    drawn: list[int] = []
    picture = draw_blocks(blocks, drawn.append)
    assert sum(drawn) == 4
    pixels = np.asarray(picture)
    assert picture.height == sum(block.height for block in blocks) + 6

    def centre_of(colour: tuple[int, int, int], top: int, bottom: int) -> tuple[float, float]:
        y, x = (pixels[top:bottom] == colour).all(axis=2).nonzero()
        return x.mean(), y.mean() + top

    first = blocks[0].height
    assert centre_of((250, 0, 0), 0, first)[0] < centre_of((0, 0, 250), 0, first)[0]
    assert centre_of((0, 0, 250), first, picture.height)[1] > first + blocks[1].height
    assert (pixels[first + blocks[1].height - 2] == PAPER).all()  # the empty block has a title and nothing else


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    from rcatool.errors import DataError

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    with pytest.raises(DataError, match="broken.jpg"):
        draw_blocks([Block("", [("", [Tile(broken, mask(slice(0, 2), slice(0, 2)), "")])])], lambda _: None)
