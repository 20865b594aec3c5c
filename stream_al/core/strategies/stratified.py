"""Asking where predictions are rare: so that no region of a regressor's predictions is missed."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.budget import STEEPNESS
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.utility import Vector

STRATA, RECENT, ENOUGH = 10, 256, 50
TAIL = 0.02  # of the predictions, beyond the outermost edges
LOG_LARGEST = math.log(RECENT + STRATA)


class Stratified(QueryStrategy):
    """u = log(1 / f) / log(n + K), f = (c + 1) / (n' + K) being the share of a prediction's stratum.

    The K = 10 strata have equal widths between the 2 % and the 98 % quantile of the predictions for the last n' <= n
    = 256 observed samples, c of which fall into it; the outer ones are open. With the spread given here p is
    proportional to 1 / f, so that beyond the exploration floor each stratum has the same share of the labels.
    (Stratified sampling by a proxy of the target, with equal allocation: Cochran, 1977, ch. 5.) While fewer than 50
    predictions were observed, it asks at random.

    >>> strategy = Stratified()
    >>> for value in [*range(10)] * 5 + [5.0] * 50:
    ...     strategy.observe(Assessment(np.zeros((1, 0)), values=np.array([float(value)])))
    >>> strategy.utility(Assessment(np.zeros((2, 0)), values=np.array([5.0, 9.0]))).round(2)
    array([0.12, 0.52])
    """

    stateful = True
    spread = STEEPNESS / LOG_LARGEST

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._edges: Vector = np.zeros(0)
        self._rarity: Vector = np.zeros(0)

    def _utility(self, batch: Assessment) -> Vector:
        if batch.values is None or not len(self._edges):
            return np.full(len(batch.probabilities), 0.5)
        return self._rarity[np.searchsorted(self._edges, batch.values, side="right")]

    def observe(self, seen: Assessment) -> None:
        """Take the prediction as one of the stream's."""
        if seen.values is None or not seen.answered[0]:
            return
        self._recent.append(float(seen.values[0]))
        if len(self._recent) >= ENOUGH:
            self._cut()

    def _cut(self) -> None:
        """Lay the strata anew, and count."""
        recent = np.array(self._recent)
        low, high = np.quantile(recent, [TAIL, 1 - TAIL])
        self._edges = np.linspace(low, high, STRATA + 1)[1:-1]
        within = np.searchsorted(self._edges, recent, side="right")
        shares = (np.bincount(within, minlength=STRATA) + 1) / (len(recent) + STRATA)
        self._rarity = -np.log(shares) / LOG_LARGEST
