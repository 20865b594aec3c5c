"""The margin where the stream is dense."""

from __future__ import annotations

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.margin import Margin
from stream_al.core.strategies.rows import finite, widened
from stream_al.core.utility import Vector

MEMORY = 1_000  # observed samples; older ones fade


class DensityMargin(Margin):
    """u = margin · s / (s + ‖μ‖²), s = max(0, φ'μ): uncertain samples count less where few others are.

    μ is the running mean of the features φ over observed samples. With random Fourier features φ'μ estimates the
    density of the stream (its kernel mean embedding: Smola et al., 2007), and ‖μ‖² is its mean. Weighting
    uncertainty by density is Settles & Craven's (2008). With plain standardised inputs φ'μ says little; without
    features, or before anything was observed, it is ``margin``.
    """

    stateful = True

    def __init__(self) -> None:
        self._seen = 0
        self._mean = np.zeros((1, 0))

    def _utility(self, batch: Assessment) -> Vector:
        u = super()._utility(batch)
        if batch.features is None or not self._seen:
            return u
        width = min(batch.features.shape[1], self._mean.shape[1])
        density = np.maximum(finite(batch.features[:, :width]) @ self._mean[0, :width], 0.0)
        usual = float(np.sum(self._mean**2))
        return u * density / np.maximum(density + usual, 1e-300)

    def observe(self, seen: Assessment) -> None:
        """Move the mean of the features."""
        if seen.features is None:
            return
        row = finite(seen.features)
        width = max(row.shape[1], self._mean.shape[1])
        self._seen += 1
        self._mean = widened(self._mean, width)
        self._mean += (widened(row, width) - self._mean) / min(self._seen, MEMORY)
