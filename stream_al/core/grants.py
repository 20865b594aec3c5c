"""The dealer: limits that exist once for the whole stream, dealt to partitions as grants.

Theory of operation
-------------------
``per_hour``, ``per_day`` and ``max_outstanding``, the burst allowance and the warm-up advance belong to the stream,
not to a partition. The learner deals them in whole tokens. A grant lives 30 seconds and is *open* until its
spending is known for certain::

    dealt ──▶ open ──▶ a tally closes it, and the requests committed with that tally were read ──▶ settled
                 └───▶ reports and requests were read to an end taken a transaction timeout after ``until`` ──▶ settled

While open it counts in full, so in every window requests + open grants <= limit. Cap tokens accrue evenly over
their window up to 15 % of it, and what a grant did not spend comes back. They go to partitions by the demand in
their tallies; each token's partition is drawn by hash, so that what stays uncovered is uncovered at random. A
partition holds a few tokens more than it needs and asks at the *pace* that the grant names, so its gate seldom
closes.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

from stream_al.core.fold import Fold
from stream_al.core.messages import Budget, Grant, Spent, Tally, milliseconds, timestamp

LIFE_MS = 30_000
EVERY_MS = 5_000
DEMAND_MS = 60_000
LONGEST_STEP_MS = 60_000
LONGEST_STEADY_STEP_MS = 10_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
CLOCK_SLACK_MS = 5_000  # requests are stamped by scorers' clocks
BURST_SHARE = 0.15
MOST_LIVE = 8

Kind = Literal["advance", "burst", "cap"]


@dataclass(slots=True)
class _Open:
    grant: Grant
    certain_ms: int  # by the dealer's steady clock: not settled by time alone before this
    spent: int = 0
    settles_after_ms: int | None = None  # when requests have been read to an end taken after this time


class Dealer:
    """Deals the tokens of one ledger; rebuilt from the fold and the topics at every start."""

    def __init__(self, fold: Fold, now_ms: int, transaction_timeout_ms: int) -> None:
        self.fold = fold
        self.transaction_timeout_ms = transaction_timeout_ms
        self.clock_ms = now_ms
        self.steady_ms = 0  # moves with the clock, but never by more than a little at once
        self.open = {n: self._opened(g, fold.grant_spent.get(n, 0)) for n, g in fold.grants.items()}
        self.spent: Counter[str] = Counter(fold.granted_spent)
        self.number = fold.last_grant
        self.levels: dict[str, float] = {}
        self.demand: deque[tuple[int, int, int]] = deque()
        self.request_times: list[int] = []
        self.to_close: dict[int, Spent] = {}

    def _opened(self, grant: Grant, spent: int = 0) -> _Open:
        return _Open(grant, self.steady_ms + LIFE_MS + self.transaction_timeout_ms, spent)

    # --- what was read ---------------------------------------------------------------------------------------

    def request(self, requested_ms: int, budget: Budget) -> None:
        """Count a request in the windows of its limits."""
        if budget.per_hour is not None or budget.per_day is not None:
            bisect.insort(self.request_times, requested_ms)

    def tally(self, tally: Tally, now_ms: int) -> None:
        """Note demand, and what became of grants."""
        self.demand.append((now_ms, tally.partition, tally.sums.samples))
        for number, spent in tally.grants.items():
            held = self.open.get(number)
            if held is None or held.settles_after_ms is not None:
                continue
            held.spent = max(held.spent, spent.spent)
            if spent.closed:
                held.settles_after_ms = now_ms
                self.spent[held.grant.grant] += held.spent

    def settle(self, read_ms: int) -> None:
        """Let go of grants whose spending is known, reports and requests having been read through ``read_ms``."""
        for number, held in list(self.open.items()):
            if held.settles_after_ms is not None:
                if held.settles_after_ms < read_ms:
                    self._return(held)
                    del self.open[number]
            elif (
                milliseconds(held.grant.until) + self.transaction_timeout_ms <= read_ms
                and held.certain_ms <= self.steady_ms  # a clock that jumped proves nothing
            ):
                self.spent[held.grant.grant] += held.spent
                self.to_close[number] = Spent(held.spent, closed=True)
                self._return(held)
                del self.open[number]

    def _return(self, held: _Open) -> None:
        """Give the unspent tokens of a cap grant back to the windows."""
        if held.grant.grant == "cap":
            for name in self.levels:
                self.levels[name] += held.grant.tokens - held.spent

    def take_closed(self) -> dict[int, Spent]:
        """Return the grants that timed out, for the next bucket."""
        closed, self.to_close = self.to_close, {}
        return closed

    # --- dealing ---------------------------------------------------------------------------------------------

    def deal(self, now_ms: int, pending: int, budget: Budget, *, first: bool, warming: bool) -> list[Grant]:
        """Return the grants to write now.

        Parameters
        ----------
        pending
            Open requests.
        first
            Whether this is the deal right after ``genesis``: evenly over all partitions then known.
        """
        self._refill(now_ms, budget, first=first)
        if now_ms < self.fold.last_grant_ms + EVERY_MS and not first:
            return []
        self._forget(now_ms)
        assert self.fold.genesis is not None
        weights = dict.fromkeys(self.fold.genesis.start, 1.0) if first else self._demand(budget)
        weights = {p: w for p, w in sorted(weights.items()) if self._live(p, now_ms) < MOST_LIVE - 2}
        if not weights:
            return []
        dealt = self._evenly("burst", self._owed("burst", budget.burst), weights, now_ms)
        if warming:
            dealt += self._evenly("advance", self._owed("advance", budget.advance), weights, now_ms)
        if budget.capped:
            pace = self._pace(now_ms, pending, budget)
            dealt += self._drawn(self._available(now_ms, pending, budget), weights, now_ms, pace)
        return dealt

    def _refill(self, now_ms: int, budget: Budget, *, first: bool) -> None:
        step = max(0, now_ms - self.clock_ms)
        self.clock_ms = max(self.clock_ms, now_ms)
        self.steady_ms += min(step, LONGEST_STEADY_STEP_MS)
        if step > LONGEST_STEP_MS:
            step = 0
        for name, limit, window in (("hour", budget.per_hour, HOUR_MS), ("day", budget.per_day, DAY_MS)):
            if limit is None:
                continue
            lid = max(
                min(3.0, limit), BURST_SHARE * limit
            )  # with one token alone, nobody asks while it returns
            level = lid if first else self.levels.get(name, 0.0)
            self.levels[name] = min(lid, level + limit * step / window)

    def _forget(self, now_ms: int) -> None:
        while self.demand and self.demand[0][0] < now_ms - DEMAND_MS:
            self.demand.popleft()
        del self.request_times[: bisect.bisect_left(self.request_times, now_ms - DAY_MS - CLOCK_SLACK_MS)]

    def _demand(self, budget: Budget) -> dict[int, float]:
        demand: Counter[int] = Counter()
        for _, partition, samples in self.demand:
            demand[partition] += samples
        fraction = budget.fraction if budget.fraction is not None else 1.0
        return {p: n * fraction for p, n in demand.items() if n}

    def _live(self, partition: int, now_ms: int) -> int:
        return sum(
            1
            for o in self.open.values()
            if o.grant.partition == partition and milliseconds(o.grant.until) > now_ms
        )

    def open_tokens(self, kind: str) -> int:
        """Return the tokens of the open grants of one kind, counted in full."""
        return sum(o.grant.tokens for o in self.open.values() if o.grant.grant == kind)

    def used(self, window_ms: int, now_ms: int) -> int:
        """Return the requests in the window that ends now, by the scorers' clocks and a slack for them."""
        since = now_ms - window_ms - CLOCK_SLACK_MS
        return len(self.request_times) - bisect.bisect_left(self.request_times, since)

    def _available(self, now_ms: int, pending: int, budget: Budget) -> int:
        held = self.open_tokens("cap")
        room: list[float] = []
        if budget.per_hour is not None:
            room += [self.levels["hour"], budget.per_hour - self.used(HOUR_MS, now_ms) - held]
        if budget.per_day is not None:
            room += [self.levels["day"], budget.per_day - self.used(DAY_MS, now_ms) - held]
        if budget.max_outstanding is not None:
            room.append(budget.max_outstanding - pending - held)
        return max(0, int(min(room)))

    def _owed(self, kind: str, total: int) -> int:
        unsettled = sum(
            o.grant.tokens for o in self.open.values() if o.grant.grant == kind and o.settles_after_ms is None
        )
        return max(0, total - self.spent[kind] - unsettled)

    def _evenly(self, kind: Kind, tokens: int, weights: dict[int, float], now_ms: int) -> list[Grant]:
        share, more = divmod(tokens, len(weights))
        amounts = {p: share + (i < more) for i, p in enumerate(weights)}
        return self._issue(kind, amounts, now_ms)

    def _drawn(self, tokens: int, weights: dict[int, float], now_ms: int, pace: float) -> list[Grant]:
        """Give each token to a partition drawn by hash with its demand as weight, up to what it can use."""
        total = sum(weights.values())
        held = self._held(now_ms)
        room = {p: 1 + math.ceil(2 * pace * w / total * LIFE_MS / 1000) - held[p] for p, w in weights.items()}
        amounts: Counter[int] = Counter()
        for k in range(tokens):
            able = {p: w for p, w in weights.items() if amounts[p] < room[p]}
            if not able:
                break
            amounts[_draw(able, self.number, k)] += 1
        for name in self.levels:
            self.levels[name] -= sum(amounts.values())
        holders = sum(w for p, w in weights.items() if held[p] + amounts[p])
        return self._issue("cap", amounts, now_ms, {p: pace * weights[p] / holders for p in amounts})

    def _held(self, now_ms: int) -> Counter[int]:
        """Return the unspent cap tokens of each partition that will not lapse before the next deal or two."""
        held: Counter[int] = Counter()
        for o in self.open.values():
            lasting = milliseconds(o.grant.until) - now_ms > 2 * EVERY_MS
            if o.grant.grant == "cap" and o.settles_after_ms is None and lasting:
                held[o.grant.partition] += o.grant.tokens - o.spent
        return held

    def _pace(self, now_ms: int, pending: int, budget: Budget) -> float:
        """Return the requests a second that use the limits up, tapering over their last 15 %.

        Requests at random that never exceed N in a window lose those that come while N are there (Erlang, 1917:
        a fifth of them at N = 10). So small limits are paced a little faster; what may be spent accrues at the
        limit's own rate whatever the pace, and a pace that is much too fast leaves more samples uncovered.
        """
        paces = []
        for limit, window in ((budget.per_hour, HOUR_MS), (budget.per_day, DAY_MS)):
            if limit is not None:
                left = (limit - self.used(window, now_ms)) / (BURST_SHARE * limit)
                more = 1 + 3 / limit
                paces.append(more * limit / window * 1000 * min(1.0, max(left, 0.1)))
        if budget.max_outstanding is not None:
            paces.append(max(1, budget.max_outstanding - pending) / (2 * EVERY_MS / 1000))
        return min(paces)

    def _issue(
        self, kind: Kind, amounts: dict[int, int], now_ms: int, paces: dict[int, float] | None = None
    ) -> list[Grant]:
        grants = []
        for partition, tokens in amounts.items():
            if tokens:
                self.number += 1
                pace = paces[partition] if paces else None
                at, until = timestamp(now_ms), timestamp(now_ms + LIFE_MS)
                grant = Grant(self.number, kind, partition, tokens, at, until, pace)
                self.open[self.number] = self._opened(grant)
                grants.append(grant)
        return grants


def _draw(weights: dict[int, float], number: int, k: int) -> int:
    """Draw a partition with probability proportional to its weight."""
    word = hashlib.blake2b(f"{number}:{k}".encode(), digest_size=8).digest()
    at = int.from_bytes(word, "big") / 2**64 * sum(weights.values())
    for partition, weight in weights.items():
        at -= weight
        if at < 0:
            return partition
    return next(reversed(weights))
