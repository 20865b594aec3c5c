"""Labelled streams for the demo and for simulations: River's bundled data sets, shuffled by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from stream_al.core.labels import Label
from stream_al.core.messages import Features

NAMES = ("phishing", "bananas", "segments", "shuttle")
_RIVER = {"phishing": "Phishing", "bananas": "Bananas", "segments": "ImageSegments", "shuttle": "Shuttle"}


def stream(name: str, samples: int | None, seed: int) -> Iterator[tuple[Features, Label]]:
    """Yield labelled samples, in a seeded order; a data set that is too short is repeated in new orders.

    Parameters
    ----------
    name
        One of ``NAMES``.
    samples
        How many; None: the data set once.
    """
    from river import datasets  # noqa: PLC0415  costs 0.7 s

    rows: list[tuple[Features, Label]] = [(dict(x), y) for x, y in getattr(datasets, _RIVER[name])()]
    order = random.Random(seed)  # noqa: S311  a shuffle is no secret
    left = len(rows) if samples is None else samples
    while left > 0:
        order.shuffle(rows)
        yield from rows[:left]
        left -= len(rows)


def size(name: str) -> int:
    """Return how many samples a data set has."""
    return {"phishing": 1_250, "bananas": 5_300, "segments": 2_310, "shuttle": 49_097}[name]
