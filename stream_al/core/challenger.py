"""Challengers: other models on the same labels, and what the labels say of them.

Theory of operation
-------------------
A *challenger* learns every label and is shown every observed sample that the model in use is. Before a label is
learned, both foretell it: d = challenger's right - model's right. A label counts min(mean p / p, 10), as for the
calibration, so that the mean of d is Hájek's estimate of the difference of their accuracies when labels arrive: all
samples of a time count alike, and times count by their labels. Its interval holds at all times at once, because it is
looked at until it says something.

What it cannot tell: the labels were chosen for the model in use, and a challenger might have chosen better ones;
another query strategy is not judged at all, for nobody knows the labels that it would have asked for. The one exception
is asking at random: see ``random_twin``.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stream_al.core.calibration import Calibration
from stream_al.core.classification import Insufficient, Known
from stream_al.core.labels import Value
from stream_al.core.messages import Challenger, Query
from stream_al.core.model import Model
from stream_al.core.paired import Paired, Row, foretold
from stream_al.core.random_twin import RandomTwin, Saved

RANDOM = "random"  # the twin's name


@dataclass(slots=True)
class Contender:
    """A challenger at work. ``calibration`` is its own, for the day when it is promoted."""

    who: Challenger
    model: Model
    calibration: Calibration = field(default_factory=Calibration)
    paired: Paired = field(default_factory=Paired)
    errors: Counter[str] = field(default_factory=Counter)

    def label(self, features: Row, label: Value, weight: float, *, right: bool) -> None:
        """Judge by a label for which the model was right or not, then learn it."""
        if weight > 0:
            own, confidence = foretold(self.model, features, label)
            self.paired.add(own - right, weight)
            if confidence > 0:
                self.calibration.learn(confidence, correct=own, weight=weight)
        self._count(self.model.learn(features, label))

    def observe(self, features: Row) -> None:
        self._count(self.model.observe(features))

    def _count(self, error: str | None) -> None:
        if error is not None:
            self.errors[error] += 1


@dataclass(frozen=True, slots=True)
class Standing:
    """How a challenger compares with the model.

    Attributes
    ----------
    strategy
        The query strategy that comes with it, None if none does. It is not judged.
    difference
        Its accuracy minus the model's, both in [0, 1], over all samples; the 95 % interval holds at all times at once.
        None where it is the same model and only the strategy another one.
    learned, errors
        Labels that it learned, and records that it could not learn.
    """

    name: str
    strategy: str | None
    difference: Known | None
    learned: int
    errors: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        d = self.difference
        if d is None:
            return f"the same model; what asking by {self.strategy} would bring is not known here"
        if isinstance(d, Insufficient):
            return str(d)
        points = [f"{100 * x:+.1f}" for x in (d.value, d.low, d.high)]
        return f"{points[0]} points ({points[1]} to {points[2]})"


@dataclass(slots=True)
class Contest:
    """All that is compared with the model of a fold."""

    others: dict[str, Contender] = field(default_factory=dict)
    twin: RandomTwin | None = None

    def call(self, wanted: Sequence[Challenger], make: Callable[[Challenger], Model]) -> None:
        """Let those compete that are wanted: those that already do go on, new ones know nothing."""
        found: dict[str, Contender] = {}
        for who in wanted:
            known = self.others.get(who.name)
            if known is not None and known.who.spec == who.spec:
                found[who.name] = replace(known, who=who)
            else:
                found[who.name] = Contender(who, make(who))
        self.others = found

    def label(self, model: Model, features: Row, label: Value, weight: float, query: Query | None) -> None:
        """Judge by a label that the model is about to learn, and let all learn it.

        Parameters
        ----------
        weight
            What it counts where all samples are meant, on average 1; 0: nothing.
        query
            Why it was asked for; None: nobody asked.
        """
        if not self.others and self.twin is None:
            return
        right = weight > 0 and foretold(model, features, label)[0]
        for contender in self.others.values():
            contender.label(features, label, weight, right=right)
        if self.twin is not None:
            self.twin.label(model, features, label, weight, right=right, query=query)

    def observe(self, features: Row) -> None:
        """Show all a sample without a label."""
        for contender in self.others.values():
            contender.observe(features)
        if self.twin is not None:
            self.twin.model.observe(features)

    def on_drift(self, model: Model, samples: int) -> None:
        """Tell all models what the model was told, and begin the comparisons anew."""
        for contender in self.others.values():
            contender.model.on_drift()
        self.begin(model, samples, alarmed=True)

    def begin(self, model: Model, samples: int, *, alarmed: bool = False) -> None:
        """Begin all comparisons anew, with a model that may be another one."""
        for contender in self.others.values():
            contender.paired = Paired()
        if self.twin is not None:
            self.twin = RandomTwin(copy.deepcopy(model), samples, alarmed)

    def standings(self, champion: Challenger) -> tuple[Standing, ...]:
        """Return how each compares with the model, which is the champion's."""
        found = [
            Standing(
                c.who.name,
                c.who.strategy,
                None if c.who.spec == champion.spec else c.paired.always(),
                c.model.learned,
                dict(c.errors),
            )
            for c in self.others.values()
        ]
        if self.twin is not None:
            found.append(Standing(RANDOM, RANDOM, self.twin.paired.always(), self.twin.model.learned))
        return tuple(found)

    def saved(self) -> Saved | None:
        """Return what asking saved; None without a twin."""
        return None if self.twin is None else self.twin.saved()
