"""The random twin: the model, had it learned only labels drawn at random; how many labels asking has saved.

Theory of operation
-------------------
The twin is the model itself, which from some record on learns only the labels of the exploration floor (the coin fell
below it, whatever the utility): a random sample of the stream. Its stretch begins as a copy of the model: with the
ledger, with a promotion, and anew with each drift alarm, because labels from before it are worth less.

How many labels it cost the model to be as good as the twin is now is known from *rungs*: copies of the model after 16,
32, 64, ... labels of the stretch, which learn no more and foretell each label, too. Twin and rungs are compared on the
very same labels, of which older ones fade::

    labels of the model, m           16 ─── 32 ─── 64 ─── 128 ─── now
    rung's accuracy - twin's          −      −      +      +       +
                                               ╰──┬──╯
          the twin's labels n (the mean over the same time) by the m at which the difference is 0: the ratio

The difference is interpolated over the logarithm of n/m, after what falls with more labels has been evened out; both
ends of the 95 % interval are where its own ends cross 0. No rung is added once one is surely better than the twin, and
of those that are surely worse the last one is enough.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from stream_al.core.labels import Value
from stream_al.core.messages import Query
from stream_al.core.model import Model
from stream_al.core.paired import Paired, Row, foretold
from stream_al.core.sequence import Interval

FADE = 0.998  # a label, for what is said of the present
FIRST_RUNG, NEXT_RUNG, MOST_RUNGS = 16, 2.0, 6
LARGEST_RUNG = 8_000_000  # bytes of a model of which copies are kept

State = Literal["comparable", "insufficient", "drift", "too large"]


@dataclass(frozen=True, slots=True)
class Point:
    """A ratio of labels, the twin's by the model's, and by how much the model was the better one there."""

    ratio: float
    better: Interval


@dataclass(slots=True)
class Level:
    """A model against the twin, and how many labels both had, as Σ w labels."""

    paired: Paired = field(default_factory=lambda: Paired(FADE))
    random: float = 0.0
    asked: float = 0.0

    def judge(self, d: float, weight: float, random: int, asked: int) -> None:
        self.paired.add(d, weight)
        self.random = FADE * self.random + weight * random
        self.asked = FADE * self.asked + weight * asked

    @property
    def point(self) -> Point | None:
        """Return what is known; None with too few labels."""
        known = self.paired.now()
        if not isinstance(known, Interval) or not (self.random > 0 and self.asked > 0):
            return None
        return Point(self.random / self.asked, known)

    @property
    def surely_worse(self) -> bool:
        point = self.point
        return point is not None and point.better.high < 0

    @property
    def surely_better(self) -> bool:
        point = self.point
        return point is not None and point.better.low > 0


@dataclass(slots=True)
class Rung:
    """The model as it was after so many labels of the stretch."""

    labels: int
    model: Model
    level: Level = field(default_factory=Level)


@dataclass(frozen=True, slots=True)
class Saved:
    """The labels that asking at random needs for one that was asked for.

    Attributes
    ----------
    ratio
        Of the twin's labels by the model's at the same accuracy, with its 95 % interval; a low end of 0 and a high one
        of infinity are open. None unless comparable.
    random, asked
        Labels of the stretch so far, the twin's and the model's.
    begin
        The samples that had been counted when the stretch began.
    """

    state: State = "insufficient"
    ratio: Interval | None = None
    random: int = 0
    asked: int = 0
    begin: int = 0

    def __str__(self) -> str:
        if self.ratio is None:
            return _WHY[self.state]
        high = "more" if math.isinf(self.ratio.high) else f"{self.ratio.high:.1f}"
        return f"{self.ratio.value:.1f} at random for each ({self.ratio.low:.1f} to {high})"


_WHY: dict[State, str] = {
    "insufficient": "insufficient labels",
    "drift": "not comparable: there was a drift alarm, and few labels since",
    "too large": "not comparable: the model is too large to keep earlier ones",
}


@dataclass(slots=True)
class RandomTwin:
    """The model, had it learned only the labels of the exploration floor since the stretch began."""

    model: Model
    begin: int = 0
    alarmed: bool = False  # the stretch began with a drift alarm
    random: int = 0
    asked: int = 0
    paired: Paired = field(default_factory=Paired)
    rungs: list[Rung] = field(default_factory=list)
    latest: Level = field(default_factory=Level)  # the model as it is
    too_large: bool = False

    def label(
        self, model: Model, features: Row, label: Value, weight: float, *, right: bool, query: Query | None
    ) -> None:
        """Judge by a label that the model is about to learn; ``query`` is None where nobody asked for it."""
        if weight > 0:
            self._judge(model, features, label, weight, right=right)
        if query is not None:
            self.asked += 1
            if query.coin >= query.floor:
                return
            self.random += 1
        self.model.learn(features, label)  # what nobody asked for is free for both

    def _judge(self, model: Model, features: Row, label: Value, weight: float, *, right: bool) -> None:
        own, _ = foretold(self.model, features, label)
        self.paired.add(own - right, weight)
        self.latest.judge(right - own, weight, self.random, self.asked)
        for rung in self.rungs:
            then, _ = foretold(rung.model, features, label)
            rung.level.judge(then - own, weight, self.random, rung.labels)
        if self.asked >= max(FIRST_RUNG, NEXT_RUNG * (self.rungs[-1].labels if self.rungs else 0)):
            self._add(model)

    def _add(self, model: Model) -> None:
        """Add a rung unless one is good enough, and drop those that tell nothing any more."""
        if any(rung.level.surely_better for rung in self.rungs):
            return
        self.too_large = model.size > LARGEST_RUNG
        if self.too_large:
            return
        worse = [rung.labels for rung in self.rungs if rung.level.surely_worse]
        kept = [rung for rung in self.rungs if rung.labels not in worse[:-1]]
        self.rungs = [*kept[1 - MOST_RUNGS :], Rung(self.asked, copy.deepcopy(model))]

    def saved(self) -> Saved:
        """Return what asking saved in this stretch."""
        points = [p for rung in self.rungs if (p := rung.level.point) is not None]
        now = self.latest.point
        ratio = None if now is None or not points else ratio_of([*points, now])
        return Saved("comparable" if ratio else self._why_not, ratio, self.random, self.asked, self.begin)

    @property
    def _why_not(self) -> State:
        return "too large" if self.too_large else "drift" if self.alarmed else "insufficient"


def ratio_of(points: Sequence[Point]) -> Interval | None:
    """Return the ratio at which the difference is 0, None where both ends are open.

    The points are in the order of the model's labels.
    """
    middles = rising([p.better.value for p in points], [p.better.high - p.better.low for p in points])
    halves = [(p.better.high - p.better.low) / 2 for p in points]
    middle = crossing(points, middles)
    high = crossing(points, [d + h for d, h in zip(middles, halves, strict=True)])
    low = crossing(points, [d - h for d, h in zip(middles, halves, strict=True)])
    if low is None and high == math.inf:
        return None
    first, last = points[0].ratio, points[-1].ratio
    value = last if middle is None else first if math.isinf(middle) else middle
    return Interval(
        value,
        0.0 if low is None else min(value, first if math.isinf(low) else low),
        max(value, last if high is None else high),
    )


def rising(values: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Return the nearest values that never fall: a model with more labels is taken to be no worse.

    Isotonic regression (Ayer et al., 1955), a value weighed by 1/width². Without it, the first of several noisy
    differences above 0 would come too early.

    >>> rising([-2.0, 1.0, 0.0, 3.0], [1.0] * 4)
    [-2.0, 0.5, 0.5, 3.0]
    """
    pools: list[tuple[float, float, int]] = []
    for value, width in zip(values, widths, strict=True):
        pool = value, 1 / max(width, 1e-9) ** 2, 1
        while pools and pools[-1][0] > pool[0]:
            (a, u, m), (b, v, n) = pools.pop(), pool
            pool = (a * u + b * v) / (u + v), u + v, m + n
        pools.append(pool)
    return [value for value, _, n in pools for _ in range(n)]


def crossing(points: Sequence[Point], differences: Sequence[float]) -> float | None:
    """Return the ratio at which differences first reach 0; infinity: before the first, None: not yet."""
    reached = next((i for i, d in enumerate(differences) if d >= 0), None)
    if reached is None:
        return None
    if reached == 0:
        return math.inf
    before, at = differences[reached - 1], differences[reached]
    share = -before / (at - before)
    one, other = math.log(points[reached - 1].ratio), math.log(points[reached].ratio)
    return math.exp(one + share * (other - one))
