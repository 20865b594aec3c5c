"""Charts as PNG, with matplotlib: an extra, so everything else must do without it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stream_al.web.curves import Chart, Line, decades

MISSING = "the PNGs need matplotlib: pip install 'stream-al[plots]'"
MOST_TICKS = 8
# Okabe and Ito's colours, as in the style sheet for a light page; each with its own dashes.
STYLES: dict[str, tuple[str, Any]] = {
    "s0": ("#0072b2", "-"),
    "s1": ("#d55e00", (0, (5, 3))),
    "s2": ("#009e73", (0, (1.5, 2))),
    "s3": ("#7a3e63", (0, (6, 2, 1.5, 2))),
    "s4": ("#9a6700", (0, (3, 1.5))),
    "s5": ("#2b8fc4", (0, (8, 3))),
    "s6": ("#59636e", (0, (1, 3))),
    "limit": ("#7a3e63", ":"),
    "even": ("#59636e", ":"),
}


class NoMatplotlibError(ImportError):
    """matplotlib is not installed."""


def write_pngs(directory: Path, charts: Iterable[Chart]) -> list[Path]:
    """Write each chart as a PNG named by its key; return the paths.

    Raises
    ------
    NoMatplotlibError, OSError
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  an extra, and slow to load
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise NoMatplotlibError(MISSING) from None
    paths = []
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        for chart in charts:
            figure = Figure(figsize=(7.6, 4.2), dpi=130, layout="constrained")
            FigureCanvasAgg(figure)
            _draw(figure.subplots(), chart)
            paths.append(directory / f"{chart.key}.png")
            figure.savefig(paths[-1])
    return paths


def _draw(axes: Any, chart: Chart) -> None:
    axes.set_title(chart.title, loc="left")
    axes.set_ylabel(chart.unit)
    axes.set_xlabel(chart.across)
    if chart.logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
        places = decades(chart.start, chart.end, MOST_TICKS)
        axes.set_xticks(places, [f"{place:,}" for place in places])
    else:
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(chart.start, chart.end)
    axes.set_ylim(chart.low, chart.high)
    axes.grid(axis="y", color="#dfe3e7", linewidth=0.7)
    for line in chart.lines:
        _line(axes, line)
    if chart.marks and chart.marks[1]:
        name, drifts = chart.marks
        for n, at in enumerate(drifts):
            axes.axvline(at, color="#7a3e63", linewidth=0.8, linestyle=(0, (1, 2)), label=None if n else name)
    axes.legend(frameon=False, fontsize=8)


def _line(axes: Any, line: Line) -> None:
    colour, dashes = STYLES[line.kind]
    x, y = ([p[i] for p in line.points] for i in (0, 1))
    marker = None if line.style == "curve" else "o"
    drawn = "none" if line.style == "scatter" else dashes
    axes.plot(
        x, y, color=colour, linestyle=drawn, marker=marker, markersize=4, linewidth=1.6, label=line.name
    )
    if line.edges is None:
        return
    at, under, over = ([p[0] for p in line.edges[0]], *([p[1] for p in edge] for edge in line.edges))
    if line.style == "scatter":
        axes.vlines(at, under, over, color=colour, alpha=0.5, linewidth=1)
    else:
        axes.fill_between(at, under, over, color=colour, alpha=0.14, linewidth=0)
