"""The grid: which cells there are, running one, running all in processes, and the table of results.

Theory of operation
-------------------
A cell is one simulation: a strategy, a model, a budget and a seed, on one data set, with one oracle. Its *digest*
names everything its result depends on - content of the data, settings, oracle, version - so a result can be taken
from an earlier run without asking whether it still holds. ``results.csv`` gets a row when a cell is done, after
``curves.jsonl`` got its curves: a cell that is in the table is whole, and a run that was stopped goes on where it
ended. Workers are new interpreters; they end their cell unfinished when they are told to stop.

Beside the cells that were asked for stand *references*: the same models asking at random, at these budgets and
at larger ones, from which the labels are read off that random needs for the same accuracy.
"""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TextIO

from stream_al import __version__
from stream_al.config import Settings, load
from stream_al.logs import configure
from stream_al.simulate import Oracle, Progress, Simulation
from stream_al.whatif.reading import DataError, Row

RANDOM = "random"
LADDER = (2, 4, 8, 16)  # times the largest budget, ...
MOST = 0.8  # ... up to this, are asked for at random, to see what random needs
POINTS = 200  # of a curve
TABLE, CURVES = "results.csv", "curves.jsonl"
LOOK_S = 0.1
PACE = (
    8  # samples a turn, and a second of virtual time: a service that keeps up answers sooner than 64 samples
)

# A simulation has an own log, one partition, and buckets short enough that a short stream shows something often.
OWN = {
    "broker.url": "embedded://:memory:",
    "broker.partitions": 1,
    "state_dir": None,
    "samples.id": "id",
    "samples.features": "features",
    "samples.timestamp": None,
    "samples.max_bytes": 10_000_000,
    "samples.most_unreadable": None,
    "ledger.bucket_s": 1,
    "scorer.commit_samples": 64,
    "log.level": "error",
}


class Stopped(Exception):  # noqa: N818  no error: somebody wanted it
    """Raised where a run was told to stop."""


class Stop(Protocol):
    """What can be asked whether to stop: an event of threads or of processes."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Model:
    """What learns: its name in the results, and the ``model`` section of a configuration that names it."""

    name: str
    section: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation; ``budget`` is a share of the samples."""

    strategy: str
    model: Model
    budget: float
    seed: int

    @property
    def key(self) -> tuple[str, str, float, int]:
        return self.strategy, self.model.name, self.budget, self.seed


