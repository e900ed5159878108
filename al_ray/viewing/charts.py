"""Charts as shapes in a box, for a template to draw: lines with bands, points with bars, stacked phases.

Positions are in the units of the box; colours are classes, which the style sheet gives for light and dark.
What has more steps than anybody can see is told by the mean of each few.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

WIDTH: Final = 560
HEIGHT: Final = 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 20
"""Margins for the numbers."""
_MOST: Final = 400
"""Points of a line, or dots."""
_BARS: Final = 90
_LEAST_ROOM: Final = 1e-9
"""Of the largest number: its axis tells no smaller differences."""
_LARGEST: Final = 1e300
"""What is larger is drawn as this: differences of such numbers would overflow."""
_SMALLEST: Final = 1e-300
"""Steps between ticks: powers of ten below would vanish."""
COLOURS: Final = 8
"""How many the style sheet has; a series beyond begins again."""


@dataclass(frozen=True, slots=True)
class Point:
    """A number and its band."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Series:
    """One line. ``dots``: it is drawn point by point, each with a bar for its band."""

    label: str
    colour: int
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    """A point in the box, with the ends of its bar."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """A series in the box: SVG paths, the band's empty where it has none."""

    label: str
    colour: int
    path: str
    band: str
    dots: Sequence[Dot]


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of a stacked column."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All that is drawn."""

    title: str
    unit: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    labels: Sequence[tuple[str, int]] = ()
    """Of bars, with their colours."""
    limit: float | None = None
    """Where a line is drawn that is not to be passed."""
    data: str = "[]"
    """JSON, for whoever points at it: ``[[label, [[x, y, x in the box, y in the box], ...]], ...]``."""


def series(
    lines: Sequence[Mapping[str, Any]],
    key: str,
    label: str,
    colour: int,
    *,
    error: str = "",
    dots: bool = False,
) -> Series:
    """Of a metric by ascending step; of several lines of a step the last one counts."""
    last = {line["step"]: line for line in lines if line.get(key) is not None}
    points = []
    for step in sorted(last):
        value, around = last[step][key], (last[step].get(error) or 0.0) if error else 0.0
        points.append(Point(step, value, value - around, value + around))
    return Series(label, colour, points, dots)


def chart(
    title: str, unit: str, drawn: Sequence[Series], *, x_end: float = 1, limit: float | None = None
) -> Chart | None:
    """None where there is nothing to draw."""
    drawn = [_thinned(_capped(each)) for each in drawn if each.points]
    if not drawn:
        return None
    points = [point for each in drawn for point in each.points]
    ends = [end for point in points for end in (point.low, point.high)]
    if limit is not None:
        ends.append(limit)
    low, high = _around(min(ends), max(ends))
    x_end = max(x_end, *(point.x for point in points))
    box = _Box(min(0.0, *(point.x for point in points)), x_end, low, high)
    told = [
        [each.label, [[p.x, p.y, round(box.x(p.x), 1), round(box.y(p.y), 1)] for p in each.points]]
        for each in drawn
    ]
    return Chart(
        title,
        unit,
        box.x_ticks(),
        box.y_ticks(),
        [_line(each, box) for each in drawn],
        limit=None if limit is None else round(box.y(limit), 1),
        data=json.dumps(told),
    )


def stacked(title: str, unit: str, rows: Sequence[tuple[int, Mapping[str, float]]]) -> Chart | None:
    """A column a step, or every few of them; a piece a name, in the order in which they are first met."""
    if not rows:
        return None
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    every = math.ceil(len(rows) / _BARS)
    columns = [rows[start : start + every] for start in range(0, len(rows), every)]
    heights = [
        {name: fmean(_cap(parts.get(name, 0.0)) for _, parts in column) for name in names}
        for column in columns
    ]
    box = _Box(rows[0][0] - 0.5, rows[-1][0] + 0.5, 0.0, max(max(sum(h.values()) for h in heights), 1e-9))
    bars = []
    for column, parts in zip(columns, heights, strict=True):
        left, right = box.x(column[0][0] - 0.45), box.x(column[-1][0] + 0.45)
        below = 0.0
        for colour, name in enumerate(names):
            top, bottom = box.y(below + parts[name]), box.y(below)
            below += parts[name]
            steps = f"step {column[0][0]}" + (f" to {column[-1][0]}" if len(column) > 1 else "")
            text = f"{steps}: {name} {number(parts[name])} {unit}"
            x, y, width, height = (round(n, 1) for n in (left, top, right - left, bottom - top))
            bars.append(Bar(x, y, width, height, colour, text))
    return Chart(
        title,
        unit,
        box.x_ticks(),
        box.y_ticks(),
        bars=bars,
        labels=[(name, colour) for colour, name in enumerate(names)],
    )


def number(value: float | None) -> str:
    """As a reader takes it in."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class _Box:
    """What is where: ``x`` and ``y`` from numbers to positions."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / (self.right - self.left or 1) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - _TOP - _BOTTOM)

    def x_ticks(self) -> Sequence[Tick]:
        places = [place for place in _round_numbers(self.left, self.right, 6) if place == int(place)]
        return [Tick(round(self.x(place), 1), number(place)) for place in places]

    def y_ticks(self) -> Sequence[Tick]:
        return [Tick(round(self.y(at), 1), number(at)) for at in _round_numbers(self.low, self.high, 6)]


def _line(each: Series, box: _Box) -> Line:
    places = [(box.x(p.x), box.y(p.y), box.y(p.low), box.y(p.high)) for p in each.points]
    dots = [Dot(*(round(n, 1) for n in place)) for place in places]
    if each.dots:
        return Line(each.label, each.colour, _path(places, 1), "", dots)
    banded = any(point.low != point.high for point in each.points)
    band = _path([*places], 2) + _path([*reversed(places)], 3).replace("M", "L", 1) + "Z" if banded else ""
    return Line(each.label, each.colour, _path(places, 1), band, dots if len(dots) == 1 else ())


def _path(places: Sequence[tuple[float, ...]], part: int) -> str:
    return "M" + "L".join(f"{place[0]:.1f},{place[part]:.1f}" for place in places)


def _cap(value: float) -> float:
    return max(-_LARGEST, min(_LARGEST, value))


def _capped(each: Series) -> Series:
    points = [Point(p.x, _cap(p.y), _cap(p.low), _cap(p.high)) for p in each.points]
    return Series(each.label, each.colour, points, each.dots)


def _thinned(each: Series) -> Series:
    """With the mean of every few points in their place, where there are many."""
    every = math.ceil(len(each.points) / _MOST)
    if every <= 1:
        return each
    parts = [each.points[start : start + every] for start in range(0, len(each.points), every)]
    means = [
        Point(
            x=part[len(part) // 2].x,
            y=fmean(point.y for point in part),
            low=fmean(point.low for point in part),
            high=fmean(point.high for point in part),
        )
        for part in parts
    ]
    return Series(each.label, each.colour, means, each.dots)


def _around(low: float, high: float) -> tuple[float, float]:
    """With some room: more than floating-point numbers of that size are apart."""
    room = max((high - low) * 0.06 or abs(high) * 0.1 or 1.0, max(abs(low), abs(high)) * _LEAST_ROOM)
    return low - (0.0 if low == 0 else room), high + room


def _round_numbers(low: float, high: float, about: int) -> Sequence[float]:
    """About so many, evenly apart."""
    raw = max((high - low) / about, _SMALLEST)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{number * step:.15g}") for number in range(first, last + 1)]
