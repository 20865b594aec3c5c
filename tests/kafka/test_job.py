"""The service as processes on Apache Kafka: two scorers, one learner, four partitions, killed in the middle."""

from __future__ import annotations

import time

import pytest

from stream_al.config import LIBRARIES
from tests.e2e.world import check_all, check_snapshots
from tests.kafka.conftest import installed
from tests.kafka.job import make


@pytest.fixture
def library():
    return "kafka-python"


@pytest.fixture
def world(tmp_path, kafka_bootstrap, library, request):
    made = make(
        tmp_path, kafka_bootstrap, getattr(request, "param", 0), broker={"client": installed(library)}
    )
    yield made
    made.close()


@pytest.mark.fault("a broker that dies or is away", "a service whose Apache Kafka ends and comes back")
@pytest.mark.parametrize(
    ("library", "away_s"),
    [
        ("kafka-python", 2),
        ("confluent", 0),
    ],  # librdkafka must live through it: nobody notices and begins anew
)
def test_the_broker_goes_away_and_comes_back(tmp_path, kafka_node, library, away_s):
    world = make(tmp_path, kafka_node.bootstrap, broker={"client": installed(library)})
    try:
        for name, role in (("learner", "learner"), ("one", "scorer")):
            world.start(name, role)
        world.annotate()
        world.feed(400)
        world.wait_until_quiet()
        time.sleep(1)  # commits settle; see KafkaNode about the moment after a commit
        kafka_node.kill()
        time.sleep(away_s)
        assert all(p.poll() is None for p in world.processes.values()), "a broker that is away ends nobody"
        kafka_node.start()
        world.feed(400)
        world.wait_until_quiet()
        fold = check_all(world)
        for name in ("one", "learner"):
            assert world.terminate(name) == 0
            check_snapshots(world, name, fold)
    finally:
        world.close()


@pytest.mark.fault("a broker that dies or is away", "a service that starts before its Apache Kafka")
def test_a_service_that_starts_before_its_broker_waits_for_it(tmp_path, kafka_node):
    world = make(tmp_path, kafka_node.bootstrap)
    try:
        time.sleep(1)
        kafka_node.kill()
        world.start("all", "all")
        world.until(lambda: b"broker away" in (tmp_path / "all.log").read_bytes())
        kafka_node.start()
        world.annotate()
        world.feed(200)
        world.wait_until_quiet()
        check_all(world)
        assert world.terminate("all") == 0
    finally:
        world.close()


@pytest.mark.parametrize("world", range(5), indirect=True)
def test_two_scorers_and_a_learner_do_the_whole_job(world):
    for name, role in (("learner", "learner"), ("one", "scorer"), ("two", "scorer")):
        world.start(name, role)
    world.annotate()
    for _ in range(4):
        world.feed(400)
        time.sleep(0.5)
    world.wait_until_quiet()
    time.sleep(1.2)  # figures are published once a second
    fold = check_all(world)
    requests = world.requests()
    scorers = [world.metrics("one"), world.metrics("two")]
    learner = world.metrics("learner")
    assert learner["stream_al_labels_total|learned"] == len(requests) == fold.learned
    asked = sum(v for m in scorers for k, v in m.items() if k.startswith("stream_al_label_requests_total|"))
    assert asked == len(requests)
    decided = sum(v for m in scorers for k, v in m.items() if k.startswith("stream_al_samples_total|"))
    assert decided == world.sent
    for name in ("one", "two", "learner"):
        assert world.terminate(name) == 0
        check_snapshots(world, name, fold)


@pytest.mark.fault(
    "kills in the middle of commits",
    "processes killed at any moment, on Apache Kafka; nothing lost or doubled",
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_kills_in_the_middle_lose_and_double_nothing(world, library):
    for name, role in (("learner", "learner"), ("one", "scorer"), ("two", "scorer")):
        world.start(name, role)
    world.annotate()
    world.feed(400)
    world.until(lambda: world.decided() > 0)
    for name in ["one", "learner", "two"]:
        for _ in range(4):
            world.feed(100)
            time.sleep(0.2)
        world.kill(name)
        world.feed(100)
        world.start(name, "learner" if name == "learner" else "scorer")
        time.sleep(1)
    world.feed(300)
    world.wait_until_quiet()
    fold = check_all(world)
    for name in ("one", "two", "learner"):
        assert world.terminate(name) == 0
        check_snapshots(world, name, fold)


@pytest.mark.fault("a transaction that is aborted or left open", "by another client, on Apache Kafka")
def test_requests_behind_somebody_elses_open_transaction_are_not_lost(world):
    """Until a dead writer's transaction times out, requests are hidden although their tallies are not."""
    from kafka import KafkaProducer

    world.start("learner", "learner")
    world.start("one", "scorer")
    world.feed(100)
    world.until(lambda: world.decided() == 100)
    dead = KafkaProducer(
        bootstrap_servers=world.settings.broker.url.removeprefix("kafka://"),
        transactional_id="dead-writer",
        transaction_timeout_ms=8_000,
    )
    dead.init_transactions()
    dead.begin_transaction()
    dead.send(world.topics.labels_requested, key=b"x", value=b"{}").get(10)
    try:
        world.feed(600)
        time.sleep(3)
        world.annotate()
        world.wait_until_quiet()
        check_all(world)
    finally:
        dead.close(timeout=1)
