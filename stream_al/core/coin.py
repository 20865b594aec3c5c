"""Coins: a uniform draw for every position of a stream, which anyone can re-derive.

coin = (splitmix64(key + offset · 0x9E3779B97F4A7C15 mod 2^64) >> 11) · 2^-53, where the key is the first eight
bytes, big-endian, of blake2b (64-byte digest) of the JSON text ``[seed, "topic", partition]``, written as
``json.dumps`` does, with a space after each comma. splitmix64 (Steele, Lea & Flood, 2014) begins by adding
0x9E3779B97F4A7C15 to its argument.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = (np.uint64(n) for n in (30, 27, 31, 11))


def key(seed: int, topic: str, partition: int, salt: str = "") -> int:
    """Return the key of one partition's coins; a ``salt``, appended as fourth element, makes a second coin."""
    parts: list[object] = [seed, topic, partition]
    if salt:
        parts.append(salt)
    return int.from_bytes(hashlib.blake2b(json.dumps(parts).encode()).digest()[:8], "big")


def coins(key: int, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one draw in [0, 1) for each offset.

    >>> coins(key(1, "samples", 0), np.array([0, 1])).round(6).tolist() == [
    ...     round(coin(1, "samples", 0, o), 6) for o in (0, 1)]
    True
    """
    with np.errstate(over="ignore"):
        # splitmix64's own step adds the golden ratio to its state before it mixes
        z = np.uint64(key) + offsets.astype(np.uint64) * _GOLDEN + _GOLDEN
        z = (z ^ (z >> _S30)) * _MIX1
        z = (z ^ (z >> _S27)) * _MIX2
        z ^= z >> _S31
    return (z >> _S11).astype(np.float64) * 2.0**-53


def coin(seed: int, topic: str, partition: int, offset: int, salt: str = "") -> float:
    """Return the coin of one position, in plain integers: the definition, for audits and `inspect`."""
    mask = 2**64 - 1
    z = (key(seed, topic, partition, salt) + offset * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return (z >> 11) * 2.0**-53
