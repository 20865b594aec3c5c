"""Figures: an immutable picture of a running service, taken between two turns, for metrics and views."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stream_al.core.accuracy import Estimate, Interval
from stream_al.core.challenger import Standing
from stream_al.core.classification import NOTHING, ClassReport
from stream_al.core.messages import Budget, milliseconds
from stream_al.core.random_twin import Saved
from stream_al.core.regression import Errors

if TYPE_CHECKING:
    from stream_al.service.loop import Service

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
BATCH_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LEARN_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
WAIT_BOUNDS_S = (1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0, 604_800.0)

Input = tuple[str, str, int]  # group, topic, partition


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values were up to each bound and above the one before, and last, above all of them."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Observations:
    """Counts durations in seconds.

    >>> waits = Observations((1.0, 60.0))
    >>> for seconds in (0.5, 1.0, 3600.0):
    ...     waits.add(seconds)
    >>> waits.picture()
    Histogram(bounds=(1.0, 60.0), counts=(2, 0, 1), total=3601.5)
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def picture(self) -> Histogram:
        """Return what was counted so far."""
        return Histogram(self._bounds, tuple(self._counts), self._total)


@dataclass(frozen=True, slots=True)
class ScorerFigures:
    """Counters since the start of this process, of what was committed."""

    samples: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    states_lost: int = 0
    commits: int = 0
    partitions: tuple[int, ...] = ()
    score_batch_s: Histogram = field(default_factory=Observations(BATCH_BOUNDS_S).picture)


