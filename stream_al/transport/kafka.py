"""Kafka: the port on kafka-python. Nothing else imports ``kafka`` but ``kafka_access``.

Theory of operation
-------------------
*Reader*: a consumer without a group that reads ``read_committed`` from positions it is given. *Member*: a
consumer in a group (cooperative-sticky, heartbeats in kafka-python's own thread) and a transactional
producer, made when it is first needed. A position and its state are one thing on Kafka too: the state is
the metadata of the offset commit, and comes back with the offset in one answer.

A member's view of the group changes in ``poll`` only. New partitions are paused until the caller has
``seek``-ed each, and are announced when their committed positions could be read: while the transaction of a
predecessor is still open on them, the broker refuses to tell (``require_stable``, implied by
``read_committed``) and the announcement waits for the next ``poll``. That refusal is what makes a take-over
safe. A partition retained over a rebalance keeps its position; a lost one that comes back at once appears
in ``revoked`` *and* in ``assigned``.

The generation a commit shows to the broker is the one of the last ``poll``, not the one kafka-python holds
at the moment: a rebalance may go on in its thread, and partitions that are about to be revoked must not be
written with the new generation's right.

Order of a commit, each step bounded in time:

1. ``begin_transaction`` (local).
2. All outputs are sent.
3. The positions are sent with member id and generation (KIP-447); the broker refuses a generation that is
   not the group's. Without positions one that is already committed is sent again, or, where none exists, a
   heartbeat asks the same question.
4. Every output has been acknowledged and its offset is known. Only now the transaction may end: an output
   that fails later could make kafka-python restart its producer id and report an empty transaction as
   committed.
5. ``EndTxn(commit)``. Its answer makes the commit final; it becomes visible some milliseconds later.

A failure before 5 aborts and nothing was written: ``Rebalanced`` or ``Fenced`` if that was the reason. From
5 on the outcome is unknown: ``Unavailable``, and the member is done for. Nothing is open between two
commits.

What is taken from kafka-python's inside (hence the pin ``<3.1``) and why: its transaction calls wait for
ever when the broker is away, so their results are awaited here (``_transaction_manager``, ``_sender``); the
positions sent in a refused commit stay queued and would go out with the next one
(``_pending_txn_offset_commits``); committed positions can be asked for in one request only below
``committed()`` (``_coordinator``); a dead connection is invisible from ``poll`` (``_manager``).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import Event
from typing import Any, TypeVar

from kafka import (
    ConsumerRebalanceListener,
    IsolationLevel,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    OffsetSpec,
)
from kafka import TopicPartition as _KafkaPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource
from kafka.codec import has_zstd
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState

from stream_al.config import USUAL_REQUEST_BYTES
from stream_al.transport import kafka_access as access
from stream_al.transport.kafka_group import GroupMember
from stream_al.transport.port import (
    Broker,
    Fenced,
    Member,
    Output,
    Polled,
    Position,
    PositionGone,
    Reader,
    Rebalanced,
    Records,
    TopicError,
    TopicPartition,
    TopicSpec,
    TransportError,
    Unavailable,
)

T = TypeVar("T")

_CLIENTS = (KafkaConsumer, KafkaProducer, KafkaAdminClient)
_COMPRESSION = "zstd" if has_zstd() else "lz4"
_MAX_STATE = 1500  # characters; a broker refuses 4,097, and the producer with them
_CONNECT_S = 5.0  # until a broker that is not there is reported
_SILENCE_S = 5.0  # without any connection before ``poll`` says so
_SLICE_S = 0.1  # a rebalance is noticed at least this often
_ABORT_S = 2.0
_CLOSE_S = 1.0

# A predecessor's open transaction is waited for: it is no error, least of all ten times a second.
logging.getLogger("kafka.coordinator.consumer").addFilter(
    lambda record: "UnstableOffsetCommitError" not in record.getMessage()
)

# What this file decides: other values would break an invariant.
_RESERVED = frozenset({
    "acks", "auto_offset_reset", "bootstrap_servers", "enable_auto_commit", "enable_idempotence", "group_id",
    "group_instance_id", "isolation_level", "kafka_client", "key_deserializer", "key_serializer", "linger_ms",
    "partition_assignment_strategy", "partitioner", "session_timeout_ms", "transaction_timeout_ms",
    "transactional_id", "value_deserializer", "value_serializer",
})  # fmt: skip

_REFUSED = (  # the group went on without this member
    kafka_errors.CommitFailedError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.UnknownMemberIdError,
)
_FENCED = (
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.ProducerFencedError,
)
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_MISCONFIGURED = (  # no waiting helps
    kafka_errors.AuthorizationError,
    kafka_errors.IllegalSaslStateError,
    kafka_errors.InvalidSessionTimeoutError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidTransactionTimeoutError,
    kafka_errors.KafkaConfigurationError,
    kafka_errors.OffsetMetadataTooLargeError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.UnsupportedVersionError,
)


def _kafka(tp: TopicPartition) -> Any:
    return _KafkaPartition(tp.topic, tp.partition)


def _ours(tps: Iterable[Any]) -> set[TopicPartition]:
    return {TopicPartition(*tp) for tp in tps}


@contextlib.contextmanager
def _asking(bootstrap: str, what: str) -> Iterator[None]:
    """Turn kafka-python's errors into the port's."""
    try:
        yield
    except _MISCONFIGURED as exc:
        raise TopicError(f"{what}: Kafka at {bootstrap} refuses: {_text(exc)}") from exc
    except (kafka_errors.KafkaError, OSError, RuntimeError) as exc:
        raise Unavailable(f"{what}: Kafka at {bootstrap} does not answer: {_text(exc)}") from exc


def _text(exc: BaseException | None) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


class KafkaBroker(Broker):
    """A Kafka cluster.

    Parameters
    ----------
    bootstrap
        ``host:port``, several separated by commas.
    session_timeout_ms
        A member that was silent for so long is out of its group.
    transaction_timeout_ms
        The broker aborts a commit that takes longer: so long a dead process can hide what others wrote.
    client
        Given to each kafka-python client that knows the key (``security_protocol``, ``sasl_*``, ...).
    request_timeout_s
        Upper bound of any single question to the broker.
    replication_factor
        Of topics that are created; -1 is the cluster's default.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        session_timeout_ms: int = 15_000,
        transaction_timeout_ms: int = 10_000,
        client: Mapping[str, Any] | None = None,
        request_timeout_s: float = 30.0,
        replication_factor: int = -1,
        **ignored: Any,  # noqa: ARG002 - settings of the other transport
    ) -> None:
        self.bootstrap = bootstrap
        self.session_timeout_ms = session_timeout_ms
        self.transaction_timeout_ms = transaction_timeout_ms
        self.request_timeout_s = request_timeout_s
        self.replication_factor = replication_factor
        self._client = dict(client or {})
        self._appender: Any = None
        self._lookups: dict[str, _Feed] = {}
        self._existing: set[str] = set()
        self._closed = Event()
        _check_client(self._client)
        self._admin_client: Any = self.open(KafkaAdminClient)

    # topics ------------------------------------------------------------------------------------------------

    def ensure(self, topics: Sequence[TopicSpec], *, create: bool) -> None:
        found = self._describe([spec.name for spec in topics])
        missing = [spec for spec in topics if spec.name not in found]
        if missing and create:
            self._create(missing)
        elif missing:
            raise TopicError(_missing(self.bootstrap, missing, "topics are missing"))
        self._existing.update(spec.name for spec in topics)
        problems = self._wrong([spec for spec in topics if spec.name in found], found)
        if problems:
            raise TopicError("\n".join(["topics are configured wrongly; run:", *problems]))

    def _create(self, missing: Sequence[TopicSpec]) -> None:
        wanted = {
            spec.name: {
                "num_partitions": spec.partitions,
                "replication_factor": self.replication_factor,
                "configs": {key: str(value) for key, value in spec.config.items()},
            }
            for spec in missing
        }
        answer = self._admin("create topics", lambda admin: admin.create_topics(wanted, raise_errors=False))
        failed = {
            topic["name"]: kafka_errors.for_code(topic["error_code"])
            for topic in answer["topics"]
            if kafka_errors.for_code(topic["error_code"])
            not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError)
        }
        if failed:
            reasons = ", ".join(f"{name}: {error.__name__}" for name, error in failed.items())
            left = [spec for spec in missing if spec.name in failed]
            raise TopicError(_missing(self.bootstrap, left, f"topics could not be created ({reasons})"))
        timeout_ms = self.request_timeout_s * 1000
        self._admin("create topics", lambda admin: admin.wait_for_topics(list(wanted), timeout_ms=timeout_ms))

    def _wrong(self, specs: Sequence[TopicSpec], found: Mapping[str, int]) -> list[str]:
        """Return one command per setting that is not what a spec asks for."""
        settings = self._settings([spec.name for spec in specs if spec.config])
        problems = []
        for spec in specs:
            if spec.exact_partitions and found[spec.name] != spec.partitions:
                problems.append(_wrong_partitions(self.bootstrap, spec, found[spec.name]))
            problems += [
                f"kafka-configs.sh --bootstrap-server {self.bootstrap} --alter --entity-type topics"
                f" --entity-name {spec.name} --add-config {key}={_quoted(value)}"
                f"  # is {settings[spec.name].get(key, 'not readable: grant DescribeConfigs')}"
                for key, value in spec.config.items()
                if not _satisfies(settings[spec.name].get(key), value)
            ]
        return problems

    def _settings(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource("TOPIC", name) for name in names]
        answer = self._admin(
            "read topic settings",
            lambda admin: admin.describe_configs(resources, config_filter="all"),
        )
        return {name: {k: v["value"] for k, v in answer["topic"][name].items()} for name in names}

    def _describe(self, names: Sequence[str]) -> dict[str, int]:
        """Return the number of partitions of each topic that exists."""
        if not names:
            return {}
        found = {}
        for topic in self._admin("look up topics", lambda admin: admin.describe_topics(list(names))):
            error = kafka_errors.for_code(topic["error_code"])
            if issubclass(error, _MISCONFIGURED):
                raise TopicError(f"topic {topic['name']}: {self.bootstrap} refuses: {error.__name__}")
            if topic["partitions"]:
                found[topic["name"]] = len(topic["partitions"])
        return found

    def partitions(self, topic: str) -> int:
        count = self._describe([topic]).get(topic, 0)
        if count:
            self._existing.add(topic)
        return count

    def _require(self, topics: Iterable[str]) -> None:
        for topic in set(topics) - self._existing:
            if not self.partitions(topic):
                raise TopicError(f"topic {topic} does not exist on Kafka at {self.bootstrap}")

    def begins(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, OffsetSpec.EARLIEST, IsolationLevel.READ_UNCOMMITTED)

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        return self._offsets(topic, OffsetSpec.LATEST, level)

    def _offsets(self, topic: str, which: Any, level: Any) -> dict[int, int]:
        count = self.partitions(topic)
        if not count:
            raise TopicError(f"topic {topic} does not exist on Kafka at {self.bootstrap}")
        wanted = {_KafkaPartition(topic, p): which for p in range(count)}
        timeout_ms = self.request_timeout_s * 1000
        answer = self._admin(
            f"offsets of {topic}",
            lambda admin: admin.list_partition_offsets(wanted, level, timeout_ms=timeout_ms),
        )
        return {tp.partition: found.offset for tp, found in sorted(answer.items())}

    # reading and writing -----------------------------------------------------------------------------------

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        return KafkaReader(self, positions)

    def join(self, group: str, topic: str, *, writer: str, fetch: bool = True) -> Member:
        self._require([topic])
        return KafkaMember(self, group, topic, writer=writer, fetch=fetch)

    def positions(self, group: str, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Position | None]:
        """Return what ``group`` has committed; a transaction still open on a partition is waited for."""
        if group not in self._lookups:
            self._lookups[group] = _Feed(self, group_id=group)
        return self._lookups[group].committed(tps, self.request_timeout_s)

    def append(self, outputs: Sequence[Output]) -> None:
        """Write records outside any group, in the order given within a partition.

        At least once: after ``Unavailable`` some of them may have been written.
        """
        self._require(output.topic for output in outputs)
        if self._appender is None:
            self._appender = self.open(KafkaProducer, compression_type=_COMPRESSION, enable_idempotence=True)
        deadline = time.monotonic() + self.request_timeout_s
        try:
            for sent in _send(self._appender, outputs):
                sent.get(max(deadline - time.monotonic(), 0.001))
        except kafka_errors.KafkaError as exc:
            appender, self._appender = self._appender, None  # it refuses everything from now on
            _close_producer(appender, now=True)
            if isinstance(exc, _TOO_LARGE):
                raise TransportError(too_large(outputs, _text(exc))) from exc
            with _asking(self.bootstrap, "append"):
                raise

    def probe(self, group: str) -> None:
        # any topic will do; the broker's own one exists as soon as a group was looked for
        topic = next(iter(self._existing), "__consumer_offsets")
        side, tp = f"{group}-probe", TopicPartition(topic, 0)
        state = "".join(chr(33 + i % 94) for i in range(_MAX_STATE))
        deadline = time.monotonic() + self.request_timeout_s
        found = None
        with contextlib.closing(_Feed(self, group_id=side)) as feed:
            while found is None and time.monotonic() < deadline:  # another process may be deleting the group
                feed.overwrite({tp: Position(0, state)})
                found = feed.committed([tp], self.request_timeout_s)[tp]
        with contextlib.suppress(TransportError):
            self._admin("probe", lambda admin: admin.delete_groups([side]))
        if found != Position(0, state):
            raise TopicError(
                f"Kafka at {self.bootstrap} does not keep {_MAX_STATE} characters of metadata with an offset:"
                " set offset.metadata.max.bytes=4096 on the brokers"
            )

    # clients -----------------------------------------------------------------------------------------------

    def open(self, kind: Any, **settings: Any) -> Any:
        """Return a connected kafka-python client; nothing of it is left behind when the broker is away."""
        opened: list[Any] = []

        def network(**options: Any) -> Any:
            opened.append(access.connections(**options))
            return opened[-1]

        request_ms = int(self.request_timeout_s * 1000)
        common = {
            "client_id": "stream-al",
            "request_timeout_ms": request_ms,
            "bootstrap_timeout_ms": int(min(_CONNECT_S, self.request_timeout_s) * 1000),
            "max_block_ms": request_ms,
            "reconnect_backoff_max_ms": 1000,
            "metadata_max_age_ms": 30_000,  # new partitions are noticed after this time
            "max_request_size": USUAL_REQUEST_BYTES,
            "batch_size": 524_288,  # what a commit writes to a partition: each further batch waits for the one before
            "max_partition_fetch_bytes": 4 << 20,  # a fetch of less holds fewer samples than a commit
            "fetch_max_wait_ms": min(200, request_ms // 2),
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
            **self._client,
        }
        config = {key: value for key, value in common.items() if key in kind.DEFAULT_CONFIG}
        servers = [address.strip() for address in self.bootstrap.split(",") if address.strip()]
        with _asking(self.bootstrap, "connect"):
            try:
                return kind(bootstrap_servers=servers, kafka_client=network, **{**settings, **config})
            except BaseException as exc:
                reasons = [access.refusal(client) for client in opened]
                for client in opened:
                    client.close()
                for reason, certain in reasons:
                    if reason and isinstance(exc, kafka_errors.KafkaError):
                        error = TopicError if certain else Unavailable
                        raise error(f"Kafka at {self.bootstrap} lets nobody in: {reason}") from exc
                raise

    def _admin(self, what: str, call: Callable[[Any], T]) -> T:
        """Ask the admin client, again with a new one while the broker's answer is 'later'."""
        deadline = time.monotonic() + self.request_timeout_s
        while True:
            if self._admin_client is None:
                self._admin_client = self.open(KafkaAdminClient)
            try:
                return call(self._admin_client)
            except kafka_errors.KafkaError as exc:
                later = isinstance(exc, kafka_errors.RetriableError) and time.monotonic() < deadline
                self._close_admin()
                if not later or self._closed.wait(_SLICE_S):
                    with _asking(self.bootstrap, what):
                        raise

    def _close_admin(self) -> None:
        admin, self._admin_client = self._admin_client, None
        if admin is not None:
            with contextlib.suppress(Exception):
                admin.close()

    def close(self) -> None:
        self._closed.set()
        self._close_admin()
        appender, self._appender = self._appender, None
        if appender is not None:
            _close_producer(appender, now=False)
        for feed in self._lookups.values():
            feed.close()
        self._lookups.clear()


class _Feed:
    """A consumer whose waits are bounded and whose silence is noticed."""

    def __init__(self, broker: KafkaBroker, **settings: Any) -> None:
        self._broker = broker
        self.consumer = broker.open(
            KafkaConsumer,
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            **settings,
        )
        self._silent_since: float | None = None

    def poll(self, max_records: int, timeout_s: float) -> Records:
        """Return at once with records, else after ``timeout_s``."""
        self._keep_answered_join()
        with _asking(self._broker.bootstrap, "poll"):
            try:
                found = self.consumer.poll(timeout_ms=timeout_s * 1000, max_records=max_records)
            except kafka_errors.OffsetOutOfRangeError as exc:
                self._gone(exc.args[0])
            except kafka_errors.LogTruncationError as exc:
                raise PositionGone(f"the log was cut before a position already read: {exc}") from exc
        if not found:
            self._notice_silence()
        return {TopicPartition(*tp): records for tp, records in found.items()}

    def renew(self, timeout_s: float) -> None:
        """Heartbeat and rebalance without reading."""
        self._keep_answered_join()
        with _asking(self._broker.bootstrap, "poll"):
            self.consumer._coordinator.poll(timeout_ms=timeout_s * 1000)  # noqa: SLF001
        self._notice_silence()

    def _keep_answered_join(self) -> None:
        """Hand kafka-python the answer to a join that came between two polls.

        It would throw the answer away and join once more, and so would all the others: a group whose
        members poll in turn would not come to rest.
        """
        coordinator = self.consumer._coordinator  # noqa: SLF001
        join = coordinator._join_task  # noqa: SLF001
        if join is not None and join.is_done and join.succeeded() and coordinator.rebalance_in_progress():
            coordinator._join_task = _Answered(join.value)  # noqa: SLF001

    def subscribe(self, topic: str, listener: Any) -> None:
        """Subscribe, and know the topic before the first join.

        kafka-python drops the wish for a new topic when a metadata request is under way, and a member elected
        leader without metadata assigns nothing to anybody until ``metadata_max_age_ms`` have passed.
        """
        deadline = time.monotonic() + self._broker.request_timeout_s
        self.consumer.subscribe([topic], listener=listener)
        cluster, manager = self.consumer._cluster, self.consumer._manager  # noqa: SLF001
        with _asking(self._broker.bootstrap, f"metadata of {topic}"):
            while True:
                left_ms = (deadline - time.monotonic()) * 1000
                self.consumer._net.run(manager.wait_for, cluster.request_update(), left_ms)  # noqa: SLF001
                if cluster.partitions_for_topic(topic):
                    return

    def committed(
        self, tps: Iterable[TopicPartition], timeout_s: float
    ) -> dict[TopicPartition, Position | None]:
        """Ask for the group's positions in one request."""
        wanted = {tp: _kafka(tp) for tp in tps}
        coordinator = self.consumer._coordinator  # noqa: SLF001
        with _asking(self._broker.bootstrap, f"positions of group {coordinator.group_id}"):
            try:
                found = coordinator.fetch_committed_offsets(list(wanted.values()), timeout_s * 1000)
            except kafka_errors.KafkaTimeoutError:
                # an answer that is still on its way must not be taken for the answer to a later question
                coordinator._offset_fetch_futures.clear()  # noqa: SLF001
                raise missing_positions(self._broker, coordinator.group_id, timeout_s) from None
        return {tp: _position(found.get(tp)) for tp in wanted}

    def overwrite(self, positions: Mapping[TopicPartition, Position]) -> None:
        """Commit positions as nobody's member; only for a group without members."""
        with _asking(self._broker.bootstrap, "keep a state with an offset (offset.metadata.max.bytes)"):
            self.consumer.commit(_offsets(positions), timeout_ms=self._broker.request_timeout_s * 1000)

    def _gone(self, offsets: Mapping[Any, int]) -> None:
        lines = [
            retention_advice(self._broker, TopicPartition(*tp), offset) for tp, offset in offsets.items()
        ]
        raise PositionGone("\n".join(lines))

    def _notice_silence(self) -> None:
        connections = list(self.consumer._manager._conns.values())  # noqa: SLF001
        if any(connection.connected for connection in connections):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()
        elif time.monotonic() - self._silent_since > min(_SILENCE_S, self._broker.request_timeout_s):
            raise silence(self._broker)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.consumer.close(autocommit=False, timeout_ms=_CLOSE_S * 1000)
        with contextlib.suppress(Exception):
            self.consumer._client.close()  # noqa: SLF001 - left open when leaving the group failed


class _Answered:
    """An answer in the shape of a future that kafka-python still waits for."""

    is_done = False

    def __init__(self, value: Any) -> None:
        self.value = value

    def add_callback(self, take: Callable[[Any], object]) -> None:
        take(self.value)

    def add_errback(self, take: Callable[[BaseException], object]) -> None:
        """Never called: the answer is there."""


class KafkaReader(Reader):
    """Reads given partitions; see the port."""

    def __init__(self, broker: KafkaBroker, positions: Mapping[TopicPartition, int]) -> None:
        self._broker = broker
        self._feed = _Feed(broker)
        self.seek(positions)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        self._broker._require(tp.topic for tp in positions)  # noqa: SLF001
        wanted = {_kafka(tp): offset for tp, offset in positions.items()}
        consumer = self._feed.consumer
        if wanted:
            consumer.assign(list(consumer.assignment() | set(wanted)))
        for tp, offset in wanted.items():
            consumer.seek(tp, offset)

    def poll(self, max_records: int, timeout_s: float) -> Records:
        deadline = time.monotonic() + timeout_s
        if not self._feed.consumer.assignment():
            Event().wait(timeout_s)
            return {}
        while True:
            left = deadline - time.monotonic()
            records = self._feed.poll(max_records, max(min(left, 1.0), 0.0))
            if records or left <= 0:
                return records

    def position(self, tp: TopicPartition) -> int:
        with _asking(self._broker.bootstrap, f"position of {tp}"):
            timeout_ms = self._broker.request_timeout_s * 1000
            return int(self._feed.consumer.position(_kafka(tp), timeout_ms=timeout_ms))

    def close(self) -> None:
        self._feed.close()


class _Assignor(CooperativeStickyAssignor):  # type: ignore[misc] # kafka has no stubs
    """Claims no partitions after the membership was lost, and remembers the loss.

    When the broker has put a member out and a join is the first to hear of it, kafka-python joins as somebody
    new, claims what it had, and keeps what it is given of that as if it had never been away.
    """

    lost = False
    consumer: Any = None

    def metadata(self, topics: Any) -> Any:
        if self.consumer.group_metadata().generation_id < 0:
            self.lost = True
            self.member_assignment = None
        return super().metadata(topics)


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc] # kafka has no stubs
    """Notes what the group did, in order, and keeps new partitions still. Called in kafka-python's thread."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.changes: list[tuple[str, set[TopicPartition]]] = []

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        for tp in assigned:
            self._consumer.pause(tp)
            self._consumer.seek(
                tp, 0
            )  # never read there: without it kafka-python looks for a position itself
        self.changes.append(("assigned", _ours(assigned)))

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self.changes.append(("revoked", _ours(revoked)))

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self.changes.append(("revoked", _ours(lost)))


class KafkaMember(GroupMember):
    """A member of a group and its transactional producer; see the port."""

    def __init__(self, broker: KafkaBroker, group: str, topic: str, *, writer: str, fetch: bool) -> None:
        super().__init__(broker)
        self._fetch = fetch
        self._assignor = _Assignor()
        self._feed = _Feed(
            broker,
            group_id=group,
            partition_assignment_strategy=[self._assignor],
            session_timeout_ms=broker.session_timeout_ms,
            heartbeat_interval_ms=max(broker.session_timeout_ms // 5, 100),
            max_poll_interval_ms=300_000,
        )
        self._assignor.consumer = self._feed.consumer
        self._rebalances = _Rebalances(self._feed.consumer)
        self._feed.subscribe(topic, self._rebalances)
        self._group: Any = None  # membership as of the last poll
        self._writer = _Writer(broker, writer)

    def fence_predecessors(self) -> None:
        self._writer.start()

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            records: Records = {}
            if max_records:
                records = self._feed.poll(max_records, min(left, _SLICE_S))
            else:
                self._feed.renew(left)
            revoked = self._note_changes()
            records = {tp: found for tp, found in records.items() if tp in self._owned}
            assigned = self._announce(max(left, 1.0))
            if records or revoked or assigned or not max_records or left <= 0:
                return Polled(records, assigned, frozenset(revoked))

    def _note_changes(self) -> set[TopicPartition]:
        """Follow what the group did during the poll; return the partitions taken away."""
        changes, self._rebalances.changes = self._rebalances.changes, []
        revoked = self._follow(changes)
        membership = self._feed.consumer.group_metadata()
        if membership.state == MemberState.STABLE:
            self._group = membership
            if self._assignor.lost:  # what is still here was somebody else's in the meantime, perhaps
                self._assignor.lost = False
                kept = set(self._owned)
                revoked |= self._drop(kept)
                self._feed.consumer.pause(*map(_kafka, kept))
                self._expect(kept)
        return revoked

    def _ask(self, tps: Iterable[TopicPartition], timeout_s: float) -> dict[TopicPartition, Position | None]:
        return self._feed.committed(tps, timeout_s)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        if tp not in self._owned:
            raise ValueError(f"{tp} is not owned by this member")
        self._feed.consumer.seek(_kafka(tp), offset)
        if self._fetch:
            self._feed.consumer.resume(_kafka(tp))

    def commit(
        self, outputs: Sequence[Output], positions: Mapping[TopicPartition, Position]
    ) -> dict[TopicPartition, int]:
        if not outputs and not positions:
            return {}
        if self._group is None or self._group.generation_id < 0:
            raise Rebalanced(
                "this member has not joined its group yet"
            )  # Kafka would not check such a commit
        self._broker._require(output.topic for output in outputs)  # noqa: SLF001
        try:
            written = self._writer.commit(outputs, positions or self._proof(), self._group)
        except Rebalanced:
            self._feed.consumer._coordinator.request_rejoin()  # noqa: SLF001 - the next poll finds out at once
            raise
        self._committed.update(positions)
        return written

    def _check_generation(self) -> None:
        coordinator = self._feed.consumer._coordinator  # noqa: SLF001
        try:
            if self._feed.consumer.group_metadata().generation_id != self._group.generation_id:
                raise Rebalanced("the group has a new generation")
            self._feed.consumer._net.run(coordinator._send_heartbeat_request)  # noqa: SLF001
        except kafka_errors.RebalanceInProgressError:
            pass  # the generation still stands until all have joined
        except _REFUSED as exc:
            raise Rebalanced(f"the group refuses this member: {_text(exc)}") from exc
        except kafka_errors.KafkaError as exc:
            raise Unavailable(f"Kafka at {self._broker.bootstrap} does not answer: {_text(exc)}") from exc

    def close(self) -> None:
        self._writer.close()
        self._feed.close()


class _Writer:
    """A transactional producer with every wait bounded."""

    def __init__(self, broker: KafkaBroker, name: str) -> None:
        self._broker = broker
        self._name = name
        self._producer: Any = None
        self._started = False
        self._broken = False
        self._pause = Event()
        self._timeout_s = min(broker.request_timeout_s, broker.transaction_timeout_ms / 1000)

    def start(self) -> None:
        """Open the producer and end what an earlier one of the same name left open."""
        if self._started:
            return
        self._check_whole()
        if self._producer is None:
            self._producer = self._broker.open(
                KafkaProducer,
                transactional_id=self._name,
                transaction_timeout_ms=self._broker.transaction_timeout_ms,
                enable_idempotence=True,
                acks="all",
                compression_type=_COMPRESSION,
                linger_ms=0,
                retry_backoff_ms=20,  # two commits in a row meet CONCURRENT_TRANSACTIONS and wait for so long
            )
        try:
            with _asking(self._broker.bootstrap, f"take over the right to write of {self._name}"):
                self._producer.init_transactions()
        except Unavailable as exc:
            if isinstance(exc.__cause__, _FENCED):
                raise self._fenced(exc.__cause__) from exc
            self._broken = not isinstance(exc.__cause__, kafka_errors.KafkaTimeoutError)
            raise
        self._started = True

    def commit(
        self, outputs: Sequence[Output], positions: Mapping[TopicPartition, Position], group: Any
    ) -> dict[TopicPartition, int]:
        offsets = _offsets(positions)
        self.start()
        self._check_whole()
        began = time.monotonic()
        deadline = began + self._timeout_s
        manager = self._producer._transaction_manager  # noqa: SLF001
        ending = False
        try:
            self._producer.begin_transaction()
            sent = _send(self._producer, outputs)
            if offsets:
                self._wait(manager.send_offsets_to_transaction(offsets, group), deadline)
            written = self._acknowledged(sent, deadline)
            ending = True
            self._wait(manager.begin_commit(), deadline)
        except Exception as exc:  # whatever it is, the transaction must not stay open
            cause = manager.last_error or exc
            raise self._failed(cause, outputs, ending=ending, lasted_s=time.monotonic() - began) from exc
        except BaseException:
            self._broken = True  # interrupted in the middle: the transaction is left to its timeout
            raise
        return written

    def _wait(self, result: Any, deadline: float) -> None:
        self._producer._sender.wakeup()  # noqa: SLF001
        if not result.wait(timeout_ms=max(deadline - time.monotonic(), 0.001) * 1000):
            raise kafka_errors.KafkaTimeoutError("no answer in time")

    @staticmethod
    def _acknowledged(sent: Sequence[Any], deadline: float) -> dict[TopicPartition, int]:
        written: dict[TopicPartition, int] = {}
        for future in sent:
            record = future.get(max(deadline - time.monotonic(), 0.001))
            tp = TopicPartition(record.topic, record.partition)
            written[tp] = max(written.get(tp, 0), record.offset + 1)
        return written

    def _failed(
        self, cause: BaseException, outputs: Sequence[Output], *, ending: bool, lasted_s: float
    ) -> Exception:
        """Abort where that is possible, and return the error for the caller."""
        where = f"commit of {self._name} on Kafka at {self._broker.bootstrap}"
        if isinstance(cause, _FENCED) and lasted_s < self._timeout_s:
            return self._fenced(cause)
        if ending or isinstance(cause, _FENCED):
            self._broken = True
            return Unavailable(f"{where}: outcome unknown after {lasted_s:.1f} s: {_text(cause)}")
        if isinstance(cause, kafka_errors.KafkaTimeoutError):
            self._broken = (
                True  # nobody would hear the abort; the successor's start or the broker's clock ends it
            )
        else:
            self._abort()
        if isinstance(cause, _REFUSED):
            return Rebalanced(f"{where} was refused: {_text(cause)}")
        if isinstance(cause, _TOO_LARGE):
            return TransportError(too_large(outputs, _text(cause)))
        if isinstance(cause, _MISCONFIGURED):
            return TopicError(f"{where} is not possible: {_text(cause)}")
        if isinstance(cause, kafka_errors.KafkaError | OSError):
            return Unavailable(f"{where} failed after {lasted_s:.1f} s: {_text(cause)}")
        return TransportError(f"{where}: {_text(cause)}")

    def _abort(self) -> None:
        manager = self._producer._transaction_manager  # noqa: SLF001
        deadline = time.monotonic() + _ABORT_S
        try:
            self._wait(manager.begin_abort(), deadline)
            # kafka-python would send the refused positions along with those of the next commit
            manager._pending_txn_offset_commits.clear()  # noqa: SLF001
            # a refused batch leaves a gap in the sequence numbers; a new epoch starts them anew
            manager.bump_producer_id_and_epoch()
            self._producer._sender.wakeup()  # noqa: SLF001
            while manager.is_bumping_epoch() and time.monotonic() < deadline:
                self._pause.wait(0.005)
            self._broken = manager.is_bumping_epoch()
        except Exception:  # noqa: BLE001 - the broker ends it after the transaction timeout, or our successor does
            self._broken = True

    def _fenced(self, cause: BaseException) -> Fenced:
        self._broken = True
        return Fenced(f"another process writes as {self._name} now: {_text(cause)}")

    def _check_whole(self) -> None:
        if self._broken:
            raise Unavailable(f"{self._name} can no longer write: close this member and join again")

    def close(self) -> None:
        producer, self._producer, self._started = self._producer, None, False
        if producer is not None:
            _close_producer(producer, now=self._broken)
        self._broken = True


def _position(found: Any) -> Position | None:
    # confluent-kafka sends the zero that ends a text in C along
    return None if found is None else Position(found.offset, (found.metadata or "").rstrip("\0"))


def _send(producer: Any, outputs: Sequence[Output]) -> list[Any]:
    return [producer.send(out.topic, out.value, out.key, list(out.headers), out.partition) for out in outputs]


def _close_producer(producer: Any, *, now: bool) -> None:
    """Close within ``_CLOSE_S`` even when the broker is dead; ``now`` drops what was not sent."""
    sender = producer._sender  # noqa: SLF001
    if now:
        sender.force_close()
    with contextlib.suppress(Exception):  # it raises, and leaves its thread running, when it cannot flush
        producer.close(timeout=_CLOSE_S)
    sender.force_close()
    producer._closed = True  # noqa: SLF001 - or its destructor tries once more
    producer._unregister_cleanup()  # noqa: SLF001


def missing_positions(broker: KafkaBroker, group: str, timeout_s: float) -> Unavailable:
    """Return what to raise when a group's positions did not come in time."""
    return Unavailable(
        f"positions of group {group}: no answer in {timeout_s:.0f} s."
        " If it stays so, a transaction may hang in the broker: kafka-transactions.sh"
        f" --bootstrap-server {broker.bootstrap} find-hanging --broker-id ID"
    )


