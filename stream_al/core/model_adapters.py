"""What River's classes lack for replicas, and two walks along a pipeline. Imports River: import it late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from river import base, compose
from river.base.typing import ClfTarget, FeatureName
from river.feature_extraction.vectorize import VectorizerMixin
from river.neighbors import SWINN as RIVER_SWINN
from river.neighbors.ann.nn_vertex import Vertex
from river.preprocessing import GapEncoder, StandardScaler

TEXT_EXTRACTORS = (VectorizerMixin, GapEncoder)
Row = dict[Any, Any]


class Votes(base.Wrapper[base.Classifier], base.Classifier):
    """Answer with the votes of a binary classifier that gives no probabilities, for one-vs-rest.

    Parameters
    ----------
    classifier
        A classifier without ``predict_proba_one``, such as ``VotingClassifier``.
    """

    def __init__(self, classifier: base.Classifier) -> None:
        self.classifier = classifier

    @property
    def _wrapped_model(self) -> base.Classifier:
        return self.classifier

    def learn_one(self, x: Row, y: ClfTarget) -> None:
        self.classifier.learn_one(x, y)

    def predict_proba_one(self, x: Row, **kwargs: Any) -> dict[ClfTarget, float]:
        vote = float(bool(self.classifier.predict_one(x, **kwargs)))
        return {False: 1 - vote, True: vote}


class SWINN(RIVER_SWINN):
    """River's approximate nearest neighbours, whose searches leave no trace.

    River's draws a random start in each search, so that replicas that predict different samples would learn
    different graphs; and it keeps the isolated vertices of *all* its graphs in one set.
    """

    def append(self, item: Any, **kwargs: Any) -> None:
        Vertex._isolated = set(getattr(self, "_isolated", ()))  # noqa: SLF001 - a global of River's, made local
        super().append(item, **kwargs)
        self._isolated = sorted(Vertex._isolated)  # noqa: SLF001

    def search(
        self, item: Any, n_neighbors: int, epsilon: float = 0.1, **kwargs: Any
    ) -> tuple[list[Any], list[Any]]:
        state = self._rng.getstate()
        try:
            return super().search(item, n_neighbors, epsilon, **kwargs)
        finally:
            self._rng.setstate(state)


class Select(compose.Select):
    """River's selection in the order of its keys, which River keeps in a set, in another order each time."""

    def __init__(self, *keys: FeatureName) -> None:
        super().__init__(*keys)
        self.keys: dict[FeatureName, None] = dict.fromkeys(keys)  # type: ignore[assignment]


def observe_one(pipeline: compose.Pipeline, row: Row) -> None:
    """Let the unsupervised steps before the classifier learn a sample, as ``Pipeline.learn_one`` would.

    A classifier that has ``observe_one`` learns it, too.
    """
    *before, last = pipeline.steps.values()
    for step in before:
        if isinstance(step, base.AnomalyFilter):
            if _is_filtered(step, row):
                return
            continue
        for part in step.transformers.values() if isinstance(step, compose.TransformerUnion) else [step]:
            if not part._supervised:  # noqa: SLF001 - River's way to ask
                part.learn_one(row)
        row = step.transform_one(row)
    if hasattr(last, "observe_one"):
        last.observe_one(row)


def only_scales(pipeline: compose.Pipeline) -> bool:
    """Whether all steps but the last are scalers, with which ``Model`` has a shorter way."""
    return all(type(step) is StandardScaler for step in list(pipeline.steps.values())[:-1])


def _is_filtered(anomaly_filter: Any, row: Row) -> bool:
    if anomaly_filter._supervised:  # noqa: SLF001
        return False
    anomaly_filter.learn_one(row)
    return bool(anomaly_filter.classify(anomaly_filter.score_one(row)))


def named_features(pipeline: compose.Pipeline) -> tuple[set[str], set[str]]:
    """Return the features that text extractors read, and those that other steps name."""
    texts, named = set(), set()
    for step in _leaves(pipeline):
        if isinstance(step, TEXT_EXTRACTORS):
            texts.add(str(step.on))
        else:
            named |= _names(step)
    return texts, named


def _leaves(step: Any) -> Iterator[Any]:
    if isinstance(step, compose.Pipeline | compose.TransformerUnion):
        parts = step.steps if isinstance(step, compose.Pipeline) else step.transformers
        for part in parts.values():
            yield from _leaves(part)
    else:
        yield step
        if isinstance(step, compose.Grouper):
            yield from _leaves(step.transformer)


def _names(step: Any) -> set[str]:
    """Collect what a step names: ``on`` and ``by`` of aggregations, ``keys`` of selections."""
    values = (getattr(step, attribute, None) for attribute in ("on", "by", "keys"))
    lists = ([value] if isinstance(value, str) else value or () for value in values)
    return {name for names in lists for name in names if isinstance(name, str)}