@dataclass(frozen=True, slots=True)
class LearnerFigures:
    """What the owner of the ledger knows.

    Counters are restored from the ledger; rejections, dead letters and waits are this process's. ``by_class`` is over
    the last window of the configuration, ``always`` the accuracy since the last drift alarm. In regression there are
    ``errors`` where otherwise there are ``estimates``. ``saved`` is None without a random twin.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    rejections: Mapping[str, int] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    pending_oldest_s: float = 0.0
    query_rate: float | None = None
    uncovered: int = 0
    samples: int = 0
    requests: int = 0
    limits: Mapping[str, float] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    errors: Mapping[str, Errors] = field(default_factory=dict)
    always: Interval | None = None
    by_class: ClassReport = NOTHING
    by_class_window: str = ""
    drift_alarms: Mapping[str, int] = field(default_factory=dict)
    rebuilds: int = 0
    pseudo_labels: int = 0
    pseudo_labels_stopped: bool = False
    challengers: tuple[Standing, ...] = ()
    saved: Saved | None = None
    promotions: int = 0
    label_wait_s: Histogram = field(default_factory=Observations(WAIT_BOUNDS_S).picture)


@dataclass(frozen=True, slots=True)
class Figures:
    """One picture. ``scorer`` and ``learner`` are None where this process does not play that role (now)."""

    reachable: bool = True
    ready: bool = False
    why_not: str = ""
    ledger_id: str = ""
    model: str = "default"
    model_version: int = 0
    ledger_position: int = 0
    ledger_lag: int = 0
    classes: tuple[str, ...] = ()
    warming: bool = True
    rebuilding: bool = False
    fold_errors: Mapping[str, int] = field(default_factory=dict)
    disagreements: int = 0
    rejoins: Mapping[str, int] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    scorer: ScorerFigures | None = None
    learner: LearnerFigures | None = None
    desk: bool = False  # whether people can answer here
    learn_s: Histogram = field(default_factory=Observations(LEARN_BOUNDS_S).picture)
    ends: Mapping[Input, int] = field(default_factory=dict)
    lags: Mapping[Input, int] = field(default_factory=dict)  # records between position and end
    unread_s: Mapping[Input, float] = field(
        default_factory=dict
    )  # age of the first of them; from several pictures

    @classmethod
    def away(cls, why: str) -> Figures:
        """Return the picture of a service that cannot reach its broker."""
        return cls(reachable=False, why_not=why)

    @classmethod
    def of(cls, service: Service) -> Figures:
        """Take the picture; costs a few requests to the broker."""
        fold, genesis = service.follower.fold, service.follower.fold.genesis
        end = service.follower.end()
        scorer, learner = service.scorer, service.learner
        ends, lags = _inputs(service)
        return cls(
            ready=service.ready,
            why_not=_why_not(service),
            ledger_id=genesis.ledger_id if genesis else "",
            model=fold.champion.name if genesis else service.settings.name,
            model_version=fold.version,
            ledger_position=fold.position,
            ledger_lag=max(0, end - service.follower.position()),
            classes=tuple(str(c) for c in fold.classes),
            warming=fold.warming,
            rebuilding=fold.rebuilding is not None,
            fold_errors=dict(fold.errors),
            disagreements=service.agreement.disagreements,
            rejoins={
                name: task.watchdog.rejoins
                for name, task in (("scorer", scorer), ("learner", learner))
                if task is not None
            },
            budget=fold.budget,
            scorer=None
            if scorer is None
            else ScorerFigures(
                {**scorer.outcomes, "skipped": scorer.machine.outcomes["skipped"]},
                dict(scorer.reasons),
                dict(scorer.dead_letters),
                scorer.machine.states_lost,
                scorer.commits,
                tuple(sorted(scorer.machine.partitions)),
                scorer.batch_s.picture(),
            ),
            learner=_learner(service) if learner is not None and learner.owner else None,
            desk=service.desk is not None,
            learn_s=service.follower.learn_s.picture(),
            ends=ends,
            lags=lags,
        )


def _why_not(service: Service) -> str:
    """Return what the service waits for; nothing once it is ready."""
    if service.ready:
        return ""
    if service.follower.fold.genesis is None:
        return "the ledger has no first record yet; a learner writes it when it has joined its group"
    if service.agreement.lasting:
        return (
            "the model is not the learner's, also after the ledger was folded from its start; compare the versions in"
            " stream_al_build_info, then restart this process, or the learner if all others say this too"
        )
    tasks = {"scorer": service.scorer, "learner": service.learner}
    joining = [name for name, task in tasks.items() if task is not None and not task.ready]
    if not joining and service.desk is not None:
        return f"the desk is {service.desk.room.why_not}"
    if not joining and service.bridge is not None:
        return service.bridge.why_not
    return f"joining the group of the {' and the '.join(joining)}"


def _learner(service: Service) -> LearnerFigures:
    task, fold = service.learner, service.follower.fold
    assert task is not None
    machine = task.machine
    assert machine is not None
    now = machine.clock_ms
    total, budget, dealer = fold.accuracy.everything, fold.budget, machine.dealer
    limits: dict[str, float] = {}
    spent: dict[str, float] = {}
    if budget.fraction is not None:
        limits["stream"] = budget.fraction * total.samples + budget.allowance
        spent["stream"] = total.requests
    for name, limit, window in (("hour", budget.per_hour, HOUR_MS), ("day", budget.per_day, DAY_MS)):
        if limit is not None:
            limits[name], spent[name] = limit, dealer.used(window, now)
    if budget.max_outstanding is not None:
        limits["outstanding"], spent["outstanding"] = budget.max_outstanding, len(machine.pending)
    recent = fold.accuracy.latest(20)
    oldest = min((milliseconds(r.requested_at) for r in machine.pending.values()), default=now)
    windows = service.settings.accuracy.windows
    return LearnerFigures(
        labels=dict(fold.outcomes),
        rejections=dict(task.rejections),
        dead_letters=dict(task.dead_letters),
        pending=len(machine.pending),
        pending_oldest_s=max(0.0, (now - oldest) / 1000),
        query_rate=recent.requests / recent.samples if recent.samples else None,
        uncovered=total.uncovered,
        samples=total.samples,
        requests=total.requests,
        limits=limits,
        spent=spent,
        estimates=fold.estimates(windows),
        errors=fold.prediction_errors(windows),
        always=fold.accuracy.always(),
        by_class=fold.accuracy.by_class(windows[-1]),
        by_class_window=str(windows[-1]),
        drift_alarms=dict(fold.drift.alarms),
        rebuilds=fold.rebuilds,
        pseudo_labels=fold.pseudo_labels,
        pseudo_labels_stopped=fold.cooperation == "stopped",
        challengers=fold.standings,
        saved=fold.contest.saved(),
        promotions=fold.promotions,
        label_wait_s=task.wait_s.picture(),
    )


def _inputs(service: Service) -> tuple[dict[Input, int], dict[Input, int]]:
    """Return end and lag of every input that this process reads for a group."""
    s, positions = service.settings, dict[Input, int]()
    if service.scorer is not None:
        for partition, position in service.scorer.machine.sources().items():
            positions[f"{s.group}-scorer", s.topics.samples, partition] = position
    learner = service.learner
    if learner is not None and learner.fast is not None and learner.slow is not None:
        for tp in learner.tps:
            reader = learner.slow if tp.topic == learner.inputs["answers"] else learner.fast
            positions[f"{s.group}-learner", tp.topic, tp.partition] = reader.position(tp)
    known = {topic: service.broker.ends(topic) for topic in {topic for _, topic, _ in positions}}
    ends = {(group, topic, p): known[topic].get(p, 0) for group, topic, p in positions}
    return ends, {name: max(0, ends[name] - position) for name, position in positions.items()}
