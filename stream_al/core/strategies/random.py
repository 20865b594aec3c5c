"""Asking at random: the yardstick."""

from __future__ import annotations

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.utility import Vector


class Random(QueryStrategy):
    """The same utility for every sample, so that the coin alone decides.

    >>> Random().utility(Assessment(np.array([[0.5, 0.5], [1.0, 0.0]])))
    array([0.5, 0.5])
    """

    def _utility(self, batch: Assessment) -> Vector:
        return np.full(len(batch.probabilities), 0.5)
