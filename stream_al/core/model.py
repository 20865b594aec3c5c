"""A River model behind a total edge: nothing that is in the log may raise out of it or poison it.

The model is a fold: the same calls of ``learn`` and ``observe`` give the same model in every process, and
``predict`` leaves no trace. Three things stand between River and the log:

* **Features** are made to fit by ``FeatureTable`` and **labels** by a typed class table in order of
  appearance: River sees the codes 0..K-1, a binary-only classifier False and True of two configured classes.
  With any other number of classes, or an open one, a binary-only classifier is wrapped in one-vs-rest.
  A regressor learns numbers, clipped as features are.
* **Roll-back.** River's pipelines change step by step, so a classifier that raises leaves its scaler
  changed. The state is kept as a pickled checkpoint and a journal of what was folded since; a failed record
  is undone by loading the one and replaying the other. A checkpoint is due after as many records as its
  pickle has blocks of 200 bytes, within bounds: the cost per record stays small for a linear model as for a
  forest of 100 MB.
* **Poison.** After each record the model must answer for that very sample with finite numbers (1 us for a
  linear model behind scalers); if it did before and no longer does, the record is undone. Trees and neighbours
  are spared the check: they keep what they saw, and what they saw is finite. A model that fails the check by
  itself loses it.

Scalers and other unsupervised steps learn from ``observe`` and, as River's pipelines do it, from labelled
samples, once each. Labelled samples are chosen where the model is uncertain, so a small bias towards them
remains.
"""

from __future__ import annotations

import contextlib
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_al.core.assessment import Assessment
from stream_al.core.labels import Label, Value, is_number
from stream_al.core.messages import Feature, Task
from stream_al.core.model_features import LARGEST, FeatureTable, Row
from stream_al.core.model_spec import ModelSpecError, build

Entry = tuple[Mapping[str, Feature], Value | None]  # what is folded; None is an observation

UNKNOWN: Any = object()
POISONED = "Poisoned"
UNKNOWN_CLASS = "UnknownClass"
MOST_CLASSES = 1_000  # of an open class table
UNSEEN = 0.02  # probability shared out over classes that the classifier has not named, 1/K each
BYTES_PER_RECORD, SHORTEST_JOURNAL, LONGEST_JOURNAL = 200, 256, 65_536
LONGEST_REPLAY = 64  # of a journal for one bad record, when the next one may follow at once
SPARED = (
    "river.tree.",
    "river.forest.",
    "river.neighbors.",
    "river.dummy",
    "stream_al.models.",
    "stream_al.core.model_trees",
)


