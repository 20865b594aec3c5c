"""Calibration: from the shown class's confidence to the probability that it is right (m).

Two-parameter Platt scaling (Platt, 1999) on the confidence's log odds, updated label by label with an extended
Kalman filter whose prior is the identity. Labels come from selected samples, so each is weighted by
min(mean p / p, 10); old ones fade.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

HEAVIEST = 10.0
FORGETTING = 0.999
LOWEST_M, HIGHEST_M = 0.03, 0.97
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

    weights: NDArray[np.float64] = field(default_factory=lambda: np.array([0.0, 1.0]))
    covariance: NDArray[np.float64] = field(default_factory=lambda: np.diag([1.0, 0.25]))

    def expected_correct(self, confidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return m for each confidence; a confidence of 0 (no answer) gives 0.5."""
        c = np.clip(confidence, _EXTREME, 1 - _EXTREME)
        z = self.weights[0] + self.weights[1] * np.log(c / (1 - c))
        m = 1.0 / (1.0 + np.exp(-np.clip(z, -30.0, 30.0)))
        return np.where(confidence > 0, m, 0.5)

    def learn(self, confidence: float, *, correct: bool, weight: float) -> None:
        """Learn from one answered request whose shown class had ``confidence`` and was ``correct`` or not."""
        phi = np.array([1.0, _log_odds(confidence)])
        m = 1.0 / (1.0 + math.exp(-min(max(float(self.weights @ phi), -30.0), 30.0)))
        h = max(m * (1 - m), 0.02) * weight
        prior = np.diag([1.0, 0.25])
        s = FORGETTING * self.covariance + (1 - FORGETTING) * prior
        t = s @ phi
        gain = t / (1.0 + h * float(phi @ t))
        self.weights = self.weights + weight * (float(correct) - m) * gain
        s -= h * np.outer(gain, t)
        self.covariance = 0.5 * (s + s.T)
