"""Cooperative learning: what the model is sure of teaches it, too, while a twin without it watches.

Theory of operation
-------------------
After CEAL (Wang et al., 2017): people label what is uncertain, and the model itself what is certain. A *pseudo-label*
is the shown class of an ``observe`` record; it is accepted where its calibrated probability of being right is at
least ``SURE``. All of it follows from the ledger, so every replica learns the same. Five bounds:

* *Calm.* Nothing is accepted while the model warms up, nor until ``CALM_SAMPLES`` samples were counted since the
  last drift alarm.
* *Balance.* A class's share of the pseudo-labels is at most ``LEAN`` times its share of the labels, to one sample.
* *Weight.* A pseudo-label counts half: of those accepted for a class, every second is learned, just as a label is.
  Few of River's classifiers take a weight, and what stands around them drops it.
* *Total.* Never more pseudo-labels are learned than labels were.
* *Guard.* The twin is the same model with the same labels and observes, but without pseudo-labels. Each label, before
  it is learned, is foretold by both. d = right - twin's right, weighted as for the calibration by
  min(mean p / p, 10), adds up to an estimate over all samples. Where the confidence sequence of that sum is below 0,
  pseudo-labelling ends for good and the twin takes the model's place. It is looked at with every label, so the
  sequence has to hold at all times at once.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from stream_al.core.calibration import Calibration
from stream_al.core.drift import Drift
from stream_al.core.labels import Label, Value, label_key
from stream_al.core.model import Model
from stream_al.core.paired import ALPHA, TUNED_TO, Row, foretold
from stream_al.core.sequence import anytime

SURE = 0.97
CALM_SAMPLES = 2_000
LEAN = 1.2
EVERY = 2
OBSERVES_PER_LABEL = 4  # that may enter the ledger; one is enough where they only scale

Cooperation = Literal["off", "on", "stopped"]


@dataclass(slots=True)
class Cooperative:
    """The twin, the pseudo-labels so far, and what the guard has seen.

    Attributes
    ----------
    twin
        The model without pseudo-labels; None once it has taken the model's place.
    accepted, learned
        Pseudo-labels by label key.
    """

    twin: Model | None
    accepted: Counter[str] = field(default_factory=Counter)
    learned: Counter[str] = field(default_factory=Counter)
    _difference: float = 0.0
    _variance: float = 0.0

    @classmethod
    def beside(cls, model: Model) -> Cooperative:
        """Begin beside a model that has learned nothing."""
        return cls(copy.deepcopy(model))

    @property
    def state(self) -> Cooperation:
        return "on" if self.twin is not None else "stopped"

    def label(self, model: Model, features: Row, label: Value, weight: float) -> Model:
        """Judge by a label, and let the twin learn it; return the model that goes on, which has not learned it."""
        twin = self.twin
        if twin is None:
            return model
        d = weight * (foretold(model, features, label)[0] - foretold(twin, features, label)[0])
        self._difference += d
        self._variance += d * d
        if self._difference + anytime(self._variance, TUNED_TO, ALPHA) < 0:
            self.twin = None
            return twin
        twin.learn(features, label)  # a failure leaves it as it was; those of the model are counted
        return model

    def observe(
        self, model: Model, features: Row, calibration: Calibration, labels: Counter[str], *, calm: bool
    ) -> str | None:
        """Show an observed sample to both, perhaps with a pseudo-label; return as ``Model.observe`` does.

        Parameters
        ----------
        labels
            The labels learned so far, by label key.
        """
        if self.twin is None:
            return model.observe(features)
        self.twin.observe(features)
        if calm and self.learned.total() < labels.total():
            label = _sure(model, features, calibration)
            if label is not None and self._is_due(label_key(label), labels):
                error = model.learn(features, label)  # scalers learn from it as they would by observing
                if error is None:
                    self.learned[label_key(label)] += 1
                    return None
        return model.observe(features)

    def on_drift(self) -> None:
        """Tell the twin what the model is told."""
        if self.twin is not None:
            self.twin.on_drift()

    def _is_due(self, key: str, labels: Counter[str]) -> bool:
        """Accept a pseudo-label if the balance allows; say whether it is one of those that are learned."""
        share = labels[key] / labels.total()
        if self.learned[key] >= LEAN * share * (self.learned.total() + 1):
            return False
        self.accepted[key] += 1
        return self.accepted[key] % EVERY == 0


def is_calm(drift: Drift) -> bool:
    """Say whether the last drift alarm is long ago, if there was one."""
    return not drift.latest or drift.samples - drift.latest[-1].samples >= CALM_SAMPLES


def _sure(model: Model, features: Row, calibration: Calibration) -> Label | None:
    """Return the shown class if the model is sure of it, and rightly so as far as labels tell."""
    row = model.predict([features])[0]
    if not row.any() or calibration.expected_correct(row.max(keepdims=True))[0] < SURE:
        return None
    return model.classes[int(row.argmax())]
