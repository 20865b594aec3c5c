"""Curves as SVG: a small pure drawing of lines, bands and points, usually over the samples of a stream.

Colours and strokes come from the page's style sheet, by class. Each chart is drawn for a wide and a narrow
screen, so that its letters keep their size; the style sheet shows the one that fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Points = Sequence[tuple[float, float]]

SIZES = (("wide", 860, 330, 8), ("narrow", 358, 290, 4))  # name, width, height, ticks along the stream
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 26, 40  # margins around the plot
MOST_TICKS = 6
DOT = 3.5
LETTER = 7.2  # width of one, on average
SETTLED = 0.1  # the y axis fits what comes after this share of the stream


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name in the legend, its classes in the style sheet, its points (sample, value).

    ``edges`` are the lower and the upper edge of its band; where the points are scattered, of their intervals.
    """

    name: str
    kind: str
    points: Points
    style: Literal["curve", "dotted curve", "scatter"] = "curve"
    edges: tuple[Points, Points] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure from ``start`` to ``end``, and from ``low`` to ``high``; what lies outside is cut off.

    ``description`` is for those who do not see it, ``reading`` is printed below, ``unit`` names the y axis and
    ``across`` the x axis. ``band`` has a name, its lower and its upper edge. ``marks`` have a name, and where they
    stand.
    """

    key: str
    title: str
    description: str
    unit: str
    end: float
    low: float
    high: float
    lines: tuple[Line, ...]
    band: tuple[str, Points, Points] | None = None
    reading: str = ""
    across: str = "samples of the stream"
    start: float = 0.0
    logarithmic: bool = False  # the x axis
    marks: tuple[str, Sequence[float]] | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the values of a chart are in a drawing of ``width`` by ``height``."""

    chart: Chart
    width: int
    height: int

    def x(self, sample: float) -> float:
        at, start, end = (self._scaled(value) for value in (sample, self.chart.start, self.chart.end))
        return LEFT + (self.width - LEFT - RIGHT) * (at - start) / (end - start or 1)

    def _scaled(self, value: float) -> float:
        return math.log(max(value, 1e-9)) if self.chart.logarithmic else value

    def y(self, value: float) -> float:
        low, high = self.chart.low, self.chart.high
        return TOP + (self.height - TOP - BOTTOM) * (high - value) / (high - low)

    def path(self, points: Points) -> str:
        return "L".join(f"{self.x(a):.1f} {self.y(b):.1f}" for a, b in points)


def drawings(chart: Chart) -> str:
    """Return the chart as SVG, once for each size."""
    return "".join(_svg(Frame(chart, width, height), name, ticks) for name, width, height, ticks in SIZES)


def standalone(chart: Chart, style: str) -> str:
    """Return the chart as an SVG file of its own, with its title and legend; ``style`` is the style sheet."""
    name, width, height, most_ticks = SIZES[0]
    keys: list[str] = []
    at, row = LEFT, 0
    for text, drawn in _keys(chart):
        wide = 46 + round(LETTER * len(text))
        if at + wide > width and at > LEFT:
            at, row = LEFT, row + 1
        key = f'<g transform="translate({at} {26 + 20 * row})">{drawn}{_text("unit", 32, 10, "start", text)}</g>'
        keys.append(key)
        at += wide
    above = 46 + 20 * row
    place = f'<svg y="{above}" width="{width}" height="{height}"'
    drawing = _svg(Frame(chart, width, height), name, most_ticks).replace(
        f'<svg class="chart {name}"', place, 1
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + above}" class="page">'
        f"<style>{escape(style, quote=False)}.page{{font-family:system-ui,sans-serif}}</style>"
        f'<rect width="100%" height="100%" style="fill:var(--page)"/>{_text("unit", LEFT, 16, "start", chart.title)}'
        f"{''.join(keys)}{drawing}</svg>\n"
    )


def legend(chart: Chart) -> str:
    """Return the names of the curves with a piece of each, as a list."""
    piece = '<svg viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{}</svg>'
    items = "".join(f"<li>{piece.format(drawn)}{escape(name)}</li>" for name, drawn in _keys(chart))
    return f'<ul class="legend">{items}</ul>'


def _keys(chart: Chart) -> list[tuple[str, str]]:
    """Return name and drawing of each entry of the legend."""
    keys = [(line.name, _key(line)) for line in chart.lines]
    if chart.band:
        keys.append((chart.band[0], '<rect class="band" y="1" width="26" height="10"/>'))
    if chart.marks and chart.marks[1]:
        keys.append((chart.marks[0], '<path class="mark" d="M13 0V12"/>'))
    return keys


def _key(line: Line) -> str:
    dot = f'<circle class="dot {line.kind}" cx="13" cy="6" r="{DOT}"/>' if line.style != "curve" else ""
    return dot if line.style == "scatter" else f'<path class="line {line.kind}" d="M0 6H26"/>{dot}'


