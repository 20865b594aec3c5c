"""What a scenario found: differences to the baseline, seed by seed, as figures, a table and sentences."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from string import Template

from stream_al.web import resource
from stream_al.web.curves import Chart, Line, Points, fitting, standalone
from stream_al.web.report import figure, solid, style, table
from stream_al.whatif.figures import COLOURS, RECENT, charts, mean_curve, recent
from stream_al.whatif.pool import Curve
from stream_al.whatif.results import Curves
from stream_al.whatif.scenarios import CEAL, SCENARIOS, STREAM, Scenario
from stream_al.whatif.summary import Summary, mean_and_half

MOST_LINES = 5
HEAD = ("", "labels", "accuracy, %", "over the baseline, points", "baseline")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One arm with one seed: what it cost, and how good it was in the end, in [0, 1]."""

    arm: str
    seed: int
    labels: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm against its baseline: the mean of the differences of accuracy, and its 95 % half-width, in points."""

    arm: str
    baseline: str
    mean: float
    half: float

    @property
    def proven(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a scenario found."""

    scenario: Scenario
    on: str
    seeds: int
    outcomes: tuple[Outcome, ...]
    differences: tuple[Difference, ...]
    charts: tuple[Chart, ...]
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every arm that should be better than the baseline is."""
        return all(d.mean > 0 for d in self._expected)

    @property
    def _expected(self) -> list[Difference]:
        return [
            d for d in self.differences if d.arm.partition(",")[0].removeprefix(STREAM) in self.scenario.beats
        ]

    def sentences(self) -> list[str]:
        """Say what came out, the unwelcome included."""
        expected = self._expected
        return [*(_told(d, self.seeds, expected=d in expected) for d in self.differences), *self.notes]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield a row of text for each arm."""
        against = {d.arm: d for d in self.differences}
        for arm in dict.fromkeys(o.arm for o in self.outcomes):
            held = [o for o in self.outcomes if o.arm == arm]
            mean, half = mean_and_half([100 * o.accuracy for o in held])
            d = against.get(arm)
            yield (
                arm,
                f"{fmean(o.labels for o in held):,.0f}",
                _plus_minus(f"{mean:.1f}", half),
                _plus_minus(f"{d.mean:+.1f}", d.half) if d else "",
                d.baseline if d else "",
            )


def _plus_minus(text: str, half: float) -> str:
    return text if math.isnan(half) else f"{text} ± {half:.1f}"


def _told(d: Difference, seeds: int, *, expected: bool) -> str:
    words = f"{d.arm} against {d.baseline}: {_plus_minus(f'{d.mean:+.1f}', d.half)} points"
    if expected and d.mean <= 0:
        return f"{words}: it should be better and is not, with these {seeds} seeds."
    if not d.proven:
        return f"{words}: no difference that {seeds} seeds could show."
    return f"{words}: {'better' if d.mean > 0 else 'worse'}."


# From pools and grids


def of_pool(scenario: Scenario, on: str, seeds: int, curves: Mapping[tuple[str, int], Curve]) -> Findings:
    """Put together the learning curves, by arm and seed."""
    outcomes = [
        Outcome(arm, seed, *curves[arm, seed][-1]) for arm in scenario.arms for seed in range(1, seeds + 1)
    ]
    chart = _learning(scenario, seeds, curves)
    differences, notes = tuple(_differences(outcomes, scenario)), tuple(_spread(scenario, seeds, curves))
    return Findings(scenario, on, seeds, tuple(outcomes), differences, (chart,), notes)


def of_grid(scenario: Scenario, summary: Summary, curves: Mapping[str, Curves]) -> Findings:
    """Put together the cells of a grid; an arm is a strategy or a model, with its budget where there are several."""
    plan = summary.plan
    several = len(plan.budgets) > 1
    outcomes = []
    for r in summary.results:
        name = r.model if len(plan.models) > 1 else r.strategy
        outcomes.append(
            Outcome(f"{name}, {100 * r.budget:g} %" if several else name, r.seed, r.labels, r.accuracy)
        )
    first = _along(scenario, summary, curves)
    outcomes.sort(key=lambda o: (o.arm.rpartition(",")[2] if several else "", o.seed))
    drawn = (first, *(c for c in charts(summary, curves) if c.key != first.key))
    return Findings(
        scenario,
        plan.stream.name,
        plan.seeds,
        tuple(outcomes),
        tuple(_differences(outcomes, scenario)),
        tuple(drawn),
    )


