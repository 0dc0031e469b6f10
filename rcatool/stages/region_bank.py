"""The region memory that CAMs are redrawn with: regions of a bounded sample of the training photos, of the trained network."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool import console
from rcatool.cams import normalise, resize
from rcatool.config import Cam
from rcatool.data.manifest import Sample
from rcatool.data.npz import BROKEN, read_npz
from rcatool.errors import DataError
from rcatool.files import atomic_save
from rcatool.models.region_cam import RegionBank, photo_regions

_MAX_BYTES = 2**34  # a memory of many photos of many classes


def choose_photos(samples: Sequence[Sample], per_class: int, num_classes: int, seed: int) -> list[Sample]:
    """Photos in a seeded order, each taken if one of its classes still lacks some of its `per_class` photos."""
    count = np.zeros(num_classes, np.int64)
    chosen = []
    for place in np.random.default_rng(seed).permutation(len(samples)):
        classes = list(samples[place].classes)
        if classes and bool((count[classes] < per_class).any()):
            count[classes] += 1
            chosen.append(samples[place])
    return chosen


def make_bank(path: Path, looks: Iterable[tuple[Sample, tuple[np.ndarray, Tensor | None]]], *, settings: Cam, total: int) -> None:
    """Pool the regions and the background of each photo, of its CAM (K, h, w) and hypercolumns (D, h', w'), and write them to `path`.

    An npz archive: regions (N, D) float16 of length 1, classes (N,) int32 (-1: background), photos (N,) ids.
    """
    regions, classes, photos = [], [], []
    with console.progress("make-pseudo region memory", total=total) as bar:
        for sample, (cam, columns) in looks:
            assert columns is not None
            coarse = torch.from_numpy(normalise(resize(cam, *columns.shape[-2:]))).to(columns.device)
            found, ground = photo_regions(
                F.normalize(columns, dim=0), coarse, sure=settings.region_sure, background=settings.region_background
            )
            for region, cls in zip([*found, ground], [*sample.classes, -1], strict=True):
                if bool(region.any()):
                    regions.append(region.half().cpu().numpy())
                    classes.append(cls)
                    photos.append(sample.id)
            bar.advance(1)
    if not regions:
        raise DataError("no CAM shows a region that the region memory could keep", hint="rca make-pseudo --set cam.region_memory=0")
    arrays = {"regions": np.stack(regions), "classes": np.asarray(classes, np.int32), "photos": np.asarray(photos)}
    atomic_save(path, lambda file: np.savez(file, allow_pickle=False, **arrays))  # type: ignore[arg-type]


def load_bank(path: Path, photos: Sequence[Sample], *, num_classes: int, device: torch.device) -> RegionBank:
    """Read a bank; an entry's photo becomes its place in `photos`, -2 if it is not there. Raises `DataError` if it cannot be read."""
    try:
        arrays = read_npz(path, most=_MAX_BYTES)
        regions, classes, ids = arrays["regions"], arrays["classes"], arrays["photos"]
    except BROKEN as error:
        raise DataError(f"{path}: not a readable region memory ({error})", hint="delete it, then rca make-pseudo makes it again") from error
    problem = _problem(regions, classes, ids, num_classes)
    if problem:
        raise DataError(f"{path}: {problem}", hint="delete it, then rca make-pseudo makes it again")
    place = {sample.id: number for number, sample in enumerate(photos)}
    number = torch.tensor([place.get(one, -2) for one in ids.tolist()], device=device)
    entries, owner = F.normalize(torch.from_numpy(regions).to(device).float(), dim=1), torch.from_numpy(classes).to(device)
    groups = [*range(num_classes), -1]
    return RegionBank([entries[owner == cls] for cls in groups], [number[owner == cls] for cls in groups])


def _problem(regions: np.ndarray, classes: np.ndarray, ids: np.ndarray, num_classes: int) -> str | None:
    """What is wrong with the arrays of a bank, if anything is."""
    if regions.ndim != 2 or regions.dtype.kind != "f" or classes.dtype.kind != "i" or ids.dtype.kind != "U":
        return "arrays of the wrong shape or type"
    if not classes.shape == ids.shape == (len(regions),):
        return "regions, classes and photos are not equally many"
    if len(classes) and not -1 <= int(classes.min()) <= int(classes.max()) < num_classes:
        return f"a region of class {int(classes.max())}, expected numbers below {num_classes}"
    return None if bool(np.isfinite(regions).all()) else "values that are not finite"
