"""The learner's task: own the ledger, read the inputs, let the machine react, commit.

Whoever owns partition 0 of the ledger in the learners' group is the owner; the others follow as hot standby.
Taking over, in this order - it is the same at every start:

1. end the predecessor's transaction and take over its right to write;
2. take the ledger's end, uncommitted records included, and fold up to it;
3. no ``genesis``: write it; else compare it with the configuration;
4. restore the positions of the inputs and the table of open requests;
5. only then read inputs.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from stream_al.codec import BadRecord, dead_letter, decode_answer, decode_report, decode_request, encode
from stream_al.config import ConfigError, Settings
from stream_al.core.learner import Learner, Place, Step, Turn, Withdrawal
from stream_al.core.messages import (
    REQUEST_ID_HEADER,
    Answer,
    Budget,
    Genesis,
    LabelRequest,
    Learned,
    LedgerRecord,
    Report,
    Skipped,
    milliseconds,
    timestamp,
)
from stream_al.core.model import Model
from stream_al.core.model_spec import ModelSpecError, digest
from stream_al.service.figures import WAIT_BOUNDS_S, Observations
from stream_al.service.follower import Follower
from stream_al.service.trouble import Trouble
from stream_al.service.watchdog import Watchdog
from stream_al.transport.port import (
    Broker,
    Closeable,
    Member,
    Output,
    Position,
    Reader,
    Rebalanced,
    Record,
    Records,
    TopicPartition,
    Unavailable,
)

log = structlog.get_logger("stream_al.learner")

AT_ONCE = 2_000
PROBE_EVERY_MS = 200
POSITIONS_EVERY_MS = 1_000  # positions alone are no hurry: what is read again is recognised
MAINTAIN_EVERY_MS = 60_000
MOST_LATE_LETTERS = 1_000  # beyond it some may be written twice
DAY_MS = 86_400_000


class Horizon:
    """Knows for each input up to which time everything committed has been read."""

    def __init__(self, broker: Broker, topics: Mapping[str, str]) -> None:
        self.broker, self.topics = broker, topics
        self.ends: dict[str, dict[TopicPartition, int]] = {}
        self.visible: dict[TopicPartition, int] = {}  # ends of the requests that can have been answered
        self.taken_ms: dict[str, int] = {}
        self.read_through: dict[str, int] = {}

    def probe(self, now_ms: int) -> None:
        """Take the ends of inputs whose last probe was reached."""
        for name, topic in self.topics.items():
            if name in self.ends or now_ms - self.taken_ms.get(name, 0) < PROBE_EVERY_MS:
                continue
            self.taken_ms[name] = now_ms
            # the end of all that was ever sent: another member's open transaction may hide requests whose tally is
            # already visible, and the reader's position waits for it
            ends = self.broker.ends(topic, committed=False)
            self.ends[name] = {TopicPartition(topic, p): e for p, e in ends.items()}
            if name == "requests":
                visible = self.broker.ends(topic).items()
                self.visible = {
                    tp: e for p, e in visible if (tp := TopicPartition(topic, p)) in self.ends[name]
                }

    def known(self, tps: Sequence[TopicPartition]) -> bool:
        """Whether the inputs still have the partitions that are being read."""
        return all(tp in tps for ends in self.ends.values() for tp in ends)

    def reached(self, reader: Reader) -> dict[str, int]:
        """Return the times by which each input was read through."""
        for name, ends in list(self.ends.items()):
            if all(reader.position(tp) >= end for tp, end in ends.items()):
                self.read_through[name] = self.taken_ms[name]
                del self.ends[name]
        return self.read_through

    def caught_up(self, reader: Reader) -> bool:
        """Whether all requests that were visible at the last probe are read.

        Those behind an open transaction are not waited for: nobody can have answered them, and a scorer that stands
        still in the middle of its commit must not keep everybody's labels waiting.
        """
        return bool(self.visible) and all(reader.position(tp) >= end for tp, end in self.visible.items())


class LearnerTask(Closeable):
    """One member of the learners' group: owner or standby."""

    def __init__(
        self, broker: Broker, settings: Settings, follower: Follower, clock: Callable[[], int]
    ) -> None:
        self.broker, self.settings, self.follower, self.clock = broker, settings, follower, clock
        self.ledger = TopicPartition(settings.topics.ledger, 0)
        t = settings.topics
        self.inputs = {"requests": t.labels_requested, "reports": t.reports, "answers": t.labels}
        self.member: Member | None = None
        self.machine: Learner | None = None
        self.fast: Reader | None = None  # requests and reports
        self.slow: Reader | None = None  # answers: read only when the requests are caught up with
        self.horizon = Horizon(broker, self.inputs)
        self.answers: dict[Place, Record] = {}
        self.late_letters: list[Output] = []
        self.committed: dict[TopicPartition, Position] = {}
        self.committed_all_ms = 0
        self.wrote_ms = 0
        self.maintained_ms = 0
        self.tps: list[TopicPartition] = []
        self.must_fold = 0
        self.agrees = False  # with the ledger's genesis
        self.starts_at = 0  # the ledger's end when this process began
        self.rejections: Counter[str] = Counter()
        self.dead_letters: Counter[str] = Counter()
        self.wait_s = Observations(WAIT_BOUNDS_S)
        self.watchdog = Watchdog(broker, "the learner")
        self.unusable = Trouble(log, "a record could not be used; it is in the dead letters")

    @property
    def owner(self) -> bool:
        """Whether this process writes the ledger."""
        return self.machine is not None

    @property
    def ready(self) -> bool:
        """Whether this process owns the ledger or stands by for it."""
        joined = self.member is not None and self.follower.fold.genesis is not None
        return joined and self.follower.position() >= self.starts_at

    # --- turns -----------------------------------------------------------------------------------------------

    def turn(self, timeout_s: float) -> int:
        """Do one round; return the records handled."""
        if self.member is None:
            self.starts_at = self.follower.end()
            self.member = self.broker.join(
                f"{self.settings.group}-learner",
                self.ledger.topic,
                writer=f"{self.settings.group}-learner",
                fetch=False,
            )
        polled = self.member.poll(0, 0.0)
        if self.ledger in polled.revoked:
            self._resign()
        if self.ledger in polled.assigned:
            self._take_over(self.member)
        if self.machine is None:
            return self._stand_by(timeout_s)
        return self._work(self.machine, self.member, timeout_s)

    def _work(self, machine: Learner, member: Member, timeout_s: float) -> int:
        if self.follower.fold.rebuilding is not None:
            return self.follower.advance()  # a piece at a time: a scorer beside it goes on meanwhile
        self.follower.catch_up(self.must_fold, lambda: self._beat(member), through=False)
        if self.machine is not machine or self.follower.fold.rebuilding is not None:
            return 0
        assert self.fast is not None
        assert self.slow is not None
        now = self.clock()
        self.horizon.probe(now)
        if not self.horizon.known(self.tps):
            log.info("an input topic has grown; starting over with its new partitions")
            self.abandon()
            return 0
        records = self.fast.poll(AT_ONCE, timeout_s)
        read_through = dict(self.horizon.reached(_Both(self.fast, self.slow, self.inputs["answers"])))
        if self.horizon.caught_up(self.fast):
            records |= self.slow.poll(self.settings.learner.commit_labels, 0.0)
            read_through = dict(self.horizon.reached(_Both(self.fast, self.slow, self.inputs["answers"])))
        turn, letters = self._decoded(machine, records, now, read_through)
        step = machine.on(turn)
        self._commit(machine, member, step, letters)
        if now - self.maintained_ms >= MAINTAIN_EVERY_MS:
            self.maintained_ms = now
            self.broker.maintain()
        handled = sum(len(r) for r in records.values())
        if self.machine is machine and self.watchdog.silent(handled, {} if handled else self._read_to(), now):
            self.abandon()
        return handled

    def _read_to(self) -> dict[TopicPartition, int]:
        """Return the next offset of each input."""
        assert self.fast is not None
        assert self.slow is not None
        both = _Both(self.fast, self.slow, self.inputs["answers"])
        return {tp: both.position(tp) for tp in self.tps}

    def _stand_by(self, timeout_s: float) -> int:
        handled = self.follower.advance(timeout_s=timeout_s)
        if self.follower.fold.genesis is not None and not self.agrees:
            compare(self.follower.fold.genesis, self.settings)
            self.agrees = True
        return handled

    def _beat(self, member: Member) -> None:
        """Renew the membership in the middle of something; any change of ownership ends it, to begin anew."""
        if self.member is not member:
            return
        polled = member.poll(0, 0.0)
        if self.member is member and (self.ledger in polled.revoked or self.ledger in polled.assigned):
            log.info("ownership changed; joining anew")
            self.abandon()

    def _decoded(
        self, machine: Learner, records: Records, now: int, read_through: dict[str, int]
    ) -> tuple[Turn, list[Output]]:
        requests: list[LabelRequest | Withdrawal] = []
        reports: list[Report] = []
        answers: list[tuple[Place, int, Answer]] = []
        letters: list[Output] = []
        for tp, batch in records.items():
            for record in batch:
                place = Place(record.topic, record.partition, record.offset)
                try:
                    if tp.topic == self.inputs["requests"]:
                        requests.append(decode_request(record))
                    elif tp.topic == self.inputs["reports"]:
                        reports.append(decode_report(record))
                    elif not machine.was_taken(place):
                        answer = decode_answer(record, machine.fold.task, self.settings.samples.max_bytes)
                        if answer.desk is not None and answer.desk.opinion:
                            continue  # it is there to be compared, at the desk
                        answers.append((place, record.timestamp, answer))
                        self.answers[place] = record
                except BadRecord as problem:
                    letter = dead_letter(self.settings.topics.dead_letters, record, problem, "learner")
                    # positions of reports move with a bucket only; their letters go with them, or they come twice
                    (self.late_letters if tp.topic == self.inputs["reports"] else letters).append(letter)
                    self.dead_letters[problem.reason] += 1
                    self.unusable.note(problem.reason, *place.parts)
        return Turn(now, requests, reports, answers, read_through), letters

    # --- committing ------------------------------------------------------------------------------------------

    def _commit(self, machine: Learner, member: Member, step: Step, letters: list[Output]) -> None:
        outputs = [Output(self.ledger.topic, encode(r), partition=0) for r in step.ledger]
        for name, request_id in step.withdrawn:
            header = ((REQUEST_ID_HEADER, request_id.encode()),)
            outputs.append(Output(self.inputs["requests"], None, key=name.encode(), headers=header))
        for place, reason in step.rejected:
            self.rejections[reason] += 1
            self.unusable.note(reason, *place.parts)
            problem = BadRecord(reason, _REJECTED[reason])
            outputs.append(
                dead_letter(self.settings.topics.dead_letters, self.answers[place], problem, "learner")
            )
        outputs += letters
        if step.bucket_closed or len(self.late_letters) > MOST_LATE_LETTERS:
            outputs += self.late_letters
            self.late_letters = []
        if outputs or self.clock() - self.wrote_ms >= POSITIONS_EVERY_MS:
            positions = self._positions(machine, reports=step.bucket_closed)
            if outputs or positions:
                self._write(member, outputs, positions)
        if self.machine is machine:
            self._count_waits(step)
        self.answers = {p: r for p, r in self.answers.items() if p in machine.waiting}

    def _count_waits(self, step: Step) -> None:
        """Count how long annotators took; what a known label closed waited for nobody."""
        known = {request_id for _, request_id in step.withdrawn}
        for r in step.ledger:
            if isinstance(r, Learned | Skipped) and r.request_id not in known:
                self.wait_s.add(max(0, milliseconds(r.received_at) - milliseconds(r.requested_at)) / 1000)

    def _positions(self, machine: Learner, *, reports: bool) -> dict[TopicPartition, Position]:
        """Return the input positions that moved; all of them once a day, because brokers expire idle ones."""
        assert self.fast is not None
        assert self.slow is not None
        everything = self.clock() - self.committed_all_ms > DAY_MS
        found: dict[TopicPartition, Position] = {}
        for tp in self.tps:
            if tp.topic == self.inputs["answers"]:
                position = Position(*machine.answer_position(tp.topic, tp.partition, self.slow.position(tp)))
            elif tp.topic == self.inputs["reports"] and not reports:
                if not everything or tp not in self.committed:
                    continue
                position = self.committed[tp]
            else:
                position = Position(self.fast.position(tp))
            if everything or position != self.committed.get(tp):
                found[tp] = position
        return found

    def _write(
        self, member: Member, outputs: list[Output], positions: dict[TopicPartition, Position]
    ) -> None:
        try:
            ends = member.commit(outputs, positions)
        except Rebalanced as why:
            log.warning("commit refused; this learner is not the owner any more", why=str(why))
            self.abandon()
            return
        except Unavailable:
            self.abandon()
            raise
        self.wrote_ms = self.clock()
        self.committed |= positions
        if set(positions) >= set(self.committed):
            self.committed_all_ms = self.clock()
        self.must_fold = max(self.must_fold, ends.get(self.ledger, 0))

    # --- ownership -------------------------------------------------------------------------------------------

    def _take_over(self, member: Member) -> None:
        member.fence_predecessors()
        member.seek(self.ledger, self.follower.position())
        self.follower.catch_up(self.follower.end(committed=False), lambda: self._beat(member))
        if self.follower.fold.genesis is None:
            if self.member is member:
                self._found(member)
        else:
            compare(self.follower.fold.genesis, self.settings)
        if self.member is member:
            self._restore(member)
        if self.machine is not None:
            log.info(
                "owns the ledger",
                position=self.follower.fold.position,
                open_requests=len(self.machine.pending),
            )

    def _found(self, member: Member) -> None:
        """Write the first records: a ledger without a budget would be one without limits."""
        genesis = found(self.broker, self.settings, self.clock())
        records: list[LedgerRecord] = [genesis, wanted_budget(self.settings)]
        self._write(member, [Output(self.ledger.topic, encode(r), partition=0) for r in records], {})
        self.follower.catch_up(self.must_fold)
        log.info(
            "ledger founded", ledger_id=genesis.ledger_id, classes=genesis.classes, strategy=genesis.strategy
        )

    def _restore(self, member: Member) -> None:
        s, fold, now = self.settings, self.follower.fold, self.clock()
        budget = wanted_budget(s)
        records: list[LedgerRecord] = []
        written = any(k == "budget" or k.startswith("budget.") for k in s.written)
        if budget != fold.budget and (written or fold.last_grant == 0):
            records.append(budget)
        else:
            budget = fold.budget
        machine = Learner(
            fold,
            budget,
            now_ms=now,
            label_ttl_ms=round(s.labels.ttl_s * 1000),
            wait_unknown_ms=round(s.labels.wait_unknown_s * 1000),
            bucket_ms=round(s.ledger.bucket_s * 1000),
            transaction_timeout_ms=s.broker.transaction_timeout_ms,
            unsolicited=s.labels.unsolicited == "train",
        )
        self.tps = [
            TopicPartition(t, p) for t in self.inputs.values() for p in range(self.broker.partitions(t))
        ]
        self.committed = {tp: p for tp, p in member.positions(self.tps).items() if p is not None}
        begins = {t: self.broker.begins(t) for t in self.inputs.values()}
        at = {tp: self._start(tp, begins[tp.topic].get(tp.partition, 0)) for tp in self.tps}
        self._remember(machine, member, at, begins[self.inputs["requests"]])
        if self.member is not member:
            return
        for tp, position in self.committed.items():
            if tp.topic == self.inputs["answers"]:
                machine.resume_answers(tp.topic, tp.partition, position.state)
        answers = self.inputs["answers"]
        self.fast = self.broker.reader({tp: o for tp, o in at.items() if tp.topic != answers})
        self.slow = self.broker.reader({tp: o for tp, o in at.items() if tp.topic == answers})
        self.horizon = Horizon(self.broker, self.inputs)
        self.machine = machine
        self.answers, self.late_letters = {}, []
        if records:
            self._write(member, [Output(self.ledger.topic, encode(r), partition=0) for r in records], {})

    def _start(self, tp: TopicPartition, begin: int) -> int:
        """Return where to read an input on; a quiet stream's reports may be gone, and only they may."""
        if tp not in self.committed:
            return begin
        offset = self.committed[tp].offset
        if tp.topic == self.inputs["reports"] and offset < begin:
            log.warning(
                "reports are no longer retained; their samples are in no estimate", lost=begin - offset
            )
            return begin
        return offset

    def _remember(
        self, machine: Learner, member: Member, at: Mapping[TopicPartition, int], begins: Mapping[int, int]
    ) -> None:
        """Rebuild the table of open requests from the topic, up to the committed positions."""
        topic = self.inputs["requests"]
        ends = {tp: o for tp, o in at.items() if tp.topic == topic and o > begins.get(tp.partition, 0)}
        if not ends:
            return
        with self.broker.reader({tp: begins.get(tp.partition, 0) for tp in ends}) as reader:
            while any(reader.position(tp) < end for tp, end in ends.items()):
                for tp, batch in reader.poll(AT_ONCE, 1.0).items():
                    for record in batch:
                        if record.offset < ends[tp]:
                            _remember_one(machine, record)
                self._beat(member)

    def _resign(self) -> None:
        if self.machine is not None:
            log.info("no longer owns the ledger")
        self.machine = None
        for reader in (self.fast, self.slow):
            if reader is not None:
                reader.close()
        self.fast = self.slow = None

    def abandon(self) -> None:
        """Leave the group; the next turn joins anew. For errors whose outcome is unknown."""
        self._resign()
        if self.member is not None:
            member, self.member = self.member, None
            member.close()

    def flush(self) -> None:
        """Close the open bucket: for the end of a finite stream."""
        if self.machine is not None and self.member is not None:
            self.follower.catch_up(self.must_fold)
            self._commit(self.machine, self.member, self.machine.flush(), [])
            self.follower.catch_up(self.must_fold)

    def close(self) -> None:
        self.abandon()


