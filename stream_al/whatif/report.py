"""The report of a comparison: one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from string import Template
from typing import Any

from stream_al import __version__
from stream_al.web import resource
from stream_al.web.curves import Chart
from stream_al.web.demo_run import asking, model_name, percent
from stream_al.web.report import figure, solid, style, table
from stream_al.whatif.advice import accuracy, needed, sentences
from stream_al.whatif.results import Result
from stream_al.whatif.summary import Group, Summary

# The contract of --json.
FIGURES = (
    "strategy", "model", "budget", "seed", "samples", "labels", "accuracy", "estimate", "low", "high",
    "random_labels_for_same_accuracy", "random_labels_bound",
)  # fmt: skip


def figures(result: Result) -> dict[str, Any]:
    """Return what a cell found as plain values."""
    return {name: getattr(result, name) for name in FIGURES}


def page(summary: Summary, charts: Sequence[Chart]) -> str:
    """Return the report as HTML."""
    plan = summary.plan
    return Template(resource("simulation.html")).substitute(
        style=style(),
        stream=solid(plan.stream.name),
        cells=f"{len(summary.results):,}",
        verdict="".join(f"<p>{solid(sentence)}</p>" for sentence in sentences(summary)),
        figures="".join(figure(chart) for chart in charts),
        numbers=table("numbers", HEAD, [*rows(summary), *_references(summary)]),
        settings=table("settings", ("Setting", "Value"), list(_settings(summary))),
        json=json.dumps([figures(r) for r in summary.results]).replace("</", "<\\/"),
    )


HEAD = ("Model", "asking", "budget", "labels", "accuracy", "random needs", "interval held")


def rows(summary: Summary) -> Iterator[tuple[str, ...]]:
    """Yield a row of text for each model, strategy and budget that was asked for."""
    for model in summary.plan.models:
        for strategy in summary.plan.strategies:
            for group in summary.of_model(model.name, strategy):
                yield _row(group, best=group == summary.best)


def _references(summary: Summary) -> Iterator[tuple[str, ...]]:
    """Yield the rows of what was run to see what random needs, and for nothing else."""
    asked = {(g.model, g.strategy, g.budget) for g in summary.groups}
    for group in summary.random:
        if (group.model, group.strategy, group.budget) not in asked:
            yield _row(group, best=False)


def _row(group: Group, *, best: bool) -> tuple[str, ...]:
    known = [r for r in group.results if r.low is not None and r.high is not None]
    held = sum(r.low <= r.accuracy <= r.high for r in known if r.low is not None and r.high is not None)
    mark = " (best)" if best else ""
    times = f" ({group.times:.1f}×)" if group.times else ""
    return (
        f"{group.model}{mark}",
        asking(group.strategy).removeprefix("asking "),
        percent(group.budget),
        f"{group.labels:,.0f}",
        accuracy(group),
        f"{needed(group)}{times}",
        f"{held} of {len(known)}",
    )


def _settings(summary: Summary) -> Iterable[tuple[str, str]]:
    plan, oracle = summary.plan, summary.plan.oracle
    order = "shuffled by the seed" if plan.stream.shuffled else "as in the data"
    yield "Data", f"{plan.stream.name}, {summary.results[0].samples:,} samples, content {plan.stream.digest}"
    yield "Order", order
    yield "Seeds", f"1 to {plan.seeds}" if plan.seeds > 1 else "1"
    late = " on average, exponentially" if oracle.distribution == "exponential" else ""
    yield "Answers come", f"{oracle.delay:,} samples late{late}"
    yield "Wrong answers", percent(oracle.noise)
    yield "Requests never answered", percent(oracle.silence)
    yield "Annotators for each request", f"{oracle.annotators}"
    yield from ((f"Model {m.name}", _spec(m.section)) for m in plan.models)
    yield from (("Set", text) for text in plan.overrides)
    yield "Version", f"stream-al {__version__}"


def _spec(section: dict[str, Any]) -> str:
    return model_name(section["spec"]) if "spec" in section else "as configured"