class Model:
    """A classifier or a regressor over samples with any features and labels.

    Parameters
    ----------
    spec
        The River pipeline, see ``model_spec``.
    classes
        The closed class table; a label outside it is not learned. None: classes come with their first label.
    seed
        Derives all seeds that the spec leaves open.
    task
        What the spec's last step is for.

    Attributes
    ----------
    classes : tuple of labels
        The class table: configured, or in order of appearance; empty in regression.
    learned : int
        How many labels were learned.

    Raises
    ------
    ModelSpecError
        If the spec cannot be built, or the classes are fewer than two or not distinct.
    """

    def __init__(
        self,
        spec: object,
        *,
        classes: Sequence[Label] | None,
        seed: int,
        task: Task = "classification",
    ) -> None:
        self._state = (
            _Numbers.build(spec, seed) if task == "regression" else _Classes.build(spec, classes, seed)
        )
        self._journal: list[bytes] = []
        self._checkpoint = b""
        self._due = 0
        self._vectorised: Any = UNKNOWN  # equivalent of this state for matrices; None: there is none
        self._save()
        if not self._checkpoint:
            raise ModelSpecError("model", "cannot be pickled, so its state cannot be kept")

    @property
    def classes(self) -> tuple[Label, ...]:
        return self._state.classes

    @property
    def learned(self) -> int:
        return self._state.learned

    @property
    def size(self) -> int:
        """Bytes of its state at the last checkpoint."""
        return len(self._checkpoint)

    def predict(self, batch: Sequence[Mapping[str, Feature]]) -> NDArray[np.float64]:
        """Return the class probabilities of n samples; never raises.

        Returns
        -------
        Shape (n, K) for the K ``classes``. Each row sums to 1, or is all zeros where the model has no
        answer: before its first label, or where River raises or answers with NaN.
        """
        return self._assess(batch, whole=False).probabilities

    def assess(self, batch: Sequence[Mapping[str, Feature]]) -> Assessment:
        """Return the probabilities of n samples as ``predict`` does, and what else the model can tell of them.

        Never raises. Gap, variance, features and committee are there once a classifier that has them has learned
        a label; a regressor's values always, NaN before its first label.
        """
        return self._assess(batch, whole=True)

    def _assess(self, batch: Sequence[Mapping[str, Feature]], *, whole: bool) -> Assessment:
        if not (batch and self.learned):
            return self._state.unanswered(len(batch))
        # for one sample matrices are not worth their making
        vectorised = self._by_matrices() if len(batch) > 1 else None
        if vectorised is not None:
            with contextlib.suppress(Exception):  # asked one by one, the others get an answer
                found = vectorised(batch, whole=whole)
                if found is not None:
                    return found
        return self._state.assess(batch, whole=whole)

    def _by_matrices(self) -> Callable[..., Assessment | None] | None:
        if self._vectorised is UNKNOWN:
            self._vectorised = self._state.vectorised()
        found: Callable[..., Assessment | None] | None = self._vectorised
        return found

    @property
    def embeds(self) -> bool:
        """Whether ``assess`` tells the features that a classifier sees."""
        return self._state.embeds

    @property
    def numbers(self) -> tuple[str, ...]:
        """The features of which the model wants a matrix, ``batch.Numbers``; none if it asks for them by name."""
        return self._state.features.numbers if self.learned and self._by_matrices() is not None else ()

    def learn(self, features: Mapping[str, Feature], label: Value) -> str | None:
        """Learn one label.

        Returns
        -------
        None, or what went wrong: ``UnknownClass``, ``Poisoned`` or the name of an exception; then the state
        is what it was before.
        """
        return self._fold((features, label)) if self._state.fits(label) else TypeError.__name__

    def observe(self, features: Mapping[str, Feature]) -> str | None:
        """Show one sample without a label to the unsupervised steps; returns as ``learn`` does."""
        return self._fold((features, None))

    def on_drift(self) -> str | None:
        """Tell those steps of the pipeline that have a method ``on_drift``; returns as ``learn`` does."""
        hooks = [step.on_drift for step in self._state.pipeline.steps.values() if hasattr(step, "on_drift")]
        self._vectorised = UNKNOWN
        try:
            for hook in hooks:
                hook()
        except Exception as error:  # noqa: BLE001 - the fold is total
            self._restore()
            return type(error).__name__
        if hooks:
            self._save()
        return None

    def _fold(self, entry: Entry) -> str | None:
        error = self._state.admit(entry)
        if error is not None:
            return error
        self._vectorised = UNKNOWN
        error = self._state.fold(entry)
        if error is None:
            self._keep(entry)
            return None
        self._restore()
        if error == POISONED and not self._state.answers(entry[0]):
            self._state.guarded = False  # it was no better before this record
            self._save()
            return self._fold(entry)
        return error

    def _keep(self, entry: Entry) -> None:
        try:
            self._journal.append(pickle.dumps((dict(entry[0]), entry[1]), pickle.HIGHEST_PROTOCOL))
        except Exception:  # noqa: BLE001 - features too deep to pickle; the state that learned them is not
            self._save()
        if len(self._journal) >= self._due:
            self._save()

    def _save(self) -> None:
        """Take a checkpoint; a state too deep to pickle lets the journal grow: as exact, but slower."""
        try:
            checkpoint = pickle.dumps(self._state, pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001 - any class of River or of a plug-in may refuse, in its own way
            self._due *= 2
            return
        self._start_from(checkpoint)

    def _start_from(self, checkpoint: bytes) -> None:
        self._checkpoint = checkpoint
        self._journal = []
        self._due = min(max(len(checkpoint) // BYTES_PER_RECORD, SHORTEST_JOURNAL), LONGEST_JOURNAL)

    def _restore(self) -> None:
        """Return to the state after the last record that was kept."""
        self._state = pickle.loads(self._checkpoint)  # noqa: S301 - written by this process, or by its snapshot
        for record in self._journal:
            with contextlib.suppress(Exception):  # it was folded once, and folding is deterministic
                self._state.absorb(pickle.loads(record))  # noqa: S301
        if len(self._journal) >= LONGEST_REPLAY:
            self._save()  # a run of bad records must not replay a long journal each time

    def __getstate__(self) -> bytes:
        return pickle.dumps(self._state, pickle.HIGHEST_PROTOCOL)

    def __setstate__(self, checkpoint: bytes) -> None:
        self._vectorised = UNKNOWN
        self._state = pickle.loads(checkpoint)  # noqa: S301 - a snapshot is as trusted as the service's own files
        self._start_from(checkpoint)


@dataclass(slots=True, kw_only=True)
class _State(ABC):
    """All that the calls have made: what a checkpoint holds."""

    pipeline: Any
    features: FeatureTable
    guarded: bool
    only_scales: bool  # whether all steps but the last are scalers
    classes: tuple[Label, ...] = ()
    learned: int = 0

    @property
    def embeds(self) -> bool:
        """Whether the last step tells the features that it sees."""
        return hasattr(list(self.pipeline.steps.values())[-1], "assess_batch")

    @staticmethod
    def edge(pipeline: Any) -> dict[str, Any]:
        """Return what stands around a new pipeline, whatever it is for."""
        from stream_al.core.model_adapters import named_features, only_scales  # noqa: PLC0415 - River is slow to import

        texts, named = named_features(pipeline)
        last = list(pipeline.steps.values())[-1]
        return {
            "pipeline": pipeline,
            "features": FeatureTable(texts=texts, named=named),
            "guarded": not type(last).__module__.startswith(SPARED),
            "only_scales": only_scales(pipeline),
        }

    def fold(self, entry: Entry) -> str | None:
        """Absorb a record; on an error's name the state is broken and must be restored."""
        try:
            asked, row = self.absorb(entry)
        except Exception as error:  # noqa: BLE001 - the fold is total
            return type(error).__name__
        return POISONED if self.guarded and not self._answers(asked, row) else None

    def absorb(self, entry: Entry) -> tuple[Any, Row]:
        """Learn or observe a sample; return whom to ask whether there is an answer for it, and by which row."""
        features, label = entry
        row, asked = self.features.learn(features), self.pipeline
        if label is None:
            from stream_al.core.model_adapters import observe_one  # noqa: PLC0415 - as above

            observe_one(self.pipeline, row)
            return asked, row
        if self.only_scales:  # the last step is asked by the very numbers that it learned
            *scalers, asked = self.pipeline.steps.values()
            for scaler in scalers:
                row = learn_and_scale(scaler, row)
        asked.learn_one(row, self.target(label))
        self.learned += 1
        return asked, row

    def answers(self, features: Mapping[str, Feature]) -> bool:
        """Say whether the model answers for a sample, with finite numbers."""
        return self._answers(self.pipeline, self.features.encode(features))

    def _answers(self, asked: Any, row: Row) -> bool:
        try:
            return all(map(math.isfinite, self._said_by(asked, row)))
        except Exception:  # noqa: BLE001 - River may raise anything on a sample it cannot place
            return False

    def _transformed(self, before: Sequence[Any], batch: Sequence[Mapping[str, Feature]]) -> list[Row]:
        """Take a micro-batch through the steps; one that has ``transform_batch`` takes it at once."""
        rows = [self.features.encode(features) for features in batch]
        for step in before:
            at_once = getattr(step, "transform_batch", None)
            rows = at_once(rows) if at_once else [step.transform_one(row) for row in rows]
        return rows

    @abstractmethod
    def fits(self, label: Value) -> bool:
        """Say whether a label is of a type that can be learned."""

    @abstractmethod
    def admit(self, entry: Entry) -> str | None:
        """Say why a label that fits cannot be learned; None if it can."""

    @abstractmethod
    def target(self, label: Value) -> float | bool:
        """Return what River learns for a label, and remember it."""

    @abstractmethod
    def unanswered(self, n: int) -> Assessment:
        """Return that there is no answer for n samples."""

    @abstractmethod
    def assess(self, batch: Sequence[Mapping[str, Feature]], *, whole: bool) -> Assessment:
        """Ask for a micro-batch; ``whole`` asks for more than predictions."""

    @abstractmethod
    def _said_by(self, asked: Any, row: Row) -> Iterable[float]:
        """Return the numbers that a pipeline, or its last step, answers with."""

    def vectorised(self) -> Callable[..., Assessment | None] | None:
        """Return what ``assess`` does, by matrices, while nothing is learned; None where that cannot be."""
        return None


@dataclass(slots=True, kw_only=True)
class _Numbers(_State):
    """Of a regressor."""

    @classmethod
    def build(cls, spec: object, seed: int) -> _Numbers:
        return cls(**cls.edge(build(spec, seed=seed, task="regression")))

    def fits(self, label: Value) -> bool:
        return is_number(label) and -math.inf < label < math.inf

    def admit(self, entry: Entry) -> str | None:  # noqa: ARG002 - any number can be learned
        return None

    def target(self, label: Value) -> float:
        assert is_number(label)
        return float(max(-LARGEST, min(LARGEST, label)))

    def unanswered(self, n: int) -> Assessment:
        return Assessment(np.zeros((n, 0)), values=np.full(n, math.nan))

    def assess(self, batch: Sequence[Mapping[str, Feature]], *, whole: bool) -> Assessment:  # noqa: ARG002 - there is no more
        values = np.array([self._value(features) for features in batch], dtype=np.float64)
        return Assessment(np.zeros((len(batch), 0)), values=values)

    def _value(self, features: Mapping[str, Feature]) -> float:
        """Return the prediction for a sample, NaN where there is none."""
        try:
            value = float(self.pipeline.predict_one(self.features.encode(features)))
        except Exception:  # noqa: BLE001 - as above
            return math.nan
        return max(-LARGEST, min(LARGEST, value)) if math.isfinite(value) else math.nan

    def _said_by(self, asked: Any, row: Row) -> Iterable[float]:
        return [asked.predict_one(row)]


@dataclass(slots=True, kw_only=True)
class _Classes(_State):
    """Of a classifier."""

    codes: dict[tuple[type, Label], int]
    closed: bool
    binary: bool

    @classmethod
    def build(cls, spec: object, classes: Sequence[Label] | None, seed: int) -> _Classes:
        known = tuple(classes or ())
        codes = {(type(label), label): code for code, label in enumerate(known)}
        if classes is not None and not len(codes) == len(known) >= 2:
            raise ModelSpecError(
                "classes", f"must be two or more different labels, are {list(classes)!r:.80}"
            )
        pipeline = build(spec, seed=seed, n_classes=len(known) or None)
        return cls(
            **cls.edge(pipeline),
            classes=known,
            codes=codes,
            closed=classes is not None,
            binary=not list(pipeline.steps.values())[-1]._multiclass,  # noqa: SLF001 - River's way to ask
        )

    def fits(self, label: Value) -> bool:
        return isinstance(label, str | int)

    def admit(self, entry: Entry) -> str | None:
        label = entry[1]
        if label is None:
            return None
        known = (type(label), label) in self.codes
        is_open = not self.closed and len(self.classes) < MOST_CLASSES
        return None if known or is_open else UNKNOWN_CLASS

    def target(self, label: Value) -> int | bool:
        assert isinstance(label, str | int)
        code = self._code(label)
        return bool(code) if self.binary else code

    def unanswered(self, n: int) -> Assessment:
        return Assessment(np.zeros((n, len(self.classes))))

    def assess(self, batch: Sequence[Mapping[str, Feature]], *, whole: bool) -> Assessment:
        """Ask a classifier that answers for a micro-batch at once, any other sample by sample."""
        *before, last = self.pipeline.steps.values()
        if hasattr(last, "assess_batch") or any(hasattr(step, "transform_batch") for step in before):
            with contextlib.suppress(Exception):  # asked one by one, the others get an answer
                return self._at_once(before, last, batch, whole=whole)
        return Assessment(np.array([self.row(features) for features in batch], dtype=np.float64))

    def _at_once(
        self, before: Sequence[Any], last: Any, batch: Sequence[Mapping[str, Feature]], *, whole: bool
    ) -> Assessment:
        """Ask for all samples; the classifier has its own order of classes, and perhaps not all of them."""
        rows = self._transformed(before, batch)
        if not hasattr(last, "assess_batch"):
            k = len(self.classes)
            return Assessment(np.array([_spread(_said(last, row), k) for row in rows], dtype=np.float64))
        if not whole:
            return Assessment(_placed(last.predict_proba_batch(rows), last.classes, len(self.classes)))
        classes, *said = last.assess_batch(rows)
        return self._assessment(classes, Assessment(*said))

    def vectorised(self) -> Callable[..., Assessment | None] | None:
        from stream_al.core.vectorised import compiled  # noqa: PLC0415 - River is slow to import

        columns = self.features.columns
        classify = compiled(self.pipeline, columns) if columns else None
        if classify is None:
            return None

        def assess(batch: Sequence[Mapping[str, Feature]], *, whole: bool) -> Assessment | None:
            values = self.features.matrix(batch)
            if values is None:
                return None
            codes, said = classify(values)
            if not whole:
                return Assessment(_placed(said.probabilities, codes, len(self.classes)))
            return self._assessment(codes, said)

        return assess

    def _assessment(self, codes: Sequence[int], said: Assessment) -> Assessment:
        """Give every class a column."""
        k, committee = len(self.classes), said.committee
        return replace(
            said,
            probabilities=_placed(said.probabilities, codes, k),
            committee=None if committee is None else np.stack([_placed(p, codes, k) for p in committee]),
        )

    def row(self, features: Mapping[str, Feature]) -> list[float]:
        """Return the K probabilities of a sample."""
        try:
            return _spread(_said(self.pipeline, self.features.encode(features)), len(self.classes))
        except Exception:  # noqa: BLE001 - River may raise anything on a sample it cannot place
            return [0.0] * len(self.classes)

    def _said_by(self, asked: Any, row: Row) -> Iterable[float]:
        return _said(asked, row).values()

    def _code(self, label: Label) -> int:
        key = type(label), label
        if key not in self.codes:
            self.codes[key] = len(self.classes)
            self.classes += (label,)
        return self.codes[key]


def _said(classifier: Any, row: Row) -> dict[Any, float]:
    """Return River's probabilities by code; those of a classifier that has only a vote are 1."""
    try:
        return classifier.predict_proba_one(row)  # type: ignore[no-any-return]
    except NotImplementedError:
        vote = classifier.predict_one(row)
        return {} if vote is None else {vote: 1.0}


def learn_and_scale(scaler: Any, row: Row) -> Row:
    """Let a scaler learn a sample and return it scaled, to the last bit as River does, in one walk instead of two.

    >>> from river.preprocessing import StandardScaler
    >>> ours, rivers, row = StandardScaler(), StandardScaler(), {"a": 1.5, "b": -2.0}
    >>> for factor in (1, 2, 5):
    ...     row = {name: factor * value for name, value in row.items()}
    ...     rivers.learn_one(row)
    ...     assert learn_and_scale(ours, row) == rivers.transform_one(row)
    """
    if scaler.window_size is not None or not scaler.with_std:
        scaler.learn_one(row)
        return scaler.transform_one(row)  # type: ignore[no-any-return]
    counts, means, variances, scaled = scaler.counts, scaler.means, scaler.vars, {}
    for name, value in row.items():
        counts[name] = n = counts[name] + 1
        beside = value - means[name]
        means[name] = mean = means[name] + beside / n
        variance = variances[name]
        variances[name] = variance = variance + (beside * (value - mean) - variance) / n
        scaled[name] = (value - mean) / variance**0.5 if variance else 0.0
    return scaled


def _placed(probabilities: NDArray[np.float64], codes: Sequence[int], k: int) -> NDArray[np.float64]:
    """Turn a column for each named code into K columns, as ``_spread`` does for one row.

    >>> _placed(np.array([[0.25, 0.75]]), [1, 0], 2), _placed(np.array([[1.0]]), [0], 2).round(2)
    (array([[0.75, 0.25]]), array([[0.99, 0.01]]))
    """
    missing = UNSEEN / k
    scale = 1 + (k - len(codes)) * missing
    placed = np.full((len(probabilities), k), missing / scale)
    placed[:, list(codes)] = probabilities / scale
    if placed.min(initial=0.0) >= 0:  # numpy is slow along rows of few columns, and nearly all are sound
        total = placed @ np.ones(k)
        if total.min(initial=1.0) > 0 and total.max(initial=1.0) < math.inf:
            return placed
    total = placed.sum(axis=1)
    unsound = ~((total > 0) & (total < math.inf) & (placed.min(axis=1) >= 0))
    placed[unsound] = 0.0
    return placed


def _spread(answer: Mapping[Any, float], k: int) -> list[float]:
    """Turn probabilities by code, perhaps not of all classes, into K that sum to 1, or into zeros.

    >>> _spread({}, 2), _spread({True: 1.0}, 2), _spread({0: float("nan"), 1: 0.5}, 2)
    ([0.0, 0.0], [0.009900990099009901, 0.9900990099009901], [0.0, 0.0])
    """
    total = sum(answer.values())
    if not (0 < total < math.inf and min(answer.values()) >= 0):
        return [0.0] * k
    missing = UNSEEN / k
    scale = 1 + (k - len(answer)) * missing
    row = [missing / scale] * k
    for code, probability in answer.items():
        row[int(code)] = probability / total / scale
    return row
