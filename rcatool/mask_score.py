"""Score masks against ground truth without a run directory: `rca score`, and `from rcatool import score`."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rcatool.breakdown import breakdown_report
from rcatool.conventions import emulate_labels
from rcatool.data.labels import IGNORE, MAX_CLASSES, VOC_CLASSES
from rcatool.data.manifest import first_few
from rcatool.data.tags import read_text
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.metrics import scores
from rcatool.pool import parallel_map, worker_count
from rcatool.scorecard import boundary_report, intervals, paired, protocol, report
from rcatool.scoring import ScoreJob, count_labels, score_masks
from rcatool.tally import PhotoTable, Tally

VOC_LABELS = len(VOC_CLASSES) + 1
Masks = str | os.PathLike[str] | Iterable[np.ndarray]
Photos = Iterable[str] | Literal["common"] | None


@dataclass(frozen=True)
class Score:
    """The score of one set of masks; `document` is what `rca score --json` prints, `photos` the counts of each photo.

    `miou` and `coverage` are in [0, 1], a predicted 255 being wrong; `iou` is by label, None for a label that neither masks nor
    ground truth have; `interval` is the 95 % bootstrap interval of `miou` over photos, None for a single photo; `confusion` is
    (L, L + 1) int64, rows truth, columns prediction, the last one a predicted 255.
    """

    miou: float
    iou: dict[str, float | None]
    interval: tuple[float, float] | None
    coverage: float
    images: int
    confusion: np.ndarray
    document: dict[str, Any]
    photos: PhotoTable

    def minus(self, other: "Score") -> dict[str, Any]:
        """The paired difference to the score of other masks: `miou`, its `interval`, and by label; DataError as `compare`."""
        difference: dict[str, Any] = compare(other, self)["difference"]
        return difference


def score(
    pred: Masks, gt: Masks, classes: int | None = None, *, photos: Photos = None, boundary: bool = False, workers: int = 1
) -> Score:
    """Score predicted masks against ground truth, both folders of PNGs (file names are ids) or iterables of (H, W) uint8 arrays.

    `classes` counts the background; None: VOC's 21, or as many as a mask holds. `photos` are the ids to score, or "common" for
    those that have both masks; None: every mask of the ground truth. `boundary` adds boundary IoU. `workers` processes read
    folders; with more than one, a script needs the usual `if __name__ == "__main__":`. Raises DataError naming the file that is
    missing, broken or of another size, ConfigError for an impossible number of classes.
    """
    if isinstance(pred, (str, os.PathLike)) and isinstance(gt, (str, os.PathLike)):
        pairing = pair_folders(Path(pred), Path(gt), photos=photos)
        return score_folders(pairing, classes, boundary=boundary, workers=workers)
    if isinstance(pred, (str, os.PathLike)) or isinstance(gt, (str, os.PathLike)):
        raise ConfigError("pred and gt: expected two folders, or two iterables of arrays")
    tally, most = Tally(), _highest(classes)
    for number, (prediction, truth) in enumerate(zip(pred, gt, strict=True)):
        tally.add(f"{number:06d}", count_labels(*_checked(truth, prediction, number, most), boundary=boundary))
    return _finish(tally, classes, {"list": f"{len(tally.ids)} arrays"})


def compare(a: Score, b: Score) -> dict[str, Any]:
    """Both scores and their paired difference b - a. Raises DataError unless both are of the same photos and ground truth."""
    truths = [each.document["protocol"]["ground_truth"] for each in (a, b)]
    if a.photos.ids != b.photos.ids or truths[0] != truths[1]:
        raise DataError("the two were scored on different photos or ground truth", "score both on the same list")
    return paired(a.photos, b.photos, label_names(max(len(a.confusion), len(b.confusion))))


@dataclass(frozen=True)
class Pairing:
    """Which files of two folders are scored against each other, and which have no partner."""

    pred: Path
    gt: Path
    ids: tuple[str, ...]
    name: str
    without_truth: int
    without_prediction: int


def pair_folders(pred: Path, gt: Path, *, photos: Photos = None, name: str = "") -> Pairing:
    """Find the PNGs to score; `name` is that of the list `photos`. Raises DataError where a file that is asked for is missing."""
    predicted, true = _stems(pred), _stems(gt)
    wanted = sorted(true) if photos is None else sorted(true & predicted) if photos == "common" else list(photos)
    if not wanted:
        raise DataError(f"no file name is in both {pred} and {gt}")
    for found, folder in ((true, gt), (predicted, pred)):
        missing = [photo for photo in wanted if photo not in found]
        if missing:
            hint = "--list FILE names the photos to score; --allow-missing takes those that have both" if photos is None else None
            raise DataError(f"{folder}: no mask for {len(missing)} of {len(wanted)} photos: {first_few(missing)}", hint)
    left = 0 if photos not in (None, "common") else len(true - set(wanted))
    default = f"all of {gt.name}" if photos is None else f"those of {gt.name} that have a prediction" if photos == "common" else "list"
    return Pairing(pred, gt, tuple(wanted), name or default, len(predicted - true), left)


def score_folders(
    pairing: Pairing, classes: int | None, *, boundary: bool, workers: int, breakdown: bool = False,
    bar: Callable[[int], object] | None = None,
) -> Score:  # fmt: skip
    """Score the files of a pairing, with a breakdown of what is wrong if asked for; `bar(1)` is called for each."""
    most = _highest(classes)
    jobs = [ScoreJob(i, pairing.pred / f"{i}.png", pairing.gt / f"{i}.png", None, most) for i in pairing.ids]
    tally = Tally()
    results = parallel_map(partial(score_masks, boundary=boundary, breakdown=breakdown), jobs, workers=worker_count(workers), bar=bar)
    try:
        for job, photo in zip(jobs, results, strict=True):
            tally.add(job.id, photo)
    except SetupError as error:
        raise SetupError(error.message, "use fewer: --workers 1") from error
    return _finish(tally, classes, {
        "list": pairing.name, "prediction_folder": str(pairing.pred), "truth_folder": str(pairing.gt),
        "predictions_without_truth": pairing.without_truth, "truth_without_prediction": pairing.without_prediction,
    })  # fmt: skip


def read_ids(path: Path) -> list[str]:
    """The ids of a list: the first word of each line, without folder and suffix where it is a path. DataError naming the file."""
    words = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    ids = [word.rpartition("/")[2].removesuffix(".jpg").removesuffix(".png") for word in words]
    twice = next((photo for photo, count in Counter(ids).items() if count > 1), None)
    if not ids or twice:
        raise DataError(f"{path}: {f'{twice} is there twice' if twice else 'the list is empty'}")
    return ids


def label_names(labels: int) -> tuple[str, ...]:
    """Names of all labels but background: VOC's classes for 21 labels, else numbers."""
    return VOC_CLASSES if labels == VOC_LABELS else tuple(f"label {k}" for k in range(1, labels))


