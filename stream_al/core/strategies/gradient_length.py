"""Expected model change."""

from __future__ import annotations

import math

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.strategies.rows import lengths
from stream_al.core.utility import Vector


class GradientLength(QueryStrategy):
    """u ~ Σ_k p_k ‖e_k - p‖ · ‖φ‖: the expected length of the gradient (Settles, Craven & Ray, 2008).

    The sum is divided by its highest value √(1 - 1/K), and the length of the D features φ enters as
    ‖φ‖ / (‖φ‖ + √D), so that u stays below 1. Without features their length is left out.

    >>> p = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
    >>> GradientLength().utility(Assessment(p, features=np.array([[1.0], [3.0], [9.0]]))).round(2)
    array([0.5 , 0.75, 0.  ])
    """

    def _utility(self, batch: Assessment) -> Vector:
        p = batch.probabilities
        # |e_k - p|² = 1 - 2 p_k + |p|²
        squares = 1.0 - 2.0 * p + np.einsum("ij,ij->i", p, p)[:, None]
        surprise = np.einsum("ij,ij->i", p, np.sqrt(np.maximum(squares, 0.0)))
        u: Vector = surprise / math.sqrt(1.0 - 1.0 / p.shape[1])
        if batch.features is None or not batch.features.shape[1]:
            return u
        length = lengths(batch.features)
        return u * (length / (length + math.sqrt(batch.features.shape[1])))
