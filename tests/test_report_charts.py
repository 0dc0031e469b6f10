"""Charts and curves of the report, against tables made by hand."""

import json
import re
from pathlib import Path

import pytest

from rcatool.log_lines import read_log
from rcatool.report.chart import Line, Mark, line_chart, nice_ticks, number, thinned
from rcatool.report.curves import RATE, curves


def places(svg: str, index: int) -> list[tuple[float, float]]:
    found = re.search(rf'<polyline class="line line-{index}" points="([^"]*)"', svg)
    assert found
    return [tuple(map(float, pair.split(","))) for pair in found[1].split()]  # type: ignore[misc]


def test_points_lie_where_a_ruler_puts_them() -> None:
    # The plotted area is x 46..326, y 12..156; axes 0..20 and 0..1.
    svg = line_chart([Line("a", [(0, 0.0), (10, 1.0), (20, 0.25)]), Line("b", [(5, 0.5)])], label="l", x_name="step")
    assert places(svg, 0) == [(46, 156), (186, 12), (326, 120)]
    assert places(svg, 1) == [(116, 84)]
    assert re.findall(r'text-anchor="end">([^<]*)<', svg) == ["0", "0.5", "1"]
    assert re.findall(r'text-anchor="middle">([^<]*)<', svg) == ["0", "5", "10", "15", "20", "step"]


def test_percent_marks_and_names() -> None:
    marks = [Mark(0.25, "<i>"), Mark(2, "out")]
    svg = line_chart([Line("a", [(0.0, 0.2), (1.0, 0.6)])], label="<b>&", x_name="<x>", marks=marks, percent=True)
    assert re.findall(r'text-anchor="end">([^<]*)<', svg) == ["0", "20", "40", "60"]
    assert places(svg, 0) == [(46, 108), (326, 12)]
    assert '<line class="mark" x1="116.0" x2="116.0"' in svg
    assert "&lt;i&gt;" in svg
    assert 'aria-label="&lt;b&gt;&amp;"' in svg
    assert "out" not in svg
    assert "<b>" not in svg
    assert "<x>" not in svg


def test_one_point_and_flat_lines_have_an_axis() -> None:
    for points in ([(3, 7.0)], [(1, 0.0), (2, 0.0)], [(1, -2.0), (2, -2.0)]):
        svg = line_chart([Line("a", points)], label="l", x_name="epoch")
        assert all(46 <= x <= 326 and 12 <= y <= 156 for x, y in places(svg, 0))
        assert "nan" not in svg


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]), (0, 0.6, [0, 0.2, 0.4, 0.6]), (3, 97, [0, 50, 100]), (0.011, 0.019, [0.01, 0.012, 0.014, 0.016, 0.018, 0.02]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]), (5, 5, [2, 4, 6, 8]), (0, 0, [-0.5, 0, 0.5]), (0, 350, [0, 100, 200, 300, 400]),
    ],
)  # fmt: skip
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_numbers_of_an_axis() -> None:
    values = (0, 0.5, 1, 20, 1000, 12_000, 0.0005, -0.25, 0.00012)
    assert [number(value) for value in values] == ["0", "0.5", "1", "20", "1000", "12k", "5e-4", "-0.25", "1.2e-4"]


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    points = [(float(k), float(k * k)) for k in range(5001)]
    kept = thinned(points)
    assert (len(kept), kept[0], kept[-1]) == (400, points[0], points[-1])
    assert thinned(points[:400]) == points[:400]


def log(tmp_path: Path, *entries: object) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return path


def test_curves_of_a_log(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        {"step": 20, "time": 100.0, "loss": 2.0, "lr": 0.1},
        {"step": 40, "time": 110.0, "loss": 1.0, "lr": 0.05, "loss_contrast": 7.0},
        {"epoch": 1, "val_map": 0.5, "memory": {"slots": [1, 2]}},
        {"step": 60, "time": 150.0, "loss": 0.5, "lr": 0.01},
        {"step": 80, "time": 155.0, "loss": 0.25, "lr": 0.0},
        {"epoch": 2, "val_map": None},
    )
    with path.open("a") as file:
        file.write('{"step": 100, "lo')  # a process that was killed
    found = {curve.field: curve for curve in curves(read_log(path), 8)}
    assert list(found) == ["loss", "loss_contrast", "val_map", RATE, "lr"]
    assert found["loss"].line.points == [(20, 2.0), (40, 1.0), (60, 0.5), (80, 0.25)]
    assert found["loss_contrast"].line.points == [(40, 7.0)]
    assert (found["val_map"].x_name, found["val_map"].line.points) == ("epoch", [(1, 0.5)])
    # 20 steps of 8 photos in 10 and in 5 seconds; from step 40 to 60 an epoch was validated.
    assert found[RATE].line.points == [(40, 16.0), (80, 32.0)]
    assert RATE not in {curve.field for curve in curves(read_log(path), None)}


def test_a_resumed_training_is_one_curve(tmp_path: Path) -> None:
    path = log(
        tmp_path, {"step": 10, "loss": 3.0}, {"epoch": 1, "val_map": 0.1}, {"step": 20, "loss": 9.0},
        {"step": 15, "loss": 2.0}, {"step": 20, "loss": 1.0}, {"epoch": 2, "val_map": 0.2}, [1], {"epoch": True}, {"loss": 5.0},
    )  # fmt: skip
    found = {curve.field: curve.line.points for curve in curves(read_log(path), 1)}
    assert found == {"loss": [(10, 3.0), (15, 2.0), (20, 1.0)], "val_map": [(1, 0.1), (2, 0.2)]}
    assert read_log(tmp_path / "none.jsonl") == []
