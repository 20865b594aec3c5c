"""The desk in a process: the machine behind a lock, and the task that connects it with the topics.

``DeskRoom`` lives as long as the process and is used by two threads: the service's loop, through ``DeskTask``, and the
HTTP server's. People can go on answering while the broker is away: what they answer is kept and published later.

An answer's way, in this order: into the machine, onto the disk, then the page is told; after its grace it is appended
to ``labels``; when that returned, or when it is read back, it is removed from the disk. Whatever is on the disk at a
start is compared with ``labels``, read to its end, before anything is published: a crash between the two last steps
publishes nothing twice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import structlog

from stream_al.codec import BadRecord, answer_bytes, decode_answer, decode_request
from stream_al.config import Settings
from stream_al.core.accuracy import Interval
from stream_al.core.desk import Desk
from stream_al.core.desk_facts import Given, Item, Refused, Rules
from stream_al.core.labels import Label, Value
from stream_al.core.messages import Answer, Budget, LabelRequest, milliseconds
from stream_al.core.votes import Policy
from stream_al.service.desk_store import DeskStore
from stream_al.service.follower import Follower
from stream_al.transport.port import Broker, Closeable, Output, Reader, Record, TopicPartition, Unavailable

log = structlog.get_logger("stream_al.desk")

AT_ONCE = 500
SWEEP_MS = 250
PICTURE_MS = 1_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
MOST_ASKED = 100_000
HISTORY = 40  # points of the accuracy over time


@dataclass(frozen=True, slots=True)
class Point:
    """The accuracy over one stretch of the stream that ends after ``samples`` samples; None in regression."""

    samples: int
    accuracy: Interval | None


@dataclass(frozen=True, slots=True)
class DeskPicture:
    """What the owner sees of the service, taken by its loop.

    ``limits`` and ``spent`` by window; ``reliability`` by annotator; ``alike`` requests were closed by the answer to
    another; ``saved`` tells what asking saved, None without a random twin; drift marks are counts of samples at which
    an alarm came.
    """

    limits: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    labels: int = 0
    accuracy: Interval | None = None
    history: tuple[Point, ...] = ()
    drift: tuple[int, ...] = ()
    warming: bool = True
    reliability: dict[str, float] = field(default_factory=dict)
    alike: int = 0
    saved: str | None = None


class DeskRoom(Closeable):
    """Where people and the service meet; every method may be called from any thread.

    Parameters
    ----------
    settings
        The desk's rules, and where unpublished answers are kept.
    clock
        Milliseconds since the epoch.

    Where the state directory cannot be used, or another process is the desk there, answers are kept in memory.
    """

    def __init__(self, settings: Settings, clock: Callable[[], int]) -> None:
        d = settings.desk
        self.settings, self.clock = settings, clock
        self.lock = threading.RLock()
        self.store = _store(settings)
        policy = Policy(settings.labels.votes, settings.labels.agreement)
        self.rules = Rules(
            settings.seed, d.blind, d.second_opinion, round(d.grace_s * 1000), round(d.lease_s * 1000),
            policy.votes, policy.asks_on, settings.labels.near_duplicates == "once",
        )  # fmt: skip
        self.machine = Desk(self.rules)
        self.ledger_id = ""
        self.why_not = "starting"
        self.picture = DeskPicture()
        self.samples: list[tuple[list[Output], Future[None]]] = []

    @property
    def ready(self) -> bool:
        """Whether questions and answers are read to where they ended at the start."""
        return not self.why_not

    # --- people ----------------------------------------------------------------------------------------------

    def lease(self, annotator: str, count: int) -> list[Item]:
        with self.lock:
            return self.machine.lease(annotator, count, self.clock())

    def lease_one(self, annotator: str, request_id: str) -> Item:
        with self.lock:
            return self.machine.lease_one(annotator, request_id, self.clock())

    def answer(
        self,
        annotator: str,
        request_id: str,
        label: Value | None,
        *,
        seconds: float | None = None,
        new_class: bool = False,
        owner: bool = False,
        decides: bool = False,
    ) -> Given | None:
        """Take an answer and keep it; None: it is published already.

        Raises
        ------
        Refused, OSError
            Nothing was accepted.
        """
        with self.lock:
            before = self._given(request_id, annotator)
            given = self.machine.answer(
                annotator, request_id, label, self.clock(), seconds=seconds, new_class=new_class, owner=owner,
                decides=decides,
            )  # fmt: skip
            if given is not None and given != before:
                try:
                    self.store.keep(self.ledger_id, given)
                except OSError:
                    self.machine.revert(given, before)
                    raise
            return given

    def _given(self, request_id: str, annotator: str) -> Given | None:
        question = self.machine.questions.get(request_id)
        return question.given.get(annotator) if question is not None else None

    def undo(self, annotator: str, request_id: str) -> Item | None:
        with self.lock:
            item = self.machine.undo(annotator, request_id, self.clock())
            self.store.forget(self.ledger_id, [(request_id, annotator)])
            if item is not None:
                self.store.unflag(self.ledger_id, request_id)
            return item

    def flag(self, annotator: str, request_id: str) -> None:
        with self.lock:
            self.machine.flag(annotator, request_id)
            self.store.flag(self.ledger_id, request_id, annotator)

    def release(self, request_id: str) -> None:
        with self.lock:
            self.machine.release(request_id)
            self.store.unflag(self.ledger_id, request_id)

    def decide(self, label: Label, *, as_label: Label | None) -> int:
        """Accept or dismiss a proposed class; return how many answers named it."""
        with self.lock:
            decided = self.machine.decide(label, self.clock(), as_label=as_label)
            for given in decided:
                if as_label is None:
                    self.store.forget(self.ledger_id, [(given.request_id, given.annotator)])
                else:
                    self.store.keep(self.ledger_id, given)
            return len(decided)

    def send(self, outputs: list[Output]) -> Future[None]:
        """Have samples written by the service's loop; the future is done when they are durable."""
        done: Future[None] = Future()
        with self.lock:
            self.samples.append((outputs, done))
        return done

    def close(self) -> None:
        self.store.close()