class _Both(Reader):
    """Two readers seen as one, for the horizon."""

    def __init__(self, fast: Reader, slow: Reader, answers: str) -> None:
        self.fast, self.slow, self.answers = fast, slow, answers

    def position(self, tp: TopicPartition) -> int:
        return (self.slow if tp.topic == self.answers else self.fast).position(tp)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        raise AssertionError(positions)

    def poll(self, max_records: int, timeout_s: float) -> Records:
        raise AssertionError(max_records, timeout_s)

    def close(self) -> None:
        """Both belong to somebody else."""


_REJECTED = {
    "unknown_request": "the label names no request; is it the sample's id, or an id of your own?",
    "closed_request": "the request is already closed",
    "id_mismatch": "id and request_id do not belong together; send back both as they came, or the id alone",
}


def _remember_one(machine: Learner, record: Record) -> None:
    try:
        machine.remember([decode_request(record)])
    except BadRecord:
        return  # it became a dead letter when it was first read


def wanted_budget(settings: Settings) -> Budget:
    """Return the configuration's budget as the ledger records it."""
    b = settings.budget
    return Budget(b.fraction, b.per_hour, b.per_day, b.max_outstanding, b.exploration, b.novelty)


def found(broker: Broker, settings: Settings, now_ms: int) -> Genesis:
    """Return the first record of a new ledger; the model is built once, so that its errors show at start.

    Raises
    ------
    ConfigError
        The model cannot be built.
    """
    topic = settings.topics.samples
    start = broker.ends(topic) if settings.samples.start == "latest" else broker.begins(topic)
    classes = None if settings.model.classes is None else list(settings.model.classes)
    spec = _as_json(settings.model.spec)
    try:
        Model(spec, classes=classes, seed=settings.seed, task=settings.model.task)
    except ModelSpecError as error:
        raise ConfigError(spec_problem(settings, error)) from error
    return Genesis(
        ledger_id=secrets.token_hex(8),
        topic=topic,
        start=start,
        model=settings.name,
        spec=spec,
        classes=classes,
        strategy=settings.strategy,
        seed=settings.seed,
        created_at=timestamp(now_ms),
        task=settings.model.task,
        cooperative=settings.model.cooperative,
    )