@dataclass(frozen=True, slots=True)
class Stream:
    """The samples of all cells, by seed where their order depends on it.

    Parameters
    ----------
    name, digest
        Its name for people, and what names its content.
    """

    name: str
    digest: str
    rows: Sequence[Row]
    shuffled: bool = False

    def of(self, seed: int) -> Sequence[Row]:
        """Return the samples in the order of this seed."""
        if not self.shuffled:
            return self.rows
        order = list(self.rows)
        random.Random(seed).shuffle(order)  # noqa: S311  a shuffle is no secret
        return order


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be run."""

    stream: Stream
    strategies: tuple[str, ...]
    models: tuple[Model, ...]
    budgets: tuple[float, ...]
    seeds: int
    oracle: Oracle
    overrides: tuple[str, ...] = ()  # further settings, as after --set

    @property
    def cells(self) -> list[Cell]:
        """The cells that were asked for."""
        return [
            Cell(s, m, b, seed)
            for seed in self._seeds
            for m in self.models
            for b in self.budgets
            for s in self.strategies
        ]

    @property
    def references(self) -> list[Cell]:
        """The cells that ask at random, also at larger budgets; none if nobody asks in another way."""
        if set(self.strategies) <= {RANDOM}:
            return []
        top = max(self.budgets)
        budgets = sorted({*self.budgets, *(b for k in LADDER if (b := round(k * top, 9)) <= MOST)})
        return [Cell(RANDOM, m, b, seed) for seed in self._seeds for m in self.models for b in budgets]

    @property
    def all(self) -> list[Cell]:
        """Every cell once, those with the same seed together."""
        once = {cell.key: cell for cell in [*self.cells, *self.references]}
        return sorted(once.values(), key=lambda cell: cell.seed)

    @property
    def _seeds(self) -> range:
        return range(1, self.seeds + 1)

    def digest(self, cell: Cell) -> str:
        """Return what names everything the result of a cell depends on."""
        facts = [
            self.stream.digest, self.stream.shuffled, cell.strategy, cell.model.section, repr(cell.budget), cell.seed,
            asdict(self.oracle), self.overrides, OWN, __version__, version("river"),
        ]  # fmt: skip
        return blake2b(json.dumps(facts, default=str).encode(), digest_size=8).hexdigest()


# One cell


def settings_of(plan: Plan, cell: Cell) -> Settings:
    """Return the settings of a cell.

    Raises
    ------
    ConfigError
    """
    own = OWN | {f"model.{key}": value for key, value in cell.model.section.items()}
    own |= {"strategy": cell.strategy, "seed": cell.seed, "budget.fraction": cell.budget}
    return load(None, [*plan.overrides, *assignments(own)], environ={})


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Write values by dotted keys as arguments of ``--set``.

    >>> assignments({"budget.per_hour": None, "strategy": "margin"})
    ['budget.per_hour=null', 'strategy="margin"']
    """
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def run_cell(plan: Plan, cell: Cell, stop: Stop) -> tuple[Result, Curves]:
    """Run one simulation.

    Raises
    ------
    Stopped
    """
    began, over = time.perf_counter(), -math.inf
    curves = Curves()
    rows = plan.stream.of(cell.seed)
    every = max(1, len(rows) // POINTS)
    with Simulation(settings_of(plan, cell), rows, oracle=plan.oracle, samples_per_s=PACE) as simulation:
        for now in simulation.run():
            over = max(over, now.requests - now.allowed)
            if now.samples >= every * len(curves.samples) or now.samples == len(rows):
                curves.add(now, simulation.right)
            if stop.is_set():
                raise Stopped
        dr, last = now.estimate.dr, now
        drift = simulation.fold.drift
        curves.drift.extend(alarm.samples for alarm in drift.latest)
        result = Result(
            cell=plan.digest(cell),
            data=plan.stream.name,
            strategy=cell.strategy,
            model=cell.model.name,
            budget=cell.budget,
            seed=cell.seed,
            delay=plan.oracle.delay,
            delay_distribution=plan.oracle.distribution,
            noise=plan.oracle.noise,
            silence=plan.oracle.silence,
            annotators=plan.oracle.annotators,
            samples=last.samples,
            requests=last.requests,
            labels=last.labels,
            answers=simulation.annotator.given,
            accuracy=round(last.true, 6),
            estimate=round(dr.value, 6) if dr else None,
            low=round(dr.low, 6) if dr else None,
            high=round(dr.high, 6) if dr else None,
            allowed=round(last.allowed, 3),
            within_budget=over <= 0,
            drift_alarms=drift.alarms.total(),
            seconds=round(time.perf_counter() - began, 3),
        )
    return result, curves


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of a cell: a row of the table.

    ``accuracy`` is the true one, ``estimate`` with its interval what the service knows of it, both over all samples
    and in [0, 1]; ``labels`` were learned, ``answers`` is what people gave for them.
    ``random_labels_for_same_accuracy`` is how many labels asking at random needs for this accuracy, and the bound says
    where it is ``at least`` or ``at most`` that.
    """

    cell: str
    data: str
    strategy: str
    model: str
    budget: float
    seed: int
    delay: int
    delay_distribution: str
    noise: float
    silence: float
    annotators: int
    samples: int
    requests: int
    labels: int
    answers: int
    accuracy: float
    estimate: float | None
    low: float | None
    high: float | None
    allowed: float
    within_budget: bool
    drift_alarms: int
    seconds: float
    random_labels_for_same_accuracy: float | None = None
    random_labels_bound: str = ""


@dataclass(slots=True)
class Curves:
    """Where a simulation stood along the stream: counts since its beginning; the estimate is None while unknown."""

    samples: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    allowed: list[float] = field(default_factory=list)
    drift: list[int] = field(default_factory=list)  # samples at which there was an alarm

    def add(self, now: Progress, right: int) -> None:
        """Note where it stands; the last of several notes at the same sample holds."""
        if self.samples and self.samples[-1] == now.samples:
            for values in (self.samples, self.right, self.requests, self.labels, self.allowed):
                values.pop()
        self.samples.append(now.samples)
        self.right.append(right)
        self.requests.append(now.requests)
        self.labels.append(now.labels)
        self.allowed.append(round(now.allowed, 3))


# The table


class Table:
    """The results in a directory; only whole rows count."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path, self.curves_path = directory / TABLE, directory / CURVES
        self.results: dict[str, Result] = {r.cell: r for r in self._read()}

    def _read(self) -> Iterator[Result]:
        _whole(self.path)
        _whole(self.curves_path)
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                try:
                    yield _parsed(row)
                except (KeyError, ValueError, TypeError):
                    raise DataError(
                        f"{self.path}: this is no table of results of this version; name another --out,"
                        " or delete it"
                    ) from None

    def add(self, result: Result, curves: Curves) -> None:
        """Append a result, its curves first."""
        with self.curves_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"cell": result.cell, **asdict(curves)}) + "\n")
        begin = not self.path.exists()
        with self.path.open("a", encoding="utf-8", newline="") as file:
            _write(file, [result], head=begin)
        self.results[result.cell] = result

    def rewrite(self, results: Sequence[Result]) -> None:
        """Write the table anew: these first, in their order, then what else it held."""
        told = dict.fromkeys(result.cell for result in results)
        known = self.results | {result.cell: result for result in reversed(results)}
        new = self.path.with_suffix(".new")
        with new.open("w", encoding="utf-8", newline="") as file:
            _write(file, [known[cell] for cell in {**told, **dict.fromkeys(known)}], head=True)
        new.replace(self.path)

    def curves(self, cells: Collection[str]) -> dict[str, Curves]:
        """Return the curves of these cells."""
        found = {}
        with self.curves_path.open(encoding="utf-8") as file:
            for line in file:
                held = json.loads(line)
                if (cell := held.pop("cell")) in cells:
                    found[cell] = Curves(**held)
        return found


