"""Dictionaries of features as rows of standardised numbers, with columns that may appear at any time.

A column is standardised by its own running mean and deviation. What is missing, constant or not a number is
0 after standardising, everything else lies within ``BOUND`` deviations. The moments forget slowly, and an
outlier counts as no more than ``FAR`` deviations, so one absurd value does not blind a column.

Beyond ``WIDE`` columns, a column that most samples leave out is taken as sparse, as counts of words are: it
is divided by its root mean square where it is given, and 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

BOUND = 5.0  # standardised values are clipped here
FAR, SETTLED = 6.0, 20  # outliers are drawn in to so many deviations once so many values were seen
MEMORY = 10_000  # values; older ones fade
LARGEST = 1e18  # squares stay finite
WIDE = 256


class Columns:
    """The columns seen so far, in order of appearance, and their moments.

    Attributes
    ----------
    names : list
        New names within one sample are taken in sorted order, so the order of keys has no influence.
    """

    def __init__(self) -> None:
        self.names: list[Any] = []
        self.seen = 0
        self._index: dict[Any, int] = {}
        self._get: Callable[[Mapping[Any, Any]], Any] = _nothing
        self._count = np.zeros(0)
        self._mean = np.zeros(0)
        self._variance = np.zeros(0)
        self._offset = np.zeros(0)
        self._scale = np.zeros(0)

    def __len__(self) -> int:
        return len(self.names)

    def learn(self, x: Mapping[Any, Any]) -> Vector:
        """Take the values of a sample into the moments; return them, standardised, of shape (d,)."""
        if not x.keys() <= self._index.keys():
            self._add(x)
        values = self._read(x)
        present = np.isfinite(values)
        if not present.all():
            return self._learn_some(values, present)
        values = np.clip(values, -LARGEST, LARGEST)
        self._update(slice(None), values)
        return self._standardised(values)

    def matrix(self, rows: Sequence[Mapping[Any, Any]]) -> Matrix:
        """Return the standardised values of n samples, of shape (n, d), without learning."""
        if not self.names:
            return np.zeros((len(rows), 0))
        return self._standardised(self._read_all(rows))

    def arranged(self, names: Sequence[Any], values: Matrix) -> Matrix:
        """Return the standardised values of n samples that come as a matrix with a column for each of ``names``."""
        if list(names) != self.names:
            place = {name: i for i, name in enumerate(names)}
            given, values = values, np.full((len(values), len(self.names)), np.nan)
            for i, name in enumerate(self.names):
                if name in place:
                    values[:, i] = given[:, place[name]]
        return self._standardised(values)

    def _read_all(self, rows: Sequence[Mapping[Any, Any]]) -> Matrix:
        try:
            values = np.array([self._get(x) for x in rows])
        except (KeyError, ValueError, OverflowError):
            return self._read_each(rows)
        if values.dtype.kind not in "fiub" or values.ndim > (1 if len(self.names) == 1 else 2):
            return self._read_each(rows)  # strings, or lists of one length, among others
        return values.astype(np.float64, copy=False).reshape(len(rows), -1)

    def _read_each(self, rows: Sequence[Mapping[Any, Any]]) -> Matrix:
        return np.array([self._read_one(x) for x in rows], dtype=np.float64).reshape(len(rows), -1)

    def _read(self, x: Mapping[Any, Any]) -> Vector:
        values: Vector = self._read_all([x])[0]
        return values

    def _read_one(self, x: Mapping[Any, Any]) -> Vector:
        """Read value by value; NaN stands for what is no number."""
        values = np.full(len(self.names), np.nan)
        index = self._index
        for name, value in x.items():
            i = index.get(name)
            if i is not None:
                values[i] = _number(value)
        return values

    def _learn_some(self, values: Vector, present: NDArray[np.bool_]) -> Vector:
        given = np.flatnonzero(present)
        values = np.clip(values, -LARGEST, LARGEST)
        self._update(given, values[given])
        return self._standardised(values)

    def _update(self, which: Any, values: Vector) -> None:
        self.seen += 1
        self._count[which] += 1
        count, mean, variance = self._count[which], self._mean[which], self._variance[which]
        delta = values - mean
        reach = np.where((count > SETTLED) & (variance > 0), FAR * np.sqrt(variance), np.inf)
        delta = np.minimum(np.maximum(delta, -reach), reach)
        rate = 1.0 / np.minimum(count, MEMORY)
        mean = mean + rate * delta
        variance = (1.0 - rate) * (variance + rate * delta * delta)
        self._mean[which], self._variance[which] = mean, variance
        self._set_scale(which, count, mean, variance)

    def _set_scale(self, which: Any, count: Vector, mean: Vector, variance: Vector) -> None:
        noise = 1e-18 * mean * mean + 1e-60  # below it a column is constant but for rounding
        varies = variance > noise
        self._offset[which] = mean
        self._scale[which] = np.where(varies, 1.0 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
        if len(self.names) > WIDE:
            sparse = count < 0.5 * self.seen
            square = mean * mean + variance
            whole = 1.0 / np.sqrt(np.where(square > 1e-60, square, 1.0))
            self._offset[which] = np.where(sparse, 0.0, mean)
            self._scale[which] = np.where(sparse, whole, self._scale[which])

    def _standardised(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        z = np.clip(values, -LARGEST, LARGEST)
        z -= self._offset
        z *= self._scale
        np.clip(z, -BOUND, BOUND, out=z)
        if np.isnan(z.sum()):
            z[np.isnan(z)] = 0.0
        return z

    def _add(self, x: Mapping[Any, Any]) -> None:
        for name in sorted(x.keys() - self._index.keys(), key=_order):
            self._index[name] = len(self.names)
            self.names.append(name)
        more = len(self.names) - len(self._count)
        for attribute in ("_count", "_mean", "_variance", "_offset", "_scale"):
            setattr(self, attribute, np.append(getattr(self, attribute), np.zeros(more)))
        self._get = itemgetter(*self.names)


def _nothing(_: Mapping[Any, Any]) -> tuple[()]:
    return ()


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return LARGEST if value > 0 else -LARGEST
    except (TypeError, ValueError):
        return float("nan")


def _order(name: object) -> tuple[str, str]:
    return type(name).__name__, str(name)
