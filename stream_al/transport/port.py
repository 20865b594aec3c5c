"""The port: what the service asks of a broker, and nothing more.

Theory of operation
-------------------
A *broker* holds topics; a topic has partitions; a partition is an append-only sequence of records with
offsets. Three kinds of access exist, and each transport implements all three:

``Reader``
    Reads chosen partitions from chosen offsets, in no group. It sees committed records only.
    The ledger's followers and the owner of the learner's inputs use it.

``Member``
    A member of a consumer group. The group divides the partitions of one topic among its members.
    ``poll`` is heartbeat, rebalance and read in one call; ``commit`` is the *only* way a machine changes the
    world: outputs and positions become visible together or not at all.

``Broker.append``
    Writes outside any group, for feeds and tools.

A position is the *next* offset to read together with an opaque ASCII state that travels with it. Order of a
member's life::

    join ─▶ poll ─▶ assigned {tp: position or None} ─▶ seek each ─▶ poll … records … ─▶ commit ─▶ …
                └─▶ revoked {tp}: uncommitted work on it must be dropped by the caller

Errors, one class per reaction of the caller:

================  =====================================================================================
``Unavailable``   the broker did not answer; wait and try again, nothing was lost
``Rebalanced``    the commit was refused; drop uncommitted work, re-read positions and state, go on
``Fenced``        another process took this one's place; end the process
``PositionGone``  a position is no longer retained; stop and tell the operator
``TopicError``    topics are missing or configured wrongly; stop and say what to run
================  =====================================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

Headers = tuple[tuple[str, bytes], ...]


class TopicPartition(NamedTuple):
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class Record(Protocol):
    """What a transport hands out. Both transports' own record types fit, so nothing is copied."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...  # milliseconds since the epoch
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Columns(Sequence[Record]):
    """Records of one partition whose offsets and values are lists already; the rest is made when somebody asks."""

    offsets: Sequence[int]
    values: Sequence[bytes | None]


def offsets_of(records: Sequence[Record]) -> Sequence[int]:
    """Return the offsets of the records of a poll."""
    return records.offsets if isinstance(records, Columns) else [r.offset for r in records]


def values_of(records: Sequence[Record]) -> Sequence[bytes | None]:
    """Return the values of the records of a poll."""
    return records.values if isinstance(records, Columns) else [r.value for r in records]


Records = dict[TopicPartition, Sequence[Record]]


@dataclass(slots=True, unsafe_hash=True)
class Output:
    """A record to write, read-only. ``partition=None`` lets the key's hash choose it."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Position:
    """The next offset to read, and the ASCII state (at most 1,500 characters) that travels with it."""

    offset: int
    state: str = ""


@dataclass(frozen=True, slots=True)
class Polled:
    """One answer of ``Member.poll``. ``assigned`` holds what the group committed for a partition, if anything."""

    records: Records = field(default_factory=dict)
    assigned: Mapping[TopicPartition, Position | None] = field(default_factory=dict)
    revoked: frozenset[TopicPartition] = frozenset()


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must be. ``config`` uses Kafka's names (``retention.ms``, ``cleanup.policy``, ...).

    A numeric ``config`` value is a minimum (-1 is unlimited and satisfies every minimum); text must be equal.
    """

    name: str
    partitions: int
    config: Mapping[str, str | int] = field(default_factory=dict)
    exact_partitions: bool = False


class TransportError(Exception):
    """Base of everything a transport raises on purpose."""


class Unavailable(TransportError):
    """The broker did not answer in time; nothing was lost, try again."""


class Rebalanced(TransportError):
    """The commit was refused because the group changed; nothing was written."""


class Fenced(TransportError):
    """Another process took this one's place; this process must end."""


class PositionGone(TransportError):
    """A position is no longer retained by the broker."""


class TopicError(TransportError):
    """Topics are missing or configured wrongly; the message holds the command to run."""


class Closeable(ABC):
    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Reader(Closeable):
    """Reads chosen partitions from chosen offsets, committed records only, in no group."""

    @abstractmethod
    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Add or move partitions. Partitions not named keep their position."""

    @abstractmethod
    def poll(self, max_records: int, timeout_s: float) -> Records:
        """Return the next records, in order within each partition; empty after ``timeout_s`` without any.

        Raises
        ------
        PositionGone
            A position lies outside what the broker still holds.
        Unavailable
            The broker did not answer.
        """

    @abstractmethod
    def position(self, tp: TopicPartition) -> int:
        """Return the next offset to be read, past anything invisible (aborted records, markers) already skipped."""


class Member(Closeable):
    """A member of a consumer group with the right to write for it."""

    @abstractmethod
    def fence_predecessors(self) -> None:
        """End the unfinished transaction of an earlier process in this place and take over its right to write."""

    @abstractmethod
    def poll(self, max_records: int, timeout_s: float) -> Polled:
        """Renew the membership and return records of the owned partitions.

        Must be called at least every few seconds; ``max_records=0`` only renews. When partitions were assigned,
        the answer holds no records of them until each has been ``seek``-ed.
        """

    @abstractmethod
    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Read an owned partition from ``offset`` on."""

    @abstractmethod
    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions owned at the last ``poll``."""

    @abstractmethod
    def positions(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Position | None]:
        """Return what this group has committed; any partition may be asked for, owned or not."""

    @abstractmethod
    def commit(
        self, outputs: Sequence[Output], positions: Mapping[TopicPartition, Position]
    ) -> dict[TopicPartition, int]:
        """Write outputs and positions, all or nothing; return the offset after them for partitions that outputs name.

        Raises
        ------
        Rebalanced
            This member's generation is no longer the group's; nothing was written.
        Fenced
            Another process writes in this place now.
        Unavailable
            The outcome is unknown or the broker is away: close this member, join again, re-read positions.
        """


class Broker(Closeable):
    """One broker, by URL."""

    @abstractmethod
    def ensure(self, topics: Sequence[TopicSpec], *, create: bool) -> None:
        """Create what is missing (if allowed) and check the rest.

        Raises
        ------
        TopicError
            With one command per problem that an operator can copy.
        """

    @abstractmethod
    def partitions(self, topic: str) -> int:
        """Return the number of partitions, 0 if the topic does not exist."""

    @abstractmethod
    def begins(self, topic: str) -> dict[int, int]:
        """Return the first retained offset of each partition."""

    @abstractmethod
    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        """Return the offset after the last record of each partition: visible ones, or all that were ever sent."""

    @abstractmethod
    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader: ...

    @abstractmethod
    def join(self, group: str, topic: str, *, writer: str, fetch: bool = True) -> Member:
        """Join ``group`` for the partitions of ``topic``.

        ``writer`` names the right to write (Kafka: the transactional id). With ``fetch=False`` the member owns
        partitions but never returns their records: ownership only.
        """

    @abstractmethod
    def positions(self, group: str, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Position | None]:
        """Return what ``group`` has committed, without joining it."""

    @abstractmethod
    def append(self, outputs: Sequence[Output]) -> None:
        """Write records outside any group; returns when they are durable."""

    @abstractmethod
    def probe(self, group: str) -> None:
        """Write a 1,500-character state with a position in the side group ``<group>-probe``, read it back, delete it.

        Raises
        ------
        TopicError
            The broker does not keep the state that travels with a position.
        """

    def maintain(self) -> None:
        """Let the broker tidy up (retention of the embedded log); brokers that do so themselves ignore it."""
        return
