"""Line charts as inline SVG: text and colours come from the page's style sheet, so one drawing serves light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 190  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 34  # margins around the plotted area
MOST_POINTS = 400  # of a line; more could not be told apart
ZERO_BELOW = 0.4  # an axis begins at zero where the least value is below this share of the largest


@dataclass(frozen=True)
class Line:
    """A named line: points (x, y) in ascending order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A vertical line at `x` with a word beside it."""

    x: float
    text: str


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that enclose [low, high], some `about` of them; one unit around a single value."""
    if high <= low:
        low, high = (low - 0.5, high + 0.5) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((unit * power for unit in (1, 2, 5, 10) if unit * power >= rough * 0.999), default=10 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(round(index * step, 12)) for index in range(first, last + 1)]


def number(value: float) -> str:
    """A number for an axis: at most four digits that count, no trailing zeros, thousands as `k`."""
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e") if 0 < abs(value) < 0.001 else f"{value:.4g}"


def line_chart(lines: Sequence[Line], *, label: str, x_name: str, marks: Sequence[Mark] = (), percent: bool = False) -> Markup:
    """The SVG of some lines over a common x axis called `x_name`; `label` is read out instead of it. Lines without a point are left out.

    The k-th line has the class `line-k`, a mark the class `mark`. With `percent` y values are shares and the axis says percent.
    """
    shown = [(k, line) for k, line in enumerate(lines) if line.points]
    assert shown, "a chart needs a point"
    xs = [x for _, line in shown for x, _ in line.points]
    ys = [y * (100 if percent else 1) for _, line in shown for _, y in line.points]
    low = 0.0 if 0 <= min(ys) < ZERO_BELOW * max(ys) else min(ys)
    ticks, x_range = nice_ticks(low, max(ys)), (min(xs), max(xs))
    frame = _Frame(*x_range, ticks[0], ticks[-1], 100 if percent else 1)
    whole = all(float(x).is_integer() for x in xs)
    parts = [_y_axis(frame, ticks), _x_axis(frame, x_name, whole=whole and len(set(xs)) > 2)]
    parts += [_mark(frame, mark, row) for row, mark in enumerate(marks) if x_range[0] <= mark.x <= x_range[1]]
    parts += [_polyline(frame, k, line) for k, line in shown]
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" preserveAspectRatio="xMidYMid meet">'
        f"{''.join(parts)}</svg>"
    )


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the drawing; y values are multiplied by `unit` first."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    unit: float = 1.0

    def x(self, value: float) -> float:
        width = WIDTH - LEFT - RIGHT
        return LEFT + (width * (value - self.x_low) / (self.x_high - self.x_low) if self.x_high > self.x_low else width / 2)

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.y_high - value * self.unit) / (self.y_high - self.y_low)


def _y_axis(frame: _Frame, ticks: Sequence[float]) -> str:
    parts = []
    for tick in ticks:
        y = frame.y(tick / frame.unit)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    return "".join(parts)


def _x_axis(frame: _Frame, name: str, *, whole: bool) -> str:
    """Numbers at nice places within the axis, whole ones only if its values are, and its name."""
    y, low, high = HEIGHT - BOTTOM, frame.x_low, frame.x_high
    ticks = [tick for tick in nice_ticks(low, high, 6) if low <= tick <= high and (not whole or tick.is_integer())] if high > low else [low]
    parts = [f'<text x="{frame.x(tick):.1f}" y="{y + 15}" text-anchor="middle">{number(tick)}</text>' for tick in ticks]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "".join(parts) + f'<text class="axis" x="{middle:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(name)}</text>'


def _mark(frame: _Frame, mark: Mark, row: int) -> str:
    """The vertical line and its word, each mark's in a row of its own."""
    x, y = frame.x(mark.x), HEIGHT - BOTTOM - 6 - 14 * row
    side, anchor = (-4, "end") if x > LEFT + 0.7 * (WIDTH - LEFT) else (4, "start")
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="mark" x="{x + side:.1f}" y="{y}" text-anchor="{anchor}">{escape(mark.text)}</text>'
    )


def _polyline(frame: _Frame, index: int, line: Line) -> str:
    places = [f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in thinned(line.points)]
    x, y = places[-1].split(",")
    return f'<polyline class="line line-{index}" points="{" ".join(places)}"/><circle class="line-{index}" cx="{x}" cy="{y}" r="2.6"/>'


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` of the points, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(k * (len(points) - 1) / (most - 1))] for k in range(most)]
