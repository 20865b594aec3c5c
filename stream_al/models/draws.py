"""Random numbers that follow from a seed and a name, the same in every process and version of numpy."""

from __future__ import annotations

import json
import math
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def uniform(seed: int | None, use: str, name: str, n: int) -> Vector:
    """Return n numbers in [0, 1) from raw bits, which numpy keeps the same between versions."""
    key = blake2b(json.dumps([seed, use, name]).encode(), digest_size=16).digest()
    bits = np.random.PCG64(int.from_bytes(key)).random_raw(n)
    u: Vector = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return u


def normal(seed: int | None, use: str, name: str, n: int) -> Vector:
    """Return n standard normal numbers (Box & Muller, 1958)."""
    u = uniform(seed, use, name, 2 * n)
    drawn: Vector = np.sqrt(-2.0 * np.log1p(-u[::2])) * np.cos(2 * math.pi * u[1::2])
    return drawn


def text(name: object) -> str:
    """Return a name that tells a column 1 from a column "1".

    >>> text(1), text("1")
    ('int:1', 'str:1')
    """
    return f"{type(name).__name__}:{name}"