def fitting(points: Iterable[tuple[float, float]], samples: int) -> tuple[float, float]:
    """Return limits in percent for a y axis that need not begin at 0.

    >>> fitting([(0, 3.0), (500, 83.0), (1_000, 96.0)], 1_000)
    (80.0, 100.0)
    """
    values = [y for x, y in points if x >= SETTLED * samples] or [0.0, 100.0]
    low = max(0.0, 10 * ((min(values) - 1) // 10))
    step = 5 if max(values) - low <= 25 else 10
    return low, min(100.0, step * (max(values) // step + 1))


def ceiling(top: float) -> float:
    """Return a round number that is not below ``top``.

    >>> ceiling(1_050)
    1200.0
    """
    ladder = (m * 10.0**e for e in range(-3, 12) for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))
    return next(round(t, 9) for t in ladder if t >= top - 1e-9)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most ``most`` + 1 round numbers from ``low`` to ``high``.

    >>> ticks(0, 20_000, 4)
    [0, 5000, 10000, 15000, 20000]
    """
    steps = (m * 10.0**e for e in range(-4, 12) for m in (1, 2, 5))
    step = next(s for s in steps if (high - low) / s <= most)
    numbers = range(round(low / step), round(high / step) + 1)
    return [_plain(i * step) for i in numbers if low - 1e-9 <= i * step <= high + 1e-9]


def decades(start: float, end: float, most: int) -> list[float]:
    """Return at most ``most`` round numbers for a logarithmic axis, fewer steps a decade where it is long.

    >>> decades(80, 6_000, 6)
    [100, 200, 500, 1000, 2000, 5000]
    >>> decades(80, 6_000, 3)
    [100, 1000]
    """
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [_plain(m * 10.0**e) for e in range(-4, 12) for m in steps if start <= m * 10.0**e <= end]
        if len(found) <= most:
            break
    return found


def _plain(number: float) -> float:
    return round(number) if float(number).is_integer() else round(number, 6)


def _svg(frame: Frame, name: str, most_ticks: int) -> str:
    chart, key = frame.chart, f"{frame.chart.key}-{name}"
    return (
        f'<svg class="chart {name}" viewBox="0 0 {frame.width} {frame.height}"'
        f' role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(chart.title)}</title>'
        f'<desc id="{key}-desc">{escape(chart.description)}</desc>'
        f"{''.join(_axes(frame, most_ticks))}"
        f'<clipPath id="{key}-clip">{_plot(frame)}</clipPath>'
        f'<g clip-path="url(#{key}-clip)">{"".join(_curves(frame))}</g></svg>'
    )


def _plot(frame: Frame) -> str:
    width, height = frame.width - LEFT - RIGHT + 2, frame.height - TOP - BOTTOM + 3
    return f'<rect x="{LEFT}" y="{TOP - 2}" width="{width}" height="{height}"/>'


def _axes(frame: Frame, most_ticks: int) -> Iterator[str]:
    chart, right, floor = frame.chart, frame.width - RIGHT, frame.height - BOTTOM
    yield _text("unit", 2, 14, "start", chart.unit)
    yield _text("unit", frame.width - 2, frame.height - 5, "end", chart.across)
    for tick in ticks(chart.low, chart.high, MOST_TICKS):
        yield f'<path class="grid" d="M{LEFT} {frame.y(tick):.1f}H{right}"/>'
        yield _text("tick", LEFT - 8, frame.y(tick) + 4, "end", f"{tick:,}")
    for tick in (decades if chart.logarithmic else ticks)(chart.start, chart.end, most_ticks):
        x = frame.x(tick)
        yield f'<path class="grid" d="M{x:.1f} {floor}v5"/>'
        last = x > right - RIGHT  # its text would leave the drawing
        yield _text("tick", frame.width if last else x, floor + 18, "end" if last else "middle", f"{tick:,}")


def _text(kind: str, x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _curves(frame: Frame) -> Iterator[str]:
    """Yield marks, the bands, then the lines, the first one on top."""
    chart = frame.chart
    for at in chart.marks[1] if chart.marks else ():
        yield f'<path class="mark" d="M{frame.x(at):.1f} {TOP}V{frame.height - BOTTOM}"/>'
    if chart.band and chart.band[1]:
        yield _band(frame, "", chart.band[1], chart.band[2])
    for line in reversed(chart.lines):
        if line.edges and line.edges[0]:
            yield _bars(frame, line) if line.style == "scatter" else _band(frame, line.kind, *line.edges)
    for line in reversed(chart.lines):
        if line.points and line.style != "scatter":
            yield f'<path class="line {line.kind}" d="M{frame.path(line.points)}"/>'
        if line.style != "curve":
            for at, value in line.points:
                yield f'<circle class="dot {line.kind}" cx="{frame.x(at):.1f}" cy="{frame.y(value):.1f}" r="{DOT}"/>'


def _band(frame: Frame, kind: str, under: Points, over: Points) -> str:
    return f'<path class="band {kind}" d="M{frame.path(over)}L{frame.path(under[::-1])}Z"/>'


def _bars(frame: Frame, line: Line) -> str:
    assert line.edges is not None
    ends = zip(*line.edges, strict=True)
    bars = "".join(
        f"M{frame.x(x):.1f} {frame.y(low):.1f}V{frame.y(high):.1f}" for (x, low), (_, high) in ends
    )
    return f'<path class="bar {line.kind}" d="{bars}"/>'
