"""The ordinary way to choose samples on a stream: what anybody would write first, and what this project is held against.

kafka-python with auto-commit, ``json``, a River pipeline under ``EntropySampler.predict_one``, and every twentieth
sample forwarded. The loop takes any source of bytes, so that it runs on the embedded log as well.

``python benchmarks/ordinary.py --url kafka://127.0.0.1:9092`` runs it on Apache Kafka.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from _harness import parse, parser

from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Broker, Output, Position, Rebalanced, TopicPartition, TopicSpec

FEATURES = 30
MOST_POLLED = 500
ASK_EVERY = 20
AUTO_COMMIT_S = 5.0

Poll = Callable[[], Sequence[bytes]]
Send = Callable[[bytes], object]


def generated(n: int, features: int, seed: int = 1) -> Iterator[tuple[dict[str, float], bool]]:
    """Yield samples of normal features; the label is the sign of a noisy sum."""
    rng = random.Random(seed)
    weights = [rng.gauss(0, 1) for _ in range(features)]
    names = [f"f{i:02}" for i in range(features)]
    for _ in range(n):
        values = [rng.gauss(0, 1) for _ in names]
        score = sum(w * v for w, v in zip(weights, values, strict=True)) + rng.gauss(0, 1)
        yield dict(zip(names, values, strict=True)), score > 0


def written(number: int, features: dict[str, float]) -> bytes:
    """Return a sample as its producer writes it."""
    return json.dumps(
        {"id": f"s-{number}", "features": features, "timestamp": "2026-01-01T00:00:00Z"}
    ).encode()


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
        self.broker, self.sink = broker, sink
        self.member = broker.join(group, source, writer=group)
        self.at: dict[TopicPartition, Position] = {}
        self.forwarded: list[Output] = []
        self.committed = time.monotonic()

    def poll(self) -> list[bytes]:
        self._flush()
        polled = self.member.poll(MOST_POLLED, 1.0)
        for tp, position in polled.assigned.items():
            known = self.at.get(tp, position)
            self.member.seek(tp, 0 if known is None else known.offset)
        for tp, records in polled.records.items():
            self.at[tp] = Position(records[-1].offset + 1)
        return [r.value or b"" for records in polled.records.values() for r in records]

    def send(self, value: bytes) -> None:
        self.forwarded.append(Output(self.sink, value))

    def _flush(self) -> None:
        forwarded, self.forwarded = self.forwarded, []
        if forwarded:
            self.broker.append(forwarded)
        if time.monotonic() - self.committed > AUTO_COMMIT_S:
            self.committed = time.monotonic()
            with contextlib.suppress(Rebalanced):  # after a long pause; the next poll joins anew
                self.member.commit([], self.at)

    def close(self) -> None:
        self._flush()
        self.member.close()


def learned(labels: Iterable[tuple[dict[str, Any], bool]], model: Any = None) -> Any:
    """Return the model - the pipeline, if none is given - with some labels learned."""
    model = pipeline() if model is None else model
    for features, label in labels:
        model.learn_one(features, label)
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop and say how long a sample took."""
    made = parser(__doc__ or "", seeds=1)
    made.add_argument(
        "--url",
        default="embedded://:memory:",
        help="kafka://host:port (default: a log in memory, filled first)",
    )
    chosen = parse(made, argv)
    n = chosen.samples or (5_000 if chosen.quick else 50_000)
    with contextlib.ExitStack() as stack:
        edge: OnKafka | OnLog
        if chosen.url.startswith("kafka://"):
            edge = OnKafka(chosen.url.removeprefix("kafka://").split(","), "samples", "ordinary", "ordinary")
        else:
            broker = stack.enter_context(EmbeddedBroker(":memory:"))
            broker.ensure([TopicSpec("samples", 1), TopicSpec("ordinary", 1)], create=True)
            broker.append(
                [Output("samples", written(i, x)) for i, (x, _) in enumerate(generated(n, FEATURES))]
            )
            edge = OnLog(broker, "samples", "ordinary", "ordinary")
        stack.callback(edge.close)
        started = time.process_time()
        seen = loop(edge.poll, edge.send, learned(generated(150, FEATURES)), n)
        print(f"{1e6 * (time.process_time() - started) / seen:.2f} us of CPU a sample, of {seen:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
