"""How much of the uncertainty about a sample its own label would remove."""

from __future__ import annotations

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.utility import Vector, impurities


class VarianceReduction(QueryStrategy):
    """u = h s² / (1 + h s²): the share of the posterior variance s² of the logit that one label removes.

    h = (1 - Σ p²) / 2 is the label's Fisher information (the Kalman gain of the model's own update; MacKay, 1992:
    choose where the model's error bars are largest). It is meant for linear models: it looks for far-away samples
    rather than for the border. Without a variance it is h, scaled to reach 1.

    >>> p = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
    >>> VarianceReduction().utility(Assessment(p, variance=np.array([4.0, 0.0, 4.0])))
    array([0.5, 0. , 0. ])
    """

    def _utility(self, batch: Assessment) -> Vector:
        h = impurities(batch.probabilities) / 2.0
        if batch.variance is None:
            k = batch.probabilities.shape[1]
            scaled: Vector = h * (2.0 * k / (k - 1))
            return scaled
        gain = h * np.minimum(batch.variance, 1e300)
        u: Vector = gain / (1.0 + gain)
        return u
