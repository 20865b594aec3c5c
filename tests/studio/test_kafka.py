"""The bridge between a real Kafka and a real Label Studio."""

import signal
from collections import Counter

import pytest

from tests.kafka.broker import KafkaNode, MissingError
from tests.studio.conftest import rows, truth


@pytest.fixture
def node():
    try:
        node = KafkaNode()
        node.start()
    except MissingError as reason:
        pytest.skip(f"no Kafka broker: {reason}")
    yield node
    node.close()


def test_answers_travel_over_kafka_too(node, world, studio):
    url = f"kafka://{node.bootstrap}"
    w = world(**{"broker.url": url, "broker.replication_factor": 1})
    w.connect()
    w.feed(rows(6))
    first = [studio.annotate(task, truth(task)) for task in w.tasks(6).values()]
    w.until(lambda: w.service.follower.fold.outcomes["learned"] == 6)
    studio.change(first[0], "ok")
    w.until(lambda: w.ledger("correction"))
    w.connect()
    w.rounds()
    standby = w.process()
    w.bridge.close()
    w.bridge = None
    w.feed(rows(2, first=10))
    w.until(lambda: len(studio.tasks(w.title)) == 8)
    assert set(Counter(task["meta"]["request_id"] for task in studio.tasks(w.title)).values()) == {1}
    assert len(w.labels()) == 7
    assert w.letters() == []
    standby.send_signal(signal.SIGTERM)
    assert standby.wait(15) == 0
    w.close()  # before the node
