"""Online Bayesian softmax regression."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import base

from stream_al.models.answers import Answers
from stream_al.models.columns import WIDE, Columns
from stream_al.models.fourier import Fourier

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

LEAST_CURVATURE = 0.02  # of the log-likelihood, so that a confident model still learns
STEPS = 3  # of Newton's kind towards the posterior mode
USUAL_ENERGY = 32.0  # Σ z² of a wide sample beyond which the prior of its weights is narrowed
DOUBT = 0.3  # share of the prior after an alarm
BLOCK = 1 << 20  # numbers in a matrix of inputs at once


class BayesianClassifier(base.Classifier):
    """Softmax regression with a Gaussian posterior over its weights, on random Fourier features.

    An extended Kalman filter over the weights of [1, Fourier features, standardised inputs]. All classes share
    one covariance; the mean moves to the mode of the posterior along the direction that the sample allows. The
    covariance relaxes towards the prior with each label (bounded forgetting), so the model follows drift and
    never freezes. Predictions are integrated over the posterior, which moderates them where little is known.

    Inputs are standardised by the model itself, from every sample it learned or observed. Columns and classes
    may appear at any time; what is missing counts as average. Strings are missing values: encode them first.

    Learning costs O((d + n_features)²), of which nothing depends on the labels learned so far. Beyond 256
    columns the covariance of the inputs' own weights is diagonal, and the cost linear in d.

    Parameters
    ----------
    n_features
        Random Fourier features; 0 for a linear model.
    prior
        Variance of a weight before the first label.
    forgetting
        Share of the prior that enters the covariance with each label, in [0, 1).
    width
        Width of the kernel in units of √d standard deviations, for d columns.
    sparse
        Share of the features that look at about two columns each, in [0, 1].
    seed
        Draws the features. None stands for one fixed draw, too.

    Attributes
    ----------
    classes : list
        The labels in order of appearance.

    Examples
    --------
    >>> from river import datasets, evaluate, metrics
    >>> model = BayesianClassifier(seed=1)
    >>> evaluate.progressive_val_score(datasets.Phishing(), model, metrics.Accuracy()).get() > 0.87
    True

    It can be asked about many samples at once:

    >>> rows = [x for x, _ in datasets.Phishing().take(3)]
    >>> model.predict_proba_batch(rows).shape
    (3, 2)

    References
    ----------
    MacKay, D. J. C. (1992). The evidence framework applied to classification networks. Neural Computation, 4(5).
    Rahimi, A. & Recht, B. (2007). Random features for large-scale kernel machines. NIPS 20.
    Kulhavý, R. & Zarrop, M. B. (1993). On a general concept of forgetting. Int. Journal of Control, 58(4).
    """

    def __init__(
        self,
        n_features: int = 96,
        prior: float = 1.0,
        forgetting: float = 0.004,
        width: float = 0.5,
        sparse: float = 0.75,
        seed: int | None = None,
    ) -> None:
        _check(n_features, prior, forgetting, width, sparse)
        self.n_features = n_features
        self.prior = prior
        self.forgetting = forgetting
        self.width = width
        self.sparse = sparse
        self.seed = seed
        self.classes: list[Any] = []
        self.columns = Columns()
        self._codes: dict[Any, int] = {}
        self._map = Fourier(n_features, width=width, sparse=round(sparse * n_features), seed=seed)
        self._posterior = Posterior(1 + n_features, prior, forgetting)

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: Mapping[Any, Any], y: Any) -> None:
        self.learn_row(self.columns.learn(x), y)

    def observe_one(self, x: Mapping[Any, Any]) -> None:
        """Let the scaling learn a sample without a label."""
        self.columns.learn(x)
        self.follow()

    def on_drift(self) -> None:
        """Believe less in what was learned: move the covariance towards the prior by ``DOUBT``."""
        self._posterior.relax(DOUBT)

    def predict_proba_one(self, x: Mapping[Any, Any], **_: Any) -> dict[Any, float]:
        return dict(zip(self.classes, self.predict_proba_batch([x])[0].tolist(), strict=True))

    def predict_proba_batch(self, rows: Sequence[Mapping[Any, Any]]) -> Matrix:
        """Return the probabilities of n samples, of shape (n, K) in the order of ``classes``."""
        return self._in_blocks(rows, features=False).probabilities

    def assess_batch(self, rows: Sequence[Mapping[Any, Any]]) -> Answers:
        """Return probabilities, gap, variance and features of n samples."""
        return self._in_blocks(rows, features=True)

    def assess_values(self, columns: Sequence[Any], values: Matrix) -> Answers:
        """Return the same of n samples as a matrix of finite numbers, of shape (n, d) for d ``columns``."""
        return in_blocks(
            len(values),
            self.columns,
            lambda block: self.assess_matrix(self.columns.arranged(columns, values[block])),
        )

    # What follows takes inputs that are standardised already: the members of a mixture share their columns.

    def follow(self) -> None:
        """Make room for columns that have appeared."""
        names = self.columns.names
        if len(names) > self._posterior.n_inputs:
            anew = self._map.grow(names)
            self._posterior.widen(len(names), anew=anew)

    def learn_row(self, z: Vector, y: Any) -> Vector:
        """Learn a standardised sample; return the K probabilities that were predicted, y's being among them."""
        self.follow()
        code = self._codes.get(y)
        if code is None:
            code = self._codes[y] = len(self.classes)
            self.classes.append(y)
            self._posterior.add_class()
        return self._posterior.learn(self._features(z[np.newaxis])[0], code)

    def assess_matrix(self, z: Matrix) -> Answers:
        """Return all that can be said of n standardised samples, of shape (n, d)."""
        if not self.classes:
            return Answers([], np.zeros((len(z), 0)))
        phi = self._features(z)
        logits, variance = self._posterior.logits(phi)
        return Answers(self.classes, moderated(logits, variance), gap_of(logits), variance, phi)

    def _features(self, z: Matrix) -> Matrix:
        linear = 1 + self.n_features
        phi = np.empty((len(z), linear + z.shape[1]))
        phi[:, 0] = 1.0
        if self.n_features:
            self._map.write(z, phi[:, 1:linear])
        phi[:, linear:] = z
        return phi

    def _in_blocks(self, rows: Sequence[Mapping[Any, Any]], *, features: bool) -> Answers:
        """Assess in blocks; features are kept only where they are asked for."""

        def assess(block: slice) -> Answers:
            said = self.assess_matrix(self.columns.matrix(rows[block]))
            return said if features else said._replace(features=None)

        return in_blocks(len(rows), self.columns, assess)


