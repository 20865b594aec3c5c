"""The grid: which cells there are, and running one.

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

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

from stream_al import __version__
from stream_al.config import Settings, load
from stream_al.core.fold import FOLD_VERSION
from stream_al.simulate import Oracle, Simulation
from stream_al.whatif.processes import Stop, Stopped
from stream_al.whatif.reading import Row
from stream_al.whatif.results import Curves, Result

RANDOM = "random"
LADDER = (2, 4, 8, 16)  # times the largest budget, ...
MOST = 0.8  # ... up to this, are asked for at random, to see what random needs
POINTS = 200  # of a curve
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
    referenced: bool = True  # whether to run the references

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
        if not self.referenced or set(self.strategies) <= {RANDOM}:
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
            asdict(self.oracle), self.overrides, OWN, __version__, FOLD_VERSION, version("river"),
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
