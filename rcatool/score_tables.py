"""Scores as tables: of a run's targets, of two folders of masks, and of two results side by side. Nothing is computed here.

Intervals and boundary IoU are left out where no row has them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rcatool import console

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]

TARGETS = {
    "cam": "CAMs", "refined": "refined CAMs", "pseudo": "pseudo labels", "seg_1": "network of round 1", "pseudo_2": "labels of round 2",
    "seg": "segmentation network",
}  # fmt: skip
SCORE_COLUMNS = ("target", "mIoU %", "95 %", "boundary", "list", "images", "threshold")
PEERS = {"irn": "IRN", "eps": "EPS", "seam": "SEAM", "clip-es": "CLIP-ES"}
_UNLABELLED = {"wrong": "miou", "background": "miou_unlabelled_as_background", "dropped": "miou_unlabelled_dropped"}
_MOST_CONFUSIONS = 5
ERRORS = {
    "kinds": {
        "confusion": "one class taken for another",
        "missed_object": "missed: the class is predicted nowhere in the photo",
        "missed_part": "missed: {near} pixels from the border or more",
        "missed_border": "missed: nearer to it",
        "spill": "background: within {near} pixels of the class",
        "leak": "background: farther away",
        "false_object": "background: the photo has no such class",
        "ignored": "no label (255)",
    },
    "groups": {"missed": "all that is missed", "invented": "all background", "border": "both sides of the border"},
}


def run_tables(metrics: Mapping[str, Document]) -> list["RenderableType"]:
    """The tables of `rca eval`: IoU by class, the scores, what other evaluators would say, and the protocols."""
    found = [class_table(metrics), score_table(metrics), *breakdown_tables(metrics)]
    if any("conventions" in scores for scores in metrics.values()):
        protocols = [f"{TARGETS.get(name, name)}: {protocol_line(scores)}" for name, scores in metrics.items()]
        found += [_peer_table(metrics), "\n".join(protocols)]
    return found


def score_table(metrics: Mapping[str, Document]) -> "RenderableType":
    """One line per target: mIoU with its interval, what it was measured on, and the threshold and what chose it.

    `oracle`: the best on the very masks that are scored; `tune`: the best on the tune photos, whose masks took no part in the score.
    """
    title = "scores (with the 95 % bootstrap interval over photos, and boundary IoU %)"
    return _table(title, SCORE_COLUMNS, score_rows(metrics), optional=("95 %", "boundary"))


def score_rows(metrics: Mapping[str, Document]) -> list[list[str]]:
    """The cells of `score_table`, of SCORE_COLUMNS."""
    rows = []
    for name, scores in metrics.items():
        rows.append(_score_row(name, scores, scores, "oracle" if scores.get("oracle") else ""))
        if "threshold_from_tune" in scores:
            rows.append(_score_row(name, scores, scores["threshold_from_tune"], "tune"))
    return rows


def _score_row(target: str, measured: Document, scores: Document, chosen: str) -> list[str]:
    threshold = "" if scores.get("threshold") is None else f"{scores['threshold']:.2f}{f' ({chosen})' if chosen else ''}"
    return [
        TARGETS.get(target, target), percent(scores["miou"]), span(scores.get("interval", {}).get("wrong")),
        percent(scores["boundary"]["miou"]) if "boundary" in scores else "",
        str(measured.get("list", "")), str(measured.get("images", "")), threshold,
    ]  # fmt: skip


def class_table(metrics: Mapping[str, Document]) -> "RenderableType":
    """IoU of each class, one column per target."""
    names = dict.fromkeys(name for scores in metrics.values() for name in scores.get("iou", {}))
    rows = [[name, *(percent(scores.get("iou", {}).get(name)) for scores in metrics.values())] for name in names]
    return console.table("IoU % by class", ("class", *metrics), rows)


def _peer_table(metrics: Mapping[str, Document]) -> "RenderableType":
    rows = []
    for name, scores in metrics.items():
        ours = [percent(scores.get(key)) for key in _UNLABELLED.values()]
        theirs = [percent(scores.get("conventions", {}).get(peer, {}).get("miou")) for peer in PEERS]
        rows.append([TARGETS.get(name, name), percent(scores.get("coverage")), *ours, *theirs])
    title = "mIoU % where a predicted 255 is wrong, background or dropped, and as other evaluators count"
    return console.table(title, ("target", "cover", "wrong", "backgr.", "dropped", *PEERS.values()), rows)


def breakdown_tables(metrics: Mapping[str, Document]) -> list["RenderableType"]:
    """What is lost, and where: the kinds of wrong pixels with their price, and mIoU by distance to the border; none where not counted."""
    told = {name: scores["breakdown"] for name, scores in metrics.items() if "breakdown" in scores}
    if not told:
        return []
    near = next(iter(told.values()))["near"]
    rows = [
        [words.format(near=near), *(_price(each[part][kind]) for each in told.values())]
        for part, kinds in ERRORS.items() for kind, words in kinds.items()
    ]  # fmt: skip
    names = next(iter(told.values()))["bands"]
    bands = [[f"{name} pixels", *(_banded(each["bands"][name]) for each in told.values())] for name in names]
    columns = [TARGETS.get(name, name) or "masks" for name in told]
    return [
        console.table("what is lost: % of the wrong pixels, and what mIoU would gain if they were right", ("wrong", *columns), rows),
        console.table("by distance to the true border: % of all pixels, and their mIoU %", ("distance", *columns), bands),
    ]


def _price(told: Document) -> str:
    return f"{percent(told['share'])}: {signed(told['gain'])}"


def _banded(told: Document) -> str:
    return f"{percent(told['share'])}: {percent(told['miou'])}"


def protocol_line(scores: Document) -> str:
    """How a score came about, in a line."""
    told = scores.get("protocol", {})
    views = f"scales {', '.join(map(str, told['scales']))}{', flip' if told.get('flip') else ''}; " if told.get("scales") else ""
    return (
        f"list {told.get('list')} ({told.get('images')} photos), ground truth {told.get('ground_truth')}, "
        f"{told.get('labels')} labels; {views}CRF {told.get('crf')}; background: {told.get('background')}; predicted 255 "
        f"{told.get('predicted_ignore')}; mean {told.get('mean')}"
    )


def mask_tables(document: Document) -> list["RenderableType"]:
    """The tables of `rca score`: by class, mIoU in every convention, the largest confusions, and the protocol."""
    found = [_ratio_table(document), _convention_table(document)]
    confused = document["confused"][:_MOST_CONFUSIONS]
    if confused:
        rows = [[pair["truth"], pair["taken_for"], percent(pair["share"]), f"{pair['pixels']:,}"] for pair in confused]
        found.append(console.table("largest confusions", ("of this class", "taken for", "share %", "pixels"), rows))
    return [*found, *breakdown_tables({"": document}), _protocol_block(document)]


def _ratio_table(document: Document) -> "RenderableType":
    ratios = {"IoU": "iou", "precision": "precision", "recall": "recall", "FP/union": "fp_of_union", "FN/union": "fn_of_union"}
    boundary = document.get("boundary", {"iou": {}})["iou"]
    rows = [
        [name, *(percent(document[key][name]) for key in ratios.values()), *([percent(boundary[name])] if boundary else [])]
        for name in document["iou"]
    ]
    means = [percent(document[key]) for key in ("miou", "mean_precision", "mean_recall")]
    rows.append(["mean", *means, "", "", *([percent(document["boundary"]["miou"])] if boundary else [])])
    return console.table("% by class", ("class", *ratios, *(["boundary IoU"] if boundary else [])), rows)


def _convention_table(document: Document) -> "RenderableType":
    bounds = document.get("interval", {})
    rules = {"wrong": "a predicted 255 is wrong", "background": "it counts as background", "dropped": "such pixels do not count"}
    rows = [[f"255 {rule}", percent(document[key], 2), span(bounds.get(rule)), rules[rule]] for rule, key in _UNLABELLED.items()]
    rows += [[PEERS[name], percent(told["miou"], 2), "", _rule(told)] for name, told in document["conventions"].items()]
    return _table("mIoU %", ("convention", "mIoU %", "95 % interval", "rule"), rows, optional=("95 % interval",))


def _rule(told: Document) -> str:
    rates = {
        "fp_foreground": "FP {:.3f}", "fn_foreground": "FN {:.3f} of the union", "fp_of_tp": "FP {:.3f}", "fn_of_tp": "FN {:.3f} of TP",
    }  # fmt: skip
    found = [text.format(told[key]) for key, text in rates.items() if told.get(key) is not None]
    return f"{told['rule']}; foreground {', '.join(found)}" if found else str(told["rule"])


def _protocol_block(document: Document) -> str:
    told, bounds = document["protocol"], document.get("interval")
    left = (("predictions without a mask", "predictions_without_truth"), ("masks without a prediction", "truth_without_prediction"))
    lines = {
        "list": f"{told['list']}, {told['images']} photos",
        "ground truth": told["ground_truth"],
        "labels": f"{told['labels']} with the background; the highest in any mask is {told['highest_label']}",
        "pixels": f"true 255 never counts; predicted 255 {told['predicted_ignore']}; coverage {percent(document['coverage'], 2)} %",
        "mean": told["mean"],
        "masks": f"{told['stored']}; scales, flip, CRF and background rule are not known from masks",
        **{name: f"{told[key]}, left out" for name, key in left if told.get(key)},
    }
    if bounds:
        lines["interval"] = f"{bounds['method']} over {bounds['over']}, {bounds['resamples']} resamples, seed {bounds['seed']}"
    return "protocol\n" + "\n".join(f"  {name}: {text}" for name, text in lines.items())


def pair_tables(document: Document, names: Sequence[str]) -> list["RenderableType"]:
    """The tables of a comparison: `document` has `a`, `b` (mIoU and IoU by class) and their `difference` b - a; `names` call them."""
    a, b, difference = document["a"], document["b"], document["difference"]
    rows = [["mIoU", percent(a["miou"], 2), percent(b["miou"], 2), signed(difference["miou"]), _change(difference["interval"])]]
    rows += [
        [label, percent(a["iou"].get(label)), percent(b["iou"].get(label)), signed(told["difference"]), _change(told["interval"])]
        for label, told in difference["iou"].items()
    ]
    bounds = difference["bootstrap"]
    text = (
        f"A is {names[0]}\nB is {names[1]}\nB has the higher mIoU in {percent(difference['better'])} % of {bounds['resamples']} "
        f"resamples of the same {bounds['over']} (paired bootstrap)"
    )
    return [_table("% of each, and B - A", ("IoU", "A", "B", "B - A", "95 % interval"), rows), text]


def reference_tables(document: Document) -> list["RenderableType"]:
    """What `rca eval --reference` says: both networks, the share that ours reaches, and its interval, as mIoU and by class."""
    ours, theirs, ratio = document["seg"], document["reference"], document["ratio"]
    rows = [["mIoU", percent(theirs["miou"], 2), percent(ours["miou"], 2), percent(ratio["miou"]), span(ratio["interval"])]]
    rows += [
        [name, percent(theirs["iou"][name]), percent(ours["iou"][name]), percent(told["ratio"]), span(told["interval"])]
        for name, told in ratio["iou"].items()
    ]
    bounds = ratio["bootstrap"]
    text = (
        f"reference: network {document['fingerprint'][:12]}, trained on {document['trained_on']} labels; intervals over "
        f"{bounds['over']}, {bounds['resamples']} resamples that draw the same photos for both"
    )
    title = f"share of the reference's IoU on {document['list']} ({document['images']} photos)"
    return [_table(title, ("IoU", "reference %", "this %", "share %", "95 %"), rows), text]


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, `-` for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference of shares in points, `-` for None."""
    return "-" if value is None else f"{100 * value:+.2f}"


def _change(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{signed(bounds[0])} to {signed(bounds[1])}"


def span(bounds: Sequence[float] | None) -> str:
    """An interval of shares in percent, empty for None."""
    return "" if bounds is None else f"{percent(bounds[0])}-{percent(bounds[1])}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str] = ()) -> "RenderableType":
    kept = [k for k, name in enumerate(columns) if name not in optional or any(row[k] for row in rows)]
    return console.table(title, [columns[k] for k in kept], [[row[k] for k in kept] for row in rows])
