"""What `docker compose --profile demo up` adds: a data set as an endless stream, and people who answer.

A sample's id is ``demo-N``, and N alone says which row of the data set it is: whoever answers needs no memory, and both
processes can be started again at any moment.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from stream_al.codec import BadRecord, answer_bytes, decode_request
from stream_al.config import Settings, load
from stream_al.core.labels import Label
from stream_al.core.messages import Answer, Features, LabelRequest
from stream_al.datasets import stream
from stream_al.service.loop import open_broker
from stream_al.transport.port import Broker, Output, Position, Rebalanced, Record, TopicPartition, Unavailable

PREFIX = "demo-"
GROUP = "demo-annotator"
SILENCE = 0.05
WAIT_S = 2.0
Row = tuple[Features, Label]


def row_of(rows: Sequence[Row], sample_id: str) -> Row | None:
    """Return the row behind an id; None for a sample of somebody else."""
    number = sample_id.removeprefix(PREFIX)
    return rows[int(number) % len(rows)] if number != sample_id and number.isdecimal() else None


def feed(broker: Broker, settings: Settings, rows: Sequence[Row], per_s: float) -> None:
    """Send ``per_s`` samples a second; numbers begin at the clock, so that none comes twice."""
    encode = msgspec.json.Encoder().encode
    numbers = itertools.count(time.time_ns() // 1_000_000)
    block = max(1, round(per_s / 10))
    for due in _ticks(block / per_s):
        outputs = []
        for number in itertools.islice(numbers, block):
            name = f"{PREFIX}{number}"
            features, _ = rows[number % len(rows)]
            value = encode({"id": name, "features": features})
            outputs.append(Output(settings.topics.samples, value, key=name.encode()))
        broker.append(outputs)
        time.sleep(max(0.0, due - time.monotonic()))


def _ticks(every_s: float) -> Iterator[float]:
    """Yield when the next block is due; what was missed is not made up for."""
    while True:
        yield time.monotonic() + every_s


def annotate(broker: Broker, settings: Settings, rows: Sequence[Row], delay_s: float) -> None:
    """Answer each request after ``delay_s`` seconds, one in twenty not at all."""
    topic = settings.topics.labels_requested
    waiting: deque[Record] = deque()
    with broker.join(GROUP, topic, writer=GROUP) as member:
        member.fence_predecessors()
        while True:
            polled = member.poll(500, 0.2)
            waiting = deque(r for r in waiting if _place(r) not in polled.revoked)
            for tp, position in polled.assigned.items():
                begin = broker.begins(topic)[tp.partition] if position is None else position.offset
                member.seek(tp, begin)
            waiting.extend(itertools.chain.from_iterable(polled.records.values()))
            due = []
            while waiting and waiting[0].timestamp / 1000 + delay_s <= time.time():
                due.append(waiting.popleft())
            if due:  # answers and position are written together, so nothing is answered twice
                positions = {_place(r): Position(r.offset + 1) for r in due}
                member.commit(list(_answers(settings, rows, due)), positions)


def _place(record: Record) -> TopicPartition:
    return TopicPartition(record.topic, record.partition)


def _answers(settings: Settings, rows: Sequence[Row], due: Sequence[Record]) -> Iterator[Output]:
    for record in due:
        try:
            request = decode_request(record)
        except BadRecord:
            continue  # for whoever can read it; the next one is due
        row = row_of(rows, request.id) if isinstance(request, LabelRequest) else None
        if row is not None and isinstance(request, LabelRequest) and random.random() >= SILENCE:
            answer = Answer(request.id, row[1], request_id=request.request_id, annotator="simulated")
            yield Output(settings.topics.labels, *answer_bytes([answer]), key=request.id.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["feed", "annotate"])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--dataset", default="bananas")
    parser.add_argument("--per-s", type=float, default=20.0, help="samples a second")
    parser.add_argument("--delay-s", type=float, default=10.0, help="until an answer")
    args = parser.parse_args()
    settings = load(args.config, [])
    rows = list(stream(args.dataset, None, seed=1))
    while True:
        try:
            with open_broker(settings) as broker:
                if args.what == "feed":
                    feed(broker, settings, rows, args.per_s)
                else:
                    annotate(broker, settings, rows, args.delay_s)
        except (Unavailable, Rebalanced) as why:
            print(f"broker away, trying again: {why}", flush=True)
            time.sleep(WAIT_S)


if __name__ == "__main__":
    main()
