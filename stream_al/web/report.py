"""The report of a demo: one HTML page that needs nothing else, with curves, numbers and how to read them.

Its colours are Okabe and Ito's, which colour-blind people can tell apart, and it is light or dark as the
reader's screen is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from stream_al import __version__
from stream_al.web import resource
from stream_al.web.curves import Chart, Line, Points, ceiling, drawings, fitting, legend
from stream_al.web.demo_run import DemoRun, asking, between, model_name, percent

if TYPE_CHECKING:
    from stream_al.simulate import Progress  # brings River, which takes a second to load

__all__ = ["DemoRun", "page", "write_report"]

MOST_POINTS = 400
RECENT = 20  # the recent query rate looks back over one part in so many of the stream, ...
LEAST_RECENT = 500  # ... and over no fewer samples than these

Pick = Callable[["Progress"], float | None]


def write_report(directory: Path, run: DemoRun) -> Path:
    """Write ``report.html`` into the directory, which is made if it is not there; return its path.

    Raises
    ------
    OSError
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "report.html"
    path.write_text(page(run), encoding="utf-8")
    return path


def page(run: DemoRun) -> str:
    """Return the report as HTML."""
    return Template(resource("report.html")).substitute(
        style=style(),
        stream=solid(run.stream),
        stopped=f'<p class="note">{solid(run.stopped())}</p>' if run.stopped() else "",
        cards="".join(_card(*card) for card in _cards(run)),
        figures="".join(figure(chart) for chart in charts(run)),
        numbers=_numbers(run),
        settings=table("settings", ("Setting", "Value"), list(_settings(run))),
        json=json.dumps(run.figures()).replace("</", "<\\/"),
    )


def style() -> str:
    """Return the style sheet of all reports."""
    return resource("style.css")


