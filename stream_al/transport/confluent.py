"""Kafka through confluent-kafka where the samples flow: the members of groups. Nothing else imports that library.

Theory of operation
-------------------
librdkafka, on which confluent-kafka stands, reads a record in a tenth of the time kafka-python needs. Only ``Member``
handles a stream, so only it is made anew here: a consumer in a group and a transactional producer. Readers, topics,
positions of groups that are not joined and ``append`` stay kafka-python's, for two reasons. The position of
librdkafka's consumer does not move past aborted records and markers, as ``Reader.position`` must. And what is
refused at the start (passwords, certificates, topics) is explained by one code, whichever client is chosen.

The rules of a member are those of ``kafka``; what makes them hold here:

*Announcing*: new partitions are assigned and paused in the callback, which runs inside ``poll`` only. Committed
positions are asked for with ``isolation.level=read_committed``, so that librdkafka waits for open transactions.

*The right to write* is the group's metadata at the end of the last ``poll``. librdkafka may join a new generation in
its own thread meanwhile, but gives no partition up before ``poll`` has run the callback.

*A commit without positions* sends one that stands already. Where none exists, librdkafka has no way to ask whether
this member is still in its group, so the admin client asks for the group's members.

*Delivery reports* are asked for of the last record of each partition that an output names: each costs more than the
record. A transaction of which any record failed cannot be committed, and librdkafka says why the first one did.

*Fatal errors* of the producer (fenced, or out of sequence) end the member, as does an unknown outcome.

*Time limits*: two faults of librdkafka meet when a broker comes back within seconds. ``send_offsets_to_transaction``
heeds no limit while the group's coordinator is away, and a producer that has begun anew from its bootstrap addresses
waits for a coordinator that it has dropped, for ever. So it never begins anew (``metadata.recovery.strategy``): whoever
is silent for five seconds is closed, and the next member starts from these addresses. And ``_within`` limits that
call: a broker that left the cluster can still be the one that is waited for.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, overload

from stream_al.config import USUAL_REQUEST_BYTES
from stream_al.transport.kafka import (
    KafkaBroker,
    missing_positions,
    retention_advice,
    silence,
    state_checked,
    too_large,
)
from stream_al.transport.kafka_group import GroupMember
from stream_al.transport.port import (
    Columns,
    Fenced,
    Member,
    Output,
    Polled,
    Position,
    PositionGone,
    Rebalanced,
    Record,
    Records,
    TopicError,
    TopicPartition,
    TransportError,
    Unavailable,
)

try:
    from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
    from confluent_kafka import TopicPartition as _Partition
except ImportError as _why:
    raise TopicError(
        f"broker.client.library is confluent, and confluent-kafka cannot be imported ({_why}):"
        " pip install 'stream-al[confluent]'"
    ) from _why

_SLICE_S = 0.1  # a rebalance is noticed at least this often
_SILENCE_S = 5.0  # without any connection before ``poll`` says so
_ABORT_S = 2.0
_CLOSE_S = 2.0
_SEEK_S = 5.0

# kafka-python's names of settings, which are those of broker.client, and librdkafka's.
_NAMES = {
    "client_id": "client.id",
    "client_rack": "client.rack",
    "security_protocol": "security.protocol",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_password": "ssl.key.password",
    "ssl_check_hostname": "ssl.endpoint.identification.algorithm",
    "metadata_max_age_ms": "metadata.max.age.ms",
    "max_request_size": "message.max.bytes",
}
_OF_CONSUMER = {
    "max_poll_interval_ms": "max.poll.interval.ms",
    "fetch_max_wait_ms": "fetch.wait.max.ms",
    "fetch_min_bytes": "fetch.min.bytes",
    "fetch_max_bytes": "fetch.max.bytes",
    "max_partition_fetch_bytes": "max.partition.fetch.bytes",
}
_OF_PRODUCER = {"batch_size": "batch.size", "compression_type": "compression.type"}

_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}  # noqa: SLF001
_REFUSED = {
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.UNKNOWN_MEMBER_ID,
}
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_MISCONFIGURED = {
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.INVALID_SESSION_TIMEOUT,
    KafkaError.INVALID_TRANSACTION_TIMEOUT,
    KafkaError.OFFSET_METADATA_TOO_LARGE,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._AUTHENTICATION,  # noqa: SLF001
}
_GONE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}  # noqa: SLF001
_TIMED_OUT = {KafkaError._TIMED_OUT, KafkaError._MSG_TIMED_OUT}  # noqa: SLF001


class _Record(NamedTuple):
    """One of ``_Messages``."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    message: Any

    @property
    def timestamp(self) -> int:
        return int(self.message.timestamp()[1])

    @property
    def key(self) -> bytes | None:
        return self.message.key()  # type: ignore[no-any-return]

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        return self.message.headers() or ()