class Posterior:
    """Gaussian weights of K classes over [1, Fourier features, inputs], with a covariance for all classes.

    The covariance is full, and diagonal for the inputs when there are more than ``WIDE``.
    """

    def __init__(self, n_fixed: int, prior: float, forgetting: float) -> None:
        self.n_inputs = 0
        self._n_fixed = n_fixed
        self._prior = prior
        self._forgetting = forgetting
        self._energy, self._learned = 0.0, 0
        self._weights: Matrix = np.zeros((0, n_fixed))
        self._full: Matrix = np.eye(n_fixed) * prior
        self._spare: Matrix = np.empty_like(self._full)
        self._diagonal: Vector = np.zeros(0)

    @property
    def _is_wide(self) -> bool:
        return self.n_inputs > WIDE

    def add_class(self) -> None:
        self._weights = np.vstack([self._weights, np.zeros((1, self._weights.shape[1]))])

    def widen(self, n_inputs: int, *, anew: bool) -> None:
        """Add inputs; ``anew`` says that the Fourier features are others now, of which nothing is known."""
        more, old = n_inputs - self.n_inputs, self._full
        if anew:
            self._weights[:, 1 : self._n_fixed] = 0.0
            old[1 : self._n_fixed] = old[:, 1 : self._n_fixed] = 0.0
            np.fill_diagonal(old[1 : self._n_fixed, 1 : self._n_fixed], self._prior)
        was_wide, self.n_inputs = self._is_wide, n_inputs
        self._weights = np.hstack([self._weights, np.zeros((len(self._weights), more))])
        if not self._is_wide:
            self._full = np.eye(len(old) + more) * self._prior
            self._full[: len(old), : len(old)] = old
        else:
            known = self._diagonal if was_wide else np.diag(old)[self._n_fixed :]
            self._diagonal = np.append(known, np.full(more, self._input_prior))
            self._full = old[: self._n_fixed, : self._n_fixed].copy()
        self._spare = np.empty_like(self._full)

    @property
    def _input_prior(self) -> float:
        """The prior of wide inputs is narrowed, lest many of them together are sure of everything at once."""
        return self._prior * min(1.0, USUAL_ENERGY / max(self._energy, USUAL_ENERGY))

    def logits(self, phi: Matrix) -> tuple[Matrix, Vector]:
        """Return the mean logits, shape (n, K), and the variance of each, shape (n,)."""
        n = len(self._full)
        variance = np.einsum("ij,ij->i", phi[:, :n] @ self._full, phi[:, :n])
        if self._is_wide:
            variance += (phi[:, n:] ** 2) @ self._diagonal
        return phi @ self._weights.T, np.maximum(variance, 0.0)

    def learn(self, phi: Vector, code: int) -> Vector:
        """Take in one label; return the moderated probabilities before it, of shape (K,)."""
        self._forget(phi)
        n = len(self._full)
        t = self._full @ phi[:n]
        if self._is_wide:
            t = np.append(t, self._diagonal * phi[n:])
        variance = max(float(phi @ t), 0.0)
        logits = self._weights @ phi
        step, curvature = mode(logits, code, variance)
        gain = curvature / (1.0 + curvature * variance)
        u = t[:n] * math.sqrt(gain)
        np.multiply(u[:, np.newaxis], u, out=self._spare)  # exactly symmetric
        self._full -= self._spare
        if self._is_wide:
            self._diagonal /= 1.0 + curvature * self._diagonal * phi[n:] ** 2
        self._weights += step[:, np.newaxis] * t
        before: Vector = moderated(logits[np.newaxis], np.array([variance]))[0]
        return before

    def _forget(self, phi: Vector) -> None:
        if self._is_wide:
            self._learned += 1
            inputs = phi[self._n_fixed :]
            self._energy += (float(inputs @ inputs) - self._energy) / min(self._learned, 1_000)
            if self._learned == 1:
                np.minimum(self._diagonal, self._input_prior, out=self._diagonal)
        self.relax(self._forgetting)

    def relax(self, share: float) -> None:
        """Move the covariance towards the prior."""
        full = self._full
        full *= 1.0 - share
        full.ravel()[:: len(full) + 1] += share * self._prior
        self._diagonal += share * (self._input_prior - self._diagonal)


