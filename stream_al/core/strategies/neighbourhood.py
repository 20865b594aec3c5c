"""How far samples are from what was learned lately, and how far is usual.

The latest learned rows, and the latest rows drawn at random from the stream, each with its squared distance to the
nearest learned one. That distance is kept up to date when rows come and go, so that "usual" means: measured
against what is known today.
"""

from __future__ import annotations

import numpy as np

from stream_al.core.strategies.rows import sketch, widened
from stream_al.core.utility import Matrix, Vector

LEARNED, OBSERVED = 300, 256


class Neighbourhood:
    """Distances to the latest learned rows. All distances are squared.

    Attributes
    ----------
    learned, observed
        How many rows of each kind came.

    >>> near = Neighbourhood()
    >>> near.learn(np.array([[0.0, 0.0]]))
    >>> near.learn(np.array([[3.0, 0.0]]))
    >>> near.distances(np.array([[1.0, 0.0], [3.0, 2.0]]))
    array([1., 4.])
    """

    def __init__(self, learned: int = LEARNED, observed: int = OBSERVED) -> None:
        self.learned = self.observed = 0
        self._learned, self._lengths = np.zeros((learned, 0)), np.zeros(learned)
        self._observed = np.zeros((observed, 0))
        self._usual = np.full(observed, np.inf)
        self._nearest = np.full(observed, -1)

    def learn(self, features: Matrix) -> None:
        """Take one row, of shape (1, D), in place of the oldest learned one."""
        row = self._fit(features)
        place = self.learned % len(self._learned)
        self._learned[place], self._lengths[place] = row[0], row[0] @ row[0]
        self.learned += 1
        held = min(self.observed, len(self._observed))
        away = self._observed[:held] - row
        self._offer(place, np.einsum("ij,ij->i", away, away))

    def _offer(self, place: int, distance: Vector) -> None:
        """Move the distances of the observed rows after a learned row was replaced."""
        held = len(distance)
        bereft = np.flatnonzero(self._nearest[:held] == place)
        nearer = np.flatnonzero(distance < self._usual[:held])
        self._usual[nearer], self._nearest[nearer] = distance[nearer], place
        if len(bereft):
            self._usual[bereft], self._nearest[bereft] = self._search(self._observed[bereft])

    def observe(self, features: Matrix) -> None:
        """Take one row of the stream, of shape (1, D), in place of the oldest."""
        row = self._fit(features)
        place = self.observed % len(self._observed)
        self._observed[place] = row
        self.observed += 1
        if self.learned:
            distance, nearest = self._search(row)
            self._usual[place], self._nearest[place] = distance[0], nearest[0]

    @property
    def usual(self) -> Vector:
        """Distances of the observed rows; infinite while nothing was learned."""
        return self._usual[: min(self.observed, len(self._usual))]

    def distances(self, features: Matrix) -> Vector:
        """Return the distance of each row to the nearest learned one; infinite while nothing was learned."""
        rows = sketch(features)
        if not self.learned:
            return np.full(len(rows), np.inf)
        width = self._learned.shape[1]
        beyond = rows[:, width:]
        distance, _ = self._search(widened(rows[:, :width], width))
        away: Vector = distance + np.einsum("ij,ij->i", beyond, beyond)
        return away

    def _search(self, rows: Matrix) -> tuple[Vector, Vector]:
        held = min(self.learned, len(self._learned))
        # ‖x - y‖² = ‖x‖² + (‖y‖² - 2 x'y); the first term is the same for every y
        table = rows @ self._learned[:held].T
        table *= -2.0
        table += self._lengths[:held]
        nearest = table.argmin(axis=1)
        least = table[np.arange(len(rows)), nearest] + np.einsum("ij,ij->i", rows, rows)
        return np.maximum(least, 0.0), nearest

    def _fit(self, features: Matrix) -> Matrix:
        """Return one row as wide as those that are kept, which grow with it."""
        row = sketch(features)
        width = max(row.shape[1], self._learned.shape[1])
        self._learned = widened(self._learned, width)
        self._observed = widened(self._observed, width)
        return widened(row, width)
