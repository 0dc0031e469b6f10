"""What the page of a run says of scores and training: headline, curves, thresholds, classes, errors. Plain values for the template."""

from collections.abc import Mapping
from typing import Any

from rcatool import comparison
from rcatool.log_lines import read_log
from rcatool.report.chart import Line, Mark, line_chart
from rcatool.report.curves import BATCH, RATE, SHARES, Curve, curves
from rcatool.report.facts import record_of, shown
from rcatool.run import Run
from rcatool.score_tables import ERRORS, SCORE_COLUMNS, TARGETS, percent, protocol_line, score_rows, signed, span
from rcatool.steps import STEPS

Document = Mapping[str, Any]
_CLASSES_COMPARED = ("cam", "refined", "pseudo", "seg_1", "pseudo_2", "seg")


def main_target(metrics: Mapping[str, Document]) -> str | None:
    """The target that a run is judged by: the last of the pipeline that was scored."""
    return next((name for name in comparison.TARGETS if name in metrics), None)


def headline(metrics: Mapping[str, Document], reference: Document | None) -> dict[str, Any] | None:
    """The score of the main target with its interval and conditions, the table of all, and their protocols."""
    target = main_target(metrics)
    if target is None:
        return None
    scores = metrics[target]
    rows = score_rows(metrics)
    kept = [k for k, _ in enumerate(SCORE_COLUMNS) if any(row[k] for row in rows)]
    return {
        "target": TARGETS[target],
        "miou": percent(scores["miou"]),
        "interval": span(scores.get("interval", {}).get("wrong")),
        "list": scores.get("list", ""),
        "images": scores.get("images", ""),
        "oracle": bool(scores.get("oracle")),
        "columns": [SCORE_COLUMNS[k] for k in kept],
        "rows": [[row[k] for k in kept] for row in rows],
        "protocol": protocol_line(scores) if scores.get("protocol") else "",
        "protocols": [(TARGETS.get(name, name), _flat(told.get("protocol", {}))) for name, told in metrics.items()],
        "reference": percent(reference["ratio"]["miou"]) if reference else "",
    }


def _flat(document: Document) -> list[tuple[str, str]]:
    """A protocol as (name, value) lines; settings inside it by their dotted names."""
    lines = []
    for name, value in document.items():
        if isinstance(value, Mapping):
            lines += [(f"{name}.{inner}", shown(each)) for inner, each in value.items()]
        else:
            lines.append((name.replace("_", " "), shown(value)))
    return lines


def training_charts(run: Run) -> list[dict[str, Any]]:
    """Of each training step with a log: its charts, main ones and others."""
    found = []
    for step in STEPS:
        lines = _curves(run, step)
        if lines:
            charts = [(curve.is_main, chart_of(curve)) for curve in lines]
            found.append({
                "step": step,
                "main": [chart for main, chart in charts if main],
                "others": [chart for main, chart in charts if not main],
            })  # fmt: skip
    return found


def _curves(run: Run, step: str) -> list[Curve]:
    batch = record_of(run, step).get("settings", {}).get(BATCH.get(step, "seg.batch_size"))
    return curves(read_log(run.dir(step) / "log.jsonl"), batch if isinstance(batch, int) else None)


def chart_of(curve: Curve) -> dict[str, Any]:
    """A curve's title, its last value, and its drawing."""
    value = _last(curve)
    label = f"{curve.title} by {curve.x_name}: {len(curve.line.points)} values, the last one {value}"
    drawing = line_chart([curve.line], label=label, x_name=curve.x_name, percent=curve.field in SHARES)
    return {"title": curve.title, "last": value, "svg": drawing}


def _last(curve: Curve) -> str:
    last = curve.line.points[-1][1]
    return f"{percent(last)} %" if curve.field in SHARES else f"{last:.1f}" if curve.field == RATE else f"{last:.4g}"


