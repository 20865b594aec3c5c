"""Asking about what is unlike the samples learned lately."""

from __future__ import annotations

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.margin import Margin
from stream_al.core.strategies.neighbourhood import Neighbourhood
from stream_al.core.utility import Vector

ENOUGH = 10


class Diversity(Margin):
    """u = d / (d + m): squared distance d to the nearest of the last 300 learned samples, m its usual value.

    m is the median over the latest observed samples, so half of the stream lies above 1/2. Asking for the farthest
    is the greedy choice of centres (Gonzalez, 1985; Sener & Savarese, 2018). It does not look at the classes, and
    outliers draw it. Without features, or before ten samples each were learned and observed, it is ``margin``.
    """

    stateful = True

    def __init__(self) -> None:
        self._near = Neighbourhood()

    def _utility(self, batch: Assessment) -> Vector:
        if batch.features is None or min(self._near.learned, self._near.observed) < ENOUGH:
            return super()._utility(batch)
        distance = self._near.distances(batch.features)
        usual = float(np.median(self._near.usual))
        u: Vector = np.divide(distance, np.maximum(distance + usual, 1e-300))
        return u

    def learn(self, seen: Assessment) -> None:
        """Remember where a label was learned."""
        if seen.features is not None:
            self._near.learn(seen.features)

    def observe(self, seen: Assessment) -> None:
        """Take the sample as one of what is usual."""
        if seen.features is not None:
            self._near.observe(seen.features)
