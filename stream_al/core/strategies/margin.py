"""The margin between the two likeliest classes: the default."""

from __future__ import annotations

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.utility import Vector, top_two


class Margin(QueryStrategy):
    """u = 1 - (p1 - p2), p1 and p2 being the two highest probabilities (Scheffer, Decomain & Wrobel, 2001).

    >>> import numpy as np
    >>> Margin().utility(Assessment(np.array([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0]])))
    array([1. , 0.5])
    """

    def _utility(self, batch: Assessment) -> Vector:
        first, second = top_two(batch.probabilities)
        return 1.0 - (first - second)
