"""VOC 2012 and SBD as their archives unpack, with the official ids and tiny pictures."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from rcatool.data.labels import IGNORE, VOC_CLASSES, palette
from rcatool.data.voc import PACKAGED_LISTS

SIDE = (24, 32)  # H, W
SBD_MASKS = 11_355


def make_voc_tree(folder: Path) -> list[str]:
    """Write VOC 2012 and SBD as their archives unpack, with the official ids; return the arguments of `rca prepare`."""
    base, sbd = folder / "VOCdevkit" / "VOC2012", folder / "benchmark_RELEASE"
    arguments = ["voc", "--root", str(base), "--sbd", str(sbd), "--train-list", "trainaug", "--test-list", "test"]
    if base.exists():
        return arguments
    for made in (base / "JPEGImages", base / "Annotations", base / "SegmentationClass", sbd / "dataset" / "cls"):
        made.mkdir(parents=True)
    lists = {name: (PACKAGED_LISTS / f"{name}.txt").read_text().split() for name in ("train", "val", "test", "trainaug")}
    voc_masks = lists["train"] + lists["val"]
    sbd_only = [image_id for image_id in lists["trainaug"] if image_id not in set(voc_masks)]
    with_annotation = lists["trainaug"] + lists["val"]
    numbers = {image_id: number for number, image_id in enumerate(with_annotation + lists["test"])}
    for image_id, number in numbers.items():
        _write_photo(base / "JPEGImages" / f"{image_id}.jpg", number)
    for image_id in with_annotation:
        _write_annotation(base / "Annotations" / f"{image_id}.xml", image_id, numbers[image_id])
    for image_id in voc_masks:
        _write_mask(base / "SegmentationClass" / f"{image_id}.png", numbers[image_id])
    for image_id in sbd_only + voc_masks[: SBD_MASKS - len(sbd_only)]:
        _write_mat(sbd / "dataset" / "cls" / f"{image_id}.mat", numbers[image_id])
    return arguments


def _write_photo(path: Path, number: int) -> None:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(SIDE[::-1], Image.Resampling.BICUBIC).save(path, quality=90)


def _classes(number: int) -> list[int]:
    return sorted({number % 20, number // 20 % 20})


def _write_annotation(path: Path, image_id: str, number: int) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    objects = "".join(
        f"<object><name>{VOC_CLASSES[c]}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>{box}</object>"
        for c in _classes(number)
    )
    head = f"<folder>VOC2012</folder><filename>{image_id}.jpg</filename><size><width>32</width><height>24</height></size>"
    path.write_text(f"<annotation>{head}<segmented>1</segmented>{objects}</annotation>")


def _mask(number: int, *, border: bool) -> np.ndarray:
    mask = np.zeros(SIDE, np.uint8)
    for place, c in enumerate(_classes(number)):
        left = 2 + 14 * place
        mask[3:20, left : left + 12] = IGNORE if border else c + 1
        mask[4:19, left + 1 : left + 11] = c + 1
    return mask


def _write_mask(path: Path, number: int) -> None:
    image = Image.fromarray(_mask(number, border=True))
    image.putpalette(palette())
    image.save(path)


def _write_mat(path: Path, number: int) -> None:
    boundaries = np.empty((20, 1), dtype=object)
    for c in range(20):
        boundaries[c, 0] = csc_matrix(SIDE, dtype=np.float64)
    present = np.array(_classes(number), np.uint8)[:, None] + 1
    struct = {"Boundaries": boundaries, "Segmentation": _mask(number, border=False), "CategoriesPresent": present}
    savemat(path, {"GTcls": struct}, do_compression=True)
