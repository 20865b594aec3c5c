"""What the cells say together: means with bands over seeds, labels that random needs, and the best choice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from statistics import fmean, stdev

from stream_al.core.sequence import student
from stream_al.whatif.grid import RANDOM, Plan
from stream_al.whatif.results import Result

CLOSE = 0.01  # of the best accuracy: not worth more labels


def labels_needed(curve: Sequence[tuple[float, float]], accuracy: float) -> tuple[float, str]:
    """Return how many labels reach an accuracy, and ``>`` or ``<`` where that is only a bound.

    Between two points of the curve it is read off on a logarithmic scale of labels; a dip of the curve counts as
    flat.

    >>> round(labels_needed([(10, 0.5), (1000, 0.7)], 0.6)[0])
    100
    >>> labels_needed([(10, 0.5), (40, 0.7)], 0.8)
    (40, '>')
    """
    highest = [(labels, max(a for _, a in curve[: i + 1])) for i, (labels, _) in enumerate(curve)]
    if accuracy <= highest[0][1]:
        return highest[0][0], "<"
    for (before, low), (after, high) in pairwise(highest):
        if low < accuracy <= high:
            share = (accuracy - low) / (high - low)
            return math.exp(math.log(before) + share * math.log(after / before)), ""
    return highest[-1][0], ">"


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half-width of its 95 % interval (Student's); the latter is NaN of one value.

    >>> [round(x, 3) for x in mean_and_half([0.01, 0.02, 0.03, 0.04])]
    [0.025, 0.021]
    """
    n = len(values)
    return fmean(values), student(n - 1) * stdev(values) / math.sqrt(n) if n > 1 else math.nan


@dataclass(frozen=True, slots=True)
class Group:
    """The cells of one strategy, model and budget, over all seeds.

    Attributes
    ----------
    accuracy, half
        Mean of the true accuracies, and the half-width of its 95 % interval; NaN with one seed.
    labels
        Mean of the labels that were learned.
    random_labels, bound
        How many asking at random needs for this accuracy, on the mean curve; None where nobody asked.
    """

    strategy: str
    model: str
    budget: float
    results: tuple[Result, ...]
    accuracy: float
    half: float
    labels: float
    random_labels: float | None = None
    bound: str = ""

    @property
    def times(self) -> float | None:
        """The labels that random needs, in multiples of these."""
        return self.random_labels / self.labels if self.random_labels and self.labels else None


@dataclass(frozen=True, slots=True)
class Summary:
    """All that was found.

    Attributes
    ----------
    results
        Of the cells that were asked for, in the order of the plan.
    references
        Of those that ask at random.
    groups
        Of the first; ``random`` holds the groups of the references.
    """

    plan: Plan
    results: tuple[Result, ...]
    references: tuple[Result, ...]
    groups: tuple[Group, ...]
    random: tuple[Group, ...]

    @property
    def best(self) -> Group:
        """The smallest budget that comes within a point of the best accuracy, and the best way to spend it."""
        top = max(group.accuracy for group in self.groups)
        near = [group for group in self.groups if group.accuracy >= top - CLOSE]
        return min(near, key=lambda group: (group.budget, -group.accuracy))

    @property
    def top(self) -> Group:
        return max(self.groups, key=lambda group: group.accuracy)

    @property
    def covered(self) -> tuple[int, int]:
        """In how many cells with an estimate the interval holds the true accuracy, and of how many."""
        known = [r for r in self.results if r.low is not None and r.high is not None]
        return sum(
            r.low <= r.accuracy <= r.high for r in known if r.low is not None and r.high is not None
        ), len(known)

    def of_model(self, model: str, strategy: str | None = None) -> list[Group]:
        """Return the groups of a model, by budget."""
        found = [g for g in self.groups if g.model == model and strategy in {None, g.strategy}]
        return sorted(found, key=lambda group: group.budget)


def summarise(plan: Plan, results: Mapping[str, Result]) -> Summary:
    """Put together what the cells of a plan found; ``results`` are by digest."""
    references = [results[plan.digest(cell)] for cell in plan.references]
    held = [_compared(results[plan.digest(cell)], references) for cell in plan.cells]
    at_random = _groups(references)
    groups = [_against(group, at_random) for group in _groups(held)]
    return Summary(plan, tuple(held), tuple(references), tuple(groups), tuple(at_random))


def _compared(result: Result, references: Sequence[Result]) -> Result:
    """Read off what random needs for the accuracy of one cell, with the same model and seed."""
    if result.strategy == RANDOM:
        return result
    curve = [(r.labels, r.accuracy) for r in references if (r.model, r.seed) == (result.model, result.seed)]
    labels, bound = _needed(curve, result.accuracy)
    return replace(
        result,
        random_labels_for_same_accuracy=None if labels is None else round(labels, 1),
        random_labels_bound={"<": "at most", ">": "at least", "": ""}[bound],
    )


def _against(group: Group, at_random: Iterable[Group]) -> Group:
    if group.strategy == RANDOM:
        return group
    curve = [(r.labels, r.accuracy) for r in at_random if r.model == group.model]
    labels, bound = _needed(curve, group.accuracy)
    return replace(group, random_labels=labels, bound=bound)


def _needed(curve: Sequence[tuple[float, float]], accuracy: float) -> tuple[float | None, str]:
    known = sorted((labels, a) for labels, a in curve if labels > 0)
    return labels_needed(known, accuracy) if known else (None, "")


def _groups(results: Iterable[Result]) -> list[Group]:
    def key(result: Result) -> tuple[str, str, float]:
        return result.model, result.strategy, result.budget

    ordered = sorted(results, key=key)
    return [
        Group(
            strategy,
            model,
            budget,
            held,
            *mean_and_half([r.accuracy for r in held]),
            fmean(r.labels for r in held),
        )
        for (model, strategy, budget), cells in groupby(ordered, key)
        for held in [tuple(cells)]
    ]
