"""Made-up data sets: one as the introductions to active learning use it, one for learning a representation."""

from __future__ import annotations

import numpy as np

from stream_al.whatif.reading import Row

FEATURES, INFORMATIVE, CLUSTERS = 10, 5, 2


def clusters(n: int, seed: int, *, flipped: float) -> list[Row]:
    """Return n samples of two classes, each of two Gaussian clusters on corners of a cube.

    Parameters
    ----------
    flipped
        Share of the samples whose label is drawn by lot, so that half of them are wrong.

    After the design of the MADELON data (Guyon, 2003): the corners are in five dimensions, each cluster is
    stretched by a random matrix, and five more features mean nothing.
    """
    rng = np.random.default_rng(seed)
    corners = rng.permutation(2**INFORMATIVE)[: 2 * CLUSTERS]
    centres = ((corners[:, None] >> np.arange(INFORMATIVE)) & 1) * 2.0 - 1.0
    stretches = rng.uniform(-1, 1, size=(len(centres), INFORMATIVE, INFORMATIVE))
    of = rng.integers(len(centres), size=n)
    inner = np.einsum("ij,ijk->ik", rng.normal(size=(n, INFORMATIVE)), stretches[of]) + centres[of]
    x = np.hstack([inner, rng.normal(size=(n, FEATURES - INFORMATIVE))])
    y = np.where(rng.random(n) < flipped, rng.integers(2, size=n), of % 2)
    return [
        ({f"x{j}": v for j, v in enumerate(row)}, bool(label))
        for row, label in zip(x.tolist(), y.tolist(), strict=True)
    ]


def redundant(n: int, seed: int) -> list[Row]:
    """Return n samples of forty columns tanh(A u) + noise; the class is the largest of the four hidden u."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(4, 40)) / 2
    hidden = rng.normal(size=(n, 4))
    columns = np.tanh(hidden @ mixing) + rng.normal(size=(n, 40))
    return [
        ({f"x{j}": value for j, value in enumerate(x)}, f"u{u}")
        for x, u in zip(columns.tolist(), hidden.argmax(axis=1).tolist(), strict=True)
    ]