def spec_problem(settings: Settings, error: ModelSpecError) -> str:
    """Return what is wrong with a model, with where its step was written and the path that it has there."""
    path = error.path.removeprefix("model")
    step = re.match(r"\[\d+\]", path)
    return f"{settings.where('model.spec' + (step[0] if step else ''))} model.spec{path}: {error.message}"


def compare(genesis: Genesis, settings: Settings) -> None:
    """Refuse a configuration that contradicts the ledger; only keys that somebody wrote are compared.

    Raises
    ------
    ConfigError
        With what the ledger says, what the configuration says, and what to do.
    """
    classes = None if settings.model.classes is None else list(settings.model.classes)
    pairs = {
        "model.task": (genesis.task, settings.model.task),
        "model.spec": (genesis.spec, settings.model.spec),
        "model.classes": (genesis.classes, classes),
        "model.cooperative": (genesis.cooperative, settings.model.cooperative),
        "strategy": (genesis.strategy, settings.strategy),
        "seed": (genesis.seed, settings.seed),
        "name": (genesis.model, settings.name),
        "topics.samples": (genesis.topic, settings.topics.samples),
    }
    wrong = [
        f"{settings.where(key)} {key}: the ledger was founded with {ledger!r}, the configuration says {ours!r};"
        " write what the ledger says, or begin anew with another topics.ledger, topics.labels_requested and group"
        for key, (ledger, ours) in pairs.items()
        if any(w == key or w.startswith(f"{key}.") for w in settings.written)
        and (digest(ledger) != digest(ours) if key == "model.spec" else _differs(ledger, ours))
    ]
    if wrong:
        raise ConfigError(*wrong)


def _differs(a: object, b: object) -> bool:
    """Compare by value and type, as the ledger would hold them: 1 and True are different classes."""
    return repr(a) != repr(_as_json(b))


def _as_json(value: object) -> object:
    """Return a value as it is after a trip through the ledger."""
    return msgspec.json.decode(msgspec.json.encode(value))
