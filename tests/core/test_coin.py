"""Coins are uniform, independent of each other, and can be derived by anyone."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from stream_al.core import coin


def test_the_definition_in_plain_integers():
    mask = 2**64 - 1
    key = int.from_bytes(hashlib.blake2b(json.dumps([7, "samples", 3]).encode()).digest()[:8], "big")
    z = (key + 91_823 * 0x9E3779B97F4A7C15) & mask
    z = (z + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    assert coin.coin(7, "samples", 3, 91_823) == (z >> 11) * 2.0**-53


def test_batch_and_definition_agree_to_the_bit():
    offsets = np.array([0, 1, 2, 10**6, 2**40, 2**62])
    batch = coin.coins(coin.key(1, "s", 0), offsets)
    assert batch.tolist() == [coin.coin(1, "s", 0, int(o)) for o in offsets]


def test_coins_are_uniform_and_uncorrelated():
    c = coin.coins(coin.key(1, "samples", 0), np.arange(400_000))
    counts = np.histogram(c, bins=100, range=(0, 1))[0]
    assert ((counts - 4000) ** 2 / 4000).sum() < 160  # chi squared, 99 degrees of freedom
    assert abs(np.corrcoef(c[:-1], c[1:])[0, 1]) < 0.01
    other = coin.coins(coin.key(1, "samples", 0, "observe"), np.arange(400_000))
    assert abs(np.corrcoef(c, other)[0, 1]) < 0.01
    neighbour = coin.coins(coin.key(1, "samples", 1), np.arange(400_000))
    assert abs(np.corrcoef(c, neighbour)[0, 1]) < 0.01
