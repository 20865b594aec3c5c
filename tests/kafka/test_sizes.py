"""Samples as large as the configuration allows, on Apache Kafka, whose topics hold 1 MB messages by default."""

from __future__ import annotations

import random

import msgspec
import pytest
import yaml

from stream_al.config import load
from stream_al.service.loop import open_broker
from stream_al.transport.port import Output, TopicError
from tests.kafka import job

pytestmark = pytest.mark.fault(
    "a record beyond the broker's limit",
    "samples up to the limit, whose requests are larger, on Apache Kafka",
)
MOST = 1_000_000


@pytest.fixture
def world(tmp_path, kafka_bootstrap):
    made = job.make(tmp_path, kafka_bootstrap, samples={"max_bytes": MOST})
    yield made
    made.close()


def sample(world, size):
    """Return a sample of a size in bytes that no compression makes small."""
    name = f"s-{world.sent}"
    world.sent += 1
    world.labels[name] = "up"
    start = msgspec.json.encode({"id": name, "features": {"x": 1.0, "text": ""}})
    body = random.Random(size).randbytes(size).hex()[: size - len(start)]
    return start[:-3] + body.encode() + start[-3:]


def test_the_largest_samples_are_asked_for_and_learned(world):
    lines = [sample(world, MOST - k) for k in range(8)] + [sample(world, 200) for _ in range(60)]
    assert len(lines[0]) == MOST
    lines.append(sample(world, MOST + 1))
    world.broker.append([Output(world.topics.samples, line) for line in lines])
    world.start("all", "all")
    world.annotate()
    world.until(lambda: world.decided() == len(lines))
    world.until(lambda: world.learned() == len(world.requests()) > 3)
    asked = [len(r.value) for r in world.records(world.topics.labels_requested)]
    assert max(asked) > MOST, "the first ones warm the model up"
    assert len(world.letters()) == 1
    assert world.terminate("all") == 0


def test_topics_whose_messages_are_too_small_for_the_requests_are_refused_with_what_to_do(
    tmp_path, kafka_bootstrap
):
    usual = job.make(tmp_path, kafka_bootstrap)
    usual.close()
    tree = yaml.safe_load(usual.config.read_text())
    tree["samples"]["max_bytes"] = MOST
    usual.config.write_text(yaml.safe_dump(tree))
    with pytest.raises(TopicError) as refused:
        open_broker(load(usual.config, environ={}))
    for topic in ("labels_requested", "reports", "ledger"):
        name = getattr(usual.topics, topic)
        assert f"--entity-name {name} --add-config max.message.bytes=4024000  # is 1048588" in str(
            refused.value
        )