def paired_charts(a: Run, b: Run) -> list[dict[str, Any]]:
    """As `training_charts`, of two runs: each main curve of both in one chart, the first run's line first."""
    found = []
    for step in STEPS:
        both = [{(curve.field, curve.x_name): curve for curve in _curves(run, step) if curve.is_main} for run in (a, b)]
        charts = [_pair(both[0].get(key), both[1].get(key)) for key in dict.fromkeys([*both[0], *both[1]])]
        if charts:
            found.append({"step": step, "main": charts, "others": []})
    return found


def _pair(a: Curve | None, b: Curve | None) -> dict[str, Any]:
    one = a or b
    assert one is not None
    lines = [Line(letter, curve.line.points if curve else ()) for letter, curve in (("A", a), ("B", b))]
    last = ", ".join(f"{letter} {_last(curve)}" for letter, curve in (("A", a), ("B", b)) if curve)
    label = f"{one.title} by {one.x_name}, the last values: {last}"
    return {"title": one.title, "last": last, "svg": line_chart(lines, label=label, x_name=one.x_name, percent=one.field in SHARES)}


def threshold_chart(metrics: Mapping[str, Document]) -> dict[str, Any] | None:
    """mIoU of CAMs by background threshold, with the best one, the one chosen on tune, and that of the labels."""
    lines, words = [], []
    for name in ("cam", "refined"):
        curve = metrics.get(name, {}).get("curve")
        if curve:
            points = [(point["threshold"], point["miou"]) for point in curve if point["miou"] is not None]
            lines.append(Line(TARGETS[name], points))
            words.append(f"{TARGETS[name]}: best {percent(metrics[name]['miou'])} % at {metrics[name]['threshold']:.2f}")
    if not lines:
        return None
    first = metrics["cam" if "cam" in metrics else "refined"]
    marks = [Mark(first["threshold"], "best")]
    used = metrics.get("pseudo", {}).get("threshold")
    if used is not None and used != first["threshold"]:
        marks.append(Mark(used, "labels"))
    label = f"mIoU by background threshold. {'; '.join(words)}"
    chart = line_chart(lines, label=label, x_name="background threshold", marks=marks, percent=True)
    return {"svg": chart, "lines": [line.name for line in lines], "words": words, "used": used}


def class_rows(metrics: Mapping[str, Document]) -> dict[str, Any] | None:
    """IoU of each class: a bar of the main target, a tick of the first, and the numbers of all; the best class first."""
    target = main_target(metrics)
    if target is None:
        return None
    names = [name for name in _CLASSES_COMPARED if name in metrics]
    iou = metrics[target]["iou"]
    first = names[0] if names[0] != target else None
    names = [target, *(name for name in names if name != target)]
    order = sorted(iou, key=lambda name: -1.0 if iou[name] is None else iou[name], reverse=True)
    rows = [
        {
            "name": name,
            "bar": percent(iou[name]) if iou[name] is not None else None,
            "tick": percent(metrics[first]["iou"].get(name)) if first and metrics[first]["iou"].get(name) is not None else None,
            "values": [percent(metrics[each]["iou"].get(name)) for each in names],
        }
        for name in order
    ]
    means = [percent(metrics[each]["miou"]) for each in names]
    return {"target": TARGETS[target], "first": TARGETS[first] if first else "", "columns": names, "rows": rows, "means": means}


def error_tables(metrics: Mapping[str, Document]) -> dict[str, Any] | None:
    """Of the main target: which class is taken for which, and what each kind of wrong pixel costs."""
    target = main_target(metrics)
    if target is None:
        return None
    scores = metrics[target]
    pairs = [(p["truth"], p["taken_for"], percent(p["share"]), f"{p['pixels']:,}") for p in scores.get("confused", [])]
    told = scores.get("breakdown")
    lost = [] if told is None else [
        (words.format(near=told["near"]), percent(told["kinds"][kind]["share"]), signed(told["kinds"][kind]["gain"]))
        for kind, words in ERRORS["kinds"].items() if told["kinds"][kind]["pixels"]
    ]  # fmt: skip
    return {"target": TARGETS[target], "pairs": pairs, "lost": lost, "scored": "confused" in scores}
