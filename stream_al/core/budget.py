"""The budget manager of one partition: utilities in, inclusion probabilities and decisions out.

Theory of operation
-------------------
Everything here belongs to one input partition and travels with its position, so a restart or a rebalance
cannot change a decision. Amounts are integers of 10^-9 tokens: sums do not depend on where a poll was cut, and
the guarantee ``requests <= B·n + granted tokens`` is exact.

Each sample earns ``fraction`` tokens and a request costs one. The probability of asking is a logistic ramp
around a threshold on the utility with an exploration floor under it::

    p = floor + (1 - floor) · sigmoid(k (u - threshold) / sd),        k = 1.5, floor = exploration · target

where sd is that of recent utilities, or what the strategy says (``spread``).

The threshold is solved so that the mean p over a histogram of recent utilities equals the *target*: the
fraction, corrected by the bucket's level (integral action), or the granted rate, whichever is less. What the
histogram cannot see - utilities that drift, or crowd inside one bin - is corrected by a shift in log odds that
learns from the last block's mean p. Both move every 64 samples of the partition, never at poll borders. Near an
empty bucket the ramp tapers to the floor; below one token p is 0 and the sample counts as uncovered.

Grants (see ``core/grants.py``) bring tokens from limits that exist once for the whole stream:

=========  ===========================================================================================
burst      moved into the bucket when first seen
advance    lent to a cold model: spent at p = 1/2 while the model warms up, repaid by 20 % less refill
cap        where per_hour, per_day or max_outstanding is set, each request costs one of these as well
=========  ===========================================================================================

A grant is spent only while it is live and lapses five seconds before ``until``. What is left of its life is judged
by the partition's clock and by the newest grant that was dealt, whichever leaves less; a clock that was set back by
more than that slack ends what is held and takes nothing until it has caught up. Without state there are no tokens.
Clocks and lost state can only under-spend.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream_al.core.messages import Budget, Grant, Spent, milliseconds

Vector = NDArray[np.float64]

TOKEN = 10**9
BLOCK = 64  # samples between two moves of the threshold
BINS = 64
MEMORY = 1024  # the histogram is halved when it holds this many utilities
STEEPNESS = 1.5
STEEPEST = 60.0  # exponents are drawn in to this
CORRECTION, MOST_SHIFT = 0.3, 8.0
WARM_UP_P = 0.5
LEAST_P = 1e-9  # a sample with less is uncovered: its weight would be no number to count with
LAPSE_MS = 5_000
RATE_MEMORY_S = 10.0
LONGEST_STEP_MS = 60_000
STATE_SCHEMA = 1
LARGEST_IN_STATE = 2**53

# Bins are even in log odds: a good model's utilities crowd near 0, a bad one's near 1.
_SPREAD = math.log((1 + 1e-4) / 1e-4)
_EDGES = np.linspace(-_SPREAD, _SPREAD, BINS + 1)
_MIDS = 0.5 * (_EDGES[:-1] + _EDGES[1:])
_CENTRES: Vector = np.clip((np.exp(_MIDS) * (1 + 1e-4) - 1e-4) / (1 + np.exp(_MIDS)), 0.0, 1.0)
_WITHIN: Vector = (_CENTRES * (1 - _CENTRES) * (_EDGES[1] - _EDGES[0])) ** 2 / 12 + 1e-10  # variance in a bin


def _log_odds(p: float) -> float:
    p = min(max(p, 1e-9), 1 - 1e-4)  # nearer to 1 than the threshold is solved, a difference says nothing
    return math.log(p / (1 - p))


def _bins(u: Vector) -> NDArray[np.int64]:
    odds = np.log((u + 1e-4) / (1 - u + 1e-4))
    return np.clip(((odds + _SPREAD) * (BINS / (2 * _SPREAD))).astype(np.int64), 0, BINS - 1)


_GRANTS = {"b": "burst", "a": "advance", "c": "cap"}
_NUMBERS: dict[str, type[int | float]] = {
    "clock_ms": int,
    "level": int,
    "debt": int,
    "seen": int,
    "target": float,
    "threshold": float,
    "scale": float,
    "shift": float,
    "asked": float,
    "asked_of": int,
    "arrivals": float,
    "arrival_s": float,
    "taken": int,
}  # what is written beside the position, in this order


@dataclass(slots=True)
class Live:
    """A grant in this partition's hands."""

    grant: str
    left: int
    spent: int
    until_ms: int
    pace: float | None = None


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided for n samples. All arrays have length n; ``warm`` marks uniform warm-up decisions."""

    p: Vector
    floor: Vector
    threshold: Vector
    chosen: NDArray[np.bool_]


@dataclass(slots=True)
class PartitionBudget:
    """State of one partition; ``encode`` and ``decode`` are exact inverses."""

    clock_ms: int = 0
    level: int = 0
    debt: int = 0
    seen: int = 0
    target: float = 0.0
    threshold: float = 0.5
    scale: float = 0.0  # 0: no threshold was solved yet, everything is asked at the target rate
    shift: float = 0.0
    asked: float = 0.0  # sum of p before gates, and count, over the informative samples of this block
    asked_of: int = 0
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    arrivals: float = 0.0
    arrival_s: float = 0.0
    taken: int = 0
    live: dict[int, Live] = field(default_factory=dict)
    behind: bool = False  # the clock was set back, said by each tick anew

    # --- state -----------------------------------------------------------------------------------------------

    def encode(self, ledger_id: str, offset: int) -> str:
        """Return the state as ASCII text of at most 1,500 characters, valid at ``offset`` of this ledger only."""
        counts = base64.b64encode(self.histogram.astype(">u2").tobytes()).decode("ascii")
        grants = [[n, g.grant[0], g.left, g.spent, g.until_ms, g.pace] for n, g in self.live.items()]
        numbers = [getattr(self, name) for name in _NUMBERS]
        return json.dumps([STATE_SCHEMA, ledger_id, offset, numbers, grants, counts], separators=(",", ":"))

    @classmethod
    def decode(cls, text: str, ledger_id: str, offset: int) -> PartitionBudget | None:
        """Return the state, or None where ``text`` is not a state of this ledger at this offset."""
        try:
            schema, ledger, at, numbers, grants, counts = json.loads(text)
            if (schema, ledger, at) != (STATE_SCHEMA, ledger_id, offset):
                return None
            state = cls(histogram=np.frombuffer(base64.b64decode(counts), dtype=">u2").astype(np.int64))
            for (name, kind), number in zip(_NUMBERS.items(), numbers, strict=True):
                if not abs(number) <= LARGEST_IN_STATE:  # nor is NaN
                    return None
                setattr(state, name, kind(number))
            for n, letter, left, spent, until, pace in grants:
                at_pace = None if pace is None else float(pace)
                state.live[int(n)] = Live(_GRANTS[letter], int(left), int(spent), int(until), at_pace)
            return state if len(state.histogram) == BINS else None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return None

    # --- grants ----------------------------------------------------------------------------------------------

    def tick(self, now_ms: int, samples: int) -> None:
        """Move the clock (never back) and the estimate of the arrival rate."""
        step = max(0, now_ms - self.clock_ms) if self.clock_ms else 0
        self.behind = now_ms < self.clock_ms - LAPSE_MS
        self.clock_ms = max(self.clock_ms, now_ms)
        if step > LONGEST_STEP_MS:  # a pause or a jump says nothing about the rate
            step = 0
        fade = math.exp(-step / 1000 / RATE_MEMORY_S)
        self.arrivals = self.arrivals * fade + samples
        self.arrival_s = self.arrival_s * fade + step / 1000

    @property
    def rate(self) -> float:
        """Samples per second, lately."""
        return self.arrivals / max(self.arrival_s, 1.0)

    def take(
        self, grants: Iterable[Grant], budget: Budget, *, warming: bool, dealt_ms: int = 0
    ) -> dict[int, Spent]:
        """Take new grants, drop lapsed ones; return those that changed or ended, for the tally.

        ``dealt_ms`` is when the newest grant of the ledger was dealt, by the dealer's clock.
        """
        ended: dict[int, Spent] = {}
        for grant in grants:
            if grant.number <= self.taken:
                continue
            self.taken = grant.number
            until = milliseconds(grant.until)
            # a clock that is behind must not make a grant live longer than it was meant to
            until = min(until, self.clock_ms + until - max(dealt_ms, milliseconds(grant.issued_at)))
            if self.behind or until - LAPSE_MS <= self.clock_ms:
                ended[grant.number] = Spent(0, closed=True)
            elif grant.grant == "burst":
                self.level = min(self.level + grant.tokens * TOKEN, budget.burst * TOKEN)
                ended[grant.number] = Spent(grant.tokens, closed=True)
            else:
                self.live[grant.number] = Live(grant.grant, grant.tokens, 0, until, grant.pace)
        for number, live in list(self.live.items()):
            over = live.grant == "advance" and not warming
            if self.behind or over or live.left == 0 or live.until_ms - LAPSE_MS <= self.clock_ms:
                ended[number] = Spent(live.spent, closed=True)
                del self.live[number]
        return ended

    def spent(self) -> dict[int, Spent]:
        """Return the account of the live grants that were touched."""
        return {n: Spent(g.spent) for n, g in self.live.items() if g.spent}

    def _left(self, kind: str) -> int:
        return sum(g.left for g in self.live.values() if g.grant == kind)

    def _spend(self, kind: str) -> None:
        grant = min((g for g in self.live.values() if g.grant == kind and g.left), key=lambda g: g.until_ms)
        grant.left -= 1
        grant.spent += 1

    def _granted_rate(self) -> float:
        """Cap tokens for each sample: the dealer's pace, or else what would spend them before they lapse."""
        live = [g for g in self.live.values() if g.grant == "cap" and g.left]
        if not live:
            return 0.0
        if live[-1].pace is not None:
            return min(1.0, live[-1].pace / max(self.rate, 1e-9))
        seconds = (max(g.until_ms for g in live) - LAPSE_MS - self.clock_ms) / 1000
        return min(1.0, sum(g.left for g in live) / max(1.0, self.rate * seconds))

    # --- decisions -------------------------------------------------------------------------------------------

    def decide(
        self,
        u: Vector,
        cold: NDArray[np.bool_],
        coins: Vector,
        budget: Budget,
        *,
        warming: bool,
        spread: float | None = None,
    ) -> Decisions:
        """Decide n samples in their order.

        Parameters
        ----------
        u
            Utilities, shape (n,), in [0, 1].
        cold
            Where the model had no answer: asked uniformly at the target rate, kept out of the histogram.
        coins
            One draw in [0, 1) a sample.
        warming
            Whether the model still warms up, so that advance tokens may be spent.
        spread
            What the ramp takes for the utilities' standard deviation; None: the one that they have lately.
        """
        n, rules = len(u), _Rules.of(budget)
        p, floor, threshold = np.empty(n), np.empty(n), np.empty(n)
        bins, some_cold = _bins(u), bool(cold.any())
        walk: _Walk | None = None
        start = 0
        while start < n:
            if self.seen % BLOCK == 0:
                self._solve(rules, spread)
            end = min(n, start + BLOCK - self.seen % BLOCK)
            part = slice(start, end)
            threshold[part] = self.threshold - self.shift * self.scale / STEEPNESS
            base, floor[part] = self._ramp(u[part], cold[part] if some_cold else None, rules)
            p[part] = base
            if self._restrained(rules, warming=warming):
                self._decide_each(p[part], floor[part], coins[part], rules, warming=warming)
            else:
                walk = walk or _Walk(start, self.level, self.debt)
                walk.paid += [start + i for i in self._pay_for(base, float(floor[start]), coins[part], rules)]
            warm = ~cold[part] if some_cold else slice(None)
            self._note(base[warm], bins[part][warm])
            self.seen += end - start
            start = end
        if walk is not None:
            walk.taper(p, floor, rules)
        return Decisions(p, floor, threshold, coins < p)

    def _note(self, base: Vector, bins: NDArray[np.int64]) -> None:
        """Take the informative samples of a block into the histogram and into the account of what is asked."""
        if len(bins):
            self.histogram += np.bincount(bins, minlength=BINS)
            asked = self.asked
            for p in base.tolist():  # one by one: the sum must not depend on where a poll was cut
                asked += p
            self.asked = asked
            self.asked_of += len(bins)

    def _solve(self, rules: _Rules, spread: float | None) -> None:
        """Set target, threshold and scale for the next block."""
        target = rules.fraction if rules.fraction is not None else 1.0
        if rules.fraction is not None and rules.burst:
            fill = self.level / (rules.burst * TOKEN)
            target *= min(2.0, max(0.2, 1 + 0.5 * (2 * fill - 1)))
        if rules.capped:
            target = min(target, self._granted_rate() or self.target or target)  # no grant now: as before
        self._correct()
        self.target = min(1.0, target)
        total = int(self.histogram.sum())
        if total >= MEMORY:
            self.histogram //= 2
            total = int(self.histogram.sum())
        if total:
            self._solve_threshold(total, rules.exploration * self.target, spread)

    def _correct(self) -> None:
        """Move the shift towards where the last block's mean p would have met its target."""
        if self.asked_of >= BLOCK // 4:
            miss = _log_odds(self.target) - _log_odds(self.asked / self.asked_of)
            self.shift = min(max(self.shift + CORRECTION * miss, -MOST_SHIFT), MOST_SHIFT)
        self.asked, self.asked_of = 0.0, 0

    def _solve_threshold(self, total: int, floor: float, spread: float | None) -> None:
        """Find the threshold at which the mean p over the histogram is the target (Newton inside a bracket)."""
        held = self.histogram.nonzero()[0]
        weights = self.histogram[held] / total
        centres = _CENTRES[held]
        if spread is None:
            mean = float(weights @ centres)
            spread = math.sqrt(max(0.0, float(weights @ ((centres - mean) ** 2 + _WITHIN[held]))))
        self.scale = spread
        wanted = min(max((self.target - floor) / (1 - floor), 1e-9), 1 - 1e-9) if floor < 1 else 0.5
        x = centres * (STEEPNESS / self.scale)
        low, high = float(x[0]) - 25.0, float(x[-1]) + 25.0
        t = min(max(self.threshold * STEEPNESS / self.scale, low), high)
        within = x[-1] - x[0] < STEEPEST - 25.0
        for _ in range(40):
            s = t - x
            s = 1.0 / (1.0 + np.exp(s if within else np.clip(s, -STEEPEST, STEEPEST)))
            miss = float(weights @ s) - wanted
            if abs(miss) <= 1e-4 * wanted:
                break
            if miss > 0:
                low = t
            else:
                high = t
            slope = float(weights @ (s * (1 - s)))
            step = t + miss / slope if slope > 1e-12 else low
            t = step if low < step < high else 0.5 * (low + high)
        self.threshold = t * self.scale / STEEPNESS

    def _ramp(self, u: Vector, cold: NDArray[np.bool_] | None, rules: _Rules) -> tuple[Vector, float]:
        """Return p before any gate, and the floor in it; ``cold`` is None where no sample is."""
        floor = rules.exploration * self.target
        if self.scale == 0:
            return np.full(len(u), self.target), floor
        steepness = STEEPNESS / self.scale
        z = (self.threshold - u) * steepness - self.shift
        # numpy's clip costs as much as three of the other operations, and is seldom needed
        if max(abs(self.threshold), abs(self.threshold - 1)) * steepness + abs(self.shift) > STEEPEST - 1:
            z = np.clip(z, -STEEPEST, STEEPEST)
        base = floor + (1 - floor) / (1.0 + np.exp(z))
        if floor < LEAST_P:
            base[base < LEAST_P] = 0.0
        return base if cold is None else np.where(cold, self.target, base), floor

    def _restrained(self, rules: _Rules, *, warming: bool) -> bool:
        """Say whether more than the bucket decides, so that each sample must be looked at."""
        return rules.capped or rules.fraction is None or (warming and self._left("advance") > 0)

    def _pay_for(self, base: Vector, floor: float, coins: Vector, rules: _Rules) -> list[int]:
        """Let the bucket decide a block; return which samples were requested.

        Only what the ramp would ask needs a look: the bucket asks no more, and fills evenly between requests.
        """
        paid, at, level, debt = [], 0, self.level, self.debt
        for i in (coins < base).nonzero()[0].tolist():
            level, debt = rules.filled(level, debt, i + 1 - at)
            at = i + 1
            if coins[i] < rules.tapered(float(base[i]), floor, level)[0]:
                level -= TOKEN
                paid.append(i)
        self.level, self.debt = rules.filled(level, debt, len(base) - at)
        return paid

    def _decide_each(self, p: Vector, floor: Vector, coins: Vector, rules: _Rules, *, warming: bool) -> None:
        """Decide a block sample by sample, with every gate in force; change p and the floor in it."""
        lent, granted = self._means(rules, warming=warming)
        each = zip(p.tolist(), floor.tolist(), coins.tolist(), strict=True)
        for i, (base, base_floor, coin) in enumerate(each):
            own, own_floor = base, base_floor
            if rules.fraction is not None:
                self.level, self.debt = rules.filled(self.level, self.debt, 1)
            if lent:
                own = own_floor = WARM_UP_P
            elif rules.fraction is not None:
                own, own_floor = rules.tapered(own, own_floor, self.level)
            if rules.capped:
                own, own_floor = self._capped(own, own_floor, rules, granted)
            if own < LEAST_P:
                own = own_floor = 0.0
            if coin < own:
                self._pay(rules, lent=lent)
                lent, granted = self._means(rules, warming=warming)
            p[i], floor[i] = own, own_floor

    def _means(self, rules: _Rules, *, warming: bool) -> tuple[bool, float]:
        """Return whether there is an advance to spend, and the rate granted by caps: until the next request."""
        lent = warming and self._left("advance") > 0
        return lent, self._granted_rate() if rules.capped else 0.0

    def _capped(self, p: float, floor: float, rules: _Rules, granted: float) -> tuple[float, float]:
        if granted == 0:
            return 0.0, 0.0
        scale = granted / self.target if self.target > 0 else 1.0
        if rules.fraction is not None:
            scale = min(1.0, scale) if p < WARM_UP_P or floor < WARM_UP_P else min(1.0, granted / WARM_UP_P)
        return min(1.0, p * scale), min(1.0, floor * scale)

    def _pay(self, rules: _Rules, *, lent: bool) -> None:
        if lent:
            self._spend("advance")
            self.debt += TOKEN
        elif rules.fraction is not None:
            self.level -= TOKEN
        if rules.capped:
            self._spend("cap")


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a budget says, worked out once for all samples of a poll."""

    fraction: float | None
    exploration: float
    capped: bool
    burst: int
    refill: int  # earned by a sample
    fifth: int  # what a sample repays at most
    lid: int
    comfortable: int  # the level above which nothing is tapered; a very small bucket has no room for a taper

    @classmethod
    def of(cls, budget: Budget) -> _Rules:
        burst, refill = budget.burst, round((budget.fraction or 0.0) * TOKEN)
        comfortable = TOKEN if burst < 4 else burst * TOKEN // 2
        return cls(
            budget.fraction, budget.exploration, budget.capped, burst, refill, refill // 5, max(burst, 1) * TOKEN,
            comfortable,
        )  # fmt: skip

    def filled(self, level: int, debt: int, samples: int) -> tuple[int, int]:
        """Return level and debt after the refill of so many samples, one or more, without a request."""
        repaid = min(debt, samples * self.fifth)
        return min(level + samples * self.refill - repaid, self.lid), debt - repaid

    def tapered(self, p: float, floor: float, level: int) -> tuple[float, float]:
        """Return what a bucket at this level leaves of p, and of the floor in it."""
        if level < TOKEN:
            return 0.0, 0.0
        if level >= self.comfortable:
            return p, floor
        share = (level - TOKEN) / (self.comfortable - TOKEN)
        p = min(p, floor + (p - floor) * (share * share))
        return (p, floor) if p >= LEAST_P else (0.0, 0.0)


@dataclass(slots=True)
class _Walk:
    """The bucket's level over the samples from ``start`` on, by which of them were requested."""

    start: int
    level: int
    debt: int
    paid: list[int] = field(default_factory=list)

    def taper(self, p: Vector, floor: Vector, rules: _Rules) -> None:
        """Do what ``_Rules.tapered`` does, for all samples at once."""
        p, floor = p[self.start :], floor[self.start :]
        level = self._levels(len(p), rules)
        low = np.flatnonzero(level < rules.comfortable)
        if len(low):
            share = (level[low] - TOKEN) / max(1, rules.comfortable - TOKEN)
            own, own_floor = p[low], floor[low]
            own = np.minimum(own, own_floor + (own - own_floor) * (share * share))
            none = (level[low] < TOKEN) | (own < LEAST_P)
            own[none], own_floor[none] = 0.0, 0.0
            p[low], floor[low] = own, own_floor

    def _levels(self, n: int, rules: _Rules) -> NDArray[np.int64]:
        """Return the level at which each sample is decided.

        Under refill r, requests and a lid c it is S_i - max(0, max_{j<=i} (S_j - c)) with S the level without a lid:
        the reflection of a walk (Skorokhod, 1961).
        """
        steps = np.arange(1, n + 1, dtype=np.int64)
        requested = np.zeros(n, dtype=np.int64)
        requested[np.array(self.paid, dtype=np.int64) - self.start] = TOKEN
        before = np.cumsum(requested) - requested
        walk = self.level + rules.refill * steps - np.minimum(self.debt, rules.fifth * steps) - before
        level: NDArray[np.int64] = walk - np.maximum(0, np.maximum.accumulate(walk - rules.lid))
        return level
