"""The labelled streams of the benchmarks: four data sets, five drifting generators, and electricity.

``stream(name, n, seed)`` gives the first n samples; a longer stream begins with the shorter one. Data sets that are
too short are repeated in new orders. SEA, Agrawal and LED switch their concept every 2,500 samples (``drifts``),
Hyperplane and RBF move all the time, and electricity has whatever the market had. Electricity is no part of
River: it is read from the csv.gz that ``--elec2`` or STREAM_AL_ELEC2 names (columns f0..f7 and y, in the order of time)
and left out where there is none.

As a program: prints what the streams are like.
"""

from __future__ import annotations

import csv
import functools
import gzip
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from _harness import ELEC2, parse, parser, table

from stream_al import datasets
from stream_al.core.labels import Label

Row = tuple[dict[str, Any], Label]

VERSION = "1"  # of the streams; to be raised when one changes
CONCEPT = 2_500  # samples between two switches
ELEC2_STEP = 9_000  # each seed begins elsewhere in the two and a half years
STREAMS = (
    "phishing", "bananas", "segments", "shuttle", "sea", "agrawal", "hyperplane", "rbf", "led", "electricity",
)  # fmt: skip
SWITCHING = ("sea", "agrawal", "led")


def available(chosen: str | None = None) -> tuple[str, ...]:
    """Return the names of the streams that are here, of those ``chosen`` (comma separated).

    Raises
    ------
    SystemExit
        If a name is wrong or its file missing.
    """
    here = tuple(name for name in STREAMS if name != "electricity" or os.environ.get(ELEC2))
    if chosen is None:
        if "electricity" not in here:
            print("Without the stream electricity: name its file with --elec2.")
        return here
    names = tuple(chosen.split(","))
    wrong = [name for name in names if name not in here]
    if wrong:
        sys.exit(f"no stream {', '.join(wrong)}; there are {', '.join(here)}")
    return names


@functools.lru_cache(maxsize=4)
def stream(name: str, n: int, seed: int) -> list[Row]:
    """Return the first n samples; treat them as read-only."""
    if name in datasets.NAMES:
        return list(datasets.stream(name, n, seed))
    if name == "electricity":
        return _electricity(n, seed)
    return [(_named(x), y) for x, y in itertools.islice(_synthetic(name, seed), n)]


def drifts(name: str, n: int) -> tuple[int, ...]:
    """Return where the concept switches; empty where it does not, moves slowly, or nobody knows.

    >>> drifts("sea", 6_000)
    (2500, 5000)
    """
    return tuple(range(CONCEPT, n, CONCEPT)) if name in SWITCHING else ()


def coin_seed(name: str, seed: int) -> int:
    """Return the service's seed: with the same one, all streams would see the same coins.

    >>> coin_seed("sea", 2)
    204
    """
    return 100 * seed + STREAMS.index(name)


def _named(x: dict[Any, Any]) -> dict[str, Any]:
    """Name features as JSON does: some generators number them."""
    return {str(key): value for key, value in x.items()}


def _electricity(n: int, seed: int) -> list[Row]:
    rows = _electricity_rows(os.environ[ELEC2])
    start = seed * ELEC2_STEP
    return [rows[(start + i) % len(rows)] for i in range(n)]


@functools.lru_cache(maxsize=1)
def _electricity_rows(path: str) -> list[Row]:
    with gzip.open(path, "rt", newline="") as file:
        read = csv.DictReader(file)
        return [({k: float(v) for k, v in row.items() if k != "y"}, row["y"]) for row in read]


def _synthetic(name: str, seed: int) -> Iterator[tuple[dict[Any, Any], Label]]:
    from river.datasets import synth

    if name == "hyperplane":
        return iter(synth.Hyperplane(seed=seed, n_features=10, n_drift_features=2, mag_change=0.001))
    if name == "rbf":
        moving = synth.RandomRBFDrift(
            seed_model=seed,
            seed_sample=seed,
            n_classes=3,
            n_centroids=20,
            change_speed=0.0001,
            n_drift_centroids=20,
        )
        return iter(moving)
    makers: dict[str, list[Callable[[int], Any]]] = {
        "sea": [lambda s, v=v: synth.SEA(variant=v, noise=0.1, seed=s) for v in (0, 1, 2, 3)],
        "agrawal": [lambda s, f=f: synth.Agrawal(classification_function=f, seed=s) for f in (0, 2, 6, 0)],
        "led": [
            lambda s, k=k: synth.LEDDrift(
                seed=s, noise_percentage=0.1, irrelevant_features=True, n_drift_features=k
            )
            for k in (0, 3, 7, 5)
        ],
    }
    return _switching(makers[name], seed)


def _switching(makers: list[Callable[[int], Any]], seed: int) -> Iterator[tuple[dict[Any, Any], Label]]:
    """Yield ``CONCEPT`` samples of each concept in turn, for ever, each time drawn anew."""
    for turn in itertools.count():
        concept = makers[turn % len(makers)](1_000 * seed + turn)
        yield from itertools.islice(iter(concept), CONCEPT)


def main(argv: list[str] | None = None) -> int:
    options = parse(parser(__doc__ or "", seeds=1), argv)
    n = options.samples or (2_000 if options.quick else 10_000)
    rows = []
    for name in available(options.streams):
        samples = stream(name, n, 1)
        classes = Counter(label for _, label in samples)
        share = max(classes.values()) / n
        switches = ", ".join(f"{at:,}" for at in drifts(name, n)) or "-"
        rows.append((name, f"{n:,}", len(samples[0][0]), len(classes), f"{100 * share:.1f} %", switches))
    table("Streams", ("", "samples", "features", "classes", "most frequent", "switches at"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
