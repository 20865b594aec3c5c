"""The one loop: poll, machine, commit - and what surrounds it: start, signals, back-off, drain.

A retriable error is waited out; ``Fenced``, ``TopicError``, ``PositionGone`` and every other exception end the
process, because restart is cheap and tested.
"""

from __future__ import annotations

import gc
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Literal

import structlog

from stream_al.config import USUAL_BYTES, Settings, largest_message
from stream_al.core.fold import KEEP_CLOSED_MS
from stream_al.service.agreement import Agreement, Diverged
from stream_al.service.desk import DeskRoom, DeskTask
from stream_al.service.figures import Figures
from stream_al.service.follower import Follower, no_tick
from stream_al.service.learning import LearnerTask
from stream_al.service.scoring import ScorerTask
from stream_al.service.snapshot import Snapshots
from stream_al.service.trouble import Trouble
from stream_al.transport import connect
from stream_al.transport.port import Broker, Closeable, TopicSpec, Unavailable

log = structlog.get_logger("stream_al.service")

Role = Literal["scorer", "learner", "desk", "all"]
DAY_MS = 86_400_000
IDLE_S = 0.05
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
FIGURES_EVERY_S = 1.0


def now_ms() -> int:
    """Return the wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


def calm_collector() -> None:
    """Let the garbage collector look seldom: a third of a scorer's time went into looking for cycles among samples."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def topic_specs(settings: Settings, samples_partitions: int = 0) -> list[TopicSpec]:
    """Return what the topics must be; ``samples_partitions`` is how many the samples have already."""
    t, b = settings.topics, settings.broker
    n = max(b.partitions, samples_partitions)
    # on Kafka what holds a sample's features must have room for it, as by a broker's default for the usual size
    large = not b.url.startswith("embedded:") and settings.samples.max_bytes > USUAL_BYTES
    room: dict[str, str | int] = (
        {"max.message.bytes": largest_message(settings.samples.max_bytes)} if large else {}
    )
    keep: dict[str, str | int] = {
        **room,
        "retention.ms": round(settings.labels.ttl_s * 1000) + DAY_MS,
        "retention.bytes": -1,
        "cleanup.policy": "delete",  # by key, a tombstone would take other open requests of the id along
    }
    # on Kafka these are the user's own
    stream = {"retention.ms": DAY_MS, "retention.bytes": 1 << 30} if b.url.startswith("embedded:") else {}
    specs = [
        TopicSpec(t.samples, 1 if samples_partitions else n, stream),
        TopicSpec(t.labels_requested, 1, keep),
        TopicSpec(t.labels, 1, keep),
        TopicSpec(t.reports, 1, keep),
        TopicSpec(
            t.ledger,
            1,
            {**room, "retention.ms": -1, "retention.bytes": -1, "cleanup.policy": "delete"},
            exact_partitions=True,
        ),
        TopicSpec(t.dead_letters, 1, {}),
    ]
    return [*specs, TopicSpec(t.predictions, 1, stream)] if settings.scorer.predictions else specs


def open_broker(settings: Settings) -> Broker:
    """Connect, create or check the topics, and make sure that state travels with positions.

    Raises
    ------
    Unavailable, TopicError
    """
    b = settings.broker
    options = {
        "session_timeout_ms": b.session_timeout_ms,
        "transaction_timeout_ms": b.transaction_timeout_ms,
        "client": b.client,
        "replication_factor": b.replication_factor,
    }
    broker = connect(b.url, options)
    try:
        broker.ensure(
            topic_specs(settings, broker.partitions(settings.topics.samples)), create=b.create_topics
        )
    except BaseException:
        broker.close()
        raise
    return broker


def open_follower(broker: Broker, settings: Settings, agreement: Agreement) -> Follower:
    """Follow the ledger, from a snapshot in the state directory where that can be used."""
    snapshots = None
    if settings.state_dir is not None:
        try:
            snapshots = Snapshots(settings.state_dir)
        except OSError as problem:
            log.warning("no snapshots: the state directory cannot be used", problem=str(problem))
    life = 2 * (round(settings.labels.ttl_s * 1000) + DAY_MS)
    return Follower(broker, settings.topics.ledger, snapshots, max(life, KEEP_CLOSED_MS), agreement)


