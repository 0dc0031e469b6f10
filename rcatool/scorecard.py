"""A score as a document: everything that is said about one set of label maps, as plain values with stable names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rcatool import bootstrap
from rcatool.boundary import DILATION, boundary_iou
from rcatool.conventions import plain
from rcatool.data.labels import IGNORE
from rcatool.metrics import UNLABELLED, divide, mean, scores
from rcatool.tally import PhotoTable

TOP_CONFUSIONS = 10
MEAN_RULE = "over labels with a pixel in truth or prediction"


def report(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The scores of a matrix (L, L + 1) whose labels but background are `names`: mIoU in [0, 1] with 255 counted wrong, and more.

    FP and FN come both ways: over the union, as IRN (IoU + FP + FN = 1), and over the true positives, as SEAM. Ratios without
    anything below the line are None.
    """
    labels = ("background", *names)
    by_rule = {rule: scores(confusion, unlabelled=rule) for rule in UNLABELLED}
    wrong = by_rule["wrong"]

    def by_name(values: np.ndarray) -> dict[str, float | None]:
        return {name: plain(float(value)) for name, value in zip(labels, values, strict=True)}

    return {
        "miou": plain(wrong.miou),
        "pixel_acc": plain(wrong.pixel_acc),
        "coverage": plain(wrong.coverage),
        "miou_unlabelled_as_background": plain(by_rule["background"].miou),
        "miou_unlabelled_dropped": plain(by_rule["dropped"].miou),
        "mean_precision": plain(mean(wrong.precision)),
        "mean_recall": plain(mean(wrong.recall)),
        "iou": by_name(wrong.iou),
        "precision": by_name(wrong.precision),
        "recall": by_name(wrong.recall),
        "fp_of_union": by_name(wrong.fp_of_union),
        "fn_of_union": by_name(wrong.fn_of_union),
        "fp_of_tp": by_name(wrong.fp_of_tp),
        "fn_of_tp": by_name(wrong.fn_of_tp),
        "absent_classes": [name for name, value in by_name(wrong.iou).items() if value is None],
        "confused": top_confusions(confusion, labels),
    }


def top_confusions(confusion: np.ndarray, labels: Sequence[str], most: int = TOP_CONFUSIONS) -> list[dict[str, Any]]:
    """Which label is taken for which, the largest share of the true label's pixels first; 255 is `no label`."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares[:, :-1], 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:most]
    columns = (*labels, "no label")
    pairs = [np.unravel_index(cell, shares.shape) for cell in order]
    return [
        {"truth": labels[t], "taken_for": columns[p], "share": plain(float(shares[t, p])), "pixels": int(confusion[t, p])}
        for t, p in pairs
        if shares[t, p] > 0
    ]


def intervals(table: PhotoTable, num_labels: int) -> dict[str, Any]:
    """The bootstrap interval of mIoU in each convention for a predicted 255; nothing for a single photo."""
    if len(table.ids) < 2:
        return {}
    sums = bootstrap.resampled_sums(table, num_labels)
    found = {rule: bootstrap.mean_over_labels(bootstrap.resampled_iou(sums, rule)) for rule in UNLABELLED}
    bounds = {rule: bootstrap.interval(values) for rule, values in found.items()}
    return {"interval": {rule: rounded(pair) for rule, pair in bounds.items()} | bootstrap.describe(len(table.ids))}


def boundary_report(counts: np.ndarray | None, names: Sequence[str]) -> dict[str, Any]:
    """Boundary IoU by label and its mean, of counts (3, 256); nothing where none were taken."""
    if counts is None:
        return {}
    labels = ("background", *names)
    iou = boundary_iou(counts[:, : len(labels)])
    return {
        "boundary": {
            "miou": plain(mean(iou)),
            "iou": {name: plain(float(value)) for name, value in zip(labels, iou, strict=True)},
            "dilation": DILATION,
            "definition": "IoU of the parts of both masks within 2 % of the diagonal from their own contour (Cheng et al. 2021)",
        }
    }


def paired(a: PhotoTable, b: PhotoTable, names: Sequence[str]) -> dict[str, Any]:
    """Scores `a` and `b` of the same photos, and the `difference` b - a, as mIoU and by label, with intervals of the differences.

    Both are resampled alike (paired bootstrap); `better` is the share of resamples in which b has the higher mIoU.
    """
    labels = ("background", *names)
    iou, whole = _resampled(a, b, len(labels))
    change = bootstrap.mean_over_labels(iou[1]) - bootstrap.mean_over_labels(iou[0])
    difference = whole[1] - whole[0]
    by_label = {
        name: {"difference": plain(float(difference[k])), "interval": rounded(bootstrap.interval((iou[1] - iou[0])[:, k]))}
        for k, name in enumerate(labels)
    }
    sides = [_side(each, labels) for each in whole]
    return {
        "a": sides[0],
        "b": sides[1],
        "difference": {
            "miou": plain(mean(whole[1]) - mean(whole[0])),
            "interval": rounded(bootstrap.interval(change)),
            "better": plain(float((change > 0).mean())),
            "iou": by_label,
            "bootstrap": bootstrap.describe(len(a.ids)),
        },
    }


def ratios(part: PhotoTable, reference: PhotoTable, names: Sequence[str]) -> dict[str, Any]:
    """Scores of the same photos, `seg` and `reference`, and the `ratio` of the first to the second, as mIoU and by label.

    Intervals are of the ratio, both being resampled alike; a ratio to 0 is None.
    """
    labels = ("background", *names)
    iou, whole = _resampled(part, reference, len(labels))
    share, drawn = divide(whole[0], whole[1]), divide(iou[0], iou[1])
    means = divide(*(bootstrap.mean_over_labels(each) for each in iou))
    return {
        "seg": _side(whole[0], labels),
        "reference": _side(whole[1], labels),
        "ratio": {
            "miou": plain(float(divide(np.array(mean(whole[0])), np.array(mean(whole[1]))))),
            "interval": rounded(bootstrap.interval(means)),
            "iou": {
                name: {"ratio": plain(float(share[k])), "interval": rounded(bootstrap.interval(drawn[:, k]))}
                for k, name in enumerate(labels)
            },
            "bootstrap": bootstrap.describe(len(part.ids)),
        },
    }  # fmt: skip


def _resampled(a: PhotoTable, b: PhotoTable, labels: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """IoU (R, L) of both in resamples that draw the same photos, and IoU (L,) of all photos."""
    assert a.ids == b.ids
    drawn = [bootstrap.resampled_iou(bootstrap.resampled_sums(table, labels)) for table in (a, b)]
    return drawn, [bootstrap.resampled_iou(table.sums(labels).sum(axis=0).reshape(1, 4, -1))[0] for table in (a, b)]


def _side(iou: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    return {"miou": plain(mean(iou)), "iou": {name: plain(float(value)) for name, value in zip(labels, iou, strict=True)}}


def rounded(bounds: tuple[float, float] | None) -> list[float] | None:
    """An interval for a document."""
    return None if bounds is None else [round(bounds[0], 6), round(bounds[1], 6)]


def protocol(*, name: str, photos: int, digest: str, labels: int, **more: Any) -> Mapping[str, Any]:
    """The conditions of a score that every target has; `more` are those of its kind."""
    return {
        "list": name,
        "images": photos,
        "ground_truth": f"sha256:{digest}",
        "labels": labels,
        "truth_ignore": IGNORE,
        "predicted_ignore": "counts as wrong",
        "mean": MEAN_RULE,
        **more,
    }
