"""The broker of these tests: ``STREAM_AL_TEST_KAFKA=host:port`` if it is set, else one started here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.broker import KafkaNode, MissingError

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kafka)


def missing(reason: MissingError) -> None:
    """Skip, or fail where the broker is required (``make test-kafka``)."""
    message = f"no Kafka broker: {reason}"
    if os.environ.get("STREAM_AL_REQUIRE_KAFKA") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


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
