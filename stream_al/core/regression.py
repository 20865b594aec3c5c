"""How far a regressor is off: mean absolute error and root mean squared error over all samples, from a few labels.

Theory of operation
-------------------
The target is the error that would be measured had *every* sample that had a prediction been labelled. With z the
absolute or the squared error of a returned label, w = 1/p, N samples in a stratum s and f = Σw / N the returned share,
in the notation of ``estimate``::

    mean        Z = Σ_s N/G · z̄          z̄ = Σ w z / Σ w  (Hájek's ratio)
    variance    V = Σ_s (N/G)² Σ w (w - f) (z - z̄)² / (Σ w)²
    MAE         Z ± t √V                 of absolute errors, Student's t with n_K - 1 degrees of freedom
    RMSE        √Z,  log Z ± t √V / Z    of squared errors (delta method), n_K = (Σ w)² / Σ w² (Kish)

The interval of the RMSE is laid on the logarithm: the mean of few squared errors is skewed, and its upper end is what
matters. Below 10 effective labels there is none. No model of the error enters, so a strategy, a drift or a bad model
costs width and not bias.

A sample without a prediction has no error: it is in no count, and its label in no sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stream_al.core.classification import FEWEST, Insufficient, Known
from stream_al.core.estimate import DoublyRobust, Moments, Terms, pooled
from stream_al.core.labels import Value, is_number
from stream_al.core.sequence import Interval, student

LARGEST_ERROR = 1e19  # predictions and labels are clipped below it; its fourth power is finite


@dataclass(frozen=True, slots=True)
class Errors:
    """What is known of a regressor's errors in a window, in the label's unit.

    Attributes
    ----------
    samples, uncovered
        With p > 0 and a prediction; with p = 0.
    labels, effective
        Returned, and Kish's effective number of them.
    naive_mae, naive_rmse
        Over the labelled samples alone, as if they were a fair picture; None without labels.
    """

    samples: int
    uncovered: int
    labels: int
    effective: float
    mae: Known
    rmse: Known
    naive_mae: float | None
    naive_rmse: float | None


UNKNOWN = Errors(0, 0, 0, 0.0, Insufficient(0.0), Insufficient(0.0), None, None)


@dataclass(frozen=True, slots=True)
class Missed:
    """A returned label beside the number that was shown: the terms of its errors."""

    absolute: Terms
    squared: Terms

    @classmethod
    def of(cls, p: float, shown: float | None, label: Value) -> Missed | None:
        """Return a label as it is credited; None where there was no prediction, or the label is no number.

        >>> missed = Missed.of(0.5, 1.0, 4)
        >>> missed.absolute.we, missed.squared.we
        (6.0, 18.0)
        """
        if shown is None or not is_number(label):
            return None
        label = max(-LARGEST_ERROR, min(LARGEST_ERROR, label))
        error = min(abs(shown - label), LARGEST_ERROR)
        return cls(Terms.of_loss(p, 0.0, error), Terms.of_loss(p, 0.0, error * error))


def errors(absolute: Sequence[Moments], squared: Sequence[Moments]) -> Errors:
    """Return what is known of the errors of a window from the moments of its strata, in their order."""
    total = Moments()
    for stratum in absolute:
        total.join(stratum)
    counts = round(total.samples), round(total.uncovered), round(total.n)
    if total.n <= 0 or total.samples <= 0:
        return replace(UNKNOWN, samples=counts[0], uncovered=counts[1])
    effective = total.w**2 / total.ww
    naive = total.e / total.n, math.sqrt(sum(s.e for s in squared) / total.n)
    if effective < FEWEST:
        few = Insufficient(effective)
        return Errors(*counts, effective, few, few, *naive)
    mae = _mean(DoublyRobust.of(pooled(absolute), 0.0), student(effective - 1))
    rmse = _root(DoublyRobust.of(pooled(squared), 0.0), student(effective - 1))
    return Errors(*counts, effective, mae, rmse, *naive)


def _mean(z: DoublyRobust, t: float) -> Interval:
    half = t * math.sqrt(z.empirical) / z.g
    return Interval(z.value, max(0.0, z.value - half), z.value + half)


def _root(z: DoublyRobust, t: float) -> Interval:
    value = math.sqrt(max(0.0, z.value))
    if value == 0:
        return Interval(0.0, 0.0, 0.0)
    factor = math.exp(min(t * math.sqrt(z.empirical) / (2 * z.total), 50.0))
    return Interval(value, value / factor, value * factor)
