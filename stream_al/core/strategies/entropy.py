"""Entropy."""

from __future__ import annotations

import math

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.utility import Vector, entropies


class Entropy(QueryStrategy):
    """u = H(p) / log K with Shannon's entropy H (Settles, 2009, section 3.1).

    >>> Entropy().utility(Assessment(np.array([[0.5, 0.5], [1.0, 0.0]])))
    array([1., 0.])
    """

    def _utility(self, batch: Assessment) -> Vector:
        p = batch.probabilities
        u: Vector = np.divide(entropies(p), math.log(p.shape[1]))
        return u
