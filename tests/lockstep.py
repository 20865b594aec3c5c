"""A harness without processes: the production machines in lockstep over the in-memory log, with crashes on demand.

Each role is a ``Service`` of its own. A crash drops its objects as a kill would and starts it anew before anything
else happens; what the scorer may know of the ledger is fixed by its previous commit. So the interrupted run must
write the very same records as the uninterrupted one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from stream_al.codec import answer_bytes, decode_request
from stream_al.config import Settings, load
from stream_al.core.messages import Answer, LabelRequest
from stream_al.service.follower import Follower
from stream_al.service.loop import Service, topic_specs
from stream_al.simulate import VirtualClock
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Member, Output, TopicPartition

DEFAULTS = (
    "broker.partitions=2", "ledger.bucket_s=0.001", "scorer.commit_samples=50", "state_dir=null",
    "budget.fraction=0.1", "samples.start=earliest", "labels.wait_unknown_s=5",
    "model.spec=[river.preprocessing.StandardScaler, {river.linear_model.LogisticRegression: {optimizer: {river.optim.SGD: {lr: 0.1}}}}]",
)  # fmt: skip


class Crash(BaseException):
    """The process is gone."""


class PassingMember(Member):
    """Passes everything on; subclasses choose what goes wrong."""

    def __init__(self, inner: Member) -> None:
        self.inner = inner

    def commit(self, outputs, positions):
        return self.inner.commit(outputs, positions)

    def fence_predecessors(self):
        self.inner.fence_predecessors()

    def poll(self, max_records, timeout_s):
        return self.inner.poll(max_records, timeout_s)

    def seek(self, tp, offset):
        self.inner.seek(tp, offset)

    def assignment(self):
        return self.inner.assignment()

    def positions(self, tps):
        return self.inner.positions(tps)

    def close(self):
        self.inner.close()


class CrashingMember(PassingMember):
    """Passes everything on, until the commit that its schedule names."""

    def __init__(self, inner: Member, role: str, plan: Plan) -> None:
        super().__init__(inner)
        self.role, self.plan = role, plan

    def commit(self, outputs, positions):
        how = self.plan.next(self.role)
        if how == "before":
            raise Crash
        ends = self.inner.commit(outputs, positions)
        if how == "after":
            raise Crash
        return ends


class Plan:
    """Which commits of which role crash, and how."""

    def __init__(self, crashes: dict[tuple[str, int], str]) -> None:
        self.crashes, self.count = crashes, {"scorer": 0, "learner": 0}

    def next(self, role: str) -> str | None:
        self.count[role] += 1
        return self.crashes.pop((role, self.count[role]), None)


class PinnedFollower(Follower):
    """Reads the ledger up to ``limit`` only."""

    limit = 0

    def end(self, *, committed: bool = True) -> int:
        return min(self.limit, super().end(committed=committed))

    def advance(self, max_records: int = 500, timeout_s: float = 0.0) -> int:
        room = self.limit - self.fold.position
        return super().advance(min(max_records, room), timeout_s) if room > 0 else 0


class Lockstep:
    """Scorer, annotator and learner take turns; see ``run``."""

    def __init__(
        self, *, seed: int = 0, crashes: dict[tuple[str, int], str] | None = None, sets: Sequence[str] = ()
    ) -> None:
        self.settings: Settings = load(None, [*DEFAULTS, *sets], environ={})
        self.clock = VirtualClock()
        self.broker = EmbeddedBroker(":memory:", clock=self.clock.seconds)
        self.broker.ensure(topic_specs(self.settings), create=True)
        self.plan = Plan(crashes or {})
        self.crashes = 0
        self.pinned = 0
        self.random = random.Random(seed)
        self.sent = 0
        self.due: list[tuple[int, Answer]] = []
        self.requests_read = self.broker.reader({TopicPartition("labels-requested", 0): 0})
        self.learner = self._start("learner")
        self.scorer: Service | None = None

    # --- processes -------------------------------------------------------------------------------------------

    def _start(self, role: str) -> Service:
        follower = None
        if role == "scorer":
            follower = PinnedFollower(self.broker, "ledger")
            follower.limit = self.pinned
        service = Service(self.broker, self.settings, role, clock=self.clock, slot="one", follower=follower)
        join = self.broker.join
        service.broker = self.broker
        task = service.scorer if role == "scorer" else service.learner
        task.broker = _Joining(self.broker, join, role, self.plan)
        return service

    def _turn(self, role: str) -> None:
        """Let a role work until it has nothing to do; a crash restarts it on the spot."""
        idle = 0
        for _ in range(200):
            service = self.scorer if role == "scorer" else self.learner
            task = service.scorer if role == "scorer" else service.learner
            try:
                done = service.turn()
                if role == "scorer":
                    task.drain()
                    self._pin()
                idle = 0 if done else idle + 1
                if idle == 3:  # joining, being assigned and reading are turns of their own
                    return
            except Crash:
                self.crashes += 1
                idle = 0
                if task.member is not None:
                    task.member.close()
                if role == "scorer":
                    self.scorer = self._start(role)
                else:
                    self.learner = self._start(role)
        raise AssertionError(f"the {role} does not come to rest")

    def _pin(self) -> None:
        self.scorer.follower.limit = self.pinned
        self.scorer.follower.catch_up(self.pinned)

    # --- the world -------------------------------------------------------------------------------------------

    def feed(self, n: int) -> None:
        outputs = []
        for _ in range(n):
            x, y = self.random.gauss(0, 1), self.random.gauss(0, 1)
            body = {"id": f"s-{self.sent}", "features": {"x": x, "y": y, "where": self.random.choice("abc")}}
            value = b"{broken" if self.random.random() < 0.02 else msgspec.json.encode(body)
            outputs.append(Output("samples", value, partition=self.sent % 2))
            self.sent += 1
        self.broker.append(outputs)
        self.clock.ms += n * 10

    def annotate(self, delay: int) -> None:
        for batch in self.requests_read.poll(1000, 0).values():
            for record in batch:
                request = decode_request(record)
                if isinstance(request, LabelRequest):
                    label = "up" if request.features["x"] + request.features["y"] > 0 else "down"
                    self.due.append(
                        (self.sent + delay, Answer(request.id, label, request_id=request.request_id))
                    )
        ready = [a for at, a in self.due if at <= self.sent]
        self.due = [(at, a) for at, a in self.due if at > self.sent]
        outputs = [Output("labels", value, partition=0) for value in answer_bytes(ready)]
        if self.random.random() < 0.1:
            outputs.append(Output("labels", b'{"id": "nobody", "label": "up"}', partition=0))
        if self.random.random() < 0.1 and ready:
            outputs.append(outputs[0])  # the same answer twice
        self.broker.append(outputs)

    def on(self, rounds: int = 3) -> None:
        """Go on for some rounds with answers at once; the ledger is folded to its end after each."""
        for _ in range(rounds):
            self.feed(50)
            self._turn("scorer")
            self.annotate(0)
            self._turn("learner")
            self.pinned = self.broker.ends("ledger")[0]
            self._pin()

    def run(self, rounds: int = 40, per_round: int = 50, delay: int = 120) -> Lockstep:
        """Feed, score, annotate, learn, ``rounds`` times, then drain."""
        self._turn("learner")
        self.pinned = self.broker.ends("ledger")[0]
        self.scorer = self._start("scorer")
        for k in range(rounds + 8):
            if k < rounds:
                self.feed(per_round)
            else:
                self.clock.ms += 1000
                self.sent += 100
            self._turn("scorer")
            self.pinned = self.broker.ends("ledger")[0]
            self._pin()
            self.annotate(delay)
            self._turn("learner")
        return self

    # --- what came of it -------------------------------------------------------------------------------------

    def topic(self, name: str) -> list[tuple[int, bytes | None, object]]:
        """Return key, value without times, and headers of every record of a topic, by partition and offset."""
        found = []
        for p, end in sorted(self.broker.ends(name).items()):
            with self.broker.reader({TopicPartition(name, p): 0}) as reader:
                while reader.position(TopicPartition(name, p)) < end:
                    for batch in reader.poll(10_000, 0).values():
                        found += [(p, r.key, _timeless(r.value), tuple(r.headers)) for r in batch]
        return found

    def topics(self) -> dict[str, list]:
        return {n: self.topic(n) for n in ("labels-requested", "reports", "ledger", "dead-letters")}


class _Joining:
    """A broker whose members crash by plan."""

    def __init__(self, broker, join, role, plan) -> None:
        self._broker, self._join, self._role, self._plan = broker, join, role, plan

    def join(self, *args, **kwargs):
        return CrashingMember(self._join(*args, **kwargs), self._role, self._plan)

    def __getattr__(self, name):
        return getattr(self._broker, name)


def _timeless(value: bytes | None) -> object:
    """Drop what may differ between two runs: the ledger's random name and the times."""
    try:
        content = msgspec.json.decode(value) if value else value
    except msgspec.DecodeError:
        return value
    return _without(content)


def _without(value: object) -> object:
    if isinstance(value, dict):
        gone = {"ledger_id", "requested_at", "expires_at", "received_at", "expired_at", "issued_at", "until", "first_at", "last_at", "created_at"}  # fmt: skip
        return {k: _without(v) for k, v in value.items() if k not in gone}
    if isinstance(value, list):
        return [_without(v) for v in value]
    return value
