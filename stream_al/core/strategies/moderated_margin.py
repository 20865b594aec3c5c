"""The margin, moderated by how little the model knows about it."""

from __future__ import annotations

import math

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.margin import Margin
from stream_al.core.utility import Vector


class ModeratedMargin(Margin):
    """u = 1 - tanh(g / (2 √(1 + π s²/8))): the margin after integrating over the posterior (MacKay, 1992).

    g is the difference of the two highest logits and s² the posterior variance of one. Without a variance it is
    ``margin``.

    >>> p, gap = np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([2.2, 2.2])
    >>> ModeratedMargin().utility(Assessment(p, gap=gap, variance=np.array([0.0, 8.0]))).round(2)
    array([0.2 , 0.51])
    """

    def _utility(self, batch: Assessment) -> Vector:
        if batch.gap is None or batch.variance is None:
            return super()._utility(batch)
        moderation = np.sqrt(1.0 + (math.pi / 8) * np.maximum(batch.variance, 0.0))
        u: Vector = 1.0 - np.tanh(batch.gap / (2.0 * moderation))
        return u
