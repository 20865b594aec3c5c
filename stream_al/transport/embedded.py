"""The embedded broker: a log in one SQLite file, for several processes on one machine.

Theory of operation
-------------------
Everything that Kafka would keep is a table of one file (`embedded_log`). A commit is one write transaction
that checks the right to write, appends the outputs and stores the positions, so there is nothing to
recover: what a killed process had not committed was never there.

- Groups have no coordinator: each member settles its own seat when it polls (`embedded_group`).
- Readers and members keep their offsets in memory and fetch whole batches; no cursor stays open between
  calls, or it would hold back the write-ahead log.
- Waiting is looking again after 1, 2, 4 ... 50 ms. A look at a log that nobody wrote to costs one ``PRAGMA
  data_version``, which tells of other connections' commits; this connection counts its own.
- Topics, their settings and retention are in `embedded_topics`.

One object is one connection and belongs to one thread at a time. Other threads and processes open their own
on the same file; only ``:memory:`` is shared by nobody but the readers and members of one object.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from stream_al.transport.embedded_file import FileOptions, LogFileError
from stream_al.transport.embedded_group import Seat
from stream_al.transport.embedded_log import EmbeddedRecord, Log
from stream_al.transport.embedded_topics import ensure, grow, maintain
from stream_al.transport.port import (
    Broker,
    Member,
    Output,
    Polled,
    Position,
    PositionGone,
    Reader,
    Records,
    TopicError,
    TopicPartition,
    TopicSpec,
    TransportError,
)

__all__ = ["EmbeddedBroker", "EmbeddedRecord", "LogFileError"]

APPEND_RECORDS = 10_000
STATE_CHARACTERS = 1_500
PROBE_CHARACTERS = 1_000
SHORTEST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05


class EmbeddedBroker(Broker):
    """Open the log in the file ``path``, or one in memory for ``:memory:``.

    Parameters
    ----------
    session_timeout_ms
        How long a member that does not poll keeps its partitions.
    transaction_timeout_ms
        How long a writer waits for the others, and how long one transaction may take.
    clock
        Seconds since the epoch: timestamps of records, and the ends of sessions.
    synchronous
        SQLite's setting: with ``NORMAL`` a power cut may lose the last commits, with ``FULL`` none.
    create_directories
        Make the directories above ``path``.

    Raises
    ------
    LogFileError
        The file is no log, is newer than this program, or cannot be opened.
    Unavailable
        Another process holds the file, or the disk is full.
    """

    def __init__(
        self,
        path: str,
        *,
        session_timeout_ms: int = 15_000,
        transaction_timeout_ms: int = 10_000,
        clock: Callable[[], float] = time.time,
        synchronous: str = "NORMAL",
        create_directories: bool = True,
        **ignored: object,
    ) -> None:
        del ignored  # settings of the other transport
        self._clock = clock
        self._session_timeout_ms = session_timeout_ms
        self._log = Log(FileOptions(path, synchronous, transaction_timeout_ms, clock, create_directories))

    def close(self) -> None:
        self._log.close()

    def ensure(self, topics: Sequence[TopicSpec], *, create: bool) -> None:
        ensure(self._log, topics, create=create)

    def grow(self, topic: str, partitions: int) -> None:
        """Give a topic more partitions."""
        grow(self._log, topic, partitions)

    def maintain(self) -> None:
        maintain(self._log, int(self._clock() * 1000))

    def partitions(self, topic: str) -> int:
        with self._log.transaction("DEFERRED"):
            return self._log.partitions(topic)

    def begins(self, topic: str) -> dict[int, int]:
        with self._log.transaction("DEFERRED"):
            return {tp.partition: self._log.begin(tp) for tp in self._places(topic)}

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        del committed  # what is not committed is not there
        with self._log.transaction("DEFERRED"):
            return {tp.partition: self._log.end(tp) for tp in self._places(topic)}

    def _places(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, p) for p in range(self._log.partitions(topic))]

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        return EmbeddedReader(self._log, positions)

    def join(self, group: str, topic: str, *, writer: str, fetch: bool = True) -> Member:
        seat = Seat(self._log, group, topic, writer, self._session_timeout_ms)
        return EmbeddedMember(self._log, seat, group, self._clock, fetch=fetch)

    def positions(self, group: str, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Position | None]:
        with self._log.transaction("DEFERRED"):
            return self._log.positions(group, tps)

    def append(self, outputs: Sequence[Output]) -> None:
        for start in range(0, len(outputs), APPEND_RECORDS):  # in turns with the other writers
            with self._log.transaction() as now_ms:
                self._log.append(outputs[start : start + APPEND_RECORDS], now_ms)

    def probe(self, group: str) -> None:
        side, tp = f"{group}-probe", TopicPartition("probe", 0)
        position = Position(1, "~" * PROBE_CHARACTERS)
        with self._log.transaction():
            self._log.save(side, {tp: position})
        found = self.positions(side, [tp])
        with self._log.transaction():
            self._log.forget(side)
        if found != {tp: position}:
            raise TopicError(
                f"{self._log.path} does not keep a state with its position: name a new file in broker.url"
            )


class EmbeddedReader(Reader):
    def __init__(self, log: Log, positions: Mapping[TopicPartition, int]) -> None:
        self._offsets = _Offsets(log)
        self.seek(positions)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        self._offsets.move(positions)

    def poll(self, max_records: int, timeout_s: float) -> Records:
        for _ in _looks(timeout_s):
            records = self._offsets.read(max_records)
            if records:
                return records
        return {}

    def position(self, tp: TopicPartition) -> int:
        return self._offsets.at[tp]

    def close(self) -> None:
        return


class EmbeddedMember(Member):
    def __init__(self, log: Log, seat: Seat, group: str, clock: Callable[[], float], *, fetch: bool) -> None:
        self._log, self._seat, self._group, self._clock = log, seat, group, clock
        self._offsets = _Offsets(log)
        self._fetch = fetch
        self._closed = False

    def fence_predecessors(self) -> None:
        self._seat.fence_predecessors()

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        for _ in _looks(timeout_s):
            change = self._settle_if_due()
            if change.assigned or change.revoked:
                return change
            records = self._offsets.read(max_records) if self._fetch else {}
            if records:
                return Polled(records)
        return Polled()

    def _settle_if_due(self) -> Polled:
        if not self._seat.due(int(self._clock() * 1000)):
            return Polled()
        change = self._seat.settle()
        self._offsets.drop(change.revoked)
        return change

    def seek(self, tp: TopicPartition, offset: int) -> None:
        if tp not in self._seat.owned:
            raise ValueError(
                f"{tp} is not owned by this member of group {self._group!r}; it cannot be seeked"
            )
        self._offsets.move({tp: offset})

    def assignment(self) -> frozenset[TopicPartition]:
        return self._seat.owned

    def positions(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Position | None]:
        with self._log.transaction("DEFERRED"):
            return self._log.positions(self._group, tps)

    def commit(
        self, outputs: Sequence[Output], positions: Mapping[TopicPartition, Position]
    ) -> dict[TopicPartition, int]:
        for tp, position in positions.items():
            _refuse_unportable(tp, position)
        with self._log.transaction() as now_ms:
            self._seat.check(positions, now_ms)
            self._log.require_topics(tp.topic for tp in positions)
            written = self._log.append(outputs, now_ms)
            self._log.save(self._group, positions)
        return written

    def close(self) -> None:
        if self._closed or self._log.closed:
            return
        self._closed = True
        with suppress(TransportError):  # then the seat expires by itself
            self._seat.leave()


class _Offsets:
    """Where a reader or a member stands in each of its partitions, and what comes next there."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.at: dict[TopicPartition, int] = {}
        self._turn = 0
        self._dry: tuple[int, int] | None = None  # the log's version at which there was nothing to read

    def move(self, positions: Mapping[TopicPartition, int]) -> None:
        self.at.update(positions)
        self._dry = None

    def drop(self, tps: Iterable[TopicPartition]) -> None:
        for tp in tps:
            self.at.pop(tp, None)

    def read(self, max_records: int) -> Records:
        """Return up to ``max_records``: an equal share of each partition; what one lacks goes to others."""
        if max_records <= 0 or not self.at:
            return {}
        version = self._log.version()
        if version == self._dry:
            return {}
        with self._log.transaction("DEFERRED"):
            records = self._read_fairly(max_records)
        self._dry = None if records else version
        self.at.update({tp: batch[-1].offset + 1 for tp, batch in records.items()})
        return records

    def _read_fairly(self, left: int) -> Records:
        records: dict[TopicPartition, Any] = {}  # lists
        at, hungry = dict(self.at), self._in_turn()
        while hungry and left:
            share, asked, hungry = max(1, left // len(hungry)), hungry[:left], hungry[left:]
            for tp in asked:
                batch = self._read_one(tp, at[tp], share)
                if batch:
                    records.setdefault(tp, []).extend(batch)
                    at[tp] = batch[-1].offset + 1
                if len(batch) == share:
                    hungry.append(tp)
                left -= len(batch)
        return records

    def _in_turn(self) -> list[TopicPartition]:
        """Return the partitions, beginning with another one each time."""
        self._turn = (self._turn + 1) % len(self.at)
        tps = list(self.at)
        return tps[self._turn :] + tps[: self._turn]

    def _read_one(self, tp: TopicPartition, offset: int, limit: int) -> list[EmbeddedRecord]:
        batch = self._log.fetch(tp, offset, limit)
        found = batch[0].offset if batch else self._log.end(tp)
        if found != offset:
            self._gone(tp, offset)
        return batch

    def _gone(self, tp: TopicPartition, offset: int) -> NoReturn:
        begin, end = self._log.begin(tp), self._log.end(tp)
        if offset > end:
            advice = "the log was replaced or set back: restore its file"
        else:
            advice = "raise the topic's retention.ms or retention.bytes"
        raise PositionGone(
            f"{tp}@{offset} is not in {self._log.path}, which holds {begin} up to, but not including, {end}:"
            f" {advice}, or begin anew under another group name"
        )


def _looks(timeout_s: float) -> Iterator[None]:
    """Give one turn at once and more until the time is over, with growing pauses between them."""
    deadline, pause_s = time.monotonic() + timeout_s, SHORTEST_PAUSE_S
    while True:
        yield
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _refuse_unportable(tp: TopicPartition, position: Position) -> None:
    """Refuse here what Kafka could not keep, so that it shows before production."""
    if len(position.state) > STATE_CHARACTERS or not position.state.isascii() or position.offset < 0:
        raise ValueError(
            f"{tp}@{position.offset}: a position must be at least 0, and its state of {len(position.state)}"
            f" characters ASCII and at most {STATE_CHARACTERS} long"
        )
