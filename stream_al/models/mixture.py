"""A mixture of classifiers, weighted by how well each has foretold the labels so far."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import base, compose, multiclass, tree

from stream_al.models.answers import Answers
from stream_al.models.bayes import BayesianClassifier, gap_of, in_blocks
from stream_al.models.columns import WIDE, Columns

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

LARGEST_LOSS = 5.0  # of a label, in nats: one surprise does not end a member
UNSEEN = 0.02  # probability that a River member's answer shares out over all K classes
LEAST = 1e-12


class MixtureClassifier(base.Classifier):
    """Average the probabilities of several classifiers, with weights by their recent likelihood.

    Each label is first foretold by every member; a member's weight is exp(-eta · L), L being the sum of its log
    losses, in which a loss fades by ``fade`` with each later label. So the mixture is nearly as good as the best
    member lately, without anyone knowing which that will be.

    The standard members: Bayesian softmax regression on the inputs alone, with random features of all inputs, and
    with random features of one or two inputs each, the first and the last also with a short memory; and a Hoeffding
    tree, which leaves samples with more than 256 features to the others. Bayesian members share their scaling,
    which also learns from observed samples.

    Parameters
    ----------
    members
        Classifiers to mix; each is cloned. A binary-only one is wrapped in one-vs-rest. None: the standard set.
    eta
        How fast weights follow the losses; 0: all members count the same.
    fade
        By which a loss is multiplied with each later label, in (0, 1].
    seed
        Draws the random features of the standard set.

    Attributes
    ----------
    classes : list
        The labels in order of appearance.

    Examples
    --------
    >>> from river import datasets, evaluate, metrics
    >>> model = MixtureClassifier(seed=1)
    >>> evaluate.progressive_val_score(datasets.Phishing(), model, metrics.Accuracy()).get() > 0.87
    True

    Other members, each with its share:

    >>> from river import linear_model, naive_bayes, preprocessing
    >>> model = MixtureClassifier(
    ...     [naive_bayes.GaussianNB(), preprocessing.StandardScaler() | linear_model.LogisticRegression()]
    ... )
    >>> for x, y in datasets.Phishing().take(200):
    ...     model.learn_one(x, y)
    >>> model.weights.round(2)
    array([0.87, 0.13])

    References
    ----------
    Vovk, V. (1990). Aggregating strategies. COLT.
    Herbster, M. & Warmuth, M. K. (1998). Tracking the best expert. Machine Learning, 32(2).
    """

    def __init__(
        self,
        members: list[base.Classifier] | None = None,
        eta: float = 0.5,
        fade: float = 0.98,
        seed: int | None = None,
    ) -> None:
        if not (eta >= 0 and 0 < fade <= 1):
            raise ValueError("eta must be 0 or more and fade in (0, 1]")
        self.members = members
        self.eta = eta
        self.fade = fade
        self.seed = seed
        self.classes: list[Any] = []
        self.columns = Columns()
        self._codes: dict[Any, int] = {}
        chosen = standard(seed) if members is None else [member.clone() for member in members]
        self._members = [_ours(member, self.columns, spares_wide=members is None) for member in chosen]
        if not self._members:
            raise ValueError("members must be one or more")
        self._losses: Vector = np.zeros(len(self._members))
        self.weights: Vector = np.full(len(self._members), 1.0 / len(self._members))
        self._learns_columns = any(isinstance(member, _Bayesian) for member in self._members)

    @property
    def _multiclass(self) -> bool:
        return True

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {"seed": 1}

    def learn_one(self, x: Mapping[Any, Any], y: Any) -> None:
        z = self.columns.learn(x) if self._learns_columns else np.zeros(0)
        known = self._codes.get(y)
        if known is None:
            self._codes[y] = len(self.classes)
            self.classes.append(y)
        likelihoods = [member.learn(x, z, y, self._codes) for member in self._members]
        if known is not None:  # nobody could foretell a new class
            self._weigh(np.array(likelihoods))

    def observe_one(self, x: Mapping[Any, Any]) -> None:
        """Let scalers and other unsupervised parts learn a sample without a label."""
        if self._learns_columns:
            self.columns.learn(x)
        for member in self._members:
            member.observe(x)

    def on_drift(self) -> None:
        """Tell the members that have this method."""
        for member in self._members:
            if hasattr(member.model, "on_drift"):
                member.model.on_drift()

    def predict_proba_one(self, x: Mapping[Any, Any], **_: Any) -> dict[Any, float]:
        return dict(zip(self.classes, self.predict_proba_batch([x])[0].tolist(), strict=True))

    def predict_proba_batch(self, rows: Sequence[Mapping[Any, Any]]) -> Matrix:
        """Return the probabilities of n samples, of shape (n, K) in the order of ``classes``."""
        return self.assess_batch(rows).probabilities

    def assess_batch(self, rows: Sequence[Mapping[Any, Any]]) -> Answers:
        """Return what the members say of n samples, together.

        The gap is that of the mixture's own log-probabilities, and the variance the Bayesian members' average:
        both None without such members. The gap is scaled so that moderation by the variance gives the mixture's
        probabilities back.
        """
        return in_blocks(len(rows), self.columns, lambda block: self._assess(rows[block]))

    def assess_values(self, columns: Sequence[Any], values: Matrix) -> Answers:
        """Return the same of n samples as a matrix of finite numbers, of shape (n, d) for d ``columns``."""
        rows: list[dict[Any, Any]] = [{}] * len(values)
        if any(isinstance(member, _River) for member in self._members):
            rows = [dict(zip(columns, row, strict=True)) for row in values.tolist()]
        return in_blocks(
            len(values),
            self.columns,
            lambda block: self._mixed(rows[block], self.columns.arranged(columns, values[block])),
        )

    def _assess(self, rows: Sequence[Mapping[Any, Any]]) -> Answers:
        z = self.columns.matrix(rows) if self._learns_columns else np.zeros((len(rows), 0))
        return self._mixed(rows, z)

    def _mixed(self, rows: Sequence[Mapping[Any, Any]], z: Matrix) -> Answers:
        if not self.classes:
            return Answers([], np.zeros((len(rows), 0)))
        answers = [member.assess(rows, z, self._codes) for member in self._members]
        committee = np.stack([answer.probabilities for answer in answers])
        p: Matrix = np.einsum("m,mnk->nk", self.weights, committee)
        p /= p.sum(axis=1, keepdims=True)
        features = [answer.features for answer in answers if answer.features is not None]
        told = [(w, a.variance) for w, a in zip(self.weights, answers, strict=True) if a.variance is not None]
        if not told:
            return Answers(self.classes, p, committee=committee)
        share = sum(w for w, _ in told) + LEAST
        variance = sum(((w + LEAST / len(told)) / share * v for w, v in told), np.zeros(len(rows)))
        gap = gap_of(np.log(np.maximum(p, LEAST))) * np.sqrt(1.0 + (math.pi / 8) * variance)
        widest = max(features, key=lambda phi: phi.shape[1])
        return Answers(self.classes, p, gap, variance, widest, committee)

    def _weigh(self, likelihoods: Vector) -> None:
        losses = np.minimum(-np.log(np.maximum(likelihoods, LEAST)), LARGEST_LOSS)
        self._losses = self.fade * self._losses + losses
        weights = np.exp(-self.eta * (self._losses - self._losses.min()))
        self.weights = weights / weights.sum()


SLOW, FAST = 0.002, 0.02  # forgetting: a memory of 500 labels and of 50


def standard(seed: int | None) -> list[base.Classifier]:
    """Return the members of the standard set."""
    return [
        BayesianClassifier(n_features=0, forgetting=SLOW),
        BayesianClassifier(n_features=0, forgetting=FAST),
        BayesianClassifier(sparse=0.0, forgetting=SLOW, seed=seed),
        BayesianClassifier(sparse=1.0, forgetting=SLOW, seed=seed),
        BayesianClassifier(sparse=1.0, forgetting=FAST, seed=seed),
        tree.HoeffdingTreeClassifier(grace_period=50),
    ]


class _Bayesian:
    """A member that takes standardised inputs."""

    def __init__(self, model: BayesianClassifier, columns: Columns) -> None:
        self.model = model
        model.columns = columns

    def learn(self, _x: Mapping[Any, Any], z: Vector, y: Any, codes: Mapping[Any, int]) -> float:
        """Learn a label; return the probability that was predicted of it."""
        return float(self.model.learn_row(z, y)[codes[y]])

    def observe(self, _x: Mapping[Any, Any]) -> None:
        self.model.follow()

    def assess(self, _rows: Sequence[Mapping[Any, Any]], z: Matrix, _codes: Mapping[Any, int]) -> Answers:
        return self.model.assess_matrix(z)


class _River:
    """Any other member, asked sample by sample."""

    def __init__(self, model: Any, *, spares_wide: bool) -> None:
        self.model = model
        self._most = WIDE if spares_wide else math.inf

    def learn(self, x: Mapping[Any, Any], _z: Vector, y: Any, codes: Mapping[Any, int]) -> float:
        """Learn a label; return the probability that was predicted of it."""
        if len(x) > self._most:
            return 0.0
        likelihood = self._asked(x, codes)[codes[y]]
        with contextlib.suppress(Exception):  # as below; all replicas suppress the same
            self.model.learn_one(x, y)
        return float(likelihood)

    def observe(self, x: Mapping[Any, Any]) -> None:
        """Show a sample to the unsupervised transformers of a pipeline."""
        if not isinstance(self.model, compose.Pipeline):
            return
        for step in list(self.model.steps.values())[:-1]:
            if not isinstance(step, base.Transformer):
                return
            if not step._supervised:  # noqa: SLF001 - River's way to ask
                step.learn_one(dict(x))
            x = step.transform_one(dict(x))

    def assess(self, rows: Sequence[Mapping[Any, Any]], _z: Matrix, codes: Mapping[Any, int]) -> Answers:
        return Answers(list(codes), np.array([self._asked(x, codes) for x in rows]))

    def _asked(self, x: Mapping[Any, Any], codes: Mapping[Any, int]) -> list[float]:
        """Return K probabilities, all above 0; equal ones where the model has no answer."""
        k = len(codes)
        answer: dict[Any, float] = {}
        if len(x) <= self._most:
            with contextlib.suppress(Exception):  # a member that fails says nothing; the others go on
                answer = self.model.predict_proba_one(x)
        total = sum(answer.values())
        if not (0 < total < math.inf and min(answer.values()) >= 0):
            return [1.0 / k] * k
        row = [UNSEEN / k] * k
        for label, probability in answer.items():
            code = codes.get(label)
            if code is not None:
                row[code] += (1.0 - UNSEEN) * probability / total
        whole = sum(row)
        return [probability / whole for probability in row]


def _ours(member: Any, columns: Columns, *, spares_wide: bool) -> _Bayesian | _River:
    if isinstance(member, BayesianClassifier):
        return _Bayesian(member, columns)
    return _River(_for_many_classes(member), spares_wide=spares_wide)


def _for_many_classes(member: Any) -> Any:
    """Wrap a binary-only classifier in one-vs-rest; the steps before it stay shared."""
    if isinstance(member, compose.Pipeline):
        *before, last = member.steps.values()
        return compose.Pipeline(*before, _for_many_classes(last))
    return member if member._multiclass else multiclass.OneVsRestClassifier(member)  # noqa: SLF001 - as above