class Service(Closeable):
    """The roles of one process over one broker, one fold and one thread."""

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        role: Role = "all",
        clock: Callable[[], int] = now_ms,
        slot: str = "",
        follower: Follower | None = None,
        agreement: Agreement | None = None,
        room: DeskRoom | None = None,
    ) -> None:
        self.broker, self.settings, self.clock = broker, settings, clock
        self.agreement = agreement or Agreement()
        self.follower = follower or open_follower(broker, settings, self.agreement)
        self.follower.unlearned = Trouble(log, "a record of the ledger could not be learned").note
        writer = f"{settings.group}-scorer-{slot or f'{socket.gethostname()}-{uuid.uuid4().hex[:8]}'}"
        self.scorer: ScorerTask | None = None
        self.learner: LearnerTask | None = None
        if role in ("scorer", "all"):
            self.scorer = ScorerTask(broker, settings, self.follower, clock, writer=writer)
        if role in ("learner", "all"):
            self.learner = LearnerTask(broker, settings, self.follower, clock)
        self.desk: DeskTask | None = None
        if role == "desk" or (role == "all" and room is not None):
            self.desk = DeskTask(broker, settings, self.follower, clock, room)

    @property
    def tasks(self) -> list[ScorerTask | LearnerTask | DeskTask]:
        """The roles that this process plays."""
        return [task for task in (self.scorer, self.learner, self.desk) if task is not None]

    def turn(self, timeout_s: float = 0.0) -> int:
        """Let each role do one round; return what was handled."""
        done = 0
        if self.learner is not None:
            done += self.learner.turn(0.0 if self.scorer is not None else timeout_s)
        if self.scorer is not None:
            done += self.scorer.turn(0.0 if done else timeout_s)
        if self.scorer is None and self.learner is None:
            done += self.follower.advance(timeout_s=timeout_s)
        if self.desk is not None:
            done += self.desk.turn()
        return done

    @property
    def ready(self) -> bool:
        """Whether broker, group and fold are joined, and the model is everybody's."""
        return not self.agreement.lasting and all(task.ready for task in self.tasks)

    def abandon(self) -> None:
        """Leave the groups; the next turn joins anew."""
        for task in self.tasks:
            task.abandon()

    def close(self) -> None:
        for task in self.tasks:
            task.close()
        self.follower.close()


class _Stopped(Exception):  # noqa: N818  not an error
    """The loop was asked to end in the middle of a long replay."""


class Loop:
    """Runs a service until it is told to stop.

    Parameters
    ----------
    settings
        What to run.
    role
        Which machines.
    publish
        Called about once a second, and at changes of readiness, with the service's figures.
    room
        Where people answer; None: nowhere.
    """

    def __init__(
        self,
        settings: Settings,
        role: Role,
        publish: Callable[[Figures], None],
        room: DeskRoom | None = None,
    ) -> None:
        self.settings, self.role, self.publish, self.room = settings, role, publish, room
        self.stopping = threading.Event()
        self.wait_s = FIRST_WAIT_S
        self.published = 0.0
        self.agreement = Agreement()

    def stop(self, _signum: int = 0, _frame: FrameType | None = None) -> None:
        """Ask the loop to end; safe in a signal handler."""
        self.stopping.set()

    def install_signals(self) -> None:
        """End cleanly on SIGTERM and SIGINT."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self.stop)

    def run(self) -> None:
        """Run until stopped; returns after a clean end.

        Raises
        ------
        Fenced, TopicError, PositionGone, ConfigError
            What only an operator can mend.
        """
        while not self.stopping.is_set():
            try:
                with open_broker(self.settings) as broker:
                    self._probe(broker)
                    self._serve(broker)
            except Unavailable as why:
                self._wait(why)
            except _Stopped:
                log.info("stopped while replaying the ledger")
            except Diverged as why:
                log.warning("the model is not the learner's; folding the ledger from its start", why=str(why))

    def _probe(self, broker: Broker) -> None:
        if broker.ends(self.settings.topics.ledger).get(0, 0) == 0:
            broker.probe(self.settings.group)

    def _serve(self, broker: Broker) -> None:
        with Service(broker, self.settings, self.role, agreement=self.agreement, room=self.room) as service:
            told = saved = time.monotonic()
            ready = False
            service.follower.tick = lambda: self._live(service)
            while not self.stopping.is_set():
                try:
                    service.turn(IDLE_S)
                    time.sleep(0)  # lets the HTTP thread have its turn
                    self.wait_s = FIRST_WAIT_S
                except Unavailable as why:
                    service.abandon()
                    self._wait(why)
                now = time.monotonic()
                if service.ready != ready:
                    ready = service.ready
                    log.info("ready" if ready else "not ready", role=self.role)
                    told = 0.0
                if now - told >= FIGURES_EVERY_S:
                    told = now
                    self.publish(Figures.of(service))
                if now - saved >= self.settings.snapshot_every_s:
                    saved = now
                    service.follower.save()
            self._drain(service)

    def _live(self, service: Service) -> None:
        """Publish figures during a long replay, about once a second."""
        if self.stopping.is_set():
            raise _Stopped
        now = time.monotonic()
        if now - self.published >= FIGURES_EVERY_S:
            self.published = now
            self.publish(Figures.of(service))

    def _drain(self, service: Service) -> None:
        log.info("stopping")
        service.follower.tick = no_tick
        try:
            if service.scorer is not None:
                service.scorer.drain()
            if service.learner is not None:
                service.learner.turn(0.0)
            if service.desk is not None:
                service.desk.drain()
            service.follower.save()
        except Unavailable as why:
            log.warning(
                "the broker is away; uncommitted work will be done again at the next start", why=str(why)
            )

    def _wait(self, why: Unavailable) -> None:
        log.warning("broker away; trying again", why=str(why), seconds=self.wait_s)
        self.publish(Figures.away(str(why)))
        self.stopping.wait(self.wait_s)
        self.wait_s = min(LONGEST_WAIT_S, 2 * self.wait_s)
