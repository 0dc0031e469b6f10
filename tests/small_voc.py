"""Data sets of a few tiny photos, written with Pillow alone; SBD's masks with scipy."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from rcatool.data.manifest import Dataset

CAT, PERSON = 7, 14
LISTS = {"train": "train", "val": "val", "tune": ""}


def make_photo(path: Path, seed: int = 0, size: tuple[int, int] = (12, 16)) -> None:
    """Write a photo of noise, (H, W); other seed, other photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def make_mask(path: Path, values: Iterable[int], size: tuple[int, int] = (12, 16)) -> None:
    """Write a palette mask whose columns are `values`, then background."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    for column, value in enumerate(values):
        mask[:, column] = value
    image = Image.fromarray(mask)
    image.putpalette([n for colour in range(256) for n in (colour, colour, colour)])
    image.save(path)


def make_voc(base: Path, *, train: Iterable[str] = ("a1", "a2", "a3"), val: Iterable[str] = ("b1", "b2")) -> Path:
    """Write photos, lists, tags.txt (person and cat each) and masks with person, cat and void."""
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    for seed, image_id in enumerate([*train, *val]):
        make_photo(base / "JPEGImages" / f"{image_id}.jpg", seed)
        make_mask(base / "SegmentationClassAug" / f"{image_id}.png", (8, 15, 255))
    write_list(base, "train", train)
    write_list(base, "val", val)
    (base / "tags.txt").write_text("".join(f"{image_id} person cat\n" for image_id in [*train, *val]))
    return base


def write_list(base: Path, name: str, ids: Iterable[str]) -> None:
    (base / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))


def classes(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Class indices by id."""
    return {sample.id: sample.classes for sample in dataset.samples}


def write_mat(path: Path, mask: np.ndarray, *, deflated: bool = True) -> None:
    """Write a mask as SBD has it: struct GTcls of Boundaries (a sparse matrix per class), Segmentation and CategoriesPresent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), dtype=object)
    for c in range(20):
        boundaries[c, 0] = csc_matrix((mask == c + 1) & (np.roll(mask, 1, axis=0) != mask), dtype=np.float64)
    present = np.setdiff1d(mask, [0]).astype(np.uint8)[:, None]
    struct = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": present}
    savemat(path, {"GTcls": struct}, do_compression=deflated)
