"""What a query strategy is.

A strategy looks at what the model says of a micro-batch and returns utilities. Looking changes nothing: state,
where a strategy has any, is moved by the fold alone, with every label it learned and every observed sample, so all
replicas hold the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.utility import Vector


class QueryStrategy(ABC):
    """How informative a label would be, in [0, 1].

    A new strategy implements ``_utility``. One with state says so (``stateful``), and is told of labels and
    observed samples; without it the fold does not even assess them. A strategy that misses an optional part of
    the assessment falls back to what can be said from the probabilities. One whose utilities are on a scale of
    their own gives the ``spread`` that the budget manager's ramp takes for their standard deviation: below the
    threshold p is proportional to exp(1.5 u / spread).
    """

    stateful: ClassVar[bool] = False
    spread: ClassVar[float | None] = None

    def utility(self, batch: Assessment) -> Vector:
        """Return the utility of each of n samples, without changing any state.

        A sample that the model has no answer for, and any sample while fewer than two classes are known, has
        utility 1: a cold model asks.
        """
        answered = batch.answered
        if not answered.any():
            return np.ones(len(answered))
        u: Vector = np.fmin(np.fmax(self._utility(batch), 0.0), 1.0)
        u[~answered] = 1.0
        return u

    @abstractmethod
    def _utility(self, batch: Assessment) -> Vector:
        """Return the utilities for two classes or more, or for numbers; those without an answer are not used."""

    def learn(self, seen: Assessment) -> None:  # noqa: B027 - most strategies have no state
        """Take note of one sample that was learned, as it was assessed before that."""

    def observe(self, seen: Assessment) -> None:  # noqa: B027 - as above
        """Take note of one sample drawn at random from the stream."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
