"""The scorer's task: join the group, poll samples, let the machine decide, commit.

One commit, in this order: requests, tallies, observes, predictions and dead letters, and the positions with the
partitions' state beside them - atomically. Afterwards the fold moves.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog

from stream_al.codec import BadRecord, SampleDecoder, dead_letter, decode_report, encode, encode_request
from stream_al.codec_batch import BatchDecoder
from stream_al.config import Settings
from stream_al.core.messages import Tally
from stream_al.core.scorer import Gathered, Scorer
from stream_al.service.figures import BATCH_BOUNDS_S, Observations
from stream_al.service.follower import STALLED_S, Follower, Heartbeat
from stream_al.service.guard import Guard
from stream_al.service.learning import compare
from stream_al.service.trouble import Trouble
from stream_al.service.watchdog import Watchdog
from stream_al.transport.port import (
    Broker,
    Closeable,
    Member,
    Output,
    Position,
    Rebalanced,
    Record,
    Records,
    TopicPartition,
    Unavailable,
)

log = structlog.get_logger("stream_al.scorer")

Clock = Callable[[], int]

AT_ONCE = 2_000
SHORTEST_SLICE, LONGEST_SLICE = 64, 4_096  # samples decided between two looks at the clock
QUICK_S, SLOW_S = 0.015, 0.1


class ScorerTask(Closeable):
    """One member of the scorers' group."""

    def __init__(
        self, broker: Broker, settings: Settings, follower: Follower, clock: Clock, *, writer: str
    ) -> None:
        self.broker, self.settings, self.follower, self.clock = broker, settings, follower, clock
        self.writer = writer
        s = settings.samples
        self.decode = BatchDecoder(SampleDecoder(s.id, s.features, s.timestamp, s.max_bytes))
        self.machine = Scorer(
            follower.fold,
            label_ttl_ms=round(settings.labels.ttl_s * 1000),
            predictions=settings.scorer.predictions,
            blind=settings.desk.blind,
        )
        self.member: Member | None = None
        self.dead: dict[int, list[tuple[str, Output]]] = {}  # with the reason
        self.outcomes: Counter[str] = Counter()  # these three: committed by this process
        self.reasons: Counter[str] = Counter()
        self.dead_letters: Counter[str] = Counter()
        self.batch_s = Observations(BATCH_BOUNDS_S)
        self.unusable = Trouble(log, "a sample could not be read; it is in the dead letters")
        self.watchdog = Watchdog(broker, "the scorer")
        self.guard = Guard(settings)
        self.since_ms = 0
        self.commits = 0
        self.slice = 4 * SHORTEST_SLICE
        self.reports = 1  # partitions of the reports topic; a source partition always reports to the same one

    @property
    def ready(self) -> bool:
        """Whether the group and the fold are joined."""
        return self.member is not None and self.follower.fold.genesis is not None

    def turn(self, timeout_s: float) -> int:
        """Do one round; return the samples handled."""
        if self.follower.fold.genesis is None:
            self.follower.advance(timeout_s=timeout_s)
            return 0
        member = self._joined()
        room = self.settings.scorer.commit_samples - self.machine.gathered
        waiting = min(timeout_s, max(0.0, self._due_in_s())) if self.machine.gathered else timeout_s
        polled = member.poll(max(0, room), waiting)
        for tp in polled.revoked:
            self._drop(tp.partition)
        if polled.assigned:
            self._assign(member, polled.assigned)
        handled = self._on_all(polled.records)
        if self.machine.gathered and (self._due_in_s() <= 0 or room <= handled):
            self.commit()
        elif not self.machine.gathered:
            self.follower.advance()
        if room and self.watchdog.silent(handled, {} if handled else self._positions(), self.clock()):
            self.abandon()
        return handled

    def _positions(self) -> dict[TopicPartition, int]:
        samples = self.settings.topics.samples
        return {TopicPartition(samples, p): offset for p, offset in self.machine.sources().items()}

    def _on_all(self, polled: Records) -> int:
        """Decide in slices, and commit as soon as it is due: a slow model must not outlast session and grants."""
        handled = 0
        for tp, records in polled.items():
            at = 0
            while at < len(records):
                part = records[at : at + self.slice]
                at += len(part)
                began = time.perf_counter()
                handled += self._on(tp, part)
                took = time.perf_counter() - began
                if took > SLOW_S:
                    self.slice = max(SHORTEST_SLICE, self.slice // 2)
                elif took < QUICK_S:
                    self.slice = min(LONGEST_SLICE, self.slice * 2)
                if took > SLOW_S and self._due_in_s() <= 0:
                    commits = self.commits
                    self.commit()
                    if self.commits == commits:  # refused: what is left will be polled again
                        return handled
        return handled

    def _joined(self) -> Member:
        if self.member is None:
            self.follower.catch_up(self.follower.end())  # whoever replays for long must not hold partitions
            assert self.follower.fold.genesis is not None
            compare(self.follower.fold.genesis, self.settings)
            group = f"{self.settings.group}-scorer"
            self.reports = max(1, self.broker.partitions(self.settings.topics.reports))
            self.member = self.broker.join(group, self.settings.topics.samples, writer=self.writer)
            self.member.fence_predecessors()
            log.info("joined", group=group, topic=self.settings.topics.samples)
        return self.member

    def _due_in_s(self) -> float:
        waited = self.clock() - self.since_ms
        return (
            (self.settings.scorer.commit_ms - waited) / 1000 if waited >= 0 else 0.0
        )  # the clock was set back: now

    def _drop(self, partition: int) -> None:
        self.machine.revoke(partition)
        self.dead.pop(partition, None)
        log.info("partition revoked", partition=partition)

    def _assign(self, member: Member, assigned: Mapping[TopicPartition, Position | None]) -> None:
        """Take partitions over; the ledger is read to an end taken after the assignment first.

        In the middle of a rebuild that takes minutes: the group is answered meanwhile, and may assign others.
        """
        assigned, more = dict(assigned), True

        def beat() -> None:
            nonlocal more
            polled = member.poll(0, 0.0)
            for tp in polled.revoked:
                assigned.pop(tp, None)
                self._drop(tp.partition)
            assigned.update(polled.assigned)
            more = more or bool(polled.assigned)

        while more:
            more = False
            self.follower.catch_up(self.follower.end(), beat)
            tallied = self._tallied(assigned, beat)
        begins = self.broker.begins(self.settings.topics.samples)
        for tp, position in assigned.items():
            offset, state = (position.offset, position.state) if position is not None else (None, "")
            lost, p = self.machine.states_lost, tp.partition
            start = self.machine.assign(p, offset, state, begins.get(p, 0), tallied.get(p, 0))
            member.seek(tp, start)
            log.info("partition assigned", partition=p, offset=start)
            if position is None:
                self._tell_of_gone(tp, start)
            if self.machine.states_lost > lost:
                log.warning("partition state lost: no tokens until they are earned anew", partition=p)

    def _tallied(self, assigned: Mapping[TopicPartition, Position | None], beat: Heartbeat) -> dict[int, int]:
        """Return where the tallies of each partition end that the ledger may not have yet; {} where positions say it.

        Who starts again below that would write a tally that the learner cannot use: a part of it was counted before.
        """
        ends = self.follower.fold.ends
        if all(p and p.state and p.offset >= ends.get(tp.partition, 0) for tp, p in assigned.items()):
            return {}
        topic, found = self.settings.topics.reports, dict[int, int]()
        tps = {TopicPartition(topic, p): begin for p, begin in self.broker.begins(topic).items()}
        positions = self.broker.positions(f"{self.settings.group}-learner", tps)
        at = {
            tp: max(begin, position.offset if (position := positions[tp]) else 0) for tp, begin in tps.items()
        }
        until = self.broker.ends(topic, committed=False)  # what another member's open transaction hides, too
        moved = time.monotonic()
        with self.broker.reader(at) as reader:
            while any(reader.position(tp) < until.get(tp.partition, 0) for tp in at):
                for records in reader.poll(AT_ONCE, 0.2).values():
                    moved = time.monotonic()
                    for record in records:
                        with contextlib.suppress(BadRecord):
                            if isinstance(report := decode_report(record), Tally):
                                found[report.partition] = max(
                                    report.to_offset, found.get(report.partition, 0)
                                )
                beat()
                if time.monotonic() - moved > STALLED_S:
                    raise Unavailable(f"{topic} is not read to its end and nothing comes")
        return found

    def _tell_of_gone(self, tp: TopicPartition, start: int) -> None:
        """Warn where samples that the ledger expects next were deleted while no position stood before them."""
        fold = self.follower.fold
        assert fold.genesis is not None
        expected = max(fold.genesis.start.get(tp.partition, 0), fold.ends.get(tp.partition, 0))
        if start > expected:
            log.warning(
                "samples are no longer retained; they will not be decided: raise the topic's retention.ms or"
                " retention.bytes",
                partition=tp.partition,
                lost=start - expected,
            )

    def _on(self, tp: TopicPartition, records: Sequence[Record]) -> int:
        if not records or tp.partition not in self.machine.partitions:
            return 0
        now = self.clock()
        if not self.machine.gathered:
            self.since_ms = now
        samples, unreadable = self.decode(records, self.follower.fold.numbers)
        bad: Counter[str] = Counter()
        last = ""
        for record, problem in unreadable:
            bad[problem.reason] += 1
            last = f"{record.topic}-{record.partition}@{record.offset}: {problem}"
            self.unusable.note(problem.reason, record.topic, record.partition, record.offset)
            letter = dead_letter(self.settings.topics.dead_letters, record, problem, "scorer")
            self.dead.setdefault(tp.partition, []).append((problem.reason, letter))
        self.guard.on(len(records), bad, last)
        started = time.perf_counter()
        self.machine.on(tp.partition, samples, records[-1].offset + 1, bad.total(), now)
        if samples:
            self.batch_s.add(time.perf_counter() - started)
        return len(records)

    def commit(self) -> None:
        """Write what was gathered; afterwards the fold moves."""
        member = self._joined()
        gathered = self.machine.take()
        samples = self.settings.topics.samples
        positions = {TopicPartition(samples, p): Position(o, s) for p, (o, s) in gathered.positions.items()}
        try:
            member.commit(self._outputs(gathered), positions)
        except Rebalanced as why:
            log.warning("commit refused; reading positions again", why=str(why))
            self._start_over(member)
            return
        except Unavailable:
            self.abandon()
            raise
        self._count(gathered)
        self.machine.committed()
        self.dead.clear()
        self.commits += 1
        self.follower.advance()

    def _count(self, gathered: Gathered) -> None:
        for tally in gathered.tallies:
            s = tally.sums
            self.outcomes.update(requested=s.requests, uncovered=s.uncovered, invalid=s.invalid)
            self.outcomes["passed"] += s.samples - s.requests - s.uncovered
        self.reasons.update(r.query.reason for r in gathered.requests)
        self.dead_letters.update(reason for letters in self.dead.values() for reason, _ in letters)

    def _outputs(self, gathered: Gathered) -> list[Output]:
        topics, shown = self.settings.topics, self.settings.samples
        outputs = [
            Output(topics.labels_requested, encode_request(r, shown.text, shown.image), key=r.id.encode())
            for r in gathered.requests
        ]
        outputs += [
            Output(topics.reports, encode(t), partition=t.partition % self.reports) for t in gathered.tallies
        ]
        outputs += [
            Output(topics.reports, encode(o), partition=o.source.partition % self.reports)
            for o in gathered.observes
        ]
        outputs += [Output(topics.predictions, encode(p), key=p.id.encode()) for p in gathered.predictions]
        for partition in sorted(self.dead):
            outputs += [letter for _, letter in self.dead[partition]]
        return outputs

    def _start_over(self, member: Member) -> None:
        """Drop all uncommitted work and begin again from what is committed."""
        for partition in list(self.machine.partitions):
            self._drop(partition)
        owned = member.assignment()
        if owned:
            self._assign(member, member.positions(owned))

    def abandon(self) -> None:
        """Leave the group; the next turn joins anew. For errors whose outcome is unknown."""
        for partition in list(self.machine.partitions):
            self._drop(partition)
        if self.member is not None:
            member, self.member = self.member, None
            member.close()

    def drain(self) -> None:
        """Commit what was gathered, before a clean end."""
        if self.member is not None and self.machine.gathered:
            self.commit()

    def close(self) -> None:
        if self.member is not None:
            self.member.close()
            self.member = None
