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
        n = len(u)
        p, floor, threshold = np.empty(n), np.empty(n), np.empty(n)
        start = 0
        while start < n:
            if self.seen % BLOCK == 0:
                self._solve(budget, spread)
            end = min(n, start + BLOCK - self.seen % BLOCK)
            part = slice(start, end)
            threshold[part] = self.threshold - self.shift * self.scale / STEEPNESS
            base, base_floor = self._ramp(u[part], cold[part], budget)
            self._decide_block(base, base_floor, coins[part], p[part], floor[part], budget, warming=warming)
            warm = ~cold[part]
            informative = u[part][warm]
            if len(informative):
                self.histogram += np.bincount(_bins(informative), minlength=BINS)
                for p_free in base[
                    warm
                ].tolist():  # one by one: the sum must not depend on where a poll was cut
                    self.asked += p_free
                self.asked_of += len(informative)
            self.seen += end - start
            start = end
        return Decisions(p, floor, threshold, coins < p)

    def _solve(self, budget: Budget, spread: float | None) -> None:
        """Set target, threshold and scale for the next block."""
        target = budget.fraction if budget.fraction is not None else 1.0
        if budget.fraction is not None and budget.burst:
            fill = self.level / (budget.burst * TOKEN)
            target *= min(2.0, max(0.2, 1 + 0.5 * (2 * fill - 1)))
        if budget.capped:
            target = min(target, self._granted_rate() or self.target or target)  # no grant now: as before
        self._correct()
        self.target = min(1.0, target)
        total = int(self.histogram.sum())
        if total >= MEMORY:
            self.histogram //= 2
            total = int(self.histogram.sum())
        if total:
            self._solve_threshold(budget.exploration * self.target, spread)

    def _correct(self) -> None:
        """Move the shift towards where the last block's mean p would have met its target."""
        if self.asked_of >= BLOCK // 4:
            miss = _log_odds(self.target) - _log_odds(self.asked / self.asked_of)
            self.shift = min(max(self.shift + CORRECTION * miss, -MOST_SHIFT), MOST_SHIFT)
        self.asked, self.asked_of = 0.0, 0

    def _solve_threshold(self, floor: float, spread: float | None) -> None:
        """Find the threshold at which the mean p over the histogram is the target (Newton inside a bracket)."""
        held = np.flatnonzero(self.histogram)
        weights = self.histogram[held] / self.histogram[held].sum()
        centres = _CENTRES[held]
        mean = float(weights @ centres)
        lately = math.sqrt(max(0.0, float(weights @ ((centres - mean) ** 2 + _WITHIN[held]))))
        self.scale = lately if spread is None else spread
        wanted = min(max((self.target - floor) / (1 - floor), 1e-9), 1 - 1e-9) if floor < 1 else 0.5
        x = centres * (STEEPNESS / self.scale)
        low, high = float(x[0]) - 25.0, float(x[-1]) + 25.0
        t = min(max(self.threshold * STEEPNESS / self.scale, low), high)
        for _ in range(40):
            s = 1.0 / (1.0 + np.exp(np.clip(t - x, -60.0, 60.0)))
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

    def _ramp(self, u: Vector, cold: NDArray[np.bool_], budget: Budget) -> tuple[Vector, float]:
        """Return p before any gate, and the floor in it."""
        floor = budget.exploration * self.target
        if self.scale == 0:
            return np.full(len(u), self.target), floor
        z = np.clip((self.threshold - u) * (STEEPNESS / self.scale) - self.shift, -60.0, 60.0)
        base = floor + (1 - floor) / (1.0 + np.exp(z))
        base[base < LEAST_P] = 0.0
        return np.where(cold, self.target, base), floor

    def _decide_block(
        self,
        base: Vector,
        base_floor: float,
        coins: Vector,
        p: Vector,
        floor: Vector,
        budget: Budget,
        *,
        warming: bool,
    ) -> None:
        """Apply bucket, caps and taper to at most one block, as far as possible at once."""
        done = 0
        if not budget.capped and budget.fraction is not None and not (warming and self._left("advance")):
            done = self._decide_freely(base, coins, budget)
            p[:done] = base[:done]
            floor[:done] = base_floor
        for i in range(done, len(base)):
            p[i], floor[i] = self._decide_one(
                float(base[i]), base_floor, float(coins[i]), budget, warming=warming
            )

    def _decide_freely(self, base: Vector, coins: Vector, budget: Budget) -> int:
        """Decide the samples before which the bucket is comfortably filled; return how many those are.

        The level under refill r, requests and a lid c is S_i - max(0, max_{j<=i} (S_j - c)) with S the level
        without a lid: the reflection of a walk (Skorokhod, 1961).
        """
        assert budget.fraction is not None
        refill, lid = round(budget.fraction * TOKEN), max(budget.burst, 1) * TOKEN
        n = len(base)
        chosen = coins < base
        steps = np.arange(1, n + 1, dtype=np.int64)
        repaid = np.minimum(self.debt, (refill // 5) * steps)
        before: NDArray[np.int64] = np.cumsum(chosen) - chosen
        walk = self.level + refill * steps - repaid - before * TOKEN
        level = walk - np.maximum(0, np.maximum.accumulate(walk - lid))
        low = np.flatnonzero(level < self._comfortable(budget))
        done = int(low[0]) if len(low) else n
        if done:
            last = done - 1
            self.level = int(level[last]) - int(chosen[last]) * TOKEN
            self.debt -= int(repaid[last])
        return done

    @staticmethod
    def _comfortable(budget: Budget) -> int:
        """Return the level above which nothing is tapered; a very small bucket has no room for a taper."""
        return TOKEN if budget.burst < 4 else budget.burst * TOKEN // 2

    def _decide_one(
        self, base: float, base_floor: float, coin: float, budget: Budget, *, warming: bool
    ) -> tuple[float, float]:
        """Decide one sample with every gate in force; return p and the floor in it."""
        self._earn(budget)
        p, floor = base, base_floor
        lent = warming and self._left("advance") > 0
        if lent:
            p = floor = WARM_UP_P
        elif budget.fraction is not None:
            p, floor = self._tapered(p, floor, budget)
        if budget.capped:
            p, floor = self._capped(p, floor, budget)
        if p < LEAST_P:
            p = floor = 0.0
        if coin < p:
            self._pay(budget, lent=lent)
        return p, floor

    def _earn(self, budget: Budget) -> None:
        if budget.fraction is None:
            return
        refill = round(budget.fraction * TOKEN)
        repaid = min(self.debt, refill // 5)
        self.debt -= repaid
        self.level = min(self.level + refill - repaid, max(budget.burst, 1) * TOKEN)

    def _tapered(self, p: float, floor: float, budget: Budget) -> tuple[float, float]:
        if self.level < TOKEN:
            return 0.0, 0.0
        comfortable = self._comfortable(budget)
        if self.level >= comfortable:
            return p, floor
        share = ((self.level - TOKEN) / (comfortable - TOKEN)) ** 2
        return min(p, floor + (p - floor) * share), floor

    def _capped(self, p: float, floor: float, budget: Budget) -> tuple[float, float]:
        if self._left("cap") == 0:
            return 0.0, 0.0
        granted = self._granted_rate()
        scale = granted / self.target if self.target > 0 else 1.0
        if budget.fraction is not None:
            scale = min(1.0, scale) if p < WARM_UP_P or floor < WARM_UP_P else min(1.0, granted / WARM_UP_P)
        return min(1.0, p * scale), min(1.0, floor * scale)

    def _pay(self, budget: Budget, *, lent: bool) -> None:
        if lent:
            self._spend("advance")
            self.debt += TOKEN
        elif budget.fraction is not None:
            self.level -= TOKEN
        if budget.capped:
            self._spend("cap")
