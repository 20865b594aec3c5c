"""The figures of a comparison, as charts that can be drawn as SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from stream_al.web.curves import Chart, Line, Points, ceiling, fitting
from stream_al.web.demo_run import asking, percent
from stream_al.whatif.grid import RANDOM
from stream_al.whatif.results import Curves, Result
from stream_al.whatif.summary import Group, Summary

COLOURS = 7
RECENT = 10  # the accuracy along the stream is that of the latest one part in so many
LABELS = "labels learned (logarithmic)"


def charts(summary: Summary, curves: Mapping[str, Curves]) -> list[Chart]:
    """Return all figures; ``curves`` are by the digest of the cell."""
    drawn = []
    for n, model in enumerate(summary.plan.models):
        of = f", model {model.name}" if len(summary.plan.models) > 1 else ""
        drawn.append(_against_labels(summary, model.name, f"accuracy-labels-{n + 1}", of))
        if any(group.times for group in summary.of_model(model.name)):
            drawn.append(_needed(summary, model.name, f"random-labels-{n + 1}", of))
    drawn += [_along(summary, curves), _spent(summary, curves)]
    return [*drawn, _estimates(summary)] if summary.covered[1] else drawn


def kind(strategy: str, strategies: Sequence[str]) -> str:
    """Return the colour class of a strategy; random has its own, whatever there is beside it."""
    if strategy == RANDOM:
        return "s1"
    others = [s for s in strategies if s != RANDOM]
    place = others.index(strategy)
    return f"s{(place + (place > 0)) % COLOURS}"


def of_strategy(summary: Summary, model: str) -> dict[str, list[Group]]:
    """Return the groups of a model by strategy; random with all budgets it was run at."""
    found = {s: summary.of_model(model, s) for s in summary.plan.strategies}
    at_random = [g for g in summary.random if g.model == model]
    return found | {RANDOM: at_random} if at_random else found


def _against_labels(summary: Summary, model: str, key: str, of: str) -> Chart:
    by_strategy = of_strategy(summary, model)
    lines = []
    for strategy, groups in by_strategy.items():
        points = sorted((g.labels, 100 * g.accuracy, 100 * g.half) for g in groups if g.labels)
        banded = [p for p in points if not math.isnan(p[2])]
        edges = ([(x, y - h) for x, y, h in banded], [(x, y + h) for x, y, h in banded])
        lines.append(
            Line(
                asking(strategy),
                kind(strategy, summary.plan.strategies),
                [(x, y) for x, y, _ in points],
                style="dotted curve",
                edges=edges if banded else None,
            )
        )
    everything = [p for line in lines for points in (line.points, *(line.edges or ())) for p in points]
    xs = [x for x, _ in everything] or [1.0, 10.0]
    low, high = fitting([(1, y) for _, y in everything], 1)
    best = max(summary.of_model(model), key=lambda g: g.accuracy)
    return Chart(
        key=key,
        title=f"Accuracy against labels{of}",
        description=f"Highest: {percent(best.accuracy)} with {best.labels:,.0f} labels, {asking(best.strategy)}.",
        unit="true accuracy over all samples, %",
        start=min(xs) / 1.1,
        end=max(xs) * 1.1,
        low=low,
        high=high,
        lines=tuple(lines),
        across=LABELS,
        logarithmic=True,
        reading="Each dot is a budget: the mean over the seeds, with its 95 % interval as a band. Accuracy counts all"
        " samples of the stream from the first one, while the model still knew nothing, too.",
    )


def _needed(summary: Summary, model: str, key: str, of: str) -> Chart:
    lines = []
    for strategy in summary.plan.strategies:
        points = sorted((g.labels, g.times) for g in summary.of_model(model, strategy) if g.times)
        if points:
            lines.append(
                Line(asking(strategy), kind(strategy, summary.plan.strategies), points, style="dotted curve")
            )
    xs = [x for line in lines for x, _ in line.points]
    start, end = min(xs) / 1.1, max(xs) * 1.1
    bounds = [(g.labels, g.times) for g in summary.of_model(model) if g.bound and g.times]
    only = (Line("only a bound, see the table", "s6", bounds, style="scatter"),) if bounds else ()
    top = max(y for line in lines for _, y in line.points)
    return Chart(
        key=key,
        title=f"Labels that random needs for the same accuracy{of}",
        description=f"At most {top:.1f} times as many.",
        unit="labels that random needs, in multiples",
        start=start,
        end=end,
        low=0.0,
        high=ceiling(max(1.5, top * 1.05)),
        lines=(*only, *lines, Line("as many as random", "even", [(start, 1.0), (end, 1.0)])),
        across=LABELS,
        logarithmic=True,
        reading="2 means: asking at random needs twice the labels to be as often right. Below 1, asking at random"
        " is cheaper. Read off the mean accuracies at random with several budgets.",
    )


def _along(summary: Summary, curves: Mapping[str, Curves]) -> Chart:
    """Draw the recent accuracy of the best model at the best budget, a line for each strategy."""
    best = summary.best
    lines, marks = [], []
    for strategy in summary.plan.strategies:
        held = _held(summary, curves, strategy)
        lines.append(
            Line(
                asking(strategy),
                kind(strategy, summary.plan.strategies),
                mean_curve([recent(c) for c in held]),
            )
        )
        if strategy == best.strategy:
            marks = sorted(at for c in held for at in c.drift)
    samples = best.results[0].samples
    low, high = fitting([p for line in lines for p in line.points], samples)
    reach = max(1, samples // RECENT)
    return Chart(
        key="along-the-stream",
        title="Accuracy along the stream",
        description=f"With {percent(best.budget)} of the labels, model {best.model}.",
        unit=f"true accuracy, latest {reach:,} samples, %",
        end=samples,
        low=low,
        high=high,
        lines=tuple(lines),
        marks=(f"drift alarm, {asking(best.strategy)}", marks) if marks else None,
        reading=f"Model {best.model} with a budget of {percent(best.budget)}, the mean over the seeds. "
        + (
            f"The service gave {len(marks)} drift alarms in {len(best.results)} runs."
            if marks
            else "The service gave no drift alarm."
        ),
    )


def _spent(summary: Summary, curves: Mapping[str, Curves]) -> Chart:
    best = summary.best
    lines = []
    for strategy in summary.plan.strategies:
        spent = mean_curve(
            [
                list(zip(c.samples, map(float, c.requests), strict=True))
                for c in _held(summary, curves, strategy)
            ]
        )
        lines.append(Line(asking(strategy), kind(strategy, summary.plan.strategies), spent))
    held = _held(summary, curves, best.strategy)
    allowed = [(s, a) for s, a in zip(held[0].samples, held[0].allowed, strict=True)] if held else []
    lines.append(Line("allowed", "limit", allowed))
    broken = [r for r in summary.results if not r.within_budget]
    return Chart(
        key="spent",
        title="Labels asked for against the budget",
        description=f"At the end {best.results[0].requests:,} of {int(best.results[0].allowed):,} allowed.",
        unit="labels asked for",
        end=best.results[0].samples,
        low=0.0,
        high=ceiling(max(1.0, *(y for line in lines for _, y in line.points))),
        lines=tuple(lines),
        reading=f"Budget {percent(best.budget)}, model {best.model}. "
        + (
            f"In {len(broken)} cells more was asked for than allowed: that is a bug, please report it."
            if broken
            else f"In none of the {len(summary.results)} cells was more asked for than allowed, at any sample."
        ),
    )


def _estimates(summary: Summary) -> Chart:
    """Draw what the service says of itself against what is true."""
    known = [
        r for r in summary.results if r.estimate is not None and r.low is not None and r.high is not None
    ]
    inside = [r for r in known if r.low is not None and r.high is not None and r.low <= r.accuracy <= r.high]
    outside = [r for r in known if r not in inside]
    lines = [_scattered("interval holds the truth", "s0", inside)]
    if outside:
        lines.append(_scattered("interval misses it", "s1", outside))
    values = [100 * v for r in known for v in (r.accuracy, r.low or 0.0, r.high or 0.0)]
    low, high = fitting([(1, v) for v in values], 1)
    truths = [100 * r.accuracy for r in known]
    start, end = max(0.0, min(truths) - 2), min(100.0, max(truths) + 2)
    return Chart(
        key="estimate-truth",
        title="Estimate against truth",
        description=f"The interval holds the truth in {len(inside)} of {len(known)} cells.",
        unit="honest estimate with 95 % interval, %",
        start=start,
        end=end,
        low=low,
        high=high,
        lines=(*lines, Line("exactly right", "even", [(start, start), (end, end)])),
        across="true accuracy, %",
        reading=f"Each dot is a cell. The interval, made of the labels that were asked for and of nothing else, holds"
        f" the true accuracy in {len(inside)} of {len(known)} cells ({percent(len(inside) / len(known), 0)}); it should"
        " in 19 of 20. Wrong answers and silent annotators make it worse, as they do in life.",
    )


def _scattered(name: str, colour: str, results: Sequence[Result]) -> Line:
    points = [(100 * r.accuracy, 100 * (r.estimate or 0.0)) for r in results]
    under = [(100 * r.accuracy, 100 * (r.low or 0.0)) for r in results]
    over = [(100 * r.accuracy, 100 * (r.high or 0.0)) for r in results]
    return Line(name, colour, points, style="scatter", edges=(under, over))


def _held(summary: Summary, curves: Mapping[str, Curves], strategy: str) -> list[Curves]:
    """Return the curves of a strategy with the best model and budget."""
    groups = summary.of_model(summary.best.model, strategy)
    chosen = [g for g in groups if g.budget == summary.best.budget]
    return [curves[r.cell] for g in chosen for r in g.results if r.cell in curves]


def recent(c: Curves) -> list[tuple[float, float]]:
    """Return the accuracy of the latest stretch at each point, in percent."""
    reach, found, start = c.samples[-1] / RECENT, [], 0
    for i, at in enumerate(c.samples):
        while c.samples[start + 1] <= at - reach:
            start += 1
        seen = at - c.samples[start]
        if seen >= reach / 2:
            found.append((float(at), 100 * (c.right[i] - c.right[start]) / seen))
    return found


def mean_curve(curves: Iterable[Sequence[tuple[float, float]]]) -> Points:
    """Return the mean of curves with the same x."""
    held = [curve for curve in curves if curve]
    return [(at[0][0], fmean(y for _, y in at)) for at in zip(*held, strict=False)]