def mode(logits: Vector, code: int, variance: float) -> tuple[Vector, float]:
    """Return by how much the posterior mode moves along S φ, and the curvature there.

    The mode solves a = e - softmax(z + s² a), e being the label's unit vector, z the mean logits and s² their
    variance; a few steps of Newton's kind with the mean curvature over the classes come close enough.

    >>> step, curvature = mode(np.zeros(2), 0, 0.0)
    >>> step, curvature
    (array([ 0.5, -0.5]), 0.25)
    """
    target = np.zeros(len(logits))
    target[code] = 1.0
    step = np.zeros(len(logits))
    p = softmax(logits)
    curvature = _curvature(p)
    for _ in range(STEPS):
        step = step + (target - p - step) / (1.0 + curvature * variance)
        p = softmax(logits + variance * step)
        curvature = _curvature(p)
    return step, curvature


def _curvature(p: Vector) -> float:
    return max(0.5 * (1.0 - float(p @ p)), LEAST_CURVATURE)


def softmax(logits: Vector) -> Vector:
    """Return the probabilities of one sample's logits."""
    p: Vector = np.exp(logits - logits.max())
    p /= p.sum()
    return p


def moderated(logits: Matrix, variance: Vector) -> Matrix:
    """Return the probabilities of uncertain logits: softmax(z / √(1 + π s²/8)) (MacKay, 1992, eq. 10).

    >>> moderated(np.array([[2.2, 0.0], [2.2, 0.0]]), np.array([0.0, 8.0])).round(2)
    array([[0.9 , 0.1 ],
           [0.75, 0.25]])
    """
    z: Matrix = logits / np.sqrt(1.0 + (math.pi / 8) * variance)[:, np.newaxis]
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def gap_of(logits: Matrix) -> Vector:
    """Return the difference of the two highest of each row; 0 where there is only one.

    >>> gap_of(np.array([[0.5, 3.0, 1.0]]))
    array([2.])
    """
    if logits.shape[1] < 2:
        return np.zeros(len(logits))
    if logits.shape[1] == 2:
        return np.abs(logits[:, 0] - logits[:, 1])
    top = np.partition(logits, -2, axis=1)
    gap: Vector = top[:, -1] - top[:, -2]
    return gap


def in_blocks(n: int, columns: Columns, assess: Callable[[slice], Answers]) -> Answers:
    """Assess n samples in blocks of bounded size."""
    size = max(1, BLOCK // (1 + len(columns)))
    return joined([assess(slice(at, at + size)) for at in range(0, max(1, n), size)])


def joined(parts: Sequence[Answers]) -> Answers:
    """Put answers for consecutive samples together."""

    def whole(name: str, axis: int) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays, axis=axis)

    first = parts[0]
    if len(parts) == 1:
        return first
    return Answers(
        first.classes, *(whole(name, 1 if name == "committee" else 0) for name in Answers._fields[1:])
    )


def _check(n_features: int, prior: float, forgetting: float, width: float, sparse: float) -> None:
    rules = {
        "n_features must be 0 or more": n_features >= 0,
        "prior must be above 0": prior > 0,
        "forgetting must be in [0, 1)": 0 <= forgetting < 1,
        "width must be above 0": width > 0,
        "sparse must be in [0, 1]": 0 <= sparse <= 1,
    }
    broken = [rule for rule, kept in rules.items() if not kept]
    if broken:
        raise ValueError("; ".join(broken))
