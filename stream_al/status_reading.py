"""Reads the facts of a status from the topics: joins no group, writes nothing, saves no snapshot."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from stream_al.codec import BadRecord, SampleDecoder, decode_answer, decode_ledger
from stream_al.config import Settings
from stream_al.core.fold import Fold
from stream_al.core.labels import label_key
from stream_al.core.learner import answers_read
from stream_al.core.messages import Bucket, Sums, milliseconds, timestamp
from stream_al.scan import begins, ends, scan
from stream_al.service.agreement import Agreement
from stream_al.service.follower import Follower
from stream_al.service.snapshot import Snapshots
from stream_al.status import (
    DeadLetters,
    Facts,
    Lag,
    Pending,
    Rates,
    Spending,
    Status,
    pace_s,
    rates,
    silent_links,
)
from stream_al.transport.port import Broker, Closeable, Position, TopicPartition

LATEST_SAMPLES = 500
LATEST_LETTERS = 200
LATEST_LEDGER = 2_000
RECENT_BUCKETS = 20
FEWEST_SAMPLES = 50  # of which a share says something
SHOWN_IDS = 3
PATIENCE_S = 1.5  # a scorer commits ten times a second, a learner once
LATE_S = 3_600.0
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
REASON = "stream_al.error.reason"

Times = tuple[int, int, Sums]


class _Meta(msgspec.Struct):
    id: str
    request_id: str
    requested_at: str


class _Request(msgspec.Struct):
    meta: _Meta


_decode_request = msgspec.json.Decoder(_Request).decode


def now_ms() -> int:
    """Return the wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


