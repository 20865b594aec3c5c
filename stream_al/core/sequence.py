"""Intervals: of a share, of a mean on few labels, and one that holds at all times at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054
ALPHA = 0.01


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(share: float, n: float) -> Interval:
    """Return Wilson's 95 % interval of a share observed on n trials (Wilson, 1927).

    >>> i = wilson(0.5, 100)
    >>> round(i.low, 3), round(i.high, 3)
    (0.404, 0.596)
    """
    share, zz = min(max(share, 0.0), 1.0), Z95 * Z95
    middle = (share + zz / (2 * n)) / (1 + zz / n)
    half = Z95 / (1 + zz / n) * math.sqrt(share * (1 - share) / n + zz / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def student(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t with at least 3 degrees of freedom.

    By the expansion around the normal quantile (Abramowitz & Stegun 26.7.5); exact to 0.005.

    >>> [round(student(n), 2) for n in (3, 10, 30, 1e6)]
    [3.18, 2.23, 2.04, 1.96]
    """
    n, z = max(freedom, 3.0), Z95
    terms = (
        (z**3 + z) / (4 * n),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4),
    )
    return z + sum(terms)


def anytime(variance: float, tuned_to: float, alpha: float = ALPHA) -> float:
    """Return the half-width of a confidence sequence for a sum: it holds at all times with probability 1 - alpha.

    The normal mixture of Waudby-Smith et al. (2024), asymptotically valid for a martingale; at any single time it is
    wider than an interval that holds only there.

    Parameters
    ----------
    variance
        Of the sum so far.
    tuned_to
        The variance at which the sequence is to be narrowest; fixed beforehand.

    >>> round(anytime(100.0, 100.0) / 10, 2)
    3.57
    """
    guess = 2 * math.log(1 / alpha)
    eta = tuned_to / (guess + math.log(1 + guess))
    total = variance + eta
    return math.sqrt(total * math.log(total / (eta * alpha**2)))