def thinned(points: Sequence[Progress], most: int = MOST_POINTS) -> list[Progress]:
    """Return at most ``most`` of the points, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(i * step)] for i in range(most)]


def solid(text: str) -> str:
    """Escape a text for HTML; a number and its percent sign, and an interval, stay on one line."""
    kept = re.sub(r"(?<=\[)([\d.]+), ", "\\1,\N{NO-BREAK SPACE}", text)
    return escape(kept).replace(" %", "\N{NO-BREAK SPACE}%")


# The numbers


def _cards(run: DemoRun) -> Iterator[tuple[str, str, str, str]]:
    last, dr, naive = run.last, run.last.estimate.dr, run.last.estimate.naive
    allowed = f", allowed {int(last.allowed):,}" if run.limited else ""
    share = f"of {last.samples:,} samples: {percent(run.query_rate)}{allowed}"
    yield "spent", "Labels asked for", f"{last.requests:,}", share
    yield "honest", "Honest accuracy", percent(dr), f"95 % interval {between(dr)}"
    yield "true", "True accuracy", percent(last.true), "known here because all labels of the data set are"
    yield "naive", "Labelled samples alone", percent(naive), "what the answers seem to say; do not use it"


def _card(kind: str, name: str, value: str, note: str) -> str:
    words = f"<b>{solid(value)}</b><span>{solid(note)}</span>"
    return f'<div class="card {kind}"><dt>{escape(name)}</dt><dd>{words}</dd></div>'


_ROWS: dict[str, Callable[[DemoRun], str]] = {
    "Samples": lambda run: f"{run.last.samples:,}",
    "Labels asked for": lambda run: f"{run.last.requests:,}",
    "Labels answered and learned": lambda run: f"{run.last.labels:,}",
    "Query rate": lambda run: percent(run.query_rate, 2),
    "Allowed": lambda run: f"{int(run.last.allowed):,}" if run.limited else "see the settings",
    "Honest accuracy (doubly robust)": lambda run: percent(run.last.estimate.dr),
    "Its 95 % interval": lambda run: between(run.last.estimate.dr),
    "True accuracy": lambda run: percent(run.last.true),
    "Labelled samples alone (naive)": lambda run: percent(run.last.estimate.naive),
    "Model version (position in the ledger)": lambda run: f"{run.last.version:,}",
    "Dead letters": lambda run: f"{run.dead_letters:,}",
    "Time": lambda run: f"{run.seconds:.1f} s",
}


def _numbers(run: DemoRun) -> str:
    runs = [run, *([run.comparison] if run.comparison else [])]
    head = ("", *(asking(r.settings.strategy).capitalize() for r in runs))
    return table("numbers", head, [(name, *(tell(r) for r in runs)) for name, tell in _ROWS.items()])


def _settings(run: DemoRun) -> Iterator[tuple[str, str]]:
    settings, budget = run.settings, run.settings.budget
    caps = {"an hour": budget.per_hour, "a day": budget.per_day, "open at a time": budget.max_outstanding}
    yield "Stream", run.stream
    yield "Budget", f"{percent(budget.fraction)} of all samples" if run.limited else "no share of the samples"
    yield from ((f"Requests {span}", f"at most {cap:,}") for span, cap in caps.items() if cap is not None)
    yield "Allowance on top", f"{run.allowance:,} requests, once"
    yield "Asked for by lot", f"{percent(budget.exploration, 0)} of the budget"
    yield "Strategy", settings.strategy
    yield "Answers come", f"{run.delay:,} samples late"
    yield "Model", model_name(settings.model.spec)
    yield "Seed", str(settings.seed)
    yield "Version", f"stream-al {__version__}"


def table(kind: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, the first cell of each row being its head."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in head)
    body = "".join(
        f'<tr><th scope="row">{solid(name)}</th>{"".join(f"<td>{solid(v)}</td>" for v in values)}</tr>'
        for name, *values in rows
    )
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


# The curves


def figure(chart: Chart) -> str:
    """Return a chart with its title, legend and how to read it."""
    parts = f"<h2>{escape(chart.title)}</h2>{legend(chart)}{drawings(chart)}"
    return f"<figure>{parts}<figcaption>{solid(chart.reading)}</figcaption></figure>"


def charts(run: DemoRun) -> list[Chart]:
    """Return the figures of a run."""
    drawn = [_accuracy_chart(run), _rate_chart(run), _spent_chart(run)]
    return [*drawn, _comparison_chart(run, run.comparison)] if run.comparison else drawn


def _accuracy_chart(run: DemoRun) -> Chart:
    points, last = thinned(run.progress), run.last
    honest = [(p.samples, p.estimate.dr) for p in points if p.estimate.dr]
    naive = [(p.samples, 100 * p.estimate.naive.value) for p in points if p.estimate.naive]
    under, over = [(at, 100 * dr.low) for at, dr in honest], [(at, 100 * dr.high) for at, dr in honest]
    lines = (
        Line("true", "true", _curve(points, _true, 100)),
        Line("honest estimate", "honest", [(at, 100 * dr.value) for at, dr in honest]),
        Line("labelled samples alone", "naive", naive),
    )
    low, high = fitting([*under, *over, *(point for line in lines for point in line.points)], last.samples)
    return Chart(
        key="accuracy",
        title="Accuracy",
        description=f"At the end: true {percent(last.true)}, honest estimate {percent(last.estimate.dr)}"
        f" {between(last.estimate.dr)}, labelled samples alone {percent(last.estimate.naive)}.",
        unit="accuracy over all samples so far, %",
        end=last.samples,
        low=low,
        high=high,
        lines=lines,
        band=("95 % interval", under, over),
        reading="The honest estimate knows only the labels that were asked for. At the end, its interval"
        " should hold the true value in 19 of 20 runs. The labelled samples alone are no fair picture of the"
        " stream: they are the hard and the early ones. A sample counts as wrong while the model has no"
        " answer; and while the model still improves quickly, late answers let the estimate trail the truth.",
    )


def _rate_chart(run: DemoRun) -> Chart:
    samples, fraction = run.last.samples, run.settings.budget.fraction
    reach = max(LEAST_RECENT, samples // RECENT)
    recent = Line(f"latest {reach:,} samples", "rate", _recent_rate(run.progress, reach))
    total = Line("since the beginning", "total", _curve(thinned(run.progress), _rate, 100))
    budget = (
        []
        if fraction is None
        else [Line("budget", "limit", [(0, 100 * fraction), (samples, 100 * fraction)])]
    )
    settled = [y for x, y in [*recent.points, *total.points] if x >= samples / 10]
    return Chart(
        key="rate",
        title="Query rate",
        description=f"{percent(run.query_rate)} of all samples were asked for"
        + (f", the budget is {percent(fraction)}." if run.limited else "."),
        unit="labels asked for, % of the samples",
        end=samples,
        low=0.0,
        high=ceiling(max([*settled, 200 * (fraction or 0.0), 0.1])),
        lines=(recent, total, *budget),
        reading="A model that knows nothing asks more often at first, on an advance that it pays back later;"
        " from then on the rate keeps to the budget. What is above the edge of the figure is cut off.",
    )


def _spent_chart(run: DemoRun) -> Chart:
    points = thinned(run.progress)
    lines = [
        Line("asked for", "rate", _curve(points, lambda p: p.requests)),
        Line("answered", "honest thin", _curve(points, lambda p: p.labels)),
    ]
    if run.limited:
        lines.append(Line("allowed", "limit", _curve(points, lambda p: p.allowed)))
    promise = (
        "At no sample of the stream is more asked for than allowed: the budget's share of the samples so far,"
        f" and {run.allowance:,} on top, once. "
    )
    return Chart(
        key="spent",
        title="Labels spent",
        description=f"{run.last.requests:,} labels were asked for"
        + (f", {int(run.last.allowed):,} were allowed." if run.limited else "."),
        unit="labels",
        end=run.last.samples,
        low=0.0,
        high=ceiling(max(1.0, *(y for line in lines for _, y in line.points))),
        lines=tuple(lines),
        reading=f"{promise if run.limited else ''}Answers come {run.delay:,} samples late.",
    )


def _comparison_chart(run: DemoRun, other: DemoRun) -> Chart:
    lines = (
        Line(asking(run.settings.strategy), "honest", _curve(thinned(run.progress), _true, 100)),
        Line(asking(other.settings.strategy), "naive", _curve(thinned(other.progress), _true, 100)),
    )
    low, high = fitting([point for line in lines for point in line.points], run.last.samples)
    words = " ".join(run.verdict())
    return Chart(
        key="comparison",
        title="Did asking cleverly pay?",
        description=words,
        unit="true accuracy over all samples so far, %",
        end=run.last.samples,
        low=low,
        high=high,
        lines=lines,
        reading=words,
    )


def _curve(points: Iterable[Progress], pick: Pick, scale: float = 1.0) -> Points:
    return [(p.samples, scale * y) for p in points if (y := pick(p)) is not None]


def _true(p: Progress) -> float | None:
    return p.true


def _rate(p: Progress) -> float | None:
    return p.requests / p.samples if p.samples else None


def _recent_rate(points: Sequence[Progress], reach: int) -> Points:
    """Return the query rate over the latest ``reach`` samples at each of the thinned points, in percent."""
    rates: list[tuple[float, float]] = []
    start, kept = 0, {p.samples for p in thinned(points)}
    for p in points:
        while points[start].samples < p.samples - reach:
            start += 1
        seen = p.samples - points[start].samples
        if p.samples in kept and seen >= reach / 2:
            rates.append((p.samples, 100 * (p.requests - points[start].requests) / seen))
    return rates