class Observer(Closeable):
    """Looks at a service from outside, once or again and again.

    Parameters
    ----------
    clock
        Milliseconds since the epoch.
    patience_s
        How long the first look waits for a group that is behind to move.
    """

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        clock: Callable[[], int] = now_ms,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.broker, self.settings, self.clock, self.patience_s = broker, settings, clock, patience_s
        self.follower: Follower | None = None
        self.agreement = Agreement(folds_again=False)
        self.before: tuple[float, list[Lag]] | None = None
        s = settings.samples
        self.decode = SampleDecoder(s.id, s.features, s.timestamp, s.max_bytes)

    def look(self) -> Status:
        """Read everything anew, the ledger from where the last look ended.

        Raises
        ------
        Unavailable
            The broker does not answer.
        """
        fold, now = self._fold(), self.clock()
        requests = self._requests()
        pending = _pending(requests, fold, now)
        buckets = self._buckets()
        spending = _spending(fold, buckets, requests, now)
        lags, still, unmoved_s = self._lags(fold)
        letters = self._letters(fold)
        ahead_s = max(0, _latest(buckets) - now) / 1000
        facts = self._facts(
            fold,
            now,
            lags=lags,
            still=still,
            unmoved_s=unmoved_s,
            spending=spending,
            pending=pending,
            dead_letters=letters,
            clock_ahead_s=ahead_s,
        )
        return self._status(fold, now, facts, rates(buckets, now))

    def _fold(self) -> Fold:
        if self.follower is None:
            if not self.broker.partitions(self.settings.topics.ledger):
                return Fold()
            kept = self.settings.state_dir
            snapshots = Snapshots(kept) if kept is not None and (kept / "key").exists() else None
            self.follower = Follower(
                self.broker, self.settings.topics.ledger, snapshots, agreement=self.agreement
            )
        self.follower.catch_up(self.follower.end())
        return self.follower.fold

    def _facts(self, fold: Fold, now: int, **read: Any) -> Facts:
        s, held = self.settings, ends(self.broker, self.settings.topics.samples)
        first = begins(self.broker, s.topics.samples)
        return Facts(
            samples_topic=s.topics.samples,
            samples_held=sum(end - first.get(p, 0) for p, end in held.items()),
            samples_start=s.samples.start,
            founded=fold.genesis is not None,
            decided=fold.accuracy.everything.samples,
            scorer_group=f"{s.group}-scorer",
            learner_group=f"{s.group}-learner",
            since_label_s=(now - fold.last_label_ms) / 1000 if fold.last_label_ms else None,
            answers_late_s=min(LATE_S, s.labels.ttl_s / 4),
            latest_ids=self._latest_ids(),
            disagrees=self.agreement.lasting,
            **read,
        )

    def _status(self, fold: Fold, now: int, facts: Facts, speeds: Rates) -> Status:
        genesis, windows = fold.genesis, self.settings.accuracy.windows
        return Status(
            at=timestamp(now),
            ledger_id=genesis.ledger_id if genesis else "",
            founded_at=genesis.created_at if genesis else "",
            model=fold.champion.name if genesis else self.settings.name,
            version=fold.version,
            position=fold.position,
            replay_s=round(self.follower.replay_s, 1) if self.follower is not None else 0.0,
            classes=tuple(label_key(c) for c in fold.classes),
            warming=fold.warming,
            strategy=fold.asks_by if genesis else self.settings.strategy,
            epoch=fold.epoch,
            labels={
                name: fold.outcomes[name]
                for name in (
                    "learned",
                    "credited",
                    "skipped",
                    "expired",
                    "withdrawn",
                    "corrected",
                    "unsolicited",
                )
            },
            rates=speeds,
            budget=facts.spending,
            task=fold.task if genesis else self.settings.model.task,
            accuracy=fold.estimates(windows),
            errors=fold.prediction_errors(windows),
            by_class=fold.accuracy.by_class(windows[-1]),
            by_class_window=windows[-1],
            drift_alarms=dict(fold.drift.alarms),
            last_drift_alarm=fold.drift.latest[-1] if fold.drift.latest else None,
            cooperative=fold.cooperation,
            pseudo_labels=fold.pseudo_labels,
            challengers=fold.standings,
            labels_saved=fold.contest.saved(),
            promotions=fold.promotions,
            pending=facts.pending,
            lags=tuple(facts.lags),
            fold_errors=dict(fold.errors),
            dead_letters=facts.dead_letters,
            silent=silent_links(facts),
        )

    # topics

    def _requests(self) -> dict[str, tuple[str, int]]:
        """Return every request that is retained: its sample's id, and when it was made in milliseconds."""
        found: dict[str, tuple[str, int]] = {}
        for record in scan(self.broker, self.settings.topics.labels_requested):
            if record.value is None:
                continue
            try:
                meta = _decode_request(record.value).meta
                found.setdefault(meta.request_id, (meta.id, milliseconds(meta.requested_at)))
            except (ValueError, OverflowError, RecursionError):  # it is a dead letter already
                continue
        return found

    def _buckets(self) -> list[Times]:
        """Return times and sums of the latest buckets, which stand among others in the ledger's tail."""
        found: deque[Times] = deque(maxlen=RECENT_BUCKETS)
        for record in scan(self.broker, self.settings.topics.ledger, LATEST_LEDGER):
            entry = decode_ledger(record)
            if isinstance(entry, Bucket):
                found.append((milliseconds(entry.first_at), milliseconds(entry.last_at), entry.sums))
        return list(found)

    def _latest_ids(self) -> list[str]:
        found = []
        for record in scan(self.broker, self.settings.topics.samples, LATEST_SAMPLES):
            try:
                found.append(self.decode(record).id)
            except BadRecord:
                continue
        return found

    def _letters(self, fold: Fold) -> DeadLetters:
        topic = self.settings.topics.dead_letters
        first, last = begins(self.broker, topic), ends(self.broker, topic)
        reasons: Counter[str] = Counter()
        unknown: dict[str, None] = {}
        since = self.clock() - DAY_MS
        for record in scan(self.broker, topic, LATEST_LETTERS):
            reason = next((v.decode("utf-8", "replace") for k, v in record.headers if k == REASON), "")
            reasons[reason] += 1
            if reason == "unknown_request" and record.timestamp >= since:
                try:
                    unknown[decode_answer(record, fold.task).id] = None
                except BadRecord:
                    continue
        held = sum(end - first.get(p, 0) for p, end in last.items())
        if held <= LATEST_LETTERS:  # all were read: offsets count a broker's own markers too
            held = reasons.total()
        return DeadLetters(held, dict(reasons), tuple(unknown)[-SHOWN_IDS:])

    # lags

    def _lags(self, fold: Fold) -> tuple[list[Lag], frozenset[tuple[str, str]], float]:
        """Return the lags, which stand still although records wait, and how long that was watched."""
        lags = self._take_lags(fold)
        if self.before is None and _watched(lags, self._moving()):
            self.before = (time.monotonic(), lags)
            time.sleep(self.patience_s)
            lags = self._take_lags(fold)
        took, earlier = self.before or (time.monotonic(), [])
        self.before = (time.monotonic(), lags)
        return lags, _still(earlier, lags, self._moving()), self.before[0] - took

    def _moving(self) -> frozenset[tuple[str, str]]:
        """Return the positions that move with every commit; those of reports wait for a bucket."""
        s = self.settings
        return frozenset(
            {
                (f"{s.group}-scorer", s.topics.samples),
                (f"{s.group}-learner", s.topics.labels_requested),
                (f"{s.group}-learner", s.topics.labels),
            }
        )

    def _take_lags(self, fold: Fold) -> list[Lag]:
        t, group = self.settings.topics, self.settings.group
        start = fold.genesis.start if fold.genesis else {}
        lags = self._lags_of(f"{group}-scorer", t.samples, start)
        for topic in (t.labels_requested, t.labels, t.reports):
            lags += self._lags_of(f"{group}-learner", topic, {})
        return lags

    def _lags_of(self, group: str, topic: str, start: dict[int, int]) -> list[Lag]:
        last, first = ends(self.broker, topic), begins(self.broker, topic)
        tps = [TopicPartition(topic, p) for p in last]
        at: dict[TopicPartition, Position | None] = self.broker.positions(group, tps) if tps else {}
        lags = []
        for tp, position in sorted(at.items()):
            end, p = last[tp.partition], tp.partition
            state = position.state if position is not None and topic == self.settings.topics.labels else ""
            read = None if position is None else max(position.offset, answers_read(state))
            from_ = read if read is not None else max(first.get(p, 0), start.get(p, 0))
            lags.append(Lag(group, topic, p, read, end, max(0, end - from_)))
        return lags

    def close(self) -> None:
        if self.follower is not None:
            self.follower.close()


