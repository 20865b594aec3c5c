"""Curves as SVG: a small pure drawing of lines and one band over the samples of a stream.

Colours and strokes come from the page's style sheet, by class. Each chart is drawn for a wide and a narrow
screen, so that its letters keep their size; the style sheet shows the one that fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

SIZES = (("wide", 860, 330, 8), ("narrow", 358, 290, 4))  # name, width, height, ticks along the stream
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 26, 40  # margins around the plot
MOST_TICKS = 6
SETTLED = 0.1  # the y axis fits what comes after this share of the stream


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name in the legend, its classes in the style sheet, its points (sample, value)."""

    name: str
    kind: str
    points: Points


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure over ``samples`` samples; what lies outside ``low`` to ``high`` is cut off.

    ``description`` is for those who do not see it, ``reading`` is printed below, ``unit`` names the y axis.
    ``band`` has a name, its lower and its upper edge.
    """

    key: str
    title: str
    description: str
    unit: str
    samples: int
    low: float
    high: float
    lines: tuple[Line, ...]
    band: tuple[str, Points, Points] | None = None
    reading: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the values of a chart are in a drawing of ``width`` by ``height``."""

    chart: Chart
    width: int
    height: int

    def x(self, sample: float) -> float:
        return LEFT + (self.width - LEFT - RIGHT) * sample / max(1, self.chart.samples)

    def y(self, value: float) -> float:
        low, high = self.chart.low, self.chart.high
        return TOP + (self.height - TOP - BOTTOM) * (high - value) / (high - low)

    def path(self, points: Points) -> str:
        return "L".join(f"{self.x(a):.1f} {self.y(b):.1f}" for a, b in points)


def drawings(chart: Chart) -> str:
    """Return the chart as SVG, once for each size."""
    return "".join(_svg(Frame(chart, width, height), name, ticks) for name, width, height, ticks in SIZES)


def legend(chart: Chart) -> str:
    """Return the names of the curves with a piece of each, as a list."""
    keys = [(line.name, f'<path class="line {line.kind}" d="M0 6H26"/>') for line in chart.lines]
    if chart.band:
        keys.append((chart.band[0], '<rect class="band" y="1" width="26" height="10"/>'))
    piece = '<svg viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{}</svg>'
    items = "".join(f"<li>{piece.format(drawn)}{escape(name)}</li>" for name, drawn in keys)
    return f'<ul class="legend">{items}</ul>'


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
    yield _text("unit", frame.width - 2, frame.height - 5, "end", "samples of the stream")
    for tick in ticks(chart.low, chart.high, MOST_TICKS):
        yield f'<path class="grid" d="M{LEFT} {frame.y(tick):.1f}H{right}"/>'
        yield _text("tick", LEFT - 8, frame.y(tick) + 4, "end", f"{tick:,}")
    for tick in ticks(0, chart.samples, most_ticks):
        x = frame.x(tick)
        yield f'<path class="grid" d="M{x:.1f} {floor}v5"/>'
        last = x > right - RIGHT  # its text would leave the drawing
        yield _text("tick", frame.width if last else x, floor + 18, "end" if last else "middle", f"{tick:,}")


def _text(kind: str, x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _curves(frame: Frame) -> Iterator[str]:
    """Yield the band, then the lines, the first one on top."""
    if frame.chart.band and frame.chart.band[1]:
        _, under, over = frame.chart.band
        yield f'<path class="band" d="M{frame.path(over)}L{frame.path(under[::-1])}Z"/>'
    for line in reversed(frame.chart.lines):
        if line.points:
            yield f'<path class="line {line.kind}" d="M{frame.path(line.points)}"/>'