_error_of: Callable[[Any], Any] = Message.error
_offset: Callable[[Any], Any] = Message.offset  # None in some errors
_partition: Callable[[Any], Any] = Message.partition
_value: Callable[[Any], bytes | None] = Message.value


class _Messages(Columns):
    """Messages of one partition: of most of them only offset and value are ever read."""

    def __init__(
        self,
        tp: TopicPartition,
        offsets: Sequence[int],
        values: Sequence[bytes | None],
        messages: Sequence[Any],
    ) -> None:
        self.tp, self.offsets, self.values, self.messages = tp, offsets, values, messages

    @classmethod
    def of(cls, tp: TopicPartition, messages: list[Any]) -> _Messages:
        return cls(tp, list(map(_offset, messages)), list(map(_value, messages)), messages)

    def __len__(self) -> int:
        return len(self.messages)

    @overload
    def __getitem__(self, i: int) -> Record: ...
    @overload
    def __getitem__(self, i: slice) -> _Messages: ...
    def __getitem__(self, i: int | slice) -> Record | _Messages:
        if isinstance(i, slice):
            return _Messages(self.tp, self.offsets[i], self.values[i], self.messages[i])
        return _Record(*self.tp, self.offsets[i], self.values[i], self.messages[i])


class ConfluentBroker(KafkaBroker):
    """A Kafka cluster whose groups are joined through librdkafka; parameters as of ``KafkaBroker``."""

    def __init__(self, bootstrap: str, **settings: Any) -> None:
        client = dict(settings.get("client") or {})
        self.native = _translated(client)  # before a connection is tried
        super().__init__(bootstrap, **settings)

    def join(self, group: str, topic: str, *, writer: str, fetch: bool = True) -> Member:
        self._require([topic])
        return ConfluentMember(self, group, topic, writer=writer, fetch=fetch)

    def has_member(self, group: str, member: str) -> bool:
        """Ask the broker whether a member is in its group."""
        answer = self._admin("members of a group", lambda admin: admin.describe_groups([group]))
        return any(found["member_id"] == member for found in answer[group]["members"])

    def settings(self, of: Mapping[str, str]) -> dict[str, Any]:
        """Return librdkafka's settings for a client that also has those ``of`` its kind."""
        common = {
            "client.id": "stream-al",
            "metadata.max.age.ms": 30_000,
            # "rebootstrap" drops its coordinators and may wait for a dropped one for ever; see ``_within``
            "metadata.recovery.strategy": "none",
            "message.max.bytes": USUAL_REQUEST_BYTES,
            "log_level": 0,  # it would write to standard error
        }
        own = {
            key: value for key, value in self.native.items() if key in _NAMES.values() or key in of.values()
        }
        return {**common, **own, "bootstrap.servers": self.bootstrap}


