"""Bounded reads for tools: what a topic holds up to an end taken at the start, or its latest records only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from stream_al.transport.port import Broker, Record, TopicPartition, Unavailable

AT_ONCE = 1_000
LOOK_S = 0.2
STALLED_S = 30.0


def begins(broker: Broker, topic: str) -> dict[int, int]:
    """Return the first retained offset of each partition; empty if there is no such topic."""
    return broker.begins(topic) if broker.partitions(topic) else {}


def ends(broker: Broker, topic: str) -> dict[int, int]:
    """Return the offset after the last visible record of each partition; empty if there is no such topic."""
    return broker.ends(topic) if broker.partitions(topic) else {}


def scan(broker: Broker, topic: str, latest: int | None = None) -> Iterator[Record]:
    """Yield the records of a topic up to its present end, in order within each partition.

    Parameters
    ----------
    latest
        About so many, divided evenly among the partitions that hold any; None: all.

    Raises
    ------
    Unavailable
        Nothing came for half a minute.
    """
    first, last = begins(broker, topic), ends(broker, topic)
    held = {p: (first.get(p, 0), end) for p, end in last.items() if end > first.get(p, 0)}
    share = None if latest is None else -(-latest // max(1, len(held)))
    starts = {p: begin if share is None else max(begin, end - share) for p, (begin, end) in held.items()}
    yield from read(broker, topic, starts, {p: end for p, (_, end) in held.items()})


def read(broker: Broker, topic: str, starts: Mapping[int, int], stops: Mapping[int, int]) -> Iterator[Record]:
    """Yield the records of partitions from their start up to, not including, their stop.

    Raises
    ------
    Unavailable
        Nothing came for half a minute.
    """
    until = {TopicPartition(topic, p): stop for p, stop in stops.items() if starts[p] < stop}
    if not until:
        return
    moved = time.monotonic()
    with broker.reader({tp: starts[tp.partition] for tp in until}) as reader:
        while any(reader.position(tp) < stop for tp, stop in until.items()):
            found = reader.poll(AT_ONCE, LOOK_S)
            now = time.monotonic()
            moved = now if found else moved
            if now - moved > STALLED_S:
                raise Unavailable(f"nothing came from {topic} for {STALLED_S:.0f} s")
            for tp, batch in found.items():
                yield from (record for record in batch if record.offset < until[tp])
