"""Concept drift: alarms from the residuals of returned labels, and from the confidence in all samples.

Theory of operation
-------------------
*Residuals.* x = m - e of each returned label, m fixed before the coin, is 0 on average while the model is as good
as it says, however its label was chosen. A CUSUM (Page, 1954) adds up what exceeds its usual level::

    c ← max(0, c + x - max(x̄, 0) - .05)        c ≥ 3 warns, c ≥ 5.5 alarms

x̄ is an exponentially weighted mean (rate .01) of the residuals up to 50 labels ago, so that a drift is not taken
for the usual level while it is being found. The first 90 labels only teach x̄: a young model is often overconfident.

*Confidence.* The mean confidence of all samples of each bucket, labelled or not, goes to ADWIN (Bifet & Gavaldà,
2007; delta .0002), which warns where it finds a fall; a rise is a model that learns. ADWIN is made for single values
in [0, 1]: one mean of 50 samples is as telling as 50 of them when it is given as 50 times itself, and of larger
buckets as many such values as they have fifties, at most 20; smaller ones are taken together.

An alarm is ``residual`` where the CUSUM alarms by itself, ``confidence`` where both warned within 1,500 samples.
After it, the CUSUM begins anew and is blind for 30 labels.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from river.drift import ADWIN

from stream_al.core.messages import Sums

Signal = Literal["residual", "confidence"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)

TOLERANCE, WARNING, ALARM = 0.05, 3.0, 5.5
RATE, LAG = 0.01, 50
YOUNG_LABELS, BLIND_LABELS = 90, 30
DELTA = 0.0002
UNIT, MOST_UNITS = 50, 20
TOGETHER = 1_500
MOST_ALARMS = 50


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm: the ledger's record that gave it, the samples counted before, and what it came from."""

    offset: int
    samples: int
    signal: Signal


def _adwin() -> Any:  # River's detectors have no types
    return ADWIN(delta=DELTA, clock=1, min_window_length=5, grace_period=10)  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class Drift:
    """Folds labels and buckets into alarms.

    Attributes
    ----------
    alarms
        How many there were, by signal.
    latest
        The last 50.
    """

    alarms: Counter[str] = field(default_factory=Counter)
    latest: deque[Alarm] = field(default_factory=lambda: deque(maxlen=MOST_ALARMS))
    samples: int = 0
    _sum: float = 0.0
    _usual: float = 0.0
    _recent: deque[float] = field(default_factory=deque)
    _blind: int = YOUNG_LABELS
    _warned: dict[Signal, int] = field(default_factory=dict)
    _adwin: Any = field(default_factory=_adwin)
    _small: tuple[int, float] = (0, 0.0)  # samples with an answer, and their confidences, of small buckets

    @property
    def last_alarm_offset(self) -> int | None:
        """The ledger offset of the latest alarm; None without any."""
        return self.latest[-1].offset if self.latest else None

    def label(self, offset: int, expected_correct: float, *, correct: bool) -> bool:
        """Take in a returned label of a sample for which the model had an answer; say whether it is an alarm."""
        x = expected_correct - correct
        self._recent.append(x)
        if len(self._recent) > LAG:
            self._usual += RATE * (self._recent.popleft() - self._usual)
        if self._blind > 0:
            self._blind -= 1
            return False
        self._sum = max(0.0, self._sum + x - max(self._usual, 0.0) - TOLERANCE)
        if self._sum >= ALARM:
            return self._alarm(offset, "residual")
        if self._sum >= WARNING:
            self._warned["residual"] = self.samples
        return self._both(offset)

    def bucket(self, offset: int, sums: Sums) -> bool:
        """Take in all samples of a bucket; say whether it is an alarm."""
        self.samples += sums.samples
        answered, total = self._small
        answered, total = answered + sum(sums.predicted.values()), total + sums.sum_confidence
        if answered < UNIT:
            self._small = (answered, total)
            return False
        self._small, confidence = (0, 0.0), total / answered
        for _ in range(min(round(answered / UNIT), MOST_UNITS)):
            before = self._adwin.estimation
            self._adwin.update(UNIT * confidence)
            if self._adwin.drift_detected and self._adwin.estimation < before:
                self._warned["confidence"] = self.samples
        return self._both(offset)

    def restart(self) -> None:
        """Begin to watch anew, another model; the alarms stay."""
        self._sum, self._usual, self._blind, self._small = 0.0, 0.0, YOUNG_LABELS, (0, 0.0)
        self._recent.clear()
        self._warned.clear()
        self._adwin = _adwin()

    def _both(self, offset: int) -> bool:
        together = len(self._warned) == len(SIGNALS) and (
            abs(self._warned["residual"] - self._warned["confidence"]) <= TOGETHER
        )
        return together and self._alarm(offset, "confidence")

    def _alarm(self, offset: int, signal: Signal) -> bool:
        self.alarms[signal] += 1
        self.latest.append(Alarm(offset, self.samples, signal))
        self._sum, self._blind = 0.0, BLIND_LABELS
        self._warned.clear()
        return True