def retention_advice(broker: KafkaBroker, tp: TopicPartition, offset: int) -> str:
    """Say of a position that is not retained what is, and what to do."""
    begin = broker.begins(tp.topic).get(tp.partition)
    end = broker.ends(tp.topic, committed=False).get(tp.partition)
    return (
        f"{tp}@{offset} is not retained: Kafka at {broker.bootstrap} holds"
        f" {begin} to {end}. Raise retention.ms and retention.bytes of {tp.topic}, then move this"
        " position or restore the records; if the topic was made anew, the ledger must be too."
    )


def silence(broker: KafkaBroker) -> Unavailable:
    """Return what to raise when there was no connection for a while."""
    return Unavailable(f"Kafka at {broker.bootstrap} does not answer: no connection")


def state_checked(positions: Mapping[TopicPartition, Position]) -> None:
    """Refuse a state that could not travel with its position."""
    for tp, position in positions.items():
        if len(position.state) > _MAX_STATE or not position.state.isascii():
            raise ValueError(f"{tp}: a state is at most {_MAX_STATE} ASCII characters")


def _offsets(positions: Mapping[TopicPartition, Position]) -> dict[Any, Any]:
    state_checked(positions)
    return {_kafka(tp): OffsetAndMetadata(at.offset, at.state, -1) for tp, at in positions.items()}


