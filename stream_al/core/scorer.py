"""The scorer: samples in; label requests, tallies and observes out.

Theory of operation
-------------------
All state belongs to one input partition: ``PartitionBudget`` plus what was decided since the last commit. ``on``
decides samples and gathers outputs; ``take`` hands over everything gathered, with the new positions, for one
commit. A decision depends on the partition's committed state, the samples, and the fold; what the fold said is in
the request, so nobody has to compute it again.

A sample below the fold's end of its partition was decided before (positions were reset backwards): it is skipped
and counted, never decided twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream_al.core import coin
from stream_al.core.batch import Samples
from stream_al.core.budget import Decisions, PartitionBudget
from stream_al.core.fold import Fold, Scores, clipped
from stream_al.core.labels import label_key
from stream_al.core.messages import (
    LabelRequest,
    Observe,
    Prediction,
    Query,
    Reason,
    Sample,
    Spent,
    Sums,
    Tally,
    timestamp,
)
from stream_al.core.utility import entropies

MOST_OBSERVED = 64  # a partition and commit; the learner drops the excess over its own allowance anyway


@dataclass(slots=True)
class Gathered:
    """Everything that one commit writes, and the state that travels with each position."""

    requests: list[LabelRequest] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    observes: list[Observe] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    positions: dict[int, tuple[int, str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Partition:
    budget: PartitionBudget
    position: int  # next offset to decide
    start: int  # first offset not yet committed
    coin_key: int
    observe_key: int
    blind_key: int
    lost: bool = False
    skipped: int = 0
    first_ms: int = 0
    last_ms: int = 0
    sums: Sums = field(default_factory=Sums)
    spent: dict[int, Spent] = field(default_factory=dict)
    requests: list[LabelRequest] = field(default_factory=list)
    observes: list[Observe] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)

    def committed(self) -> None:
        self.start = self.position
        self.lost = False
        self.first_ms = 0
        self.sums, self.spent = Sums(), {}
        self.requests, self.observes, self.predictions = [], [], []


class Scorer:
    """Machine without I/O: decides which samples are worth a label.

    Parameters
    ----------
    fold
        Shared state; moved by the caller, between batches.
    label_ttl_ms
        Life of a request.
    predictions
        Whether every score is published.
    blind
        Share of the requests, by a coin of their own, that do not show people what the model says.

    ``watch``, if set, is called with each batch of samples, its scores and decisions: for simulations.
    """

    def __init__(
        self, fold: Fold, *, label_ttl_ms: int, predictions: bool = False, blind: float = 0.0
    ) -> None:
        self.watch: Callable[[Sequence[Sample], Scores, Decisions], None] | None = None
        self.fold = fold
        self.label_ttl_ms = label_ttl_ms
        self.predictions = predictions
        self.blind = blind
        self.partitions: dict[int, _Partition] = {}
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.states_lost = 0

    # --- partitions ------------------------------------------------------------------------------------------

    def assign(
        self, partition: int, offset: int | None, state: str, earliest: int = 0, tallied: int = 0
    ) -> int:
        """Take over a partition at its committed position (None: there is none); return where to read on.

        A partition that ``genesis`` does not know starts at ``earliest``; none starts below ``tallied``, the end of
        its tallies that are not in the ledger yet. The fold must have been read to an end taken after the assignment:
        grants up to there that a lost state may have spent are void.
        """
        genesis = self.fold.genesis
        assert genesis is not None, "a scorer without genesis is not ready"
        ended = max(self.fold.ends.get(partition, 0), tallied)
        fresh = offset is None and partition not in self.fold.ends and not tallied
        start = offset if offset is not None else max(genesis.start.get(partition, earliest), earliest)
        skip = max(0, ended - start)
        budget = PartitionBudget.decode(state, genesis.ledger_id, start) if not skip else None
        lost = budget is None and not fresh
        if budget is None:
            budget = PartitionBudget(taken=0 if fresh else self.fold.last_grant)
        self.states_lost += lost
        self.partitions[partition] = _Partition(
            budget,
            start + skip,
            start + skip,
            coin.key(genesis.seed, genesis.topic, partition),
            coin.key(genesis.seed, genesis.topic, partition, "observe"),
            coin.key(genesis.seed, genesis.topic, partition, "blind"),
            lost=lost,
        )
        self.outcomes["skipped"] += skip
        return start + skip

    def revoke(self, partition: int) -> None:
        """Give a partition up; what was gathered for it is dropped."""
        self.partitions.pop(partition, None)

    # --- deciding --------------------------------------------------------------------------------------------

    def on(self, partition: int, samples: Sequence[Sample], end: int, invalid: int, now_ms: int) -> None:
        """Decide the readable samples of one poll of one partition.

        Parameters
        ----------
        samples
            In order of their offsets; unreadable records are left out and counted in ``invalid``.
        end
            The next offset after everything the poll returned, readable or not.
        now_ms
            The scorer's clock.
        """
        state = self.partitions[partition]
        state.position = max(state.position, end)
        state.sums.invalid += invalid
        state.last_ms = max(now_ms, state.last_ms)
        state.first_ms = state.first_ms or state.last_ms
        self.outcomes["invalid"] += invalid
        state.budget.tick(now_ms, len(samples))
        warming = self.fold.warming
        dealt_ms = self.fold.last_grant_ms
        state.spent |= state.budget.take(
            self.fold.grants_of(partition), self.fold.budget, warming=warming, dealt_ms=dealt_ms
        )
        if samples:  # no request is stamped before the grant that it spends: limits count by these stamps
            self._decide(state, samples, max(state.budget.clock_ms, dealt_ms), warming=warming)

    def _decide(self, state: _Partition, samples: Sequence[Sample], now_ms: int, *, warming: bool) -> None:
        genesis, fold = self.fold.genesis, self.fold
        assert genesis is not None
        samples = Samples.of(samples)
        scores, offsets = fold.score(samples.features), samples.offsets
        coins = coin.coins(state.coin_key, offsets)
        decisions = state.budget.decide(
            scores.utility, scores.cold, coins, fold.budget, warming=warming, spread=fold.spread
        )
        self._count(state, scores, decisions)
        times = timestamp(now_ms), timestamp(now_ms + self.label_ttl_ms)
        chosen = np.flatnonzero(decisions.chosen)
        blind = coin.coins(state.blind_key, offsets[chosen]) < self.blind
        for i, is_blind in zip(chosen.tolist(), blind.tolist(), strict=True):
            request = self._request(
                samples[i], i, scores, decisions, float(coins[i]), times, warming=warming, blind=is_blind
            )
            state.requests.append(request)
            self.reasons[request.query.reason] += 1
        self._draw_observes(state, samples, offsets)
        if self.watch is not None:
            self.watch(samples, scores, decisions)
        if self.predictions:
            state.predictions.extend(self._prediction(s, i, scores, decisions) for i, s in enumerate(samples))

    def _count(self, state: _Partition, scores: Scores, decisions: Decisions) -> None:
        p, sums = decisions.p, state.sums
        covered = p > 0
        m = scores.expected_correct[covered]
        v = clipped(m) * (1 - clipped(m))
        uncovered = len(p) - int(covered.sum())
        requested = int(decisions.chosen.sum())
        sums.samples += len(p)
        sums.uncovered += uncovered
        sums.requests += requested
        sums.sum_p += float(p.sum())
        sums.sum_m += float(m.sum())
        sums.sum_v += float(v.sum())
        sums.sum_v_over_p += float((v / p[covered]).sum())
        sums.sum_confidence += float(scores.confidence.sum())
        sums.sum_entropy += float(entropies(scores.probabilities).sum())
        if scores.values is not None:
            sums.answered += int((covered & ~scores.cold).sum())
        if scores.probabilities.shape[1]:
            said = scores.probabilities.argmax(axis=1)[scores.confidence > 0]
            for k, count in enumerate(np.bincount(said, minlength=0)):
                if count:
                    key = label_key(self.fold.classes[k])
                    sums.predicted[key] = sums.predicted.get(key, 0) + int(count)
        self.outcomes["requested"] += requested
        self.outcomes["uncovered"] += uncovered
        self.outcomes["passed"] += len(p) - requested - uncovered

    def _request(
        self,
        sample: Sample,
        i: int,
        scores: Scores,
        decisions: Decisions,
        draw: float,
        times: tuple[str, str],
        *,
        warming: bool,
        blind: bool,
    ) -> LabelRequest:
        reason: Reason = "explore" if draw < decisions.floor[i] else "informative"
        if warming or scores.cold[i]:
            reason = "warm_up"
        query = Query(
            strategy=self.fold.asks_by,
            reason=reason,
            utility=float(scores.utility[i]),
            threshold=float(decisions.threshold[i]),
            inclusion_probability=float(decisions.p[i]),
            floor=float(decisions.floor[i]),
            coin=draw,
            expected_correct=float(scores.expected_correct[i]),
        )
        return LabelRequest(
            id=sample.id,
            request_id=sample.source.request_id,
            features=sample.features,
            source=sample.source,
            query=query,
            model=self.fold.shown(scores, i),
            requested_at=times[0],
            expires_at=times[1],
            blind=blind,
        )

    def _draw_observes(
        self, state: _Partition, samples: Sequence[Sample], offsets: NDArray[np.int64]
    ) -> None:
        room = MOST_OBSERVED - len(state.observes)
        drawn = np.flatnonzero(coin.coins(state.observe_key, offsets) < self.fold.observe_rate)[:room]
        observed = (samples[i] for i in drawn.tolist())
        state.observes.extend(Observe(sample.source, sample.features) for sample in observed)

    def _prediction(self, sample: Sample, i: int, scores: Scores, decisions: Decisions) -> Prediction:
        return Prediction(
            sample.id,
            sample.source,
            self.fold.shown(scores, i),
            float(scores.utility[i]),
            float(decisions.p[i]),
            float(scores.expected_correct[i]),
        )

    # --- committing ------------------------------------------------------------------------------------------

    @property
    def gathered(self) -> int:
        """Offsets decided since the last commit."""
        return sum(p.position - p.start for p in self.partitions.values())

    def take(self) -> Gathered:
        """Return what must be committed now; call ``committed`` when it is."""
        genesis = self.fold.genesis
        assert genesis is not None
        out = Gathered()
        for number, state in sorted(self.partitions.items()):
            if state.position == state.start:
                continue
            grants = {n: Spent(s.spent, s.closed) for n, s in (state.budget.spent() | state.spent).items()}
            out.tallies.append(
                Tally(
                    partition=number,
                    from_offset=state.start,
                    to_offset=state.position,
                    first_at=timestamp(state.first_ms),
                    last_at=timestamp(state.last_ms),
                    sums=state.sums,
                    grants=grants,
                    state_lost=state.lost,
                )
            )
            out.requests.extend(state.requests)
            out.observes.extend(state.observes)
            out.predictions.extend(state.predictions)
            out.positions[number] = (state.position, state.budget.encode(genesis.ledger_id, state.position))
        return out

    def committed(self) -> None:
        """Begin a new commit's account."""
        for state in self.partitions.values():
            state.committed()

    def sources(self) -> Mapping[int, int]:
        """Return the next offset to decide of each partition."""
        return {n: p.position for n, p in self.partitions.items()}
