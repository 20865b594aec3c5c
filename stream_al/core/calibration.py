"""Calibration: from the shown class's confidence to the probability that it is right (m).

Two-parameter Platt scaling (Platt, 1999) on the confidence's log odds, updated label by label with an extended
Kalman filter whose prior is the identity. Labels come from selected samples, so each is weighted by
min(mean p / p, 10); old ones fade.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEAVIEST = 10.0
FORGETTING = 0.999
LOWEST_M, HIGHEST_M = 0.03, 0.97
PRIOR = (1.0, 0.0, 0.25)
_EXTREME = 1e-3


def _log_odds(confidence: float) -> float:
    c = min(max(confidence, _EXTREME), 1 - _EXTREME)
    return math.log(c / (1 - c))


@dataclass(slots=True)
class Calibration:
    """m = sigmoid(a + b · logit(confidence)); starts at a = 0, b = 1, where m is the confidence itself.

    >>> round(Calibration().expected_correct(np.array([0.8]))[0], 6)
    0.8
    """

    weights: tuple[float, float] = (0.0, 1.0)
    covariance: tuple[float, float, float] = PRIOR  # of a, of both, of b

    def expected_correct(self, confidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return m for each confidence; a confidence of 0 (no answer) gives 0.5."""
        c = np.clip(confidence, _EXTREME, 1 - _EXTREME)
        z = self.weights[0] + self.weights[1] * np.log(c / (1 - c))
        m = 1.0 / (1.0 + np.exp(-np.clip(z, -30.0, 30.0)))
        return np.where(confidence > 0, m, 0.5)

    def learn(self, confidence: float, *, correct: bool, weight: float) -> None:
        """Learn from one answered request whose shown class had ``confidence`` and was ``correct`` or not."""
        # numbers, not matrices: numpy would take ten times as long for two by two
        (a, b), x = self.weights, _log_odds(confidence)
        m = 1.0 / (1.0 + math.exp(-min(max(a + b * x, -30.0), 30.0)))
        h = max(m * (1 - m), 0.02) * weight
        (aa, ab, bb), (prior_aa, prior_ab, prior_bb) = self.covariance, PRIOR
        aa = FORGETTING * aa + (1 - FORGETTING) * prior_aa
        ab = FORGETTING * ab + (1 - FORGETTING) * prior_ab
        bb = FORGETTING * bb + (1 - FORGETTING) * prior_bb
        ta, tb = aa + ab * x, ab + bb * x
        shrink = 1.0 / (1.0 + h * (ta + x * tb))
        step = weight * (float(correct) - m) * shrink
        self.weights = (a + step * ta, b + step * tb)
        self.covariance = (aa - h * shrink * ta * ta, ab - h * shrink * ta * tb, bb - h * shrink * tb * tb)
