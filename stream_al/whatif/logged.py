"""What other ways of asking would have asked for, from what was recorded: off-policy estimates.

Theory of operation
-------------------
Every label in the ledger came with the probability p of having been asked for and with what the model said then. So the
labelled samples, each weighted by 1/p, stand for all samples that could have been asked for (Hájek, 1971), and
another way of asking can be judged on them: with utility u and a budget B it asks above the threshold that a share
B of the weights exceeds, and by lot at it, where many samples may lie: a tree says few different things. What is told
of it is the share of the model's mistakes that it would find, ::

    M = Σ w a e / Σ w e        w = 1/p, a = P(asked for), e = 1 where the shown class was wrong

with the interval of its linearised variance Σ (1 - p) w² e (a - M)² / (Σ w e)². Asking at random finds a share B of the
mistakes; how much more another way finds is what it is worth.

Nothing can be told where p was 0, of strategies that look at more than the probabilities that were recorded, and of how
the model would have become with other labels: it is judged as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_al.codec import decode_ledger
from stream_al.core.assessment import Assessment
from stream_al.core.labels import label_key
from stream_al.core.messages import Bucket, Correction, Learned
from stream_al.core.sequence import student
from stream_al.core.strategies.table import create
from stream_al.transport.port import Record

RANDOM = "random"
FROM_PROBABILITIES = ("margin", "least_confidence", "entropy")  # need nothing that is not recorded
FEWEST = 30.0  # mistakes' worth of labels, below which an interval means little
MOST_UNCOVERED = 0.05


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the ledger holds: the labels of requests, and how many samples, uncovered ones among them.

    ``unanswered`` labels are left out: the model had no answer yet that could be right or wrong.
    """

    labels: tuple[Learned, ...]
    samples: int
    uncovered: int
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What a strategy would have done with a budget.

    ``mistakes`` is the share of the model's mistakes among what it would have asked for, with a 95 % interval;
    ``effective`` is how many mistakes, all of the same weight, would tell as much. None where nothing can be told;
    then, or where it should not be trusted, ``warning`` says why.
    """

    strategy: str
    budget: float
    threshold: float | None
    labels: int
    mistakes: float | None
    low: float | None
    high: float | None
    effective: float
    warning: str = ""


def recorded(records: Iterable[Record]) -> Recorded:
    """Read the records of a ledger; of two answers to a request the first counts, as corrected last."""
    labels: dict[str, Learned] = {}
    corrected: dict[str, Correction] = {}
    samples = uncovered = 0
    for record in records:
        entry = decode_ledger(record)
        if isinstance(entry, Learned):
            labels.setdefault(entry.request_id, entry)
        elif isinstance(entry, Correction):
            corrected[entry.corrects] = entry
        elif isinstance(entry, Bucket):
            samples += entry.sums.samples
            uncovered += entry.sums.uncovered
    held = [_as_corrected(label, corrected.get(label.answer)) for label in labels.values()]
    usable = [
        label for label in held if label.model.label is not None and label.query.inclusion_probability > 0
    ]
    return Recorded(tuple(usable), samples, uncovered, len(held) - len(usable))


def choices(log: Recorded, strategies: Sequence[str], budgets: Sequence[float]) -> list[Choice]:
    """Judge each strategy with each budget."""
    p = np.array([label.query.inclusion_probability for label in log.labels])
    wrong = np.array([label_key(label.label) != label.model.label for label in log.labels], dtype=bool)
    return [
        _choice(log, strategy, budget, utility, p, wrong)
        for strategy in strategies
        for utility in [_utility(log, strategy)]
        for budget in budgets
    ]


def warnings(log: Recorded) -> list[str]:
    """Say what the recorded data cannot tell, whatever the strategy."""
    said = ["The model is judged as it was: with other labels it would have become another one."]
    if log.samples and log.uncovered > MOST_UNCOVERED * log.samples:
        share = 100 * log.uncovered / log.samples
        said.append(f"Nothing is known of {share:.0f} % of the samples: they could not have been asked for.")
    if log.unanswered:
        said.append(f"{log.unanswered:,} labels are left out: the model had no answer yet.")
    return said


def _as_corrected(label: Learned, correction: Correction | None) -> Learned:
    return label if correction is None else replace(label, label=correction.label)


def _utility(log: Recorded, strategy: str) -> NDArray[np.float64] | None:
    """Return the utility of each label's sample; None where it was not recorded."""
    if strategy in FROM_PROBABILITIES:
        way = create(strategy)
        return np.array([way.utility(Assessment(np.array([_said(label)])))[0] for label in log.labels])
    if log.labels and all(label.query.strategy == strategy for label in log.labels):
        return np.array([label.query.utility for label in log.labels])
    return None


def _said(label: Learned) -> list[float]:
    rest = [label.model.rest] if label.model.rest > 0 else []
    return [*label.model.probabilities.values(), *rest]


def _choice(
    log: Recorded,
    strategy: str,
    budget: float,
    utility: NDArray[np.float64] | None,
    p: NDArray[np.float64],
    wrong: NDArray[np.bool_],
) -> Choice:
    labels = round(budget * log.samples)
    e = wrong / p if len(p) else np.zeros(0)
    effective = float(e.sum() ** 2 / (e**2).sum()) if e.any() else 0.0
    if strategy == RANDOM:
        return Choice(strategy, budget, None, labels, budget, budget, budget, effective)
    if utility is None:
        needs = f"{strategy} looks at more than was recorded: try it with stream-al simulate on labelled data"
        return Choice(strategy, budget, None, labels, None, None, None, effective, needs)
    if not e.any():
        return Choice(strategy, budget, None, labels, None, None, None, 0.0, "no mistake among the labels")
    threshold = _threshold(utility, 1 / p, budget)
    asked = _asked(utility, 1 / p, budget, threshold)
    found = float((e * asked).sum() / e.sum())
    spread = math.sqrt(float(((1 - p) * e**2 * (asked - found) ** 2).sum())) / float(e.sum())
    half = student(max(1.0, effective - 1)) * spread
    few = (
        f"only {effective:.0f} mistakes' worth of labels: hardly more than a guess"
        if effective < FEWEST
        else ""
    )
    low, high = max(0.0, found - half), min(1.0, found + half)
    return Choice(strategy, budget, threshold, labels, found, low, high, effective, few)


def _threshold(utility: NDArray[np.float64], weights: NDArray[np.float64], budget: float) -> float:
    """Return the utility that a share ``budget`` of the weights reaches.

    >>> float(_threshold(np.array([0.1, 0.9, 0.5, 0.7]), np.ones(4), 0.5))
    0.7
    """
    order = np.argsort(-utility, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(utility[order][min(int(np.searchsorted(reached, budget - 1e-12)), len(order) - 1)])


def _asked(
    utility: NDArray[np.float64], weights: NDArray[np.float64], budget: float, threshold: float
) -> NDArray[np.float64]:
    """Return how surely each is asked for, so that it is a share ``budget`` of the weights.

    >>> _asked(np.array([0.9, 0.5, 0.5, 0.1]), np.ones(4), 0.5, 0.5)
    array([1. , 0.5, 0.5, 0. ])
    """
    above, there = utility > threshold, utility == threshold
    left = budget * weights.sum() - weights[above].sum()
    asked: NDArray[np.float64] = above + there * min(1.0, max(0.0, left / weights[there].sum()))
    return asked
