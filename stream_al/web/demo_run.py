"""What a demo did: the result as plain values, and as sentences for people who are no statisticians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stream_al.config import Settings
from stream_al.core.accuracy import Interval
from stream_al.status import pace_s
from stream_al.wording import duration

if TYPE_CHECKING:
    from stream_al.core.challenger import Standing
    from stream_al.core.random_twin import Saved
    from stream_al.simulate import Progress  # brings River, which takes a second to load

SMALL_DIFFERENCE = 0.005  # half a point: not worth a word


@dataclass(frozen=True, slots=True)
class DemoRun:
    """What a demo did.

    Parameters
    ----------
    stream
        What was streamed, in a few words.
    planned
        How many samples there were to be; fewer were seen where somebody stopped it.
    progress
        Where it stood at the beginning and after each turn; at least one.
    allowance
        By how many requests it could be ahead of the budget's share of the samples.
    saved, challengers
        What asking saved by the random twin, None without one, and how challengers compared.
    comparison
        The same stream with another strategy, if it was run.
    """

    stream: str
    settings: Settings
    delay: int
    planned: int
    progress: tuple[Progress, ...]
    allowance: int
    dead_letters: int
    seconds: float
    comparison: DemoRun | None = None
    saved: Saved | None = None
    challengers: tuple[Standing, ...] = ()

    @property
    def last(self) -> Progress:
        return self.progress[-1]

    @property
    def query_rate(self) -> float:
        """Requests per sample."""
        return self.last.requests / max(1, self.last.samples)

    @property
    def limited(self) -> bool:
        """Whether the budget is a share of all samples, so that the allowed number is known."""
        return self.settings.budget.fraction is not None

    @property
    def complete(self) -> bool:
        return self.last.samples == self.planned

    @property
    def within_budget(self) -> bool:
        """Whether at no turn more was asked for than was allowed by then."""
        return not self.limited or all(p.requests <= p.allowed for p in self.progress)

    def figures(self) -> dict[str, Any]:
        """Return the result as plain values; shares and accuracies in [0, 1], accuracy over all samples."""
        last, settings = self.last, self.settings
        return {
            "samples": last.samples,
            "planned": self.planned,
            "strategy": settings.strategy,
            "seed": settings.seed,
            "delay": self.delay,
            "label_requests": last.requests,
            "labels": last.labels,
            "query_rate": _rounded(self.query_rate),
            "budget": settings.budget.fraction,
            "allowance": self.allowance,
            "allowed": _rounded(last.allowed) if self.limited else None,
            "within_budget": self.within_budget,
            "model_version": last.version,
            "accuracy": _accuracy(last),
            "dead_letters": self.dead_letters,
            "labels_saved": None if self.saved is None else _saving(self.saved),
            "comparison": self.comparison.figures() if self.comparison else None,
            "seconds": round(self.seconds, 3),
        }

    def sentences(self) -> list[str]:
        """Say what came out."""
        return [*_asked(self), *_judged(self.last), *_against_random(self), *self.verdict()]

    def stopped(self) -> str:
        """Say where it was stopped; nothing if it was not."""
        if self.complete:
            return ""
        waiting = self.last.requests - self.last.labels
        seen = f"{self.last.samples:,} of {self.planned:,} samples"
        return f"Stopped after {seen}; {waiting:,} answers were still to come."

    def verdict(self) -> list[str]:
        """Say whether asking cleverly beat asking at random; nothing if nobody tried."""
        return [] if self.comparison is None else _compared(self, self.comparison)


def percent(share: Interval | float | None, digits: int = 1) -> str:
    """Write a share, or an interval's value, as text.

    >>> percent(0.9123)
    '91.2 %'
    """
    if share is None:
        return "unknown"
    return f"{100 * (share.value if isinstance(share, Interval) else share):.{digits}f} %"


def between(interval: Interval | None) -> str:
    """Write an interval as text, in percent.

    >>> between(Interval(0.91, 0.889, 0.934))
    '[88.9, 93.4]'
    """
    return "" if interval is None else f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def asking(strategy: str) -> str:
    """Name a way of asking.

    >>> asking("least_confidence")
    'asking by least confidence'
    """
    return "asking at random" if strategy == "random" else f"asking by {strategy.replace('_', ' ')}"


def model_name(spec: Sequence[Any]) -> str:
    """Name a model by the classes of its steps.

    >>> model_name(["river.preprocessing.StandardScaler", {"river.tree.HoeffdingTreeClassifier": {}}])
    'StandardScaler | HoeffdingTreeClassifier'
    """
    names = [next(iter(step)) if isinstance(step, dict) else str(step) for step in spec]
    return " | ".join(name.rsplit(".", maxsplit=1)[-1] for name in names)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _accuracy(last: Progress) -> dict[str, Any]:
    dr, naive = last.estimate.dr, last.estimate.naive
    return {
        "estimator": "dr",
        "value": _rounded(dr.value if dr else None),
        "low": _rounded(dr.low if dr else None),
        "high": _rounded(dr.high if dr else None),
        "naive": _rounded(naive.value if naive else None),
        "true": _rounded(last.true),
    }


def _asked(run: DemoRun) -> list[str]:
    last = run.last
    allowed = f"; allowed: {int(last.allowed):,}" if run.limited else ""
    words = [f"Asked for {last.requests:,} of {last.samples:,} labels ({percent(run.query_rate)}{allowed})."]
    if not run.within_budget:
        words.append("At some point more was asked for than allowed: that is a bug, please report it.")
    elif run.limited:
        words.append("At no point was more asked for than allowed.")
    words += _paced(run)
    return words if run.complete else [run.stopped(), *words]


def _paced(run: DemoRun) -> list[str]:
    """Say why caps by the hour and the day leave next to nothing to a stream of a minute."""
    from stream_al.simulate import SAMPLES_PER_S  # noqa: PLC0415  (brings River, which takes a second to load)

    budget = run.settings.budget
    every_s = pace_s(budget.per_hour, budget.per_day)
    if every_s is None:
        return []
    took = duration(run.last.samples / SAMPLES_PER_S)
    often = f"The caps spread requests evenly, one in {duration(every_s)} on average"
    return [f"{often}; the stream takes {took} of its own time, at {SAMPLES_PER_S} samples a second."]


def _judged(last: Progress) -> list[str]:
    honest, naive, true = last.estimate.dr, last.estimate.naive, last.true
    if honest is None or naive is None:
        return ["No answer has come back yet, so nothing is known of the accuracy."]
    words = [f"Honest accuracy {percent(honest)} {between(honest)}; true: {percent(true)}."]
    if not honest.low <= true <= honest.high:
        words.append("The true value lies outside the interval, which should happen in one of twenty runs.")
    off = naive.value - true
    side = f", {100 * abs(off):.1f} points too {'low' if off < 0 else 'high'}"
    side = side if abs(off) >= SMALL_DIFFERENCE else ""
    words.append(f"Judging by the labelled samples alone would have said {percent(naive)}{side}.")
    return words


def _saving(saved: Saved) -> dict[str, Any]:
    r = saved.ratio
    return {
        "state": saved.state,
        "ratio": _rounded(r.value if r else None),
        "low": _rounded(r.low if r else None),
        "high": _rounded(r.high if r and math.isfinite(r.high) else None),
        "random_labels": saved.random,
        "labels": saved.asked,
    }


def _against_random(run: DemoRun) -> list[str]:
    """Say what the service itself knows of what asking saved."""
    if run.saved is None or run.settings.strategy == "random":
        return []
    return [f"What asking saved, told live by a twin that learns at random: {run.saved}."]


def _compared(run: DemoRun, other: DemoRun) -> list[str]:
    ours, theirs = run.last, other.last
    name, rival = asking(run.settings.strategy), asking(other.settings.strategy)
    gain = ours.true - theirs.true
    if abs(gain) < SMALL_DIFFERENCE:
        verdict = f"{name} made no difference to speak of"
    elif gain > 0:
        verdict = f"{name} won by {100 * gain:.1f} points"
    else:
        verdict = f"{rival} was better, by {-100 * gain:.1f} points"
    first = f"With the same budget, {rival} reached a true accuracy of {percent(theirs.true)}"
    return [
        f"{first} ({theirs.requests:,} labels), {name} {percent(ours.true)} ({ours.requests:,}).",
        f"On this stream {verdict}. One run proves little; try other seeds.",
    ]
