"""The broker of these tests: ``STREAM_AL_TEST_KAFKA=host:port`` if it is set, else one started here."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_al.transport.kafka import KafkaBroker
from tests.kafka.broker import KafkaNode, MissingError
from tests.outside import lacking

HERE = Path(__file__).resolve().parent

Open = Callable[..., KafkaBroker]
Name = Callable[[str], str]

SESSION_MS = 3_000
# kafka-python heartbeats in a thread of its own: only this ends a member that no longer polls
MAX_POLL_MS = 3_000
NUMBERS = itertools.count()


class Settled(KafkaBroker):
    """Waits until what was committed is visible, which Kafka sees to some milliseconds after the commit's answer."""

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        deadline = time.monotonic() + 5
        while committed and super().ends(topic) != super().ends(topic, committed=False):
            assert time.monotonic() < deadline, f"a transaction stays open on {topic}"
            time.sleep(0.01)
        return super().ends(topic, committed=committed)


class SettledBroker(Settled):
    """Of kafka-python."""


def installed(library: str) -> str:
    """Return the name of a client library; skip where it is not installed."""
    if library == "confluent":
        pytest.importorskip(
            "confluent_kafka", reason="confluent-kafka is not installed: stream-al[confluent]"
        )
    return library


def confluent_kind() -> type[KafkaBroker]:
    """Return a settled broker whose members are librdkafka's."""
    installed("confluent")
    from stream_al.transport.confluent import ConfluentBroker

    return type("SettledConfluent", (Settled, ConfluentBroker), {})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kafka)


def missing(reason: MissingError) -> None:
    """Skip, or fail where the broker is required (``make test-kafka``)."""
    lacking(f"no Kafka broker: {reason}", "KAFKA")


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """The address of a broker that lives as long as the test session."""
    given = os.environ.get("STREAM_AL_TEST_KAFKA")
    if given:
        yield given
        return
    try:
        node = KafkaNode()
        node.start()
    except MissingError as reason:
        missing(reason)
        raise
    try:
        yield node.bootstrap
    finally:
        node.close()


@pytest.fixture
def kafka_node() -> Iterator[KafkaNode]:
    """A node of the test's own, to kill and to start again."""
    try:
        # a transaction that expires while the node starts again would hang for ever (see assert_settled)
        node = KafkaNode(node_session_ms=1_500, abort_interval_ms=10_000)
        node.start()
    except MissingError as reason:
        missing(reason)
        raise
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def open_broker() -> Iterator[Open]:
    """Connect to an address; everything is closed at teardown."""
    opened: list[KafkaBroker] = []

    def connect(bootstrap: str, kind: type[KafkaBroker] = KafkaBroker, **settings: Any) -> KafkaBroker:
        settings = {
            "session_timeout_ms": SESSION_MS,
            "transaction_timeout_ms": 4_000,
            "client": {"max_poll_interval_ms": MAX_POLL_MS},
            **settings,
        }
        opened.append(kind(bootstrap, **settings))
        return opened[-1]

    yield connect
    for broker in opened:
        broker.close()


@pytest.fixture
def topic_name() -> Name:
    return lambda prefix: f"{prefix}-{os.getpid()}-{next(NUMBERS)}"