def _whole(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    if path.exists():
        text = path.read_bytes()
        if not text.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(text.rfind(b"\n") + 1)


def _write(file: TextIO, results: Iterable[Result], *, head: bool) -> None:
    writer = csv.writer(file, lineterminator="\n")
    if head:
        writer.writerow(f.name for f in fields(Result))
    for result in results:
        writer.writerow(_text(getattr(result, f.name)) for f in fields(Result))


def _text(value: object) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


_PARSE: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False}[text],
    "float | None": lambda text: float(text) if text else None,
}


def _parsed(row: dict[str, str]) -> Result:
    return Result(**{f.name: _PARSE[str(f.type)](row[f.name]) for f in fields(Result)})


# All cells


def run_all(plan: Plan, cells: Sequence[Cell], jobs: int, stop: Stop) -> Iterator[tuple[Result, Curves]]:
    """Run cells, in this process or in several; yield each when it is done.

    Raises
    ------
    Stopped
        Once somebody has set ``stop``; what was not done by then is not yielded.
    """
    if jobs <= 1 or len(cells) < 2:
        yield from (run_cell(plan, cell, stop) for cell in cells)
        return
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    with ProcessPoolExecutor(min(jobs, len(cells)), context, _begin, (plan, ended)) as pool:
        try:
            with _deaf():  # workers are started here, and inherit it
                left = {pool.submit(_work, cell) for cell in cells}
            while left:
                done, left = wait(left, LOOK_S, FIRST_COMPLETED)
                if stop.is_set():
                    raise Stopped
                yield from (future.result() for future in done)
        finally:
            ended.set()
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C, which a terminal sends to workers, too: they are told to stop otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_given: dict[str, Any] = {}  # of a worker


def _begin(plan: Plan, stop: Stop) -> None:
    configure("error")
    _given.update(plan=plan, stop=stop)


def _work(cell: Cell) -> tuple[Result, Curves]:
    return run_cell(_given["plan"], cell, _given["stop"])
