"""The embedded log: records and positions in and out of the file.

Theory of operation
-------------------
Work on whole batches, in C where Python lets us: rows go in by one ``executemany``, come out by column and
become records in one ``map``. Offsets of a partition have no gaps, so the record that comes back for a
position is the one asked for, or that one is gone.

All methods belong inside ``with log.transaction(...)``: what one transaction reads is one state of the log,
what it writes appears at once.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from stream_al.transport.embedded_file import FileOptions, LogFile
from stream_al.transport.port import Headers, Output, Position, TopicError, TopicPartition

MAX_PARTITIONS = 1 << 12
RECORD_OVERHEAD_BYTES = 32
FETCH_CHUNK_RECORDS = 32
FETCH_BYTES = 32 << 20

FETCH = """SELECT id - ?1, timestamp, key, value, headers FROM record
    WHERE id >= ?2 AND id < ?1 + 1099511627776 ORDER BY id LIMIT ?3"""
FIRST = "SELECT id - ?1 FROM record WHERE id >= ?1 AND id < ?1 + 1099511627776 ORDER BY id LIMIT 1"
SAVE_TAIL = """INSERT INTO tail (topic, partition, next, bytes) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET next = excluded.next, bytes = excluded.bytes"""
SAVE_POSITION = """INSERT INTO position (grp, topic, partition, offset, state) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET offset = excluded.offset, state = excluded.state"""


class EmbeddedRecord(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Topic(NamedTuple):
    id: int
    partitions: int


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Headers).decode
_record: Callable[[tuple[object, ...]], EmbeddedRecord] = partial(tuple.__new__, EmbeddedRecord)


class Log(LogFile):
    """The records and positions of one log file."""

    def __init__(self, options: FileOptions) -> None:
        super().__init__(options)
        self._turn = 0
        self._topic_ids: dict[str, int] = {}  # topics are never deleted

    # topics

    def topic(self, name: str) -> Topic:
        row = self.db.execute("SELECT id, partitions FROM topic WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise TopicError(
                f"topic {name!r} does not exist in {self.path}: {create_advice()}, or correct its name"
            )
        return Topic(*row)

    def require_topics(self, names: Iterable[str]) -> None:
        for name in set(names):
            self.topic(name)

    def base_id(self, tp: TopicPartition) -> int:
        """Return the record id of a partition's offset 0."""
        if tp.topic not in self._topic_ids:
            self._topic_ids[tp.topic] = self.topic(tp.topic).id
        return base_id(self._topic_ids[tp.topic], tp.partition)

    def partitions(self, name: str) -> int:
        row = self.db.execute("SELECT partitions FROM topic WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    # records

    def append(self, outputs: Sequence[Output], now_ms: int) -> dict[TopicPartition, int]:
        """Write the records and return the next offset of each partition written."""
        tails: dict[tuple[str, int], _Tail] = {}
        topics: dict[str, Topic] = {}
        rows = []
        for output in outputs:
            name, value, key = output.topic, output.value, output.key
            topic = topics.get(name) or topics.setdefault(name, self.topic(name))
            partition = output.partition
            if partition is None:
                partition = self._choose(key, topic.partitions)
            tail = tails.get((name, partition)) or tails.setdefault(
                (name, partition), self._tail(name, topic, partition)
            )
            headers = _pack(output.headers) if output.headers else None
            rows.append((tail.next_id, now_ms, key, value, headers))
            tail.next_id += 1
            tail.bytes += len(value or b"") + len(key or b"") + len(headers or b"") + RECORD_OVERHEAD_BYTES
        self.db.executemany(
            "INSERT INTO record (id, timestamp, key, value, headers) VALUES (?, ?, ?, ?, ?)", rows
        )
        self.db.executemany(SAVE_TAIL, [tail.row() for tail in tails.values()])
        return {TopicPartition(*place): tail.next for place, tail in tails.items()}

    def _choose(self, key: bytes | None, partitions: int) -> int:
        if partitions == 1:
            return 0
        if key is not None:
            return zlib.crc32(key) % partitions
        self._turn += 1
        return self._turn % partitions

    def _tail(self, name: str, topic: Topic, partition: int) -> _Tail:
        if not 0 <= partition < topic.partitions:
            raise TopicError(
                f"{name}-{partition} does not exist, {self.path} has {topic.partitions} partitions of it:"
                f" write to one of 0 to {topic.partitions - 1}, or create the topic with more"
            )
        row = self.db.execute(
            "SELECT next, bytes FROM tail WHERE topic = ? AND partition = ?", (topic.id, partition)
        ).fetchone()
        return _Tail(topic.id, partition, *(row or (0, 0)))

    def fetch(self, tp: TopicPartition, offset: int, limit: int) -> list[EmbeddedRecord]:
        """Return records from ``offset`` on: up to ``limit``, and not many more bytes than `FETCH_BYTES`."""
        base = self.base_id(tp)
        cursor = self.db.execute(FETCH, (base, base + offset, limit))
        rows, size = [], 0
        while size < FETCH_BYTES and (chunk := cursor.fetchmany(FETCH_CHUNK_RECORDS)):
            rows += chunk
            size += sum([len(row[3] or b"") for row in chunk])
        cursor.close()
        if not rows:
            return []
        offsets, timestamps, keys, values, packed = zip(*rows, strict=True)
        headers: Iterable[Headers] = itertools.repeat(())
        if any(packed):
            headers = [_unpack(each) if each else () for each in packed]
        topic, partition = itertools.repeat(tp.topic), itertools.repeat(tp.partition)
        columns = zip(topic, partition, offsets, timestamps, keys, values, headers, strict=False)
        return list(map(_record, columns))

    def begin(self, tp: TopicPartition) -> int:
        """Return the first retained offset, the next one when nothing is retained."""
        row = self.db.execute(FIRST, (self.base_id(tp),)).fetchone()
        return int(row[0]) if row else self.end(tp)

    def end(self, tp: TopicPartition) -> int:
        """Return the next offset that will be written."""
        row = self.db.execute(
            "SELECT next FROM tail WHERE topic = ? AND partition = ?", (self.base_id(tp) >> 52, tp.partition)
        ).fetchone()
        return int(row[0]) if row else 0

    # positions

    def positions(self, group: str, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Position | None]:
        return {tp: self._position(group, tp) for tp in tps}

    def _position(self, group: str, tp: TopicPartition) -> Position | None:
        row = self.db.execute(
            "SELECT offset, state FROM position WHERE grp = ? AND topic = ? AND partition = ?", (group, *tp)
        ).fetchone()
        return Position(*row) if row else None

    def save(self, group: str, positions: Mapping[TopicPartition, Position]) -> None:
        rows = [(group, *tp, position.offset, position.state) for tp, position in positions.items()]
        self.db.executemany(SAVE_POSITION, rows)

    def forget(self, group: str) -> None:
        self.db.execute("DELETE FROM position WHERE grp = ?", (group,))


class _Tail:
    """Where the next record of a partition goes."""

    __slots__ = ("base", "bytes", "next_id", "partition", "topic_id")

    def __init__(self, topic_id: int, partition: int, next_offset: int, size: int) -> None:
        self.topic_id, self.partition, self.bytes = topic_id, partition, size
        self.base = base_id(topic_id, partition)
        self.next_id = self.base + next_offset

    @property
    def next(self) -> int:
        return self.next_id - self.base

    def row(self) -> tuple[int, int, int, int]:
        return self.topic_id, self.partition, self.next, self.bytes


def base_id(topic_id: int, partition: int) -> int:
    """Return the id of offset 0."""
    return (topic_id << 52) + (partition << 40)


def create_advice() -> str:
    return "set broker.create_topics: true (or run: stream-al run --set broker.create_topics=true)"
