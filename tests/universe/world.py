"""One seed is one universe: the production machines over the in-memory log, a virtual clock, and faults.

Theory of operation
-------------------
The seed draws *which* faults exist in its universe and how often (swarm: each rate from {0, small, large}). In
phase 1 a scheduler picks what happens next: a process does a turn, samples arrive, annotators answer, the clock
moves, something breaks. In phase 2 everything is healed and drained. Checks (``checks.py``) look at the topics only.

Faults act where a process meets its broker: ``FaultyMember`` stands between a task and its member and may kill the
process before or after a commit, put it to sleep right before one while the others go on, lose the acknowledgement,
or claim that the broker is away. Everything else is done to the world: processes are killed, stopped past their
session and woken again, snapshots are spoiled, states that travel with positions are erased, clocks jump. Some
universes go five times as slowly.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import msgspec

from stream_al.codec import BadRecord, answer_bytes, decode_ledger, decode_request, encode
from stream_al.config import Settings, load
from stream_al.core import fold
from stream_al.core.messages import Answer, Genesis, LabelRequest, Promote, Rebuild, timestamp
from stream_al.service.loop import Service, topic_specs
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Fenced, Member, Output, TopicPartition, Unavailable
from tests.lockstep import PassingMember

MODELS = (
    "[river.preprocessing.StandardScaler, river.linear_model.LogisticRegression]",
    "[river.naive_bayes.GaussianNB]",
    "[river.tree.HoeffdingTreeClassifier: {grace_period: 20}]",
    "[river.linear_model.SoftmaxRegression]",
)
FAULTS = (
    "crash_before", "crash_after", "lost_ack", "away", "kill", "stop", "spoil_snapshot", "delete_state", "lose_state",
    "malformed", "duplicate_id", "answer_twice", "answer_unknown", "contradict", "never", "early", "odd_label",
    "clock_jump", "other_type", "odd_answer", "withdraw", "stranger", "sleep",
    "correct", "rebuild", "grow", "unasked",
)  # fmt: skip
BAYES = "[{name: bayes, spec: [river.naive_bayes.GaussianNB]}]"
TWO = "[{name: bayes, spec: [river.naive_bayes.GaussianNB], strategy: entropy}, {name: other, strategy: random}]"
SESSION_S = 15.0
PROBE_EVERY = 10  # labels; a universe has few


class Killed(BaseException):
    """The process is gone, here and now."""


@dataclass
class Drawn:
    """What the seed decided: the rate of each fault, and the shape of the world."""

    rates: dict[str, float]
    settings: Settings
    scorers: int
    learners: int
    delay_ms: int
    ids: int | None
    pace: int
    forgets_at: int  # a step early on, while first grants live; -1: never
    promotes: float

    @classmethod
    def by(cls, rng: random.Random, operator: random.Random, people: random.Random, state: Path) -> Drawn:
        rates = {f: rng.choice([0.0, 0.02, rng.random() * 0.2]) for f in FAULTS}
        caps = rng.choice(["", "per_hour", "max_outstanding", "per_day", "both"])
        sets = [
            f"broker.partitions={rng.choice([1, 2, 3])}", "samples.start=earliest", f"state_dir={state}",
            f"model.spec={rng.choice(MODELS)}", f"strategy={rng.choice(['margin', 'entropy', 'random', 'least_confidence'])}",
            f"ledger.bucket_s={rng.choice([0.5, 5, 20])}", f"scorer.commit_samples={rng.choice([7, 50, 2000])}",
            f"budget.fraction={rng.choice([0.05, 0.2, 0.5])}", f"labels.wait_unknown_s={rng.choice([20, 200])}",
            f"labels.ttl_s={rng.choice([200, 3000])}", f"seed={rng.randrange(1000)}",
            f"learner.commit_labels={rng.choice([1, 500])}", f"labels.unsolicited={rng.choice(['reject', 'train'])}",
        ]  # fmt: skip
        sets += [
            f"labels.votes={people.choice([1, 1, 1, 2, 3])}", f"labels.near_duplicates={people.choice(['each', 'once'])}",
            f"labels.agreement={people.choice(['first', 'majority', 'dawid_skene'])}",
        ]  # fmt: skip
        if caps in ("per_hour", "both"):
            sets.append(f"budget.per_hour={rng.choice([5, 40])}")
        if caps in ("max_outstanding", "both"):
            sets.append(f"budget.max_outstanding={rng.choice([3, 20])}")
        if caps == "per_day":
            sets.append("budget.per_day=60")
        if rng.random() < 0.3:
            sets.append("model.classes=[up, down]")
        sets += [
            f"challengers={operator.choice(['[]'] * 5 + [BAYES, TWO])}",
            f"accuracy.random_twin={operator.choice(['false'] * 5 + ['true'])}",
        ]
        return cls(
            rates,
            load(None, sets, environ={}),
            rng.choice([1, 2, 3]),
            rng.choice([1, 2]),
            rng.choice([0, 2_000, 60_000, 900_000]),
            rng.choice([None, None, 30]),
            rng.choice([1, 1, 5]),
            rng.choice([-1, rng.randrange(10, 60)]),
            operator.choice([0.02, 0.2, operator.random() * 0.4]),
        )


@dataclass
class Process:
    """One process: its service while it lives, and what its clock shows."""

    name: str
    role: str
    service: Service | None = None
    stopped_until_ms: int = 0
    skew_ms: int = 0
    starts: int = 0
    asleep: bool = False


class FaultyMember(PassingMember):
    """Stands between a task and its member; the universe decides what goes wrong."""

    def __init__(self, inner: Member, universe: Universe, process: Process) -> None:
        super().__init__(inner)
        self.universe, self.process = universe, process

    def commit(self, outputs, positions):
        happens = self.universe.happens
        if happens("sleep"):
            self.universe.go_on_without(self.process)
        if happens("crash_before"):
            raise Killed
        if happens("away"):
            raise Unavailable("the broker is away, says the universe")
        ends = self.inner.commit(outputs, positions)
        if happens("crash_after"):
            raise Killed
        if happens("lost_ack"):
            raise Unavailable("the answer was lost, says the universe")
        return ends

    def poll(self, max_records, timeout_s):
        if max_records and self.universe.happens("away"):
            raise Unavailable("the broker is away, says the universe")
        return self.inner.poll(max_records, 0.0)


class _Broker:
    """The broker as one process sees it: its members may fail, and nothing ever waits."""

    def __init__(self, inner: EmbeddedBroker, universe: Universe, process: Process) -> None:
        self.inner, self.universe, self.process = inner, universe, process

    def join(self, *args, **kwargs):
        return FaultyMember(self.inner.join(*args, **kwargs), self.universe, self.process)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@dataclass
class Universe:
    """Everything that one seed makes."""

    seed: int
    trace: Callable[[str], None] | None = None
    steps: int = 220
    drawn: Drawn = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.directory = Path(
            tempfile.mkdtemp(prefix="universe-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        # of challengers and of voters; the others' draws stay what they were
        self.operator = random.Random(f"operator {self.seed}")
        self.people = random.Random(f"people {self.seed}")
        self.drawn = Drawn.by(self.rng, self.operator, self.people, self.directory / "state")
        self.settings = self.drawn.settings
        self.ms = 1_800_000_000_000
        self.broker = EmbeddedBroker(
            ":memory:", clock=lambda: self.ms / 1000, session_timeout_ms=round(SESSION_S * 1000)
        )
        self.broker.ensure(topic_specs(self.settings), create=True)
        self.healed = False
        self.processes = [Process(f"scorer-{i}", "scorer") for i in range(self.drawn.scorers)]
        self.processes += [Process(f"learner-{i}", "learner") for i in range(self.drawn.learners)]
        self.sent = 0
        self.truth: dict[str, str | int | bool] = {}
        self.reading = self.broker.reader({TopicPartition("labels-requested", 0): 0})
        self.due: list[tuple[int, Answer]] = []
        self.answered: dict[
            str, list[tuple[int, Answer]]
        ] = {}  # request_id -> (when, what) of every honest answer
        self.early: dict[str, list[int]] = {}  # id -> when it was labelled without being asked
        self.unasked: set[str] = set()  # ids that were labelled, with features, and are in no stream
        self.withdrawn: set[str] = set()
        self.events: dict[str, int] = {}

    def say(self, what: str, who: str = "") -> None:
        self.events[what] = self.events.get(what, 0) + 1
        if self.trace is not None:
            ends = {
                t: sum(self.broker.ends(t).values())
                for t in ("samples", "labels-requested", "labels", "ledger")
            }
            at = " ".join(f"{v:>5}" for v in ends.values())
            self.trace(f"{(self.ms - 1_800_000_000_000) / 1000:>9.1f}s {who:<10} {what:<18} {at}")

    def happens(self, fault: str) -> bool:
        if self.healed or self.rng.random() >= self.drawn.rates[fault]:
            return False
        self.say(fault)
        return True

    # --- processes -------------------------------------------------------------------------------------------

    def start(self, process: Process) -> None:
        process.starts += 1
        self.say("start", process.name)
        broker = _Broker(self.broker, self, process)
        clock = lambda: self.ms + (0 if self.healed else process.skew_ms)  # noqa: E731
        process.service = Service(
            broker, self.settings, process.role, clock=clock, slot=f"{process.name}-{process.starts}"
        )

    def kill(self, process: Process) -> None:
        """End a process as SIGKILL does: nothing is closed, its seats stay until they expire."""
        self.say("killed", process.name)
        process.service = None

    def go_on_without(self, process: Process) -> None:
        """Let the world go on while a process sleeps in the middle of its turn; it may be killed in its sleep."""
        if process.asleep or any(p.asleep for p in self.processes):
            return
        process.asleep, service = True, process.service
        try:
            for _ in range(self.rng.choice([3, 30])):
                self._step()
        finally:
            process.asleep = False
        if process.service is not service:
            raise Killed

    def turn(self, process: Process) -> int:
        if process.asleep or process.stopped_until_ms > self.ms:
            return 0
        try:
            if process.service is None:
                self.start(process)
            return process.service.turn()
        except Killed:
            self.kill(process)
        except Unavailable:
            process.service.abandon()
        except Fenced:
            self.say("fenced", process.name)
            process.service = None
        return 1

    # --- the world -------------------------------------------------------------------------------------------

    def feed(self) -> None:
        outputs = []
        for _ in range(self.rng.choice([1, 5, 20, 40])):
            name = f"s-{self.rng.randrange(self.drawn.ids)}" if self.drawn.ids else f"s-{self.sent}"
            if self.happens("duplicate_id"):
                name = "s-again"
            x, y = self.rng.gauss(0, 1), self.rng.gauss(0, 1)
            if self.settings.labels.near_duplicates == "once":
                x, y = round(x), round(y)
            features = {"x": x, "y": y, "where": self.rng.choice(["a", "b", None]), "flag": x > y}
            if self.happens("other_type"):
                features = {"x": "suddenly text", "y": [1.0, 2.0], "new": y}
            if name not in self.truth:
                self.truth[name] = "up" if x > 0 else "down"
                if self.happens("odd_label"):
                    self.truth[name] = self.rng.choice([1, True, "1", "third", 7])
            value = msgspec.json.encode({"id": name, "features": features})
            if self.happens("malformed"):
                value = self.rng.choice(
                    [b"", b"{", b"null", b'{"features": 3}', b"[" * 50, b'{"features": {"x": 1e999}}']
                )
            outputs.append(Output("samples", value, key=name.encode()))
            self.sent += 1
        self.broker.append(outputs)
        self.ms += self.rng.choice([10, 100, 1000]) * self.drawn.pace

    def annotate(self) -> None:
        for batch in self.reading.poll(1000, 0.0).values():
            for record in batch:
                with contextlib.suppress(BadRecord):
                    request = decode_request(record)
                    if isinstance(request, LabelRequest):
                        self._ask(request)
        ready = [a for at, a in self.due if at <= self.ms]
        self.due = [(at, a) for at, a in self.due if at > self.ms]
        outputs = [
            Output("labels", v, key=a.id.encode()) for v, a in zip(answer_bytes(ready), ready, strict=True)
        ]
        for answer in ready:
            if answer.request_id is not None:
                self.answered.setdefault(answer.request_id, []).append((self.ms, answer))
        if self.happens("answer_unknown"):
            outputs.append(Output("labels", b'{"id": "nobody", "label": "up"}'))
        if self.happens("odd_answer"):
            odd = self.rng.choice(
                [b"", b"{", b'{"id": 3}', b'{"id": "s-1", "label": 1.5}', b'{"id": "s-1", "label": null}']
            )
            outputs.append(Output("labels", odd))
        if self.happens("unasked"):
            name = f"u-{self.rng.randrange(20)}"
            self.unasked.add(name)
            features = {"x": self.rng.gauss(0, 1), "y": self.rng.gauss(0, 1)}
            outputs += [
                Output("labels", value)
                for value in answer_bytes([Answer(name, self.rng.choice(["up", "down"]), features=features)])
            ] * self.rng.choice([1, 2])
        if self.happens("early"):  # labels for samples that may still be asked about
            for number in range(max(0, self.sent - 10), self.sent):
                name = f"s-{number}"
                if name in self.truth:
                    self.early.setdefault(name, []).append(self.ms)
                    outputs.append(Output("labels", answer_bytes([Answer(name, self.truth[name])])[0]))
        self.broker.append(outputs)

    def _ask(self, request: LabelRequest) -> None:
        if self.happens("never") or (request.id in self.early and self.rng.random() < 0.7):
            return
        if self.happens("withdraw"):
            self.withdrawn.add(request.request_id)
            header = (("stream_al.request_id", request.request_id.encode()),)
            self.broker.append([Output("labels-requested", None, key=request.id.encode(), headers=header)])
        label = self.truth[request.id]
        when = self.ms + round(self.drawn.delay_ms * self.rng.random() * 2)
        answer = Answer(request.id, label, request_id=request.request_id, annotator="ann")
        if self.rng.random() < 0.1:
            answer = Answer(request.id, skip=True, request_id=request.request_id)
        self.due.append((when, answer))
        for other in ("bob", "eve")[: self.settings.labels.votes - 1]:
            if self.people.random() < 0.9:
                says = label if self.people.random() < 0.7 else self.people.choice(["up", "down"])
                vote = Answer(request.id, says, request_id=request.request_id, annotator=other)
                self.due.append((when + self.people.randrange(20_000), vote))
        if self.happens("answer_twice"):
            self.due.append((when + self.rng.randrange(5000), answer))
        if self.happens("contradict"):
            self.due.append(
                (when + self.rng.randrange(5000), Answer(request.id, "other", request_id=request.request_id))
            )

        if self.happens("correct"):
            other = Answer(request.id, "down" if label == "up" else "up", request_id=request.request_id)
            self.due.append((when + self.rng.randrange(60_000), other))

    def _rebuild(self) -> None:
        """Ask for a new model as an operator does, twice at times, or for another ledger."""
        end = self.broker.ends("ledger")[0]
        if not end:
            return
        genesis = self._genesis()
        name = f"rebuild-{self.rng.randrange(20)}"
        asked = Rebuild(
            name, genesis.ledger_id, self.rng.choice([0, self.rng.randrange(end + 5)]), timestamp(self.ms)
        )
        if self.rng.random() < 0.1:
            asked = replace(asked, ledger_id="another")
        self.broker.append([Output("reports", encode(asked), partition=0)] * self.rng.choice([1, 1, 2]))

    def _promote(self) -> None:
        """Ask for another model, which may be in use already, or nobody's."""
        if not self.broker.ends("ledger")[0]:
            return
        name, number = (
            self.operator.choice(["default", "bayes", "other", "nobody"]),
            self.operator.randrange(20),
        )
        asked = Promote(f"promote-{number}", self._genesis().ledger_id, name, timestamp(self.ms))
        self.say(f"promote {name}")
        self.broker.append([Output("reports", encode(asked), partition=0)] * self.operator.choice([1, 1, 2]))

    def _genesis(self) -> Genesis:
        with self.broker.reader({TopicPartition("ledger", 0): 0}) as reader:
            return decode_ledger(reader.poll(1, 0)[TopicPartition("ledger", 0)][0])

    def break_something(self) -> None:
        process = self.rng.choice(self.processes)
        if self.happens("kill") and process.service is not None:
            self.kill(process)
        if self.happens("stop"):
            process.stopped_until_ms = self.ms + self.rng.choice([2_000, 20_000, 90_000])
        if self.happens("clock_jump"):
            process.skew_ms = self.rng.choice([0, -2_000, 2_000])
            if self.rng.random() < 0.3:
                self.ms += 7_200_000  # everybody sleeps for two hours
        if self.happens("delete_state"):
            shutil.rmtree(self.directory / "state", ignore_errors=True)
        if self.happens("spoil_snapshot"):
            self._spoil()
        if self.happens("lose_state"):
            self._lose_state()
        if self.happens("rebuild"):
            self._rebuild()
        if not self.healed and self.operator.random() < self.drawn.promotes:
            self._promote()
        if self.happens("grow"):
            topic, most = self.rng.choice(["reports", "reports", "labels", "labels-requested"]), 4
            before = self.broker.partitions(topic)
            self.broker.grow(topic, self.rng.randrange(before, most + 1))
            if topic == "labels-requested":
                self.reading.seek(
                    {TopicPartition(topic, p): 0 for p in range(before, self.broker.partitions(topic))}
                )
        if self.happens("stranger"):
            values = (b"", b"{}", b"nonsense", b'{"kind":"tally"}', b'{"meta": 5}')
            topic = self.rng.choice(["reports", "labels-requested"])
            self.broker.append([Output(topic, self.rng.choice(values), partition=0)])
        if process.service is not None and self.rng.random() < 0.3:
            process.service.follower.save() if (self.directory / "state").is_dir() else None

    def _spoil(self) -> None:
        for path in sorted((self.directory / "state").glob("*.fold"))[-1:]:
            content = bytearray(path.read_bytes())
            how = self.rng.randrange(3)
            if how == 0 and content:
                content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
            elif how == 1:
                content = content[: self.rng.randrange(len(content) + 1)]
            else:
                path.unlink()
                return
            path.write_bytes(content)

    def _lose_state(self) -> None:
        """Erase the state beside a scorer's position, as an operator's tool that only knows offsets would."""
        self.broker._log.db.execute("UPDATE position SET state = '' WHERE grp LIKE '%-scorer'")
        for process in self.processes:
            if process.role == "scorer" and process.service is not None and not process.asleep:
                process.service.abandon()  # so that somebody reads what is left, at once

    # --- the two phases --------------------------------------------------------------------------------------

    def run(self) -> Universe:
        """Phase 1: faults. Phase 2: heal and drain; raises AssertionError where that does not come to rest."""
        try:
            with patch.object(fold, "PROBE_EVERY", PROBE_EVERY):
                for step in range(self.steps):
                    if step == self.drawn.forgets_at:
                        self.say("lose_state")
                        self._lose_state()
                    self._step()
                self._heal()
            return self
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _step(self) -> None:
        roll = self.rng.random()
        if roll < 0.12:
            self.feed()
        elif roll < 0.25:
            self.annotate()
        elif roll < 0.32:
            self.break_something()
        elif roll < 0.40:
            self.ms += self.rng.choice([50, 500, 3_000, 16_000]) * self.drawn.pace
        else:
            self.turn(self.rng.choice(self.processes))

    def _heal(self) -> None:
        self.say("heal")
        self.healed = True
        for process in self.processes:
            process.stopped_until_ms = 0
        quiet = 0
        for _ in range(4000):
            busy = sum(self.turn(p) for p in self.processes)
            for p in self.processes:
                if p.service is not None and p.service.scorer is not None:
                    try:
                        p.service.scorer.drain()
                    except Fenced:
                        p.service = None
            self.annotate()
            quiet = 0 if busy or self.due else quiet + 1
            self.ms += 1_000 if quiet < 3 else 10_000  # less than a session
            if quiet > 15 and not self._open():
                break
        else:
            raise AssertionError(f"it does not come to rest: open {self._open()}, due {len(self.due)}")
        learner = next(
            p.service.learner
            for p in self.processes
            if p.service and p.service.learner and p.service.learner.owner
        )
        learner.flush()
        for p in self.processes:
            p.service.follower.catch_up(p.service.follower.end())

    def _open(self) -> int:
        for p in self.processes:
            if (
                p.service is not None
                and p.service.learner is not None
                and p.service.learner.machine is not None
            ):
                machine = p.service.learner.machine
                return len(machine.pending) + len(machine.waiting)
        return -1
