"""What the classifier says of each class in each photo, kept beside the CAMs, and the tags that it doubts.

The network looks at every photo with tags for its CAM anyway; its scores cost nothing more. They are appended photo by photo, each
process to a file of its own, and put together when the step is done, so that an interrupted step loses none.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcatool.data.manifest import Sample
from rcatool.data.npz import BROKEN, read_npz
from rcatool.errors import DataError
from rcatool.files import atomic_save, write_error

NAME = "tags.scores"  # no photo has a CAM of this name
_PARTS = ".scores-*.jsonl"  # hidden: no result of the step
_MOST = 500.0  # of a score either way: half precision holds it, and its probability is certain long before
MANY = 0.2  # a larger share of tags that are doubted says more of the classifier than of the tags
_AGAIN = "rca make-pseudo --force makes it again"


@dataclass(frozen=True)
class TagScores:
    """Scores before the sigmoid, (n, C) float16, of the photos `ids` (n,); averaged over scales and mirror images."""

    ids: tuple[str, ...]
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """(n, C) float64 in [0, 1]."""
        p: np.ndarray = 1 / (1 + np.exp(-self.logits.astype(np.float64)))
        return p


@dataclass(frozen=True)
class Doubt:
    """A tag that the classifier doubts, or a class that it sees without a tag; `beyond` where it is past what is usual of the class."""

    photo: str
    cls: int
    probability: float
    beyond: bool


@dataclass(frozen=True)
class Doubts:
    """The tags, or the classes without a tag, that are farthest past what is usual of their class, the farthest first.

    `total` says among how many, `beyond` how many of those are past it.
    """

    first: Sequence[Doubt]
    total: int
    beyond: int

    @property
    def says_little(self) -> bool:
        """Whether so many are beyond that the classifier rather than the tags is to be doubted."""
        return self.beyond > MANY * self.total


def add_scores(folder: Path, photo: str, logits: np.ndarray, *, process: int) -> None:
    """Keep the scores (C,) of a photo. Raises SetupError where nothing can be written."""
    path = folder / f".scores-{process}.jsonl"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": photo, "logits": logits.clip(-_MOST, _MOST).astype(np.float16).tolist()}) + "\n")
    except OSError as error:
        raise write_error(path, error) from error


def kept_scores(folder: Path, num_classes: int) -> dict[str, np.ndarray]:
    """The scores (C,) of each photo that has some, of this process or another, now or earlier; a half-written line counts for nothing."""
    found: dict[str, np.ndarray] = {}
    try:
        there = read_scores(folder, num_classes=num_classes)
        found = dict(zip(there.ids, there.logits, strict=True))
    except DataError:  # none yet, or broken: made again with the photos' CAMs
        pass
    for path in sorted(folder.glob(_PARTS)):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                photo, logits = str(entry["id"]), np.asarray(entry["logits"], np.float16)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if logits.shape == (num_classes,):
                found[photo] = logits
    return found


def join_scores(folder: Path, photos: Sequence[str], num_classes: int) -> None:
    """Write the scores of `photos`, which all have some, as one file, and remove the parts that it was made of."""
    kept = kept_scores(folder, num_classes)
    arrays = {"ids": np.asarray(photos), "logits": np.stack([kept[photo] for photo in photos])}
    atomic_save(folder / NAME, lambda file: np.savez(file, allow_pickle=False, **arrays))  # type: ignore[arg-type]
    for path in folder.glob(_PARTS):
        path.unlink()


def read_scores(folder: Path, *, num_classes: int) -> TagScores:
    """The scores in a folder of CAMs. Raises DataError where there are none, or they are broken or of other classes."""
    path = folder / NAME
    try:
        arrays = read_npz(path)
        ids, logits = arrays["ids"], arrays["logits"]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no scores of the classifier here", _AGAIN) from error
    except BROKEN as error:
        raise DataError(f"{path}: not a readable file of scores ({error})", _AGAIN) from error
    fits = ids.ndim == 1 and ids.dtype.kind == "U" and logits.shape == (len(ids), num_classes) and logits.dtype == np.float16
    if not fits or not bool(np.isfinite(logits).all()):
        raise DataError(f"{path}: not scores of {num_classes} classes", _AGAIN)
    return TagScores(tuple(ids.tolist()), logits)


def doubts(scores: TagScores, samples: Sequence[Sample], *, most: int) -> tuple[Doubts, Doubts]:
    """The tags that the classifier doubts and the classes that it sees without a tag, `most` of each.

    A tag is `beyond` where its probability is at most the mean of the class among photos without the tag; a class without a tag, where
    it is at least the mean among those with it. How far is measured in log-odds from that mean, so that a class that is learned badly, all
    of whose probabilities are low, does not fill the list. Photos without scores do not matter.
    """
    known = {sample.id: sample for sample in samples}
    rows = [row for row, photo in enumerate(scores.ids) if photo in known]
    ids, p = [scores.ids[row] for row in rows], scores.probabilities[rows]
    tagged = np.zeros(p.shape, bool)
    for number, photo in enumerate(ids):
        tagged[number, list(known[photo].classes)] = True
    found = []
    for among, sign in ((tagged, 1), (~tagged, -1)):
        usual = _mean_by_class(p, ~among)
        past = sign * (_log_odds(usual) - _log_odds(p))  # nan where there is no usual
        found.append(_first(ids, p, among, np.where(among, past, np.nan), most=most, sign=sign))
    return found[0], found[1]


def _first(ids: Sequence[str], p: np.ndarray, among: np.ndarray, past: np.ndarray, *, most: int, sign: int) -> Doubts:
    rows, classes = np.nonzero(among)
    far = np.nan_to_num(past[rows, classes], nan=-np.inf)
    order = np.lexsort((sign * p[rows, classes], -far))[:most]
    first = [
        Doubt(ids[row], cls, float(p[row, cls]), bool(past[row, cls] >= 0))
        for row, cls in zip(rows[order].tolist(), classes[order].tolist(), strict=True)
    ]
    return Doubts(first, len(rows), int((past >= 0).sum()))


def _log_odds(p: np.ndarray) -> np.ndarray:
    inner = p.clip(1e-12, 1 - 1e-12)
    odds: np.ndarray = np.log(inner) - np.log1p(-inner)
    return odds


def _mean_by_class(p: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean over the chosen of each column (C,); nan where there is none, which nothing is beyond."""
    number = chosen.sum(axis=0)
    return np.divide((p * chosen).sum(axis=0), number, out=np.full(p.shape[1], np.nan), where=number > 0)