def _store(settings: Settings) -> DeskStore:
    try:
        return DeskStore(settings.state_dir)
    except OSError as why:
        log.warning("a crash would lose answers in their grace window", why=str(why))
        return DeskStore(None)


class DeskTask(Closeable):
    """Reads what the desk must know and writes what people answered, over one broker."""

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        follower: Follower,
        clock: Callable[[], int],
        room: DeskRoom | None = None,
    ) -> None:
        self.broker, self.settings, self.follower, self.clock = broker, settings, follower, clock
        self.own = room is None
        self.room = room or DeskRoom(settings, clock)
        self.requests: Reader | None = None
        self.labels: Reader | None = None
        self.ends: dict[TopicPartition, int] = {}  # to be read before anything is published
        self.swept_ms = self.pictured_ms = 0
        self.swept_at = -1
        self.asked: deque[int] = deque(maxlen=MOST_ASKED)  # when, in the last day
        self.settled = False  # whether both topics are read to where they ended at the beginning

    @property
    def ready(self) -> bool:
        return self.room.ready

    # --- turns -----------------------------------------------------------------------------------------------

    def turn(self) -> int:
        """Do one round; return the records read."""
        self._write_samples()
        genesis = self.follower.fold.genesis
        if genesis is None:
            self.room.why_not = "the ledger has no first record yet"
            return 0
        if self.requests is None or self.room.ledger_id != genesis.ledger_id:
            self._begin(genesis.ledger_id)
        assert self.requests is not None
        assert self.labels is not None
        now = self.clock()
        done = self._read(self.labels, self._published)
        if any(self.labels.position(tp) < end for tp, end in self.ends.items()):
            return done
        self._sweep(now)
        done += self._read(self.requests, self._open) if self.room.machine.room else 0
        self.settled = self.settled or self._caught_up()
        if not self.settled:
            return done
        if self.room.why_not:
            self._restore()
        self._publish(now)
        if now - self.pictured_ms >= PICTURE_MS:
            self.pictured_ms = now
            self.room.picture = self._picture(now)
        return done

    def _begin(self, ledger_id: str) -> None:
        """Begin to read both topics from their start; what the room holds stays, if it is of this ledger."""
        with self.room.lock:
            if self.room.ledger_id != ledger_id:
                self.room.machine = Desk(self.room.rules)
                self.room.ledger_id = ledger_id
                self.room.why_not = "reading the open questions"
        self.settled = False
        self.asked.clear()
        t = self.settings.topics
        self.requests = self.broker.reader(self._first(t.labels_requested))
        self.labels = self.broker.reader(self._first(t.labels))
        self.ends = {TopicPartition(t.labels, p): e for p, e in self.broker.ends(t.labels).items()}

    def _first(self, topic: str) -> dict[TopicPartition, int]:
        return {TopicPartition(topic, p): offset for p, offset in self.broker.begins(topic).items()}

    def _caught_up(self) -> bool:
        """Whether all requests are read, or as many as there is room for."""
        assert self.requests is not None
        topic = self.settings.topics.labels_requested
        ends = self.broker.ends(topic).items()
        position = self.requests.position
        return not self.room.machine.room or all(position(TopicPartition(topic, p)) >= e for p, e in ends)

    def _read(self, reader: Reader, take: Callable[[Record], None]) -> int:
        done = 0
        for records in reader.poll(AT_ONCE, 0.0).values():
            with self.room.lock:
                for record in records:
                    take(record)
            done += len(records)
        return done

    def _open(self, record: Record) -> None:
        try:
            request = decode_request(record)
        except BadRecord:
            return  # the learner makes it a dead letter
        if isinstance(request, LabelRequest):
            self.asked.append(milliseconds(request.requested_at))
        self.room.machine.open(request, closed=request.request_id in self.follower.fold.closed)

    def _published(self, record: Record) -> None:
        fold = self.follower.fold
        try:
            answer = decode_answer(record, fold.task)
        except BadRecord:
            return
        mine = self.room.machine.published(answer, record.timestamp)
        if mine is not None:
            self._forget([mine])

    def _sweep(self, now: int) -> None:
        """Take in what the ledger closed, and its classes."""
        fold = self.follower.fold
        if now - self.swept_ms < SWEEP_MS or fold.position == self.swept_at:
            return
        genesis = fold.genesis
        assert genesis is not None
        self.swept_ms, self.swept_at = now, fold.position
        with self.room.lock:
            machine = self.room.machine
            machine.task, machine.fixed = fold.task, genesis.classes is not None
            machine.known = tuple(genesis.classes or fold.classes)
            for request_id in [r for r in machine.questions if r in fold.closed]:
                machine.close(request_id)
            if machine.rules.votes > 1:
                most = machine.rules.votes
                machine.dispute(
                    [r for r, q in machine.questions.items() if len(fold.panel.votes_on(q.alike)) >= most]
                )
            machine.forget_expired(now)

    def _restore(self) -> None:
        """Take back what was kept, now that it is known what of it is published."""
        with self.room.lock:
            room, machine = self.room, self.room.machine
            gone: list[tuple[str, str]] = []
            for given in room.store.kept(room.ledger_id):
                published, _ = machine.figures.answered(
                    given.request_id, given.annotator, decides=given.decides
                )
                if published:
                    gone.append((given.request_id, given.annotator))
                elif not machine.restore(given):
                    log.warning(
                        "an answer's question is not open any more; the answer is dropped",
                        request_id=given.request_id,
                    )
                    gone.append((given.request_id, given.annotator))
            room.store.forget(room.ledger_id, gone)
            for request_id, annotator in room.store.flagged(room.ledger_id):
                try:
                    machine.flag(annotator, request_id)
                except Refused:
                    room.store.unflag(room.ledger_id, request_id)
            room.why_not = ""
        log.info("the desk is open", questions=len(machine.questions), unpublished=len(machine.answered))

    # --- writing ---------------------------------------------------------------------------------------------

    def _publish(self, now: int) -> None:
        with self.room.lock:
            answers = self.room.machine.due(now)
        self._write(answers)

    def _write(self, answers: Sequence[Answer]) -> None:
        if not answers:
            return
        topic = self.settings.topics.labels
        try:
            self.broker.append(
                [
                    Output(topic, value, key=a.id.encode("utf-8", "surrogatepass"))
                    for a, value in zip(answers, answer_bytes(answers), strict=True)
                ]
            )
        except Unavailable:  # perhaps they are written: the topic says so
            with self.room.lock:
                self.room.machine.returned(answers)
            self.abandon()  # publish nothing before the topic is read anew
            raise
        with self.room.lock:
            now = self.clock()
            done = [self.room.machine.published(a, now) for a in answers]
        self._forget([mine for mine in done if mine is not None])

    def _forget(self, gone: Iterable[tuple[str, str]]) -> None:
        try:
            self.room.store.forget(self.room.ledger_id, gone)
        except OSError as problem:  # at the next start it is recognised on the topic
            log.warning("a published answer stays in the desk's file", problem=str(problem))

    def _write_samples(self) -> None:
        with self.room.lock:
            waiting, self.room.samples = self.room.samples, []
        for outputs, done in waiting:
            if not done.set_running_or_notify_cancel():
                continue
            try:
                self.broker.append(outputs)
            except Unavailable as why:
                done.set_exception(why)
                raise
            done.set_result(None)

    def drain(self) -> None:
        """Publish what would be lost with this process: everything, where nothing is kept on a disk."""
        if self.room.store.durable or not self.room.ready:
            return
        with self.room.lock:
            answers = self.room.machine.due(self.clock() + self.room.rules.grace_ms)
        self._write(answers)

    # --- figures ---------------------------------------------------------------------------------------------

    def _picture(self, now: int) -> DeskPicture:
        fold = self.follower.fold
        total = fold.accuracy.everything
        limits, spent = _budget(fold.budget, total.samples, total.requests)
        with self.room.lock:
            waiting = len(self.room.machine.questions)
        if "outstanding" in limits:
            spent["outstanding"] = waiting
        for name, window in (("hour", HOUR_MS), ("day", DAY_MS)):
            if name in limits:
                spent[name] = sum(at > now - window for at in self.asked)
        history: tuple[Point, ...] = ()
        accuracy = None
        if fold.task == "classification":
            accuracy = fold.accuracy.window(self.settings.accuracy.windows[-1]).dr
            history = tuple(Point(n, e.dr) for n, e in fold.accuracy.history(HISTORY))
        return DeskPicture(
            limits=limits,
            spent=spent,
            samples=total.samples,
            labels=fold.outcomes["learned"],
            accuracy=accuracy,
            history=history,
            drift=tuple(alarm.samples for alarm in fold.drift.latest),
            warming=fold.warming,
            reliability=fold.panel.reliability(),
            alike=fold.outcomes["alike"],
            saved=None if (saved := fold.contest.saved()) is None else str(saved),
        )

    def abandon(self) -> None:
        """Read both topics anew in the next turn: after an outcome that is not known."""
        for reader in (self.requests, self.labels):
            if reader is not None:
                reader.close()
        self.requests = self.labels = None
        self.swept_at = -1

    def close(self) -> None:
        self.abandon()
        if self.own:
            self.room.close()


def _budget(budget: Budget, samples: int, requests: int) -> tuple[dict[str, float], dict[str, float]]:
    limits: dict[str, float] = {}
    spent: dict[str, float] = {}
    if budget.fraction is not None:
        limits["stream"], spent["stream"] = budget.fraction * samples + budget.allowance, requests
    caps = {"hour": budget.per_hour, "day": budget.per_day, "outstanding": budget.max_outstanding}
    limits |= {name: limit for name, limit in caps.items() if limit is not None}
    return limits, spent