def _watched(lags: Iterable[Lag], moving: frozenset[tuple[str, str]]) -> bool:
    return any(lag.records and (lag.group, lag.topic) in moving for lag in lags)


def _still(
    earlier: list[Lag], lags: list[Lag], moving: frozenset[tuple[str, str]]
) -> frozenset[tuple[str, str]]:
    """Return the groups and topics of which records waited at both looks, and no position changed between."""
    was: Counter[tuple[str, str]] = Counter()
    for lag in earlier:
        was[lag.group, lag.topic] += lag.records
    moved = {(n.group, n.topic) for b, n in zip(earlier, lags, strict=False) if b.position != n.position}
    waiting = {(lag.group, lag.topic) for lag in lags if lag.records}
    return frozenset(place for place in waiting & moving if was[place] and place not in moved)


def _latest(buckets: list[Times]) -> int:
    return max((end for _, end, _ in buckets), default=0)


def _pending(requests: dict[str, tuple[str, int]], fold: Fold, now: int) -> Pending:
    waiting = sorted((at, name) for r, (name, at) in requests.items() if r not in fold.closed)
    if not waiting:
        return Pending()
    return Pending(
        len(waiting), max(0.0, (now - waiting[0][0]) / 1000), tuple(name for _, name in waiting[:SHOWN_IDS])
    )


def _spending(fold: Fold, buckets: list[Times], requests: dict[str, tuple[str, int]], now: int) -> Spending:
    budget, total = fold.budget, fold.accuracy.everything
    samples = sum(sums.samples for _, _, sums in buckets)
    asked = sum(sums.requests for _, _, sums in buckets)
    uncovered = sum(sums.uncovered for _, _, sums in buckets)
    times = [at for _, at in requests.values()]
    return Spending(
        fraction=budget.fraction,
        allowance=budget.allowance,
        query_rate=asked / samples if samples else None,
        samples=total.samples,
        requests=total.requests,
        invalid=total.invalid,
        uncovered=total.uncovered,
        uncovered_share=uncovered / samples if samples >= FEWEST_SAMPLES else 0.0,
        per_hour=budget.per_hour,
        requests_last_hour=sum(at > now - HOUR_MS for at in times),
        per_day=budget.per_day,
        requests_last_day=sum(at > now - DAY_MS for at in times),
        max_outstanding=budget.max_outstanding,
        every_s=pace_s(budget.per_hour, budget.per_day),
        next_in_s=max(
            _full_s(times, budget.per_hour, HOUR_MS, now), _full_s(times, budget.per_day, DAY_MS, now)
        ),
    )


def _full_s(times: list[int], cap: int | None, window_ms: int, now: int) -> float:
    """Return the seconds until a window has room for a request again; 0 where it has."""
    if cap is None or len(times) < cap:
        return 0.0
    return max(0.0, (sorted(times)[-cap] + window_ms - now) / 1000)