def too_large(outputs: Sequence[Output], why: str) -> str:
    """Say which record is too large, and what to raise."""
    largest = max(outputs, key=lambda out: len(out.value or b""))
    return (
        f"a record for {largest.topic} of {len(largest.value or b'')} bytes is too large ({why}):"
        " raise max.message.bytes of the topic, and above 5 MB broker.client.max_request_size"
    )


def _check_client(client: Mapping[str, Any]) -> None:
    unknown = sorted(key for key in client if not any(key in kind.DEFAULT_CONFIG for kind in _CLIENTS))
    if unknown:
        raise TopicError(f"broker.client: kafka-python has no setting {', '.join(unknown)}")
    reserved = sorted(_RESERVED & set(client))
    if reserved:
        raise TopicError(f"broker.client: {', '.join(reserved)} cannot be changed here")
    if wrong := access.problems(client):
        raise TopicError("\n".join(f"broker.client.{problem}" for problem in wrong))


def _satisfies(found: str | None, wanted: str | int) -> bool:
    if found is None:
        return False
    if isinstance(wanted, str):
        return sorted(found.replace(" ", "").split(",")) == sorted(wanted.replace(" ", "").split(","))
    return found == "-1" or (wanted != -1 and int(found) >= wanted)


def _quoted(value: str | int) -> str:
    return f"[{value}]" if "," in str(value) else str(value)


def _missing(bootstrap: str, specs: Sequence[TopicSpec], why: str) -> str:
    commands = [
        f"kafka-topics.sh --bootstrap-server {bootstrap} --create"
        f" --topic {spec.name} --partitions {spec.partitions}"
        + "".join(f" --config {key}={value}" for key, value in spec.config.items())
        for spec in specs
    ]
    return "\n".join([f"{why}; run:", *commands])


def _wrong_partitions(bootstrap: str, spec: TopicSpec, found: int) -> str:
    command = f"kafka-topics.sh --bootstrap-server {bootstrap}"
    if found < spec.partitions:
        return f"{command} --alter --topic {spec.name} --partitions {spec.partitions}  # has {found}"
    return (
        f"{command} --delete --topic {spec.name}"
        f"  # has {found} partitions, must have {spec.partitions}; deletes its records, then create it anew"
    )
