"""How long `rca prepare` takes, and how much memory, on data sets with the full number of tiny pictures.

    python benchmarks/full_size_trees.py voc [--keep DIR] [--workers 2]

Makes the tree in a temporary folder (or in DIR, where it is used again), runs the command in a process of its own and prints JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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


TREES: dict[str, Callable[[Path], list[str]]] = {"voc": make_voc_tree}


def measure(make_tree: Callable[[Path], list[str]], folder: Path, workers: int) -> dict[str, float]:
    """Return the seconds and the peak MiB of the tree's `rca prepare` in a new run; CalledProcessError where it fails."""
    start = time.monotonic()
    arguments = make_tree(folder)
    made = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as run:
        command = [sys.executable, "-m", "rcatool", "prepare", *arguments, "--run", run, "--set", f"runtime.workers={workers}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        photos = len(Path(run, "prepare", "manifest.jsonl").read_text().splitlines())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "photos": photos,
        "make_tree_s": round(made - start, 1),
        "prepare_s": round(time.monotonic() - made, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),  # of all processes; prepare_s where nothing else runs is about a part of it
        "peak_mib": round(used.ru_maxrss / 1024),  # of the largest process, on Linux
    }


def main() -> None:
    """Measure one kind of tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", choices=TREES)
    parser.add_argument("--keep", type=Path, help="folder for the tree, used again if it is there")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        print(json.dumps({"tree": options.tree, "workers": options.workers, **measure(TREES[options.tree], folder, options.workers)}))


if __name__ == "__main__":
    main()
