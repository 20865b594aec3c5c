"""Rows of features as strategies keep them: finite, of bounded width, and comparable when columns are added."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from stream_al.core.utility import Matrix, Vector

WIDEST = 128
LARGEST = 1e6  # of one value; squares and their sums stay exact enough


def sketch(features: Matrix) -> Matrix:
    """Return rows of at most ``WIDEST`` columns that keep squared distances, exactly or on average.

    Wider rows are folded: column j is added to column j mod 128, beyond the first 128 with a fixed random sign (the
    count sketch of Charikar, Chen & Farach-Colton, 2002). A column that appears later does not move the others.

    >>> sketch(np.array([[1.0, np.nan, np.inf]])).tolist()
    [[1.0, 0.0, 1000000.0]]
    """
    rows = finite(features)
    n, width = rows.shape
    if width <= WIDEST:
        return rows
    blocks = -(-width // WIDEST)
    signed = np.zeros((n, blocks * WIDEST))
    np.multiply(rows, _signs(blocks)[:width], out=signed[:, :width])
    folded: Matrix = signed.reshape(n, blocks, WIDEST).sum(axis=1)
    return folded


def finite(features: Matrix) -> Matrix:
    """Return the features within bounds, 0 for what is not a number."""
    rows: Matrix = np.clip(features, -LARGEST, LARGEST)
    if np.isnan(np.sum(rows)):
        rows = np.where(np.isnan(rows), 0.0, rows)
    return rows


def lengths(features: Matrix) -> Vector:
    """Return the Euclidean length of each row."""
    rows = finite(features)
    found: Vector = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return found


def widened(rows: Matrix, width: int) -> Matrix:
    """Return the rows with columns of zeros up to ``width``; wide enough ones as they are."""
    short = width - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, short))) if short > 0 else rows


@functools.lru_cache(maxsize=8)
def _signs(blocks: int) -> NDArray[np.float64]:
    """Return a sign for each column, +1 in the first block; more blocks begin with the signs of fewer."""
    draws = np.random.PCG64(0).random_raw(blocks * WIDEST)
    signs = np.where(draws >> np.uint64(63), 1.0, -1.0)
    signs[:WIDEST] = 1.0
    return signs
