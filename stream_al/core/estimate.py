"""Estimates of a mean over all samples from the returned labels of a few: doubly robust, Hájek, naive.

Theory of operation
-------------------
The target is the accuracy that would be measured had *every* sample of the window been labelled. The only
randomness used is our own coin, so the estimate is unbiased for any model, drift or dependence. With m the
expected correctness recorded before the coin, e = 1 if the shown class was right, r = e - m, w = 1/p, and in each
stratum s of the window N covered samples and f = Σw / N the returned share (Σw over returned labels)::

    doubly robust   A = Σ m / G + Σ_s N/G · r̄            G = Σ_s N, r̄ = Σ w r / Σ w
    variance        the larger of
                      Σ_s (N/G)² Σ w (w - f) (r - r̄)² / (Σ w)²
                      κ Σ_s (Σ v/p / f - Σ v) / G²        v = m (1 - m), over all covered samples
    interval        A ± t √variance                       Student's t with n - 1 degrees of freedom
    Hájek           H = Σ w e / Σ w, Wilson interval at n = (Σ w)² / Σ w² (Kish)
    naive           mean e over returned labels, Wilson interval; biased, shown beside the honest one

(Augmented inverse-propensity weighting: Robins, Rotnitzky & Zhao, 1994; with adaptive logging: Waudby-Smith et
al., 2022; the ratio form absorbs labels that have not returned.)

A stratum with fewer than 5 labels joins its neighbour. κ ≤ 1 is the share of the modelled variance that showed in the
labels: v never falls below that of m = .97, far too much for a model that is right 99.9 % of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from stream_al.core.calibration import HIGHEST_M, LOWEST_M
from stream_al.core.messages import Sums
from stream_al.core.sequence import Interval, student, wilson

FEWEST_IN_STRATUM = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """The three estimates over one window, and what they rest on.

    ``labels`` returned; ``samples`` covered by the design; ``uncovered`` those with p = 0; ``effective`` is
    Kish's effective number of labels. An interval is None while nothing has returned. In the fading window all
    counts are sums of weights, rounded.
    """

    samples: int
    uncovered: int
    labels: int
    effective: float
    dr: Interval | None
    hajek: Interval | None
    naive: Interval | None


@dataclass(slots=True)
class Terms:
    """Sums over the returned labels of one bucket."""

    n: int = 0
    unlabelled: int = 0  # closed without a label that can be right or wrong
    e: float = 0.0
    w: float = 0.0
    ww: float = 0.0
    we: float = 0.0
    wr: float = 0.0
    wwr: float = 0.0
    wrr: float = 0.0
    wwrr: float = 0.0
    wv: float = 0.0  # w (w - 1) v: the modelled variance of these labels

    @classmethod
    def of(cls, p: float, m: float, *, correct: bool) -> Terms:
        """Return the terms of one label whose request had inclusion probability p and expected correctness m."""
        clipped = min(max(m, LOWEST_M), HIGHEST_M)
        return cls._of(p, float(correct), m, clipped * (1 - clipped))

    @classmethod
    def of_loss(cls, p: float, expected: float, loss: float) -> Terms:
        """Return the terms of one label whose loss was expected to be another."""
        return cls._of(p, loss, expected, 0.0)

    @classmethod
    def _of(cls, p: float, e: float, m: float, v: float) -> Terms:
        w, r = 1.0 / p, e - m
        return cls(1, 0, e, w, w * w, w * e, w * r, w * w * r, w * r * r, w * w * r * r, w * (w - 1) * v)

    def add(self, other: Terms) -> None:
        # by name: it is done for each label, and a loop over the names takes three times as long
        self.n += other.n
        self.unlabelled += other.unlabelled
        self.e += other.e
        self.w += other.w
        self.ww += other.ww
        self.we += other.we
        self.wr += other.wr
        self.wwr += other.wwr
        self.wrr += other.wrr
        self.wwrr += other.wwrr
        self.wv += other.wv


@dataclass(slots=True)
class Moments:
    """What an estimate needs of one stratum: sums with weight g, and where variances are made, with g²."""

    samples: float = 0.0
    uncovered: float = 0.0
    m: float = 0.0
    n: float = 0.0
    e: float = 0.0
    w: float = 0.0
    we: float = 0.0
    wr: float = 0.0
    # with g²
    v: float = 0.0
    v_over_p: float = 0.0
    nn: float = 0.0
    ww: float = 0.0
    wwr: float = 0.0
    wwrr: float = 0.0
    w2: float = 0.0
    wr2: float = 0.0
    wrr2: float = 0.0

    def add(self, sums: Sums, t: Terms, g: float = 1.0, gg: float = 1.0) -> None:
        self.samples += g * (sums.samples - sums.uncovered)
        self.uncovered += g * sums.uncovered
        self.m += g * sums.sum_m
        self.n += g * t.n
        self.e += g * t.e
        self.w += g * t.w
        self.we += g * t.we
        self.wr += g * t.wr
        self.v += gg * sums.sum_v
        self.v_over_p += gg * sums.sum_v_over_p
        self.nn += gg * t.n
        self.ww += gg * t.ww
        self.wwr += gg * t.wwr
        self.wwrr += gg * t.wwrr
        self.w2 += gg * t.w
        self.wr2 += gg * t.wr
        self.wrr2 += gg * t.wrr

    def join(self, other: Moments) -> None:
        for name in _MOMENTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def mean_r(self) -> float:
        return self.wr / self.w if self.w > 0 else 0.0

    @property
    def returned(self) -> float:
        """The share of the samples that the returned labels stand for."""
        return min(1.0, self.w / self.samples) if self.w > 0 and self.samples > 0 else 1.0

    @property
    def empirical(self) -> float:
        """Variance of the sum of residuals, as the labels show it."""
        if self.w <= 0:
            return 0.0
        r, f = self.mean_r, self.returned
        spread = (self.wwrr - 2 * r * self.wwr + r**2 * self.ww) - f * (
            self.wrr2 - 2 * r * self.wr2 + r**2 * self.w2
        )
        return max(0.0, spread) * (self.samples / self.w) ** 2

    @property
    def modelled(self) -> float:
        """The same variance as the model expects it."""
        return max(0.0, self.v_over_p / self.returned - self.v)


_MOMENTS = tuple(f.name for f in fields(Moments))


@dataclass(frozen=True, slots=True)
class DoublyRobust:
    """The estimate of a sum over G samples, and its variance."""

    g: float
    total: float
    empirical: float
    modelled: float

    @classmethod
    def of(cls, strata: Sequence[Moments], shown: float) -> DoublyRobust:
        return cls(
            sum(s.samples for s in strata),
            sum(s.m + s.samples * s.mean_r for s in strata),
            sum(s.empirical for s in strata),
            shown * sum(s.modelled for s in strata),
        )

    @property
    def value(self) -> float:
        return self.total / self.g

    @property
    def variance(self) -> float:
        return max(self.empirical, self.modelled)

    def interval(self, half: float) -> Interval:
        """Return value ± half of the sum, per sample and inside [0, 1]."""
        half /= self.g
        return Interval(*(min(max(x, 0.0), 1.0) for x in (self.value, self.value - half, self.value + half)))


def estimate(strata: Sequence[Moments], shown: float = 1.0) -> Estimate:
    """Return the estimates for a window.

    Parameters
    ----------
    strata
        Of the window, in their order.
    shown
        κ, the share of the modelled variance that labels have shown.
    """
    strata = pooled(strata)
    total = Moments()
    for stratum in strata:
        total.join(stratum)
    counts = round(total.samples), round(total.uncovered), round(total.n)
    if total.n <= 0 or total.samples <= 0:
        return Estimate(*counts, 0.0, None, None, None)
    effective = total.w**2 / total.ww
    robust = DoublyRobust.of(strata, shown)
    dr = robust.interval(student(effective - 1) * math.sqrt(robust.variance))
    hajek, naive = wilson(total.we / total.w, effective), wilson(total.e / total.n, total.n**2 / total.nn)
    return Estimate(*counts, effective, dr, hajek, naive)


def pooled(strata: Iterable[Moments]) -> list[Moments]:
    """Join strata with hardly any labels to the next one, the last to the one before."""
    joined: list[Moments] = []
    for stratum in strata:
        if joined and joined[-1].n < FEWEST_IN_STRATUM:
            joined[-1].join(stratum)
        else:
            own = Moments()
            own.join(stratum)
            joined.append(own)
    if len(joined) > 1 and joined[-1].n < FEWEST_IN_STRATUM:
        last = joined.pop()
        joined[-1].join(last)
    return joined