def _finish(tally: Tally, classes: int | None, about: dict[str, Any]) -> Score:
    used = [value for value in np.flatnonzero(tally.joint.sum(axis=0) + tally.joint.sum(axis=1)).tolist() if value != IGNORE]
    highest = max(used, default=0)
    labels = classes or max(VOC_LABELS, highest + 1)
    confusion = tally.confusion(labels)
    if not confusion.any():
        raise DataError("nothing to score: no pixel of the ground truth has a label other than 255")
    names, table = label_names(labels), tally.table()
    conditions = protocol(
        name=about.pop("list"), photos=len(tally.ids), digest=tally.truth_digest(), labels=labels,
        stored="masks by value; RGB masks by VOC's colour map", highest_label=highest, scales=None, flip=None, crf=None,
        background="as in the masks", **about,
    )  # fmt: skip
    document = {
        "list": conditions["list"],
        "images": len(tally.ids),
        "threshold": None,
        **report(confusion, names),
        **intervals(table, labels),
        "conventions": emulate_labels(confusion),
        **boundary_report(tally.boundary, names),
        **breakdown_report(tally.errors, names),
        "protocol": conditions,
    }
    bounds = document.get("interval", {}).get("wrong")
    exact = scores(confusion)  # a document has six decimals
    return Score(
        miou=exact.miou,
        iou={name: None if np.isnan(value) else float(value) for name, value in zip(document["iou"], exact.iou, strict=True)},
        interval=(bounds[0], bounds[1]) if bounds else None, coverage=exact.coverage, images=len(tally.ids),
        confusion=confusion, document=document, photos=table,
    )  # fmt: skip


def _stems(folder: Path) -> set[str]:
    try:
        found = {entry.name.removesuffix(".png") for entry in os.scandir(folder) if entry.name.endswith(".png") and entry.name[0] != "."}
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror or error})", "rca score PRED GT: two folders of PNGs") from error
    if not found:
        raise DataError(f"{folder}: no PNG in this folder", "masks are <id>.png, one value per class")
    return found


def _highest(classes: int | None) -> int:
    """The highest label that masks may hold; ConfigError for a number of labels that cannot be."""
    if classes is None:
        return MAX_CLASSES
    if not 2 <= classes <= MAX_CLASSES + 1:
        raise ConfigError(f"classes: {classes}, expected 2..{MAX_CLASSES + 1} with the background")
    return classes - 1


def _checked(truth: np.ndarray, prediction: np.ndarray, number: int, most: int) -> Sequence[np.ndarray]:
    """The two arrays as uint8; DataError where they are no masks of the same photo with labels up to `most`."""
    arrays = []
    for name, array in (("gt", np.asarray(truth)), ("pred", np.asarray(prediction))):
        if array.ndim != 2 or array.dtype.kind not in "uib" or array.shape != np.shape(truth):
            shape = f"{array.dtype} of shape {array.shape}"
            raise DataError(f"{name}[{number}]: {shape}, expected whole numbers (H, W) as gt's {np.shape(truth)}")
        if array.size and not np.isin(np.unique(array), [*range(most + 1), IGNORE]).all():
            raise DataError(f"{name}[{number}]: values outside 0..{most} and {IGNORE}")
        arrays.append(array.astype(np.uint8))
    return arrays
