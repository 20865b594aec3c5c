"""Least confidence."""

from __future__ import annotations

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.utility import Vector


class LeastConfidence(QueryStrategy):
    """u = (1 - p1) K / (K - 1), p1 being the highest probability (Lewis & Gale, 1994).

    >>> LeastConfidence().utility(Assessment(np.array([[0.5, 0.5], [1.0, 0.0]])))
    array([1., 0.])
    """

    def _utility(self, batch: Assessment) -> Vector:
        p = batch.probabilities
        k = p.shape[1]
        u: Vector = (1.0 - np.max(p, axis=1)) * (k / (k - 1))
        return u
