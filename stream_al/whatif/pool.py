"""Selection from a pool, with the models and query strategies of the service: what the stream is compared with.

All unlabelled samples lie there at once. In each round the most informative samples are asked for, the model is trained
on all labels so far, and the accuracy on samples held back is noted. An online model that learns on is the one that
would be trained anew, on the same labels in the same order. Ways to choose, beside the query
strategies:

* ``synthesis``: membership query synthesis (Angluin, 1988), with the remedy for samples that nobody could label
  (Wang et al., 2015): the learner composes a point on its own boundary, between two points of the observed feature
  ranges that it takes for different classes, and asks for the nearest real sample.

With ``sure`` the learner also trains on samples it is sure of, with its own answer (CEAL, Wang et al., 2017): those
whose entropy is below a threshold that falls by the same step after each round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_al.core.labels import Label, same
from stream_al.core.messages import Features
from stream_al.core.model import Model
from stream_al.core.strategies.table import create
from stream_al.core.utility import entropies
from stream_al.whatif.processes import Stop, Stopped
from stream_al.whatif.reading import Row

SYNTHESIS, RANDOM = "synthesis", "random"
HALVINGS = 12  # of the way between two points of different classes
TRIES = 50  # pairs of points until two are of different classes
SURE, SURE_STEP = (
    0.3,
    0.005,
)  # nats: 0.91 on one of two classes; a tenth of wrong labels lets nobody be much surer

Curve = list[tuple[int, float]]  # labels, accuracy on the samples held back


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be learned: the pool, the samples held back, and how it is asked.

    Parameters
    ----------
    spec
        The model.
    start
        Labels at the start, drawn by lot.
    rounds, batch
        How often it asks, and for how many samples at once.
    """

    pool: Sequence[Row]
    test: Sequence[Row]
    spec: list[Any]
    start: int
    rounds: int
    batch: int = 1

    @property
    def classes(self) -> tuple[Label, ...]:
        """All classes, sorted as texts."""
        found = dict.fromkeys((type(y), y) for _, y in self.pool)
        return tuple(sorted((label for _, label in found), key=str))


def learn_from_pool(task: Task, way: str, seed: int, stop: Stop, *, sure: bool = False) -> Curve:
    """Return the accuracy before the first round and after each.

    Raises
    ------
    Stopped
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(task.pool)).tolist()
    labelled, left = order[: task.start], order[task.start :]
    model = _trained(task, seed, labelled, [])
    curve = [(len(labelled), right(model, task.test))]
    for turn in range(task.rounds):
        if stop.is_set():
            raise Stopped
        for i in _chosen(task, model, way, left, rng):
            left.remove(i)
            labelled.append(i)
        if sure:
            model = _trained(task, seed, labelled, _sure(task, model, left, SURE - SURE_STEP * turn))
        else:
            _learn(model, task, labelled[-task.batch :])
        curve.append((len(labelled), right(model, task.test)))
    return curve


def right(model: Model, test: Sequence[Row]) -> float:
    """Return the share of the samples that the model gets right; without an answer it does not."""
    said = model.predict([x for x, _ in test])
    if not said.shape[1]:
        return 0.0
    shown = said.argmax(axis=1).tolist()
    answered = (said.sum(axis=1) > 0).tolist()
    held = zip(shown, answered, test, strict=True)
    return sum(bool(ok) and same(model.classes[k], y) for k, ok, (_, y) in held) / len(test)


def _trained(
    task: Task, seed: int, labelled: Sequence[int], pseudo: Sequence[tuple[Features, Label]]
) -> Model:
    model = Model(task.spec, classes=task.classes, seed=seed)
    _learn(model, task, labelled)
    for x, y in pseudo:
        model.learn(x, y)
    return model


def _learn(model: Model, task: Task, places: Sequence[int]) -> None:
    for i in places:
        model.learn(*task.pool[i])


def _chosen(task: Task, model: Model, way: str, left: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Return which samples to ask for."""
    if way == RANDOM:
        return [int(i) for i in rng.choice(left, task.batch, replace=False)]
    features = [task.pool[i][0] for i in left]
    if way == SYNTHESIS:
        places = _composed(model, features, task.batch, rng)
    else:
        utility = create(way).utility(model.assess(features))
        places = np.lexsort((rng.random(len(left)), -utility))[: task.batch].tolist()
    return [left[place] for place in places]


def _sure(task: Task, model: Model, left: Sequence[int], below: float) -> list[tuple[Features, Label]]:
    """Return the samples that the model is sure of, with its answer."""
    features = [task.pool[i][0] for i in left]
    said = model.predict(features)
    unsure = np.where(said.sum(axis=1) > 0, entropies(said), np.inf)
    return [
        (x, model.classes[k])
        for x, k, h in zip(features, said.argmax(axis=1).tolist(), unsure.tolist(), strict=True)
        if h < below
    ]


# Synthesis


def _composed(model: Model, features: Sequence[Features], n: int, rng: np.random.Generator) -> list[int]:
    """Compose n points on the boundary; return the places of the nearest samples, each once."""
    names = sorted(features[0])
    real = np.array([[float(x[name] or 0.0) for name in names] for x in features])  # type: ignore[arg-type]
    low, high = real.min(axis=0), real.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    found: list[int] = []
    for _ in range(n):
        point = _on_boundary(model, names, low, high, rng)
        apart = (((real - point) / width) ** 2).sum(axis=1)
        apart[found] = np.inf
        found.append(int(apart.argmin()))
    return found


def _on_boundary(
    model: Model,
    names: Sequence[str],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return a point where the model changes its mind; any point, if it never does."""
    points = rng.uniform(low, high, size=(TRIES, len(low)))
    said = _said(model, names, points)
    other = np.flatnonzero(said != said[0])
    if not len(other):
        return np.asarray(points[0])
    a, b = points[0], points[other[0]]
    for _ in range(HALVINGS):
        middle = (a + b) / 2
        if _said(model, names, middle[None, :])[0] == said[0]:
            a = middle
        else:
            b = middle
    return np.asarray((a + b) / 2)


def _said(model: Model, names: Sequence[str], points: NDArray[np.float64]) -> NDArray[np.intp]:
    rows = [dict(zip(names, row, strict=True)) for row in points.tolist()]
    return np.asarray(model.predict(rows).argmax(axis=1))
