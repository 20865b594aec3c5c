"""What surrounds the service fails on Apache Kafka: the network, and topics that change while it runs."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaPartition

from stream_al.transport.port import TopicPartition, TopicSpec
from tests.e2e import campaign
from tests.e2e.held import Nursery
from tests.kafka import job
from tests.kafka.broker import KafkaNode, MissingError
from tests.kafka.conftest import installed, missing
from tests.kafka.proxy import Cable

BROKER = {
    "session_timeout_ms": 3000,
    "transaction_timeout_ms": 8000,
    "client": {"metadata_max_age_ms": 1000},  # new partitions are noticed after this time
}


@pytest.fixture
def world(tmp_path, kafka_bootstrap):
    made = job.make(tmp_path, kafka_bootstrap, launch=Nursery().launch, broker=BROKER, twice=0.2)
    yield made
    made.close()


@pytest.fixture
def admin(kafka_bootstrap):
    client = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    yield client
    client.close()


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cable():
    made = Cable()
    yield made
    made.close()


@pytest.fixture
def cabled_node(cable):
    """A node whose second listener is reached through the cable only."""
    try:
        node = KafkaNode(advertised_port=cable.port)
        node.start()
    except MissingError as reason:
        missing(reason)
        raise
    cable.to(node.cable_port)
    yield node
    node.close()


@pytest.mark.fault(
    "a network that is cut or swallows everything",
    "a proxy between processes in the middle of commits and Apache Kafka, for longer than a session",
)
@pytest.mark.fault(
    "topics that grow while they are used",
    "partitions added to what the learner reads, with kills, on Apache Kafka",
)
@pytest.mark.fault(
    "records deleted before they were read",
    "as retention does, on Apache Kafka: ends with what to do, skips nothing",
)
@pytest.mark.parametrize(
    ("library", "trouble", "step"),
    [
        ("kafka-python", "cut", "before"),
        ("kafka-python", "hang", "before"),
        ("kafka-python", "hang", "written"),
        ("confluent", "hang", "written"),
    ],
)
def test_a_network_that_fails_for_longer_than_a_session_loses_and_doubles_nothing(
    tmp_path, cabled_node, cable, library, trouble, step
):
    """All processes are behind the cable, one of them in the middle of a commit; feed and annotator are not."""
    broker = {**BROKER, "client": {**BROKER["client"], "library": installed(library)}}
    world = job.make(tmp_path, cabled_node.bootstrap, launch=Nursery().launch, broker=broker, twice=0.2)
    world.settings_of_processes = [f"broker.url=kafka://127.0.0.1:{cable.port}"]
    try:
        campaign.begin(world)
        world.until(lambda: world.learned() > 5)
        campaign.stop(world, "one", step)
        getattr(cable, trouble)()
        world.wake("one")
        time.sleep(5)
        assert all(process.poll() is None for process in world.processes.values())
        learned = world.learned()
        cable.mend()
        mended = time.monotonic()
        world.until(lambda: world.learned() > learned)
        print(f"{trouble}, {step}: learning went on after {time.monotonic() - mended:.1f} s")
        campaign.finish(world)
    finally:
        world.close()


# --- topics that grow ------------------------------------------------------------------------------------------------


@pytest.mark.fault("topics that grow while they are used", "partitions added to `samples`, on Apache Kafka")
def test_samples_in_partitions_that_are_added_are_decided_from_their_beginning(world, admin):
    campaign.begin(world)
    world.until(lambda: world.learned() > 0)
    admin.create_partitions({world.topics.samples: 7})
    world.until(lambda: {t["partition"] for t in world.tallies()} == set(range(7)))
    campaign.die(world, "one", "committed")
    campaign.finish(world)


@pytest.mark.parametrize("topic", ["labels_requested", "labels", "reports"])
def test_inputs_of_the_learner_that_grow_lose_and_double_nothing(world, admin, topic):
    campaign.begin(world)
    world.until(lambda: world.learned() > 0)
    admin.create_partitions({getattr(world.topics, topic): 3})
    campaign.die(world, "one", "before")
    before = world.learned()
    world.until(lambda: world.learned() > before + 50)
    campaign.finish(world)


# --- records that are gone ---------------------------------------------------------------------------------------------


def at_rest(world):
    """Let something be decided and learned, then end everybody."""
    campaign.begin(world)
    world.until(lambda: world.learned() > 5)
    world.dry()
    world.wait_until_quiet()
    for name in campaign.EVERYBODY:
        assert world.terminate(name) == 0


def forget(admin, world, topic):
    """Delete all records of a topic, as retention does."""
    admin.delete_records({KafkaPartition(topic, p): end for p, end in world.broker.ends(topic).items()})


@pytest.mark.fault(
    "records deleted before they were read",
    "as retention does, on Apache Kafka: ends with what to do, skips nothing",
)
def test_samples_deleted_before_they_were_decided_stop_the_scorer_with_what_to_do(world, admin):
    at_rest(world)
    decided = world.decided()
    world.feed(400)
    forget(admin, world, world.topics.samples)
    world.feed(40)
    world.start("one", "scorer")
    assert world.ended("one", 30) == 1
    assert "Raise retention.ms and retention.bytes" in world.told("one")
    assert f"{world.topics.samples}-" in world.told("one")
    assert world.decided() == decided, "nothing is skipped silently"


@pytest.mark.parametrize("topic", ["labels", "labels_requested"])
def test_answers_and_requests_deleted_before_they_were_read_stop_the_learner_with_what_to_do(
    world, admin, topic
):
    at_rest(world)
    world.start("one", "scorer")
    world.feed(400)
    world.until(lambda: world.decided() == sum(world.broker.ends(world.topics.samples).values()))
    world.until(lambda: len(world.records(world.topics.labels)) >= len(world.requests()))
    learned = world.learned()
    name = getattr(world.topics, topic)
    forget(admin, world, name)
    world.start("learner", "learner")
    assert world.ended("learner", 30) == 1
    assert "Raise retention.ms and retention.bytes" in world.told("learner")
    assert f"{name}-0@" in world.told("learner")
    assert world.learned() == learned, "nothing is skipped silently"


# --- what kafka-python leaves behind ---------------------------------------------------------------------------------


class Batch:
    """What a caller has in its hands."""


def test_a_poll_without_records_keeps_nothing_of_its_callers(open_broker, kafka_bootstrap, topic_name):
    broker = open_broker(kafka_bootstrap)
    topic = topic_name("silent")
    broker.ensure([TopicSpec(topic, 1)], create=True)
    reader = broker.reader({TopicPartition(topic, 0): 0})
    reader.poll(10, 1.0)

    def polled_with_a_batch():
        batch = Batch()
        assert not reader.poll(10, 0.01)
        return weakref.ref(batch)

    gc.disable()
    try:
        batches = [polled_with_a_batch() for _ in range(20)]
        held = [batch for batch in batches if batch() is not None]
    finally:
        gc.enable()
        reader.close()
    assert len(held) <= 2, "polls left what holds the frames they came through"
