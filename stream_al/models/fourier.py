"""Random Fourier features whose frequencies belong to columns by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_al.models.draws import normal, text, uniform

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

NEIGHBOURS = 2.0  # columns that a sparse feature looks at, on average
AMPLITUDE = 2.0  # of the whole map: its features' squares add up to AMPLITUDE²


class Fourier:
    """The map z → a √(2/F) cos(z Ω + b), an approximation of a sum of Gaussian kernels (Rahimi & Recht, 2007).

    The row of Ω that belongs to a column is drawn by the seed and the column's name, so it does not depend on
    which other columns there are or when they came. Frequencies are normal with deviation 1 / (width √d); the
    first ``sparse`` of the features look at about two columns each (an additive kernel; Duvenaud et al., 2011),
    with deviation 1 / (width √2). d is the number of columns when the map was drawn; it is drawn anew when there
    are more than twice as many.

    Parameters
    ----------
    n_features
        F, how many; 0 is an empty map.
    width
        Of the kernel, in units of √d standard deviations.
    sparse
        How many of the features are sparse.
    seed
        Two maps with the same seed are equal.
    """

    def __init__(self, n_features: int, *, width: float, sparse: int, seed: int | None) -> None:
        self.n_features = n_features
        self._width = width
        self._sparse = sparse
        self._seed = seed
        self._drawn_at = 0
        self._omega: Matrix = np.zeros((0, n_features))
        self._phase: Vector = 2 * math.pi * uniform(seed, "phase", "", n_features)
        self._amplitude = AMPLITUDE * math.sqrt(2 / max(n_features, 1))

    def grow(self, names: Sequence[Any]) -> bool:
        """Follow the columns; return whether the map was drawn anew, so that its old features mean nothing."""
        if not self.n_features:
            return False
        anew = len(names) > 2 * self._drawn_at
        if anew:
            self._omega = self._drawn(names)
            self._drawn_at = len(names)
        else:
            later = [self._later(name) for name in names[len(self._omega) :]]
            self._omega = np.vstack([self._omega, *later])
        return anew

    def write(self, z: Matrix, out: Matrix) -> None:
        """Write the features of n samples, shape (n, F), from standardised inputs, shape (n, d)."""
        np.matmul(z, self._omega, out=out)
        out += self._phase
        np.cos(out, out=out)
        out *= self._amplitude

    def _drawn(self, names: Sequence[Any]) -> Matrix:
        """Draw all frequencies; the sparse features meet each column, and each pair of columns, equally often."""
        d, sparse = len(names), self._sparse
        omega = (
            np.array([normal(self._seed, "frequency", text(name), self.n_features) for name in names])
            / self._width
        )
        omega[:, sparse:] /= math.sqrt(d)
        order = sorted(range(d), key=lambda i: uniform(self._seed, "order", text(names[i]), 1)[0])
        chosen = np.zeros((d, sparse))
        for k in range(sparse):
            turn, place = divmod(k, d)
            away = 1 + (turn - 1) % (d - 1) if turn and d > 1 else 0  # the first turn is of single columns
            both = {order[place], order[(place + away) % d]}
            chosen[list(both), k] = 1.0 / math.sqrt(len(both))
        omega[:, :sparse] *= chosen
        return omega

    def _later(self, name: Any) -> Vector:
        """Draw the frequencies of a column that comes later; a share of the sparse features looks at it, too."""
        row: Vector = normal(self._seed, "frequency", text(name), self.n_features) / (
            self._width * math.sqrt(self._drawn_at)
        )
        share = min(1.0, NEIGHBOURS / self._drawn_at)
        chosen = uniform(self._seed, "choice", text(name), self._sparse) < share
        row[: self._sparse] *= chosen / math.sqrt(share)
        return row
