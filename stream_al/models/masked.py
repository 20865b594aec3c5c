"""A representation of the inputs, learned without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import base

from stream_al.models.bayes import BLOCK
from stream_al.models.columns import Columns
from stream_al.models.draws import normal, text, uniform

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

MASKS = 4  # of each sample that is learned
FIRST, SECOND = 0.9, 0.99  # what a step keeps of the gradient's moments
LEAST = 1e-8


class MaskedAutoencoder(base.Transformer):
    """Add features that are learned by foretelling hidden inputs from the others.

    The inputs are standardised by the transformer itself, to z. Of each sample that it learns, a random share of
    the inputs is hidden, in four ways; h = tanh([1, z] W) sees the rest, scaled up to make up for what is hidden,
    and h W' (tied weights, without the bias) foretells what is hidden. A step of Adam lowers the squared error.

    A sample is passed on as it came, with ``h0``, ``h1``, ... of all its inputs beside it; an input of such a name
    keeps its own value. Columns may appear at any time. Strings, lists and missing values are not looked at, and
    pass. It is an unsupervised step: samples without labels teach it as they teach scalers.

    Parameters
    ----------
    n_hidden
        How many features are added.
    share
        Of the inputs that are hidden while learning, in (0, 1).
    rate
        The largest step of a weight, about.
    seed
        Draws the first weights and what is hidden. None stands for one fixed draw, too.

    Examples
    --------
    Two inputs that can be foretold from each other need one feature:

    >>> model = MaskedAutoencoder(n_hidden=1, seed=1)
    >>> for i in range(200):
    ...     model.learn_one({"a": math.sin(i), "b": 2 * math.sin(i), "c": "red"})
    >>> model.transform_one({"a": 0.5, "b": 1.0, "c": "red"}).keys()
    dict_keys(['h0', 'a', 'b', 'c'])

    References
    ----------
    Vincent, P. et al. (2008). Extracting and composing robust features with denoising autoencoders. ICML.
    Kingma, D. P. & Ba, J. (2015). Adam: a method for stochastic optimization. ICLR.
    """

    def __init__(
        self, n_hidden: int = 4, share: float = 0.5, rate: float = 0.01, seed: int | None = None
    ) -> None:
        if not (n_hidden > 0 and 0 < share < 1 and rate > 0):
            raise ValueError("n_hidden and rate must be above 0 and share in (0, 1)")
        self.n_hidden = n_hidden
        self.share = share
        self.rate = rate
        self.seed = seed
        self.columns = Columns()
        self.learned = 0
        self._names = [f"h{i}" for i in range(n_hidden)]
        self._weights: Matrix = np.zeros((1, n_hidden))  # the first row is the bias
        self._first: Matrix = np.zeros((1, n_hidden))
        self._second: Matrix = np.zeros((1, n_hidden))

    def learn_one(self, x: Mapping[Any, Any]) -> None:
        z = self.columns.learn(x)
        if len(z) >= len(self._weights):
            self._widen()
        self._step(self._gradient(z))

    def transform_one(self, x: Mapping[Any, Any]) -> dict[Any, Any]:
        return self.transform_batch([x])[0]

    def transform_batch(self, rows: Sequence[Mapping[Any, Any]]) -> list[dict[Any, Any]]:
        """Return what ``transform_one`` says of n samples."""
        size = max(1, BLOCK // (1 + len(self.columns)))
        hidden = [h for i in range(0, len(rows), size) for h in self._hidden(rows[i : i + size]).tolist()]
        return [dict(zip(self._names, h, strict=True)) | x for h, x in zip(hidden, rows, strict=True)]  # type: ignore[operator]

    def _hidden(self, rows: Sequence[Mapping[Any, Any]]) -> Matrix:
        return self._activations(self.columns.matrix(rows))

    def _activations(self, z: Matrix) -> Matrix:
        h: Matrix = z @ self._weights[1:]
        h += self._weights[0]
        return np.tanh(h, out=h)

    def _widen(self) -> None:
        """Add rows for columns that have appeared; each is drawn by its name."""
        names = self.columns.names[len(self._weights) - 1 :]
        deviation = 1.0 / math.sqrt(len(self.columns))
        rows = [deviation * normal(self.seed, "weights", text(name), self.n_hidden) for name in names]
        self._weights = np.vstack([self._weights, *rows])
        none = np.zeros((len(names), self.n_hidden))
        self._first, self._second = np.vstack([self._first, none]), np.vstack([self._second, none])

    def _gradient(self, z: Vector) -> Matrix:
        """Return the gradient of half the mean squared error of what is hidden and known, of shape (1 + d, k)."""
        drawn = uniform(self.seed, "hidden", str(self.learned), MASKS * len(z)).reshape(MASKS, len(z))
        hidden = drawn < self.share
        seen = np.where(hidden, 0.0, z / (1.0 - self.share))
        h = self._activations(seen)
        error = h @ self._weights[1:].T - z
        error *= hidden & (z != 0)  # 0 is what is missing or constant
        error /= MASKS
        back = (error @ self._weights[1:]) * (1.0 - h * h)
        return np.vstack([back.sum(axis=0), seen.T @ back + error.T @ h])

    def _step(self, gradient: Matrix) -> None:
        """Move the weights (Kingma & Ba, 2015, algorithm 1)."""
        self.learned += 1
        self._first = FIRST * self._first + (1.0 - FIRST) * gradient
        self._second = SECOND * self._second + (1.0 - SECOND) * gradient**2
        first = self._first / (1.0 - FIRST**self.learned)
        second = self._second / (1.0 - SECOND**self.learned)
        self._weights = self._weights - self.rate * first / (np.sqrt(second) + LEAST)
