"""Two models on the same labels: by how much one is more often right, with an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stream_al.core.classification import FEWEST, Insufficient, Known
from stream_al.core.labels import Value, same
from stream_al.core.messages import Feature
from stream_al.core.model import Model
from stream_al.core.sequence import Interval, anytime, student

ALPHA, TUNED_TO = 0.05, 30.0  # the latter labels on which the two differ

Row = Mapping[str, Feature]


@dataclass(slots=True)
class Paired:
    """Differences d in [-1, 1] of two models on the same labels, each of a weight w.

    ``fade`` is what is left of all before with each label. The variance of Σ w d is taken to be Σ w² d²: around the
    mean it is a little smaller, and too small while that mean rests on few labels.
    """

    fade: float = 1.0
    n: float = 0.0
    w: float = 0.0
    ww: float = 0.0
    wd: float = 0.0
    wwdd: float = 0.0

    def add(self, d: float, weight: float) -> None:
        f, ff, ww = self.fade, self.fade * self.fade, weight * weight
        self.n = f * self.n + 1
        self.w, self.wd = f * self.w + weight, f * self.wd + weight * d
        self.ww, self.wwdd = ff * self.ww + ww, ff * self.wwdd + ww * d * d

    @property
    def effective(self) -> float:
        """Kish's effective number of labels."""
        return self.w * self.w / self.ww if self.ww else 0.0

    @property
    def mean(self) -> float:
        return self.wd / self.w

    def always(self) -> Known:
        """Return the difference with a 95 % interval that holds at all times at once.

        >>> p = Paired()
        >>> for _ in range(200):
        ...     p.add(0.0, 1.0)
        >>> round(p.always().high, 3)
        0.024
        """
        return self._known(lambda: anytime(self.wwdd, TUNED_TO, ALPHA))

    def now(self) -> Known:
        """Return it with an interval for this moment; the two are taken to have differed once more than they did."""
        return self._known(lambda: student(self.effective - 1) * math.sqrt(self.wwdd + self.ww / self.n))

    def _known(self, half: Callable[[], float]) -> Known:
        if self.effective < FEWEST:
            return Insufficient(self.effective)
        h, mean = half() / self.w, self.mean
        return Interval(mean, max(-1.0, mean - h), min(1.0, mean + h))


def foretold(model: Model, features: Row, label: Value) -> tuple[bool, float]:
    """Return whether a model is right about a sample, and how sure it is; 0 where it has no answer."""
    row = model.predict([features])[0]
    if not row.any():
        return False, 0.0
    shown = int(row.argmax())
    return same(model.classes[shown], label), float(row[shown])
