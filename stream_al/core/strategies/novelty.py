"""Asking about what is unlike everything learned: how a new class is found.

A model is certain far away from all it knows, so no strategy that looks at probabilities alone asks there, and a
class that nobody asked about is never seen. ``Novelty`` stands around any strategy and gives utility 1 to what is
farther from the learned samples than the stream usually is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.strategies.neighbourhood import Neighbourhood
from stream_al.core.utility import Vector

QUANTILE = 0.95
ENOUGH_LEARNED, ENOUGH_OBSERVED = 10, 50
MOST_CREDIT = 10.0


class Novelty(QueryStrategy):
    """u = 1 beyond the gate, and another strategy's utility within it.

    The gate is on the squared distance to the nearest of the last 300 learned samples: as far above the 95 %
    quantile of that distance over the last 256 observed samples as the quantile is above their median. (The rule
    is this project's own; novelty as distance to the nearest known sample: Knorr, Ng & Tucakov, 2000.)

    Each label that is learned earns ``share`` of a credit, at most 10 are kept, and each that lay beyond the gate
    costs one. Without a whole credit nothing is new, so novelty cannot take more than its share for long. Where
    the whole stream moves away, all utilities are 1 and the budget is spent at random until labels come back.
    Without features there is no novelty.

    Parameters
    ----------
    strategy
        Whose utilities hold within the gate.
    share
        Of all labels, in (0, 1].
    """

    stateful = True

    def __init__(self, strategy: QueryStrategy, share: float = 0.1) -> None:
        self.strategy, self.share = strategy, share
        self.credit = MOST_CREDIT
        self._near = Neighbourhood()

    @property
    def gate(self) -> float:
        """The squared distance from which a sample is new; infinite while too little is known."""
        near = self._near
        usual = near.usual
        if near.learned < ENOUGH_LEARNED or len(usual) < ENOUGH_OBSERVED:
            return math.inf
        ordered = np.sort(usual)
        middle, high = float(ordered[len(usual) // 2]), float(ordered[int(QUANTILE * len(usual))])
        return high + (high - middle)

    def novel(self, batch: Assessment) -> NDArray[np.bool_]:
        """Say which samples lie beyond the gate."""
        gate = self.gate
        if batch.features is None or gate == math.inf:
            return np.zeros(len(batch.probabilities), dtype=np.bool_)
        return self._near.distances(batch.features) > gate

    def _utility(self, batch: Assessment) -> Vector:
        within = self.strategy.utility(batch)
        return np.where(self.novel(batch), 1.0, within) if self.credit >= 1.0 else within

    def learn(self, seen: Assessment) -> None:
        """Remember where a label was learned, and what it cost."""
        self.strategy.learn(seen)
        if seen.features is not None:
            cost = float(self.novel(seen)[0])
            self.credit = min(MOST_CREDIT, self.credit + self.share - cost)
            self._near.learn(seen.features)

    def observe(self, seen: Assessment) -> None:
        """Take the sample as one of what is usual."""
        self.strategy.observe(seen)
        if seen.features is not None:
            self._near.observe(seen.features)

    def __repr__(self) -> str:
        return f"Novelty({self.strategy!r}, share={self.share})"


def with_novelty(strategy: QueryStrategy, share: float) -> QueryStrategy:
    """Return the strategy with this share of novelty, 0 for none; what novelty has learned is kept where it can be.

    >>> from stream_al.core.strategies.random import Random
    >>> with_novelty(Random(), 0.1), with_novelty(Novelty(Random()), 0.0)
    (Novelty(Random(), share=0.1), Random())
    """
    if share <= 0:
        return strategy.strategy if isinstance(strategy, Novelty) else strategy
    if isinstance(strategy, Novelty):
        strategy.share = share
        return strategy
    return Novelty(strategy, share)