def _along(scenario: Scenario, summary: Summary, curves: Mapping[str, Curves]) -> Chart:
    """Draw the recent accuracy of the arms with the largest budget: the baseline and the best of the others."""
    plan = summary.plan
    budget = max(plan.budgets)
    arms = sorted(
        ((g.model if len(plan.models) > 1 else g.strategy, g) for g in summary.groups if g.budget == budget),
        key=lambda one: (one[0] != scenario.baseline, -one[1].accuracy),
    )[:MOST_LINES]
    lines = [
        Line(
            arm,
            "s1" if arm == scenario.baseline else f"s{n - (n == 1)}",
            mean_curve([recent(curves[r.cell]) for r in g.results]),
        )
        for n, (arm, g) in enumerate(arms)
    ]
    samples = summary.results[0].samples
    low, high = fitting([p for line in lines for p in line.points], samples)
    rest = len({g.strategy for g in summary.groups}) - len(lines)
    left_out = f" The {rest} strategies with the lowest accuracy are left out." if rest > 0 else ""
    return Chart(
        key="along-the-stream",
        title=f"{scenario.title}, {100 * budget:g} % of the labels",
        description="; ".join(f"{line.name}: {line.points[-1][1]:.1f} %" for line in lines),
        unit=f"true accuracy, latest {max(1, samples // RECENT):,} samples, %",
        end=samples,
        low=low,
        high=high,
        lines=tuple(lines),
        reading=f"Means over {plan.seeds} seeds.{left_out}",
    )


def _differences(outcomes: Sequence[Outcome], scenario: Scenario) -> Iterator[Difference]:
    by_arm: dict[str, dict[int, float]] = {}
    for o in outcomes:
        by_arm.setdefault(o.arm, {})[o.seed] = 100 * o.accuracy
    for arm, ours in by_arm.items():
        base = _baseline(arm, scenario, list(by_arm))
        if base != arm:
            yield Difference(arm, base, *mean_and_half([a - by_arm[base][seed] for seed, a in ours.items()]))


def _baseline(arm: str, scenario: Scenario, arms: Sequence[str]) -> str:
    """Return what an arm is compared with: the same without what it adds, else the baseline in its own setting."""
    if arm.endswith(CEAL):
        return arm.removesuffix(CEAL)
    _, comma, budget = arm.partition(",")
    near = f"{STREAM if arm.startswith(STREAM) else ''}{scenario.baseline}{comma}{budget}"
    return near if near in arms else scenario.baseline


def _spread(scenario: Scenario, seeds: int, curves: Mapping[tuple[str, int], Curve]) -> Iterator[str]:
    """Say how far single seeds are apart: what a study with one seed could have told."""
    arms = [arm for arm in (*scenario.beats, scenario.baseline) if arm in scenario.arms]
    if seeds < 2 or len(arms) < 2:
        return
    courses = {arm: [curves[arm, seed] for seed in range(1, seeds + 1)] for arm in arms}
    starts = [100 * curve[0][1] for curve in courses[scenario.baseline]]
    gains = []
    for arm, held in courses.items():
        gained = [100 * (curve[-1][1] - curve[0][1]) for curve in held]
        gains.append(f"{arm} {min(gained):+.1f} to {max(gained):+.1f}")
    yield (
        f"One seed proves little: the first accuracy lies between {min(starts):.1f} and {max(starts):.1f} %,"
        f" and what is gained from there, in points, between: {'; '.join(gains)}."
    )


def _learning(scenario: Scenario, seeds: int, curves: Mapping[tuple[str, int], Curve]) -> Chart:
    steps = sorted(
        {labels for (arm, _), curve in curves.items() if not arm.startswith(STREAM) for labels, _ in curve}
    )
    lines = []
    for n, arm in enumerate(scenario.arms):
        held = [curves[arm, seed] for seed in range(1, seeds + 1)]
        points = [
            (at, *mean_and_half([100 * a for a in known]))
            for at in steps
            for known in [_at(held, at)]
            if known
        ]
        mean: Points = [(at, y) for at, y, _ in points]
        banded = [(at, y, h) for at, y, h in points if not math.isnan(h)]
        edges = ([(at, y - h) for at, y, h in banded], [(at, y + h) for at, y, h in banded])
        lines.append(Line(arm, _colour(arm, n), mean, edges=edges if banded else None))
    low, high = fitting(
        [(1, y) for line in lines for ps in (line.points, *(line.edges or ())) for _, y in ps], 1
    )
    return Chart(
        key="learning-curves",
        title=scenario.title,
        description="; ".join(f"{line.name}: {line.points[-1][1]:.1f} %" for line in lines if line.points),
        unit="accuracy on samples held back, %",
        across="labels",
        start=steps[0],
        end=steps[-1],
        low=low,
        high=high,
        lines=tuple(lines),
        reading=f"Means over {seeds} seeds, with their 95 % intervals as bands.",
    )


