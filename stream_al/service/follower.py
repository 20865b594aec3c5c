"""Follows the ledger into a fold: at start from a snapshot if there is a sound one, else from the beginning.

A rebuild in the ledger makes the follower read an earlier part of it once more, a piece at each ``advance``: whoever
uses the fold goes on with the old model meanwhile, and has the new one at the same record as everybody else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pickle import PicklingError

import structlog

from stream_al.codec import decode_ledger
from stream_al.core.fold import KEEP_CLOSED_MS, Fold, Rebuilding
from stream_al.core.messages import Genesis, Learned, Probe
from stream_al.service.agreement import Agreement, Diverged
from stream_al.service.figures import LEARN_BOUNDS_S, Observations
from stream_al.service.snapshot import Snapshots
from stream_al.transport.port import Broker, Closeable, Reader, Record, TopicPartition, Unavailable

log = structlog.get_logger("stream_al.ledger")

AT_ONCE = 500
AGAIN_AT_ONCE = 100  # of a rebuild: between two of them the service goes on
PROGRESS_AFTER_S = 2.0
STALLED_S = 60.0

Heartbeat = Callable[[], None]


def no_tick() -> None:
    """Do nothing: what a follower calls during a replay that nobody watches."""


def unnoticed(_reason: str, _topic: str, _partition: int, _offset: int) -> None:
    """Do nothing about a record that the fold could not learn: it is counted there."""


class Follower(Closeable):
    """One replica of the ledger's state.

    Parameters
    ----------
    broker, topic
        Where the ledger is; it has one partition.
    snapshots
        Local cache, or None.
    keep_closed_ms
        How long closed requests are remembered: longer than any request can live.

    agreement
        Compares the model with the ledger's probes; None: they are not looked at.

    ``tick``, if set, is called again and again during a long replay, so that a health check sees life;
    ``unlearned`` with the reason and place of each record that the fold could not learn.
    """

    def __init__(
        self,
        broker: Broker,
        topic: str,
        snapshots: Snapshots | None = None,
        keep_closed_ms: int = KEEP_CLOSED_MS,
        agreement: Agreement | None = None,
    ) -> None:
        self.broker = broker
        self.agreement = agreement
        self.keep_closed_ms = keep_closed_ms
        self.tick: Callable[[], None] = no_tick
        self.unlearned: Callable[[str, str, int, int], None] = unnoticed
        self.tp = TopicPartition(topic, 0)
        self.snapshots = snapshots
        self.learn_s = Observations(LEARN_BOUNDS_S)
        self.replay_s = 0.0  # what folding the ledger up to here has taken, snapshots included
        self.fold = self._begin()
        self.fold.keep_closed_ms = max(self.fold.keep_closed_ms, keep_closed_ms)
        self.saved_at = self.fold.position
        self.reader = broker.reader({self.tp: self.fold.position})
        self.again: Reader | None = None  # of a rebuild's range

    def _begin(self) -> Fold:
        """Return the newest usable fold: a snapshot of this very ledger, or an empty one."""
        if self.snapshots is None:
            return Fold()
        end = self.end()
        genesis = self._read_genesis() if end else None
        found = self.snapshots.load(genesis, end) if genesis is not None else None
        if found is None:
            return Fold()
        log.info("snapshot loaded", position=found.fold.position, behind=end - found.fold.position)
        self.replay_s = found.replay_s
        return found.fold

    def _read_genesis(self) -> Genesis | None:
        begin = self.broker.begins(self.tp.topic).get(0, 0)
        with self.broker.reader({self.tp: begin}) as reader:
            for record in reader.poll(1, 5.0).get(self.tp, []):
                found = decode_ledger(record)
                return found if isinstance(found, Genesis) else None
        return None

    def end(self, *, committed: bool = True) -> int:
        """Return the offset after the ledger's last record."""
        return self.broker.ends(self.tp.topic, committed=committed).get(0, 0)

    def advance(self, max_records: int = AT_ONCE, timeout_s: float = 0.0) -> int:
        """Fold the next records, or a piece of a rebuild that is under way; return how many."""
        if self.fold.rebuilding is not None:
            return self._advance_again(self.fold.rebuilding, min(max_records, AGAIN_AT_ONCE), timeout_s)
        records = self.reader.poll(max_records, timeout_s).get(self.tp, [])
        started = time.perf_counter()
        try:
            return self._apply_all(records)
        finally:
            self.replay_s += time.perf_counter() - started

    def _apply_all(self, records: Sequence[Record]) -> int:
        """Fold records up to one that begins a rebuild; return how many."""
        for n, record in enumerate(records, start=1):
            self._apply(record)
            if self.fold.rebuilding is not None:
                log.info("the model begins anew", at=record.offset, begin=self.fold.rebuilding.begin)
                self.reader.seek({self.tp: record.offset + 1})  # what follows it comes again, afterwards
                return n
        return len(records)

    def _advance_again(self, rebuilding: Rebuilding, max_records: int, timeout_s: float) -> int:
        """Fold the next records of a rebuild's range; when it is through, exchange the model and keep it."""
        if self.again is None:
            first = self.broker.begins(self.tp.topic).get(0, 0)
            self.again = self.broker.reader({self.tp: max(first, rebuilding.begin)})
        handled = 0
        if self.again.position(self.tp) < rebuilding.until:
            records = self.again.poll(max_records, timeout_s).get(self.tp, [])
            started = time.perf_counter()
            for record in records:
                handled += 1
                if record.offset < rebuilding.until:
                    self.fold.refold(record.offset, decode_ledger(record))
            self.replay_s += time.perf_counter() - started
        if self.again.position(self.tp) < rebuilding.until:
            return handled
        self.again.close()
        self.again = None
        self.fold.rebuilt()
        log.info("the model is rebuilt", at=rebuilding.until, begin=rebuilding.begin)
        self.save()
        return handled + 1

    def _apply(self, record: Record) -> None:
        decoded = decode_ledger(record)
        if isinstance(decoded, Probe):
            self._compare(record.offset, decoded)
        started = time.perf_counter()
        before = dict(self.fold.errors)
        self.fold.apply(record.offset, decoded)
        if self.fold.errors != before:
            for reason in self.fold.errors - Counter(before):
                self.unlearned(reason, record.topic, record.partition, record.offset)
        if isinstance(decoded, Learned) and decoded.learn:
            self.learn_s.add(time.perf_counter() - started)

    def _compare(self, offset: int, probe: Probe) -> None:
        """Compare the model with the learner's.

        Raises
        ------
        Diverged
            They differ; the snapshots are gone, so that the next start folds all of the ledger.
        """
        genesis = self.fold.genesis
        if self.agreement is None or genesis is None:
            return
        difference = self.fold.disagreement(probe)
        if not self.agreement.compare(offset, difference):
            if self.agreement.lasting:
                log.error("the model disagrees with the ledger's probe", at=offset, difference=difference)
            return
        if self.snapshots is not None:
            self.snapshots.drop(genesis)
        raise Diverged(f"by {difference:.3g} at {self.tp}@{offset}")

    def position(self) -> int:
        """Return how far the ledger was folded, markers at its end included."""
        if self.fold.rebuilding is not None:
            return self.fold.position
        return max(self.fold.position, self.reader.position(self.tp))

    def catch_up(self, end: int, heartbeat: Heartbeat | None = None, *, through: bool = True) -> None:
        """Fold up to ``end``, telling the progress when it takes more than two seconds.

        Parameters
        ----------
        through
            Whether to go through a rebuild; else it ends where one begins.

        Raises
        ------
        Unavailable
            Nothing arrived for a minute.
        """
        first, started, told, moved = self.position(), time.monotonic(), 0.0, time.monotonic()
        while (at := self.position()) < end and (through or self.fold.rebuilding is None):
            if self.advance(timeout_s=0.2):
                moved = time.monotonic()
            now = time.monotonic()
            if now - moved > STALLED_S:
                raise Unavailable(f"the ledger stands at {at} of {end} and nothing comes")
            if heartbeat is not None:
                heartbeat()
            self.tick()
            if now - started > PROGRESS_AFTER_S and now - told > PROGRESS_AFTER_S:
                told, done = now, max(1, at - first)
                left = (now - started) / done * (end - at)
                log.info("replaying the ledger", position=at, end=end, seconds_left=round(left, 1))
        if (took := time.monotonic() - started) > PROGRESS_AFTER_S:
            log.info("ledger replayed", position=end, seconds=round(took, 1))

    def save(self) -> None:
        """Write a snapshot if the fold moved; a disk that refuses is reported and otherwise ignored.

        None in the middle of a rebuild: whoever starts from one goes through all of it.
        """
        moved = self.fold.position != self.saved_at and self.fold.rebuilding is None
        if self.snapshots is None or self.fold.genesis is None or not moved:
            return
        try:
            self.snapshots.save(self.fold, self.replay_s)
            self.saved_at = self.fold.position
        except (
            OSError,
            RecursionError,
            PicklingError,
        ) as problem:  # some models nest too deeply to be pickled
            log.warning("snapshot not written; a restart will replay the ledger", problem=str(problem))

    def close(self) -> None:
        self.reader.close()
        if self.again is not None:
            self.again.close()
