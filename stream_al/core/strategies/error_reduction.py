"""How much of the expected error over the whole stream one label would remove."""

from __future__ import annotations

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.strategies.rows import sketch, widened
from stream_al.core.utility import Matrix, Vector, impurities

MEMORY = 1_000  # observed samples; older ones fade
FORGETTING = 0.002  # a label: the covariance relaxes to the prior
LEAST_INFORMATION = 0.02


class ErrorReduction(QueryStrategy):
    """u = h φ'S F S φ / (1 + h φ'S φ) / tr(S F): the share of the expected error that one label removes.

    h = (1 - Σ p²) / 2, F is the running mean of h φφ' over observed samples (the Fisher information of the stream)
    and S the inverse of what the learned samples told: a label changes tr(S F) by this much (A-optimal design:
    Zhang & Oles, 2000; Schein & Ungar, 2007). Both matrices are the strategy's own, at most 128 x 128. Like
    ``variance_reduction`` it is meant for linear models. Without features it is h, scaled to reach 1.
    """

    stateful = True

    def __init__(self) -> None:
        self._seen = 0
        self._fisher = np.zeros((0, 0))
        self._covariance = np.zeros((0, 0))

    def _utility(self, batch: Assessment) -> Vector:
        p = batch.probabilities
        h = impurities(p) / 2.0
        width = len(self._covariance)
        if batch.features is None or not width:
            scaled: Vector = h * (2.0 * p.shape[1] / (p.shape[1] - 1))
            return scaled
        rows = widened(sketch(batch.features)[:, :width], width)
        reached = rows @ self._covariance
        removed = np.einsum("ij,ij->i", reached @ self._fisher, reached)
        variance = np.einsum("ij,ij->i", reached, rows)
        whole = float(np.sum(self._covariance * self._fisher))
        u: Vector = h * removed / ((1.0 + h * np.maximum(variance, 0.0)) * max(whole, 1e-300))
        return u

    def learn(self, seen: Assessment) -> None:
        """Shrink the covariance as the label does (Sherman & Morrison, 1950)."""
        if seen.features is None:
            return
        row, h = self._fit(seen.features), _information(seen)
        s = self._covariance
        s *= 1.0 - FORGETTING
        s.ravel()[:: len(s) + 1] += FORGETTING
        t = s @ row
        s -= np.multiply.outer(t * (h / (1.0 + h * float(row @ t))), t)

    def observe(self, seen: Assessment) -> None:
        """Move the information of the stream."""
        if seen.features is None:
            return
        row, h = self._fit(seen.features), _information(seen)
        self._seen += 1
        rate = 1.0 / min(self._seen, MEMORY)
        self._fisher *= 1.0 - rate
        self._fisher += np.multiply.outer(row * (rate * h), row)

    def _fit(self, features: Matrix) -> Vector:
        """Return the row as wide as both matrices, which grow with it: S from the prior 1, F from 0."""
        row = sketch(features)
        old, width = len(self._covariance), max(row.shape[1], len(self._covariance))
        if width > old:
            s = np.eye(width)
            s[:old, :old] = self._covariance
            f = np.eye(width) if not self._seen else np.zeros((width, width))
            f[:old, :old] = self._fisher
            self._covariance, self._fisher = s, f
        fitted: Vector = widened(row, width)[0]
        return fitted


def _information(seen: Assessment) -> float:
    """Return h of one sample; without an answer all of it is still to be learned."""
    p = seen.probabilities
    h = float(impurities(p)[0]) / 2.0 if p.shape[1] > 1 and p.any() else 0.25
    return max(h, LEAST_INFORMATION)