def _at(curves: Sequence[Curve], labels: int) -> list[float]:
    """Return the accuracy of each curve with so many labels; nothing, unless all have come so far."""
    found = [[a for n, a in curve if n <= labels] for curve in curves]
    return [known[-1] for known in found] if all(found) else []


def _colour(arm: str, n: int) -> str:
    return "s1" if arm == "random" else f"s{(n + (n > 0)) % COLOURS}"


# Telling


def write(directory: Path, findings: Findings) -> Path:
    """Write report, table, documentation and figures; return the path of the report."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "report.html"
    path.write_text(page(findings), encoding="utf-8")
    with (directory / "outcomes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("scenario", "arm", "seed", "labels", "accuracy"))
        writer.writerows(
            (findings.scenario.name, o.arm, o.seed, o.labels, round(o.accuracy, 6)) for o in findings.outcomes
        )
    for chart in findings.charts:
        (directory / f"{chart.key}.svg").write_text(standalone(chart, style()), encoding="utf-8")
    (directory / "findings.md").write_text(markdown(findings), encoding="utf-8")
    return path


def page(findings: Findings) -> str:
    """Return the report as HTML."""
    s = findings.scenario
    return Template(resource("experiment.html")).substitute(
        style=style(),
        title=solid(s.title),
        about=solid(s.about),
        on=solid(f"On {findings.on}, {findings.seeds} seed(s)."),
        verdict="".join(f"<p>{solid(sentence)}</p>" for sentence in findings.sentences()),
        figures="".join(figure(chart) for chart in findings.charts),
        numbers=table("numbers", HEAD, findings.rows()),
        json=json.dumps([_plain(findings, o) for o in findings.outcomes]).replace("</", "<\\/"),
    )


def _plain(findings: Findings, o: Outcome) -> dict[str, object]:
    return {
        "scenario": findings.scenario.name, "arm": o.arm, "seed": o.seed, "labels": o.labels,
        "accuracy": round(o.accuracy, 6),
    }  # fmt: skip


def plain(findings: Findings) -> list[dict[str, object]]:
    """Return every outcome as plain values."""
    return [_plain(findings, o) for o in findings.outcomes]


def markdown(findings: Findings) -> str:
    """Return the section of the documentation."""
    s = findings.scenario
    lines = ["| " + " | ".join(HEAD) + " |", "|---" + "|--:" * 3 + "|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in findings.rows()]
    pictures = [f"![{chart.title}](experiments/{s.name}-{chart.key}.svg)" for chart in findings.charts[:1]]
    said = [f"- {sentence}" for sentence in findings.sentences()]
    told = f"On {findings.on}, {findings.seeds} seeds; ± is half of the 95 % interval, differences are seed by seed."
    return "\n".join([f"## {s.name}", "", s.about, "", told, "", *lines, "", *said, "", *pictures, ""])


# The documentation

HEADER = """\
# Experiments

<!-- generated by `python -m stream_al.whatif.experiment DIR`, DIR holding the results of each scenario -->

Experiments of the literature that introduced this work, each repeated by one command,
`stream-al simulate --scenario NAME`. What does not come out as it should says so. `--quick` takes less of everything;
`text-newsgroups` needs a file of texts of two classes:
`stream-al simulate FILE --label label --scenario text-newsgroups`.

"""


def document(results: Path, docs: Path) -> None:
    """Write ``experiments.md`` and its pictures from the directories of all scenarios that are in ``results``."""
    known = [name for name in SCENARIOS if (results / name / "findings.md").exists()]
    sections = [(results / name / "findings.md").read_text(encoding="utf-8") for name in known]
    (docs / "experiments.md").write_text(HEADER + "\n".join(sections), encoding="utf-8")
    (docs / "experiments").mkdir(exist_ok=True)
    for name, section in zip(known, sections, strict=True):
        for picture in re.findall(r"\(experiments/(.*?)\)", section):
            drawn = (results / name / picture.removeprefix(f"{name}-")).read_text(encoding="utf-8")
            (docs / "experiments" / picture).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    document(Path(sys.argv[1]), Path(__file__).parent.parent.parent / "docs")