def _translated(client: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by librdkafka's names."""
    names = {**_NAMES, **_OF_CONSUMER, **_OF_PRODUCER}
    unknown = sorted(set(client) - set(names))
    if unknown:
        raise TopicError(
            f"broker.client: {', '.join(unknown)} has no counterpart for library: confluent,"
            f" which knows {', '.join(names)}"
        )
    found = {names[key]: value for key, value in client.items() if value is not None}
    if (checked := found.get("ssl.endpoint.identification.algorithm")) is not None:
        found["ssl.endpoint.identification.algorithm"] = "https" if checked else "none"
    return found


def _error(exc: BaseException) -> Any:
    """Return librdkafka's error in an exception, None if there is none."""
    first = exc.args[0] if exc.args else None
    return first if isinstance(exc, KafkaException) and isinstance(first, KafkaError) else None


def _text(error: Any) -> str:
    return f"{error.name()}: {error.str()}" if isinstance(error, KafkaError) else repr(error)


class _Connections:
    """Knows from librdkafka's statistics whether any broker is connected."""

    def __init__(self) -> None:
        self.silent_since: float | None = None

    def __call__(self, statistics: str) -> None:
        brokers = json.loads(statistics)["brokers"].values()
        if any(broker["state"] == "UP" for broker in brokers):
            self.silent_since = None
        elif self.silent_since is None:
            self.silent_since = time.monotonic()


class ConfluentMember(GroupMember):
    """A member of a group and its transactional producer; see the port."""

    _broker: ConfluentBroker

    def __init__(self, broker: ConfluentBroker, group: str, topic: str, *, writer: str, fetch: bool) -> None:
        super().__init__(broker)
        self._group_id, self._topic, self._fetch = group, topic, fetch
        self._connections = _Connections()
        self._changes: list[tuple[str, set[TopicPartition]]] = []  # what the group did since the last poll
        self._next: dict[TopicPartition, int] = {}  # to be read; of partitions that were sought only
        self._held: list[Any] = []  # came while nothing was wanted
        self._group = b""  # as of the last poll
        most_ms = max(300_000, broker.session_timeout_ms)
        self._consumer: Any = Consumer({
            "fetch.wait.max.ms": 200,
            "max.poll.interval.ms": most_ms,
            "queued.max.messages.kbytes": 16_384,
            "fetch.queue.backoff.ms": 10,  # 1,000 by default: so long nothing is fetched after the queue was full
            **broker.settings(_OF_CONSUMER),
            "group.id": group,
            "partition.assignment.strategy": "cooperative-sticky",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            "session.timeout.ms": broker.session_timeout_ms,
            "heartbeat.interval.ms": max(broker.session_timeout_ms // 5, 100),
            "statistics.interval.ms": 1_000,
            "stats_cb": self._connections,
        })  # fmt: skip
        self._consumer.subscribe(
            [topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )
        self._writer = _Writer(broker, writer)

    # the group, in callbacks that run inside ``poll``

    def _on_assign(self, consumer: Any, assigned: Sequence[Any]) -> None:
        # never read at 0: it is paused until it is sought, and without it librdkafka looks for a position itself
        consumer.incremental_assign([_Partition(tp.topic, tp.partition, 0) for tp in assigned])
        consumer.pause([_Partition(tp.topic, tp.partition) for tp in assigned])
        self._changes.append(("assigned", _ours(assigned)))

    def _on_revoke(self, consumer: Any, revoked: Sequence[Any]) -> None:
        consumer.incremental_unassign(revoked)
        self._changes.append(("revoked", _ours(revoked)))

    def fence_predecessors(self) -> None:
        self._writer.start()

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            records = self._read(max_records, min(left, _SLICE_S))
            revoked = self._note_changes()
            for tp in revoked:
                records.pop(tp, None)
            assigned = self._announce(max(left, 1.0))
            if records or revoked or assigned or left <= 0:
                return Polled(records, assigned, frozenset(revoked))

    def _read(self, max_records: int, timeout_s: float) -> Records:
        try:
            if not max_records:
                message = self._consumer.poll(timeout_s)
                if message is not None and message.error() is None:
                    self._held.append(message)
                elif message is not None:
                    self._trouble(message)
                self._notice_silence()
                return {}
            found, self._held = self._held[:max_records], self._held[max_records:]
            found += self._consumer.consume(max_records - len(found), 0) if len(found) < max_records else []
            if not found and (message := self._consumer.poll(timeout_s)) is not None:
                # consume() waits until it has all it was asked for: wait for the first one, take what is there
                found = [message, *(self._consumer.consume(max_records - 1, 0) if max_records > 1 else [])]
        except KafkaException as exc:
            raise self._unanswered("poll", exc) from exc
        if not found:
            self._notice_silence()
        return self._sorted(found)

    def _sorted(self, messages: Sequence[Any]) -> Records:
        if any(map(_error_of, messages)):
            for m in messages:
                if m.error() is not None:
                    self._trouble(m)
            messages = [m for m in messages if m.error() is None]
        by_partition: defaultdict[int, list[Any]] = defaultdict(list)
        for partition, run in groupby(messages, _partition):
            by_partition[partition] += run
        records: Records = {}
        for partition, of_partition in by_partition.items():
            tp = TopicPartition(self._topic, partition)
            if (due := self._next.get(tp)) is None:
                continue
            found = _Messages.of(tp, of_partition)
            self._next[tp] = max(due, found.offsets[-1] + 1)
            if found.offsets[0] < due:  # from before it was sought
                found = found[bisect_left(found.offsets, due) :]
            if found:
                records[tp] = found
        return records

    def _trouble(self, message: Any) -> None:
        """Raise what an error in a message's place means, unless librdkafka mends it."""
        tp, error = TopicPartition(message.topic(), message.partition()), message.error()
        if error.code() in _GONE:
            if tp in self._next:
                raise PositionGone(retention_advice(self._broker, tp, self._next[tp]))
        elif error.code() in _MISCONFIGURED:
            raise TopicError(f"poll: Kafka at {self._broker.bootstrap} refuses: {_text(error)}")
        elif error.fatal():
            raise Unavailable(f"poll: Kafka at {self._broker.bootstrap}: {_text(error)}")

    def _notice_silence(self) -> None:
        since = self._connections.silent_since
        if since is not None and time.monotonic() - since > min(_SILENCE_S, self._broker.request_timeout_s):
            raise silence(self._broker)

    def _note_changes(self) -> set[TopicPartition]:
        """Follow what the group did during the poll; return the partitions taken away."""
        changes, self._changes = self._changes, []
        revoked = self._follow(changes)
        self._group = self._consumer.consumer_group_metadata() or b""
        return revoked

    def _forget(self, tp: TopicPartition) -> None:
        self._next.pop(tp, None)
        self._held = [m for m in self._held if (m.topic(), m.partition()) != tp]

    def _ask(self, tps: Iterable[TopicPartition], timeout_s: float) -> dict[TopicPartition, Position | None]:
        wanted = list(tps)
        try:
            answer = self._consumer.committed([_Partition(*tp) for tp in wanted], timeout_s)
        except KafkaException as exc:
            if getattr(_error(exc), "code", int)() in _TIMED_OUT:
                raise missing_positions(self._broker, self._group_id, timeout_s) from None
            raise self._unanswered(f"positions of group {self._group_id}", exc) from exc
        found: dict[TopicPartition, Position | None] = {}
        for at in answer:
            if at.error is not None:
                raise Unavailable(f"positions of group {self._group_id}: {_text(at.error)}")
            none = at.offset < 0
            found[TopicPartition(at.topic, at.partition)] = (
                None if none else Position(at.offset, (at.metadata or "").rstrip("\0"))
            )
        return found

    def _unanswered(self, what: str, exc: BaseException) -> TransportError:
        error = _error(exc)
        if error is not None and error.code() in _MISCONFIGURED:
            return TopicError(f"{what}: Kafka at {self._broker.bootstrap} refuses: {_text(error)}")
        return Unavailable(
            f"{what}: Kafka at {self._broker.bootstrap} does not answer: {_text(error or exc)}"
        )

    def seek(self, tp: TopicPartition, offset: int) -> None:
        if tp not in self._owned:
            raise ValueError(f"{tp} is not owned by this member")
        self._forget(tp)
        deadline = time.monotonic() + _SEEK_S
        while True:
            try:
                self._consumer.seek(_Partition(*tp, offset))
                break
            except KafkaException as exc:  # a partition is not ready at once after its assignment
                if time.monotonic() > deadline:
                    raise self._unanswered(f"seek {tp}", exc) from exc
                threading.Event().wait(0.005)
        self._next[tp] = offset
        if self._fetch:
            self._consumer.resume([_Partition(*tp)])

    def commit(
        self, outputs: Sequence[Output], positions: Mapping[TopicPartition, Position]
    ) -> dict[TopicPartition, int]:
        if not outputs and not positions:
            return {}
        if generation(self._group) < 0:
            raise Rebalanced("this member has not joined its group yet")
        self._broker._require(output.topic for output in outputs)  # noqa: SLF001
        written = self._writer.commit(outputs, positions or self._proof(), self._group)
        self._committed.update(positions)
        return written

    def _check_generation(self) -> None:
        now = self._consumer.consumer_group_metadata() or b""
        if generation(now) != generation(self._group):
            raise Rebalanced("the group has a new generation")
        if not self._broker.has_member(self._group_id, self._consumer.memberid() or ""):
            raise Rebalanced("the group has put this member out")

    def close(self) -> None:
        self._writer.close()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaException, RuntimeError):
                _within(_CLOSE_S, consumer.close)


class _Writer:
    """A transactional producer with every wait bounded."""

    def __init__(self, broker: ConfluentBroker, name: str) -> None:
        self._broker, self._name = broker, name
        self._producer: Any = None
        self._started = False
        self._broken = False
        self._timeout_s = min(broker.request_timeout_s, broker.transaction_timeout_ms / 1000)

    def start(self) -> None:
        """Open the producer and end what an earlier one of the same name left open."""
        if self._started:
            return
        self._check_whole()
        if self._producer is None:
            self._producer = Producer({
                "compression.type": "lz4",  # zstd: 0.8 us a sample more
                **self._broker.settings(_OF_PRODUCER),
                "transactional.id": self._name,
                "transaction.timeout.ms": self._broker.transaction_timeout_ms,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,
                "partitioner": "murmur2_random",  # kafka-python's and Java's: a key has one home
            })  # fmt: skip
        try:
            self._producer.init_transactions(self._broker.request_timeout_s)
        except KafkaException as exc:
            error = _error(exc)
            if error.code() in _FENCED:
                raise self._fenced(error) from exc
            what = f"take over the right to write of {self._name}: Kafka at {self._broker.bootstrap}"
            self._broken = error.fatal()
            if error.code() in _MISCONFIGURED:
                raise TopicError(f"{what} refuses: {_text(error)}") from exc
            raise Unavailable(f"{what} does not answer: {_text(error)}") from exc
        self._started = True

    def commit(
        self, outputs: Sequence[Output], positions: Mapping[TopicPartition, Position], group: bytes
    ) -> dict[TopicPartition, int]:
        state_checked(positions)
        offsets = [_Partition(*tp, at.offset, metadata=at.state) for tp, at in positions.items()]
        self.start()
        self._check_whole()
        began = time.monotonic()
        deadline = began + self._timeout_s
        ending = False
        try:
            self._producer.begin_transaction()
            answers, last = self._sent(outputs, deadline)
            if offsets:
                self._place(offsets, group, deadline)
            written = self._acknowledged(answers, last, deadline)
            ending = True
            self._producer.commit_transaction(_left(deadline))
        except KafkaException as exc:
            lasted_s = time.monotonic() - began
            why = self._reason(_error(exc), offsets, group, deadline)
            raise self._failed(why, outputs, ending=ending, lasted_s=lasted_s) from exc
        except BaseException:
            self._broken = True  # interrupted in the middle: the transaction is left to its timeout
            raise
        return written

    def _place(self, offsets: Sequence[Any], group: bytes, deadline: float) -> None:
        """Send the positions. librdkafka heeds no time limit here while the group's coordinator is away."""
        send = self._producer.send_offsets_to_transaction
        _within(_left(deadline), lambda: send(offsets, group, _left(deadline)))

    def _reason(self, error: Any, offsets: Sequence[Any], group: bytes, deadline: float) -> Any:
        """Return why a transaction cannot go on.

        A call during which a record fails is told of the transaction's state only; the next one is told of the record.
        """
        if error.code() == KafkaError._STATE and error.txn_requires_abort():  # noqa: SLF001
            try:
                self._place(offsets, group, deadline)
            except KafkaException as exc:
                return _error(exc)
        return error

    def _sent(self, outputs: Sequence[Output], deadline: float) -> tuple[list[tuple[Any, Any]], int]:
        """Hand records over; return where their delivery is reported, and how many reports there will be."""
        answers: list[tuple[Any, Any]] = []

        def note(error: Any, message: Any) -> None:
            answers.append((error, message))

        last = {(out.topic, out.partition): i for i, out in enumerate(outputs) if out.partition is not None}
        for i, out in enumerate(outputs):
            more: dict[str, Any] = {}
            if out.headers:
                more["headers"] = list(out.headers)
            if out.partition is not None:
                more["partition"] = out.partition
                if last[out.topic, out.partition] == i:
                    more["on_delivery"] = note
            while True:
                try:
                    self._producer.produce(out.topic, out.value, out.key, **more)
                    break
                except BufferError:  # its queue is full
                    if time.monotonic() > deadline:
                        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001
                    self._producer.poll(_SLICE_S)
        return answers, len(last)

    def _acknowledged(
        self, answers: Sequence[tuple[Any, Any]], count: int, deadline: float
    ) -> dict[TopicPartition, int]:
        """Wait until all records are sent; return the offsets after the reported ones."""
        while (left := self._producer.flush(min(_left(deadline), _SLICE_S))) and time.monotonic() < deadline:
            _raise_first(answers)
        _raise_first(answers)
        if left or len(answers) < count:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
        return {TopicPartition(m.topic(), m.partition()): m.offset() + 1 for _, m in answers}

    def _failed(self, error: Any, outputs: Sequence[Output], *, ending: bool, lasted_s: float) -> Exception:
        """Abort where that is possible, and return the error for the caller."""
        where = f"commit of {self._name} on Kafka at {self._broker.bootstrap}"
        code = error.code()
        if code in _FENCED and lasted_s < self._timeout_s:
            return self._fenced(error)
        if (ending and not error.txn_requires_abort()) or code in _FENCED:
            self._broken = True
            return Unavailable(f"{where}: outcome unknown after {lasted_s:.1f} s: {_text(error)}")
        if error.fatal() or code in _TIMED_OUT:
            self._broken = True  # the successor's start or the broker's clock ends the transaction
        else:
            self._abort(renew=code in _TOO_LARGE)
        if code in _REFUSED:
            return Rebalanced(f"{where} was refused: {_text(error)}")
        if code in _TOO_LARGE:
            return TransportError(too_large(outputs, _text(error)))
        if code in _MISCONFIGURED:
            return TopicError(f"{where} is not possible: {_text(error)}")
        return Unavailable(f"{where} failed after {lasted_s:.1f} s: {_text(error)}")

    def _abort(self, *, renew: bool) -> None:
        """End the transaction; ``renew`` the producer where the broker refused a record.

        librdkafka would drop the first record after it. The right to write is held until the abort's answer, so the
        new producer takes over from nobody else.
        """
        try:
            self._producer.abort_transaction(_ABORT_S)
        except KafkaException:
            self._broken = True
            return
        if renew:
            self._producer, self._started = None, False
            try:
                self.start()
            except TransportError:
                self._broken = True

    def _fenced(self, error: Any) -> Fenced:
        self._broken = True
        return Fenced(f"another process writes as {self._name} now: {_text(error)}")

    def _check_whole(self) -> None:
        if self._broken:
            raise Unavailable(f"{self._name} can no longer write: close this member and join again")

    def close(self) -> None:
        producer, self._producer, self._started, self._broken = [self._producer], None, False, True
        if producer[0] is not None:
            with contextlib.suppress(KafkaException):
                producer[0].purge()
                _within(_CLOSE_S, producer.clear)  # it ends when nobody holds it


def _raise_first(answers: Iterable[tuple[Any, Any]]) -> None:
    """Raise the first error in delivery reports, if there is one."""
    for error, _ in answers:
        if error is not None:
            raise KafkaException(error)


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Call in a thread that is left behind when the time is over: librdkafka's own limits do not always hold.

    Raises
    ------
    KafkaException
        Of the call, or ``_TIMED_OUT``.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:  # noqa: BLE001 - raised again below
            raised.append(exc)

    thread = threading.Thread(target=run, name="librdkafka", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    if raised:
        raise raised[0]


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _ours(tps: Iterable[Any]) -> set[TopicPartition]:
    return {TopicPartition(tp.topic, tp.partition) for tp in tps}


def generation(metadata: bytes) -> int:
    """Return the generation in what librdkafka calls group metadata: a magic word, then 32 bits; -1 outside a group."""
    return int.from_bytes(metadata[7:11], sys.byteorder, signed=True) if metadata[:7] == b"CGMDv2:" else -1
