"""The probability that the decision is the other way round."""

from __future__ import annotations

import math

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.utility import Vector, top_two

SMALLEST_DEVIATION = 1e-150


class Flip(QueryStrategy):
    """u = erfc(g / 2s): twice the posterior probability that the second class's logit is really the higher.

    The two logits are normal with means g apart and the same variance s² (the probability of a wrong decision of
    Gaussian-process classifiers: Kapoor et al., 2007). Without a variance, u = 2 p2 / (p1 + p2): twice the
    probability of the second class if it is one of the two.

    >>> p, gap = np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([2.2, 2.2])
    >>> Flip().utility(Assessment(p, gap=gap, variance=np.array([0.01, 8.0]))).round(2)
    array([0.  , 0.58])
    """

    def _utility(self, batch: Assessment) -> Vector:
        if batch.gap is None or batch.variance is None:
            first, second = top_two(batch.probabilities)
            odds: Vector = 2.0 * second / np.maximum(first + second, SMALLEST_DEVIATION)
            return odds
        deviation = np.maximum(np.sqrt(np.maximum(batch.variance, 0.0)), SMALLEST_DEVIATION)
        distance = np.minimum(batch.gap / (2.0 * deviation), 30.0)  # numpy has no erfc; it is 0 from 27 on
        return np.fromiter(map(math.erfc, distance.tolist()), dtype=np.float64, count=len(distance))
