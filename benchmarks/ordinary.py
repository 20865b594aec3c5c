"""The ordinary way to choose samples on a stream: what anybody would write first, and what this project is held against.

kafka-python with auto-commit, ``json``, a River pipeline under ``EntropySampler.predict_one``, and every twentieth
sample forwarded. The loop takes any source of bytes, so that it runs on the embedded log as well.

``python benchmarks/ordinary.py kafka://127.0.0.1:9092 --samples 100000`` runs it on Apache Kafka.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from stream_al.transport.port import Broker, Output

MOST_POLLED = 500
ASK_EVERY = 20
AUTO_COMMIT_S = 5.0

Poll = Callable[[], Sequence[bytes]]
Send = Callable[[bytes], object]


def pipeline() -> Any:
    """Return the model, unlearned."""
    from river import linear_model, preprocessing

    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def loop(poll: Poll, send: Send, model: Any, samples: int) -> int:
    """Score samples and forward every twentieth, until ``samples`` of them were read; return how many there were."""
    from river import active

    sampler = active.EntropySampler(model, seed=1)
    seen = 0
    while seen < samples:
        for value in poll():
            sample = json.loads(value)
            sampler.predict_one(sample["features"])
            seen += 1
            if seen % ASK_EVERY == 0:
                send(json.dumps({"id": sample["id"], "features": sample["features"]}).encode())
    return seen


class OnKafka:
    """kafka-python as its documentation shows it."""

    def __init__(self, servers: Sequence[str], source: str, sink: str, group: str) -> None:
        from kafka import KafkaConsumer, KafkaProducer

        self.consumer = KafkaConsumer(
            source,
            bootstrap_servers=servers,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=True,
            max_poll_records=MOST_POLLED,
        )
        self.producer = KafkaProducer(bootstrap_servers=servers)
        self.sink = sink

    def poll(self) -> list[bytes]:
        return [r.value for records in self.consumer.poll(timeout_ms=1000).values() for r in records]

    def send(self, value: bytes) -> None:
        self.producer.send(self.sink, value)

    def close(self) -> None:
        self.producer.flush()
        self.consumer.close()
        self.producer.close()


class OnLog:
    """The same on the embedded log: what one poll forwards is written at once, positions every five seconds."""

    def __init__(self, broker: Broker, source: str, sink: str, group: str) -> None:
        from stream_al.transport.port import Position, TopicPartition

        self.broker, self.sink = broker, sink
        self.place, self.position = TopicPartition, Position
        self.member = broker.join(group, source, writer=group)
        self.at: dict[Any, Any] = {}
        self.forwarded: list[Output] = []
        self.committed = time.monotonic()

    def poll(self) -> list[bytes]:
        self._flush()
        polled = self.member.poll(MOST_POLLED, 1.0)
        for tp, position in polled.assigned.items():
            self.member.seek(tp, 0 if position is None else position.offset)
        for tp, records in polled.records.items():
            self.at[tp] = self.position(records[-1].offset + 1)
        return [r.value or b"" for records in polled.records.values() for r in records]

    def send(self, value: bytes) -> None:
        self.forwarded.append(Output(self.sink, value))

    def _flush(self) -> None:
        forwarded, self.forwarded = self.forwarded, []
        if forwarded:
            self.broker.append(forwarded)
        if time.monotonic() - self.committed > AUTO_COMMIT_S:
            self.committed = time.monotonic()
            self.member.commit([], self.at)

    def close(self) -> None:
        self._flush()
        self.member.close()


def learned(labels: Iterable[tuple[dict[str, Any], bool]]) -> Any:
    """Return the model with some labels learned."""
    model = pipeline()
    for features, label in labels:
        model.learn_one(features, label)
    return model


def main() -> None:
    """Run on Kafka and say how long a sample took."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    made.add_argument("url", help="kafka://host:port")
    made.add_argument("--source", default="samples", help="topic to read")
    made.add_argument("--sink", default="ordinary-requests", help="topic to forward to")
    made.add_argument("--samples", type=int, default=100_000)
    chosen = made.parse_args()
    servers = chosen.url.removeprefix("kafka://").split(",")
    edge = OnKafka(servers, chosen.source, chosen.sink, "ordinary")
    started = time.process_time()
    seen = loop(edge.poll, edge.send, pipeline(), chosen.samples)
    edge.close()
    print(f"{1e6 * (time.process_time() - started) / seen:.2f} us of CPU a sample")


if __name__ == "__main__":
    main()
