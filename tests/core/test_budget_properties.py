"""No limit is ever exceeded and little is left unused: many partitions, replicas with odd clocks, a real dealer.

A ``Town`` is the production budget machinery without models: ``PartitionBudget`` for each partition, the ``Learner``
with its ``Dealer``, and the ``Fold`` that carries grants from one to the other. Utilities are given, so that ties,
constants and scale changes are exact. Every request's stamp is kept, and every limit is checked at every prefix and
in every window.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from dataclasses import replace

import numpy as np
import pytest

from stream_al.core.budget import TOKEN, PartitionBudget
from stream_al.core.fold import Fold
from stream_al.core.learner import Learner, Place, Turn
from stream_al.core.messages import (
    Answer,
    Budget,
    Genesis,
    Grant,
    LabelRequest,
    Query,
    Shown,
    Source,
    Spent,
    Sums,
    Tally,
    milliseconds,
    timestamp,
)

NOW = 1_800_000_000_000
HOUR = 3_600_000
SPEC = ["river.naive_bayes.GaussianNB"]
SHOWN = Shown("default", 0, {})


class Town:
    """Partitions, the replicas that hold them, and the learner; ``run`` lets a second or more pass at a time."""

    def __init__(
        self, budget: Budget, partitions: int, *, seed: int = 0, skews=(0, 0), answer_ms=None, warmed=True
    ):
        self.budget, self.now = budget, NOW
        self.rng = np.random.default_rng(seed)
        self.fold = Fold()
        start = dict.fromkeys(range(partitions), 0)
        self._write(
            [Genesis("id", "samples", start, "default", SPEC, None, "margin", 1, timestamp(NOW)), budget]
        )
        self.fold.warmed = warmed
        self.skews = list(skews)  # of each replica's clock
        self.learner_skew = 0
        self.states = {p: PartitionBudget() for p in start}
        self.offsets = dict.fromkeys(start, 0)
        self.asked = dict.fromkeys(start, 0)
        self.granted: Counter[int] = Counter()
        self.answer_ms = answer_ms
        self.due: list[tuple[int, str, str]] = []
        self.places = itertools.count()
        self.stamps: list[int] = []
        self.read: list[int] = []
        self.times: list[int] = []
        self.samples = self.uncovered = self.most_open = 0
        self.held_back: deque[tuple[list[LabelRequest], list[Tally]]] = deque()
        self.restart_learner()
        self._learn()  # the first deal comes right after genesis, before anything is decided

    def _write(self, records) -> None:
        for record in records:
            if isinstance(record, Grant) and record.grant in ("burst", "advance"):
                self.granted[record.partition] += record.tokens
            self.fold.apply(self.fold.position, record)

    def restart_learner(self) -> None:
        """Start a learner from the ledger and the requests that are still open."""
        at = self.now + self.learner_skew
        old = getattr(self, "learner", None)
        self.learner = Learner(
            self.fold, self.budget, now_ms=at, label_ttl_ms=7 * 24 * HOUR, wait_unknown_ms=60_000,
            bucket_ms=5_000, transaction_timeout_ms=10_000,
        )  # fmt: skip
        if old is not None:  # what was read before, read again: requests, and reports since the last bucket
            for stamp in self.read:
                self.learner.dealer.request(stamp, self.budget)
            for request in old.pending.values():
                self.learner._open(request)
            self.learner.ends = dict(self.fold.ends)
            tallies = [t for t in self.since_bucket if t.from_offset >= self.fold.ends.get(t.partition, 0)]
            self.held_back.appendleft(([], tallies))
        self.since_bucket: list[Tally] = []

    def pass_on(self, ms: int, arrivals: dict[int, np.ndarray], *, learn: bool = True) -> None:
        """Let time pass, the arrivals (utilities of each partition) be decided, and the learner do a turn."""
        self.now += ms
        requests, tallies = [], []
        for partition, u in arrivals.items():
            if len(u):
                self._decide(partition, u, requests, tallies)
        self.held_back.append((requests, tallies))
        self.most_open = max(
            self.most_open, len(self.learner.pending) + sum(len(r) for r, _ in self.held_back)
        )
        if learn:
            self._learn()

    def _decide(self, partition, u, requests, tallies) -> None:
        state, n, offset = self.states[partition], len(u), self.offsets[partition]
        clock = self.now + self.skews[partition % len(self.skews)]
        state.tick(clock, n)
        ended = state.take(
            self.fold.grants_of(partition),
            self.budget,
            warming=self.fold.warming,
            dealt_ms=self.fold.last_grant_ms,
        )
        d = state.decide(u, np.zeros(n, bool), self.rng.random(n), self.budget, warming=self.fold.warming)
        stamp = max(state.clock_ms, self.fold.last_grant_ms)
        at = timestamp(stamp)
        for i in np.flatnonzero(d.chosen).tolist():
            source = Source("samples", partition, offset + i)
            query = Query("margin", "informative", 0.9, 0.8, float(d.p[i]), 0.0, 0.0, 0.5)
            name = source.request_id
            requests.append(
                LabelRequest(name, name, {}, source, query, SHOWN, at, timestamp(stamp + 7 * 24 * HOUR))
            )
            self.stamps.append(stamp)
            self.times.append(self.now)
            if self.answer_ms is not None:
                heapq.heappush(self.due, (self.now + int(self.rng.exponential(self.answer_ms)), name, name))
        if self.budget.fraction is not None:
            asked = self.asked[partition] + np.cumsum(d.chosen)
            earned = self.budget.fraction * (offset + 1 + np.arange(n)) + self.granted[partition]
            assert (asked <= earned + 1e-6).all(), "a prefix of a partition asked for more than it earned"
        covered = int((d.p > 0).sum())
        self.asked[partition] += int(d.chosen.sum())
        self.offsets[partition] += n
        self.samples += n
        self.uncovered += n - covered
        sums = Sums(samples=n, uncovered=n - covered, requests=int(d.chosen.sum()), sum_p=float(d.p.sum()))
        grants = {k: Spent(s.spent, s.closed) for k, s in (state.spent() | ended).items()}
        tallies.append(Tally(partition, offset, offset + n, at, at, sums, grants))

    def _learn(self) -> None:
        requests, reports = [], []
        while self.held_back:
            r, t = self.held_back.popleft()
            requests += r
            reports += t
        self.since_bucket += reports
        self.read += [milliseconds(r.requested_at) for r in requests]
        answers = []
        while self.due and self.due[0][0] <= self.now:
            _, name, request_id = heapq.heappop(self.due)
            answers.append(
                (
                    Place("labels", 0, next(self.places)),
                    self.now,
                    Answer(name, skip=True, request_id=request_id),
                )
            )
        now = self.now + self.learner_skew
        through = dict.fromkeys(("requests", "reports", "answers"), now)
        step = self.learner.on(Turn(now, requests, reports, answers, through))
        self._write(step.ledger)
        if step.bucket_closed:
            self.since_bucket = []

    def lose_state(self, partition: int) -> None:
        self.states[partition] = PartitionBudget(taken=self.fold.last_grant)

    def move(self) -> None:
        """Deal the partitions to the replicas anew: each is judged by another clock from now on."""
        self.skews = self.skews[1:] + self.skews[:1]

    def most_in(self, window_ms: int) -> int:
        """Return the most requests in any window, by their stamps."""
        stamps = np.sort(np.array(self.stamps, dtype=np.int64))
        return int(
            (np.searchsorted(stamps, stamps + window_ms - 1, "right") - np.arange(len(stamps))).max(initial=0)
        )

    def check(self) -> None:
        if self.budget.per_hour is not None:
            assert self.most_in(HOUR) <= self.budget.per_hour
        if self.budget.per_day is not None:
            assert self.most_in(24 * HOUR) <= self.budget.per_day
        if self.budget.max_outstanding is not None:
            assert self.most_open <= self.budget.max_outstanding
        if self.budget.fraction is not None:
            assert len(self.stamps) <= self.budget.fraction * self.samples + self.budget.allowance


def utilities(kind: str, rng, n: int, at: int) -> np.ndarray:
    if kind == "ties":
        return rng.integers(0, 3, n) / 2
    if kind == "constant":
        return np.full(n, 0.3)
    if kind == "scale":
        return rng.random(n) * (1.0 if (at // 300) % 2 else 1e-3)
    return rng.beta(0.5, 3, n)


def day(town: Town, kind: str, seconds: int, rates: np.ndarray, *, every: int = 5, upset=None) -> Town:
    """Let samples arrive as Poisson processes, with bursts of ten times the rate, for some seconds of each minute."""
    for second in range(0, seconds, every):
        burst = 10.0 if (second // 60) % 10 == 3 else 1.0
        arrivals = {
            p: utilities(kind, town.rng, int(town.rng.poisson(rate * burst * every)), second)
            for p, rate in enumerate(rates)
            if rate
        }
        learn = upset(town) if upset is not None else True
        town.pass_on(every * 1000, arrivals, learn=learn is not False)
    town.check()
    return town


def upset(town: Town) -> bool:
    """Break something now and then; False: the learner does nothing for now."""
    happens = lambda share: town.rng.random() < share  # noqa: E731
    if happens(0.02):
        town.lose_state(int(town.rng.integers(len(town.states))))
    if happens(0.02):
        town.move()
    if happens(0.01):
        town.restart_learner()
    if happens(0.03):
        hours = town.rng.choice([0, 0, 0, -3 * HOUR, -20_000, -4_000, 4_000, 60_000, HOUR])
        town.skews[int(town.rng.integers(len(town.skews)))] = int(hours)
    if happens(0.005):
        town.learner_skew = int(town.rng.choice([0, 10_000, 2 * HOUR]))
    return not happens(0.1)


def vars_of(budget: Budget) -> dict[str, object]:
    names = ("fraction", "per_hour", "per_day", "max_outstanding")
    return {n: getattr(budget, n) for n in names if getattr(budget, n) is not None}


LIMITS = [
    Budget(fraction=0.05),
    Budget(fraction=0.1, per_hour=200),
    Budget(fraction=0.05, max_outstanding=20),
    Budget(fraction=None, per_hour=60, max_outstanding=15),
    Budget(fraction=0.2, per_hour=300, per_day=800, max_outstanding=60),
    Budget(fraction=None, per_hour=10),
]


@pytest.mark.fault(
    "a budget exceeded",
    "random limits, clocks, replicas and lost states against the budget's own rules",
)
@pytest.mark.parametrize("kind", ["ties", "constant", "scale", "beta"])
@pytest.mark.parametrize("limits", LIMITS, ids=lambda b: " ".join(f"{k}={v}" for k, v in vars_of(b).items()))
def test_no_limit_is_exceeded_whatever_clocks_replicas_and_states_do(limits, kind):
    seed = sum(map(ord, kind)) + LIMITS.index(limits)
    rates = np.random.default_rng(seed).lognormal(0, 1, 6) * 1.2
    town = Town(limits, 6, seed=seed, skews=(0, 0, 0), answer_ms=120_000, warmed=kind != "beta")
    day(town, kind, 4500, rates, upset=upset)
    assert town.stamps


CLOCKS = {
    "one replica three hours behind": [(0, (0, -3 * HOUR))],
    "set back by three hours": [(900, (-3 * HOUR, 0))],
    "set back and right again": [(900, (-HOUR, 0)), (930, (0, 0)), (1500, (0, -60_000)), (1560, (0, 0))],
    "two replicas that swap partitions, one behind": [
        (s, (0, -HOUR)[:: (-1) ** (s // 60)]) for s in range(0, 5000, 60)
    ],
}


@pytest.mark.fault(
    "clocks behind or set back",
    "random limits, clocks, replicas and lost states against the budget's own rules",
)
@pytest.mark.parametrize("clocks", CLOCKS)
@pytest.mark.parametrize(
    "limits",
    [Budget(fraction=None, per_hour=100), Budget(fraction=None, max_outstanding=10)],
    ids=["per_hour", "max_outstanding"],
)
def test_a_clock_that_is_behind_or_set_back_exceeds_nothing(limits, clocks):
    plan = deque(CLOCKS[clocks])

    def set_clocks(town: Town) -> None:
        while plan and town.now >= NOW + plan[0][0] * 1000:
            town.skews = list(plan.popleft()[1])

    for seed in range(2):
        plan = deque(CLOCKS[clocks])
        town = Town(
            limits,
            4,
            seed=seed,
            skews=CLOCKS[clocks][0][1] if CLOCKS[clocks][0][0] == 0 else (0, 0),
            answer_ms=900_000,
        )
        day(town, "beta", 9000, np.full(4, 0.5), upset=set_clocks)
        assert len(town.stamps) >= 10


def test_an_hourly_cap_is_used_though_a_quarter_of_the_partitions_is_idle():
    used = []
    for seed in range(2):
        rates = np.random.default_rng(seed).lognormal(0, 1, 32) * 0.5
        rates[:8] = 0
        town = day(Town(Budget(fraction=None, per_hour=10), 32, seed=seed), "beta", 4 * 3600, rates)
        used.append(len(town.stamps) / 40)
    assert np.mean(used) >= 0.8


@pytest.mark.parametrize(("fraction", "error"), [(0.05, 0.02), (0.1, 0.015)])
@pytest.mark.parametrize("kind", ["constant", "ties", "beta", "scale"])
def test_a_fraction_alone_is_spent_and_leaves_nothing_uncovered_under_bursts(kind, fraction, error):
    rates = np.array([1.0, 8.0, 20.0, 2.0])
    town = day(Town(Budget(fraction=fraction), 4, seed=5, warmed=False), kind, 1200, rates, every=2)
    assert abs(len(town.stamps) / (fraction * town.samples) - 1) <= error
    assert town.uncovered == 0


def test_max_outstanding_is_used_while_answers_keep_coming():
    town = Town(Budget(fraction=None, max_outstanding=20), 4, seed=3, answer_ms=60_000)
    day(town, "beta", 3600, np.full(4, 5.0))
    assert len(town.stamps) >= 0.5 * 20 * 60


class EachByItself(PartitionBudget):
    """The definition: every sample is looked at with every gate."""

    def _restrained(self, rules, *, warming):
        return True


def test_samples_decided_at_once_are_those_decided_one_by_one():
    assert sum(map(compare_ways, range(60))) > 100


def compare_ways(seed: int) -> int:
    """Decide batches in both ways; return after how many the bucket was low."""
    low = 0
    rng = np.random.default_rng(seed)
    quick, slow = PartitionBudget(), EachByItself()
    now, number = NOW, 0
    fraction = rng.choice([0.001, 0.01, 0.05, 0.3, 1.0])
    limits = {} if seed % 6 else {"per_hour": 50}
    budget = Budget(fraction=fraction, exploration=rng.choice([0.0, 0.2, 1.0]), **limits)
    for _ in range(12):
        n = int(rng.choice([1, 5, 63, 64, 65, 200, 900]))
        now += int(rng.integers(0, 3_000))
        grants = []
        for kind in rng.choice(["burst", "advance", "cap"], size=rng.integers(0, 3)):
            number += 1
            until, tokens = timestamp(now + int(rng.choice([6_000, 30_000]))), int(rng.integers(1, 40))
            grants.append(Grant(number, str(kind), 0, tokens, timestamp(now), until, rng.choice([None, 0.0, 20.0])))  # fmt: skip
        if rng.random() < 0.2:
            budget = replace(budget, fraction=rng.choice([0.01, 0.05, 0.3]))
        u, coins = rng.beta(*rng.choice([(0.3, 0.3), (1, 1), (2, 8), (0.05, 5)]), size=n), rng.random(n)
        cold = rng.random(n) < rng.choice([0.0, 0.0, 0.3, 1.0])
        u = np.where(cold, 1.0, rng.choice([0.0, 0.5, 1.0]) if rng.random() < 0.2 else u)
        warming, spread = bool(rng.random() < 0.3), rng.choice([None, 0.3])
        told = []
        for each in (quick, slow):
            each.tick(now, n)
            taken = each.take(grants, budget, warming=warming)
            found = each.decide(u, cold, coins, budget, warming=warming, spread=spread)
            arrays = (found.p, found.floor, found.threshold, found.chosen)
            told.append((taken, [a.tolist() for a in arrays], each.encode("ledger", 1)))
        assert told[0] == told[1]
        low += TOKEN < quick.level < TOKEN * budget.burst // 2
    return low
