"""What the benchmarks share: arguments, two processes, tables, bars and a cache of results.

A bar is a number that must be reached; a run that misses one ends with exit code 1. ``--quick`` is for seeing that
nothing is broken: it takes less of everything, so its bars have slack.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "benchmarks"
ELEC2 = "STREAM_AL_ELEC2"

# before numpy: as the service, and workers too; threads that wait for each other would be counted as work
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

Key = dict[str, Any]  # what a result depends on; plain JSON values
Result = dict[str, Any]


# Arguments


def parser(doc: str, *, seeds: int, quick_seeds: int = 1) -> argparse.ArgumentParser:
    """Return the options that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=doc.partition("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="under two minutes on two cores; bars with slack")
    made.add_argument(
        "--seeds", type=int, metavar="N", help=f"how many (default {seeds}, quick {quick_seeds})"
    )
    made.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="processes (default 2; 0: in this one)"
    )
    made.add_argument("--samples", type=int, metavar="N", help="samples of each stream")
    made.add_argument("--streams", metavar="A,B", help="only these streams")
    made.add_argument(
        "--elec2", metavar="PATH", help=f"electricity as csv.gz (default: the variable {ELEC2})"
    )
    made.set_defaults(default_seeds=(quick_seeds, seeds))
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; what workers need goes into the environment."""
    chosen = made.parse_args(argv)
    quick, full = chosen.default_seeds
    chosen.seeds = chosen.seeds or (quick if chosen.quick else full)
    if chosen.elec2:
        os.environ[ELEC2] = str(Path(chosen.elec2).resolve())
    return chosen


# Processes


def each(function: Callable[..., Any], tasks: Sequence[Key], jobs: int) -> list[Any]:
    """Call ``function(**task)`` for each task; return the answers in the order of the tasks.

    Workers start as new interpreters, so that the limit on numeric threads holds in them.
    """
    return [answer for _, answer in sorted(_answers(function, tasks, jobs), key=lambda pair: pair[0])]


def paired(run: Callable[..., Result], plan: Sequence[Key], switch: str, jobs: int) -> list[Result]:
    """Run each task of the plan with ``switch`` off and on, one right after the other.

    Returns
    -------
    For each task, it and the result with the switch on; without, the accuracy with it off; difference, on minus off.
    """
    tasks = [{**one, switch: on} for one in plan for on in (False, True)]
    results = each(run, tasks, jobs)
    return [
        {**one, **on, "without": off["accuracy"], "difference": on["accuracy"] - off["accuracy"]}
        for one, off, on in zip(plan, results[::2], results[1::2], strict=True)
    ]


def _answers(function: Callable[..., Any], tasks: Sequence[Key], jobs: int) -> Iterator[tuple[int, Any]]:
    """Yield place and answer of each task, as they come."""
    if jobs <= 0 or len(tasks) < 2:
        yield from ((i, function(**task)) for i, task in enumerate(tasks))
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        places = {pool.submit(function, **task): i for i, task in enumerate(tasks)}
        shown = time.monotonic()
        for done, future in enumerate(as_completed(places), 1):
            yield places[future], future.result()
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                print(f"  {done} of {len(tasks)} runs", file=sys.stderr, flush=True)


@dataclass
class Cache:
    """Results in a file outside version control: one line each, so that two processes may append."""

    path: Path
    known: dict[str, Result] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str) -> Cache:
        """Open the cache called ``name``; the directory can be set by STREAM_AL_BENCH_CACHE."""
        path = Path(os.environ.get("STREAM_AL_BENCH_CACHE", CACHE)) / f"{name}.jsonl"
        cache = cls(path)
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                cache.known[_text(entry["key"])] = entry["result"]
        return cache

    def get(self, key: Key) -> Result | None:
        return self.known.get(_text(key))

    def put(self, key: Key, result: Result) -> None:
        self.known[_text(key)] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, "result": result}) + "\n")

    def each(
        self, function: Callable[..., Result], tasks: Sequence[Key], jobs: int, *, version: str
    ) -> list[Result]:
        """Like ``each``, but run only what is not known in this ``version``; keep results as they come."""
        keys = [{**task, "version": version} for task in tasks]
        missing = [i for i, key in enumerate(keys) if self.get(key) is None]
        for i, result in _answers(function, [tasks[i] for i in missing], jobs):
            self.put(keys[missing[i]], result)
        return [self.known[_text(key)] for key in keys]


def _text(key: Key) -> str:
    return json.dumps(key, sort_keys=True)


def digest(*places: str) -> str:
    """Return a short digest of the Python files in these places below the project's root."""
    hashed = hashlib.blake2b(digest_size=8)
    for place in places:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            hashed.update(file.read_bytes())
    return hashed.hexdigest()


# Printing


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print(f"\n{title}\n")
    for n, row in enumerate(cells):
        first, *others = (
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
        if n == 0:
            print("  ".join("-" * w for w in widths))
    sys.stdout.flush()


def points(share: float) -> str:
    """Write a difference of shares in points.

    >>> points(0.031)
    '+3.1'
    """
    return f"{100 * share:+.1f}"


def percent(share: float) -> str:
    """Write a share in per cent.

    >>> percent(0.0512)
    '5.1'
    """
    return f"{100 * share:.1f}"


@dataclass
class Bars:
    """The numbers that must be reached."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def add(self, name: str, value: float, *, low: float | None = None, high: float | None = None) -> None:
        """Hold ``value`` against its bar; a value that is not a number misses it."""
        met = (low is None or value >= low) and (high is None or value <= high) and value == value
        wanted = " and ".join(
            w
            for w in (f">= {low:g}" if low is not None else "", f"<= {high:g}" if high is not None else "")
            if w
        )
        self.rows.append((name, f"{value:.3f}", wanted, met))

    def end(self) -> int:
        """Print all bars; return the exit code."""
        table(
            "Bars",
            ("", "reached", "wanted", ""),
            [(n, v, w, "ok" if met else "MISSED") for n, v, w, met in self.rows],
        )
        missed = sum(not met for *_, met in self.rows)
        print(
            f"\n{missed} of {len(self.rows)} bars missed."
            if missed
            else f"\nAll {len(self.rows)} bars are met."
        )
        return 1 if missed else 0


def mean(values: Iterable[float]) -> float:
    """Return the mean; NaN of nothing."""
    held = list(values)
    return sum(held) / len(held) if held else float("nan")
