"""SIGKILL, again and again, in the middle of transactions on Apache Kafka, and of the broker itself."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from tests.e2e import campaign
from tests.e2e.held import BETWEEN, ELSEWHERE, KAFKA, OUTPUTS_FIRST, POSITIONS_FIRST, Nursery, Steps
from tests.e2e.world import broken_promises
from tests.kafka.job import make

KILLS = int(os.environ.get("STREAM_AL_KILLS", "32"))
BROKER = {"session_timeout_ms": 2000, "transaction_timeout_ms": 10_000}


def kill_broker(world, node, name, step):
    """Kill the broker while a process is at a step of its commit, and start it again on the same data.

    The others are held before their commits: a single node that is killed in the milliseconds between a commit and its
    markers forgets the markers (see ``assert_settled`` in test_contract).
    """
    steps = {each: Steps(world.where / f"{each}.steps") for each in campaign.EVERYBODY}
    for each, its in steps.items():
        its.hold(step if each == name else "before")
    for each, its in steps.items():
        campaign.reached(world, each, its, step if each == name else "before", 2)
    time.sleep(0.3)
    node.kill()
    for its in steps.values():
        its.hold(ELSEWHERE)
        its.close()
    node.start()


@pytest.mark.fault(
    "kills in the middle of commits",
    "processes killed at every step, and the broker too, on Apache Kafka; nothing lost or doubled",
)
def test_kills_of_everybody_and_of_the_broker_lose_and_double_nothing(tmp_path, kafka_node, tried):
    world = make(
        tmp_path,
        kafka_node.bootstrap,
        1,
        Nursery(0.005).launch,
        broker=BROKER,
        bucket_s=5,
        broken=0.02,
        twice=0.1,
    )
    try:
        broker = {
            f"broker, {name} {step}": lambda name=name, step=step: kill_broker(world, kafka_node, name, step)
            for name, step in (("one", "before"), ("learner", "written"), ("two", "written"))
        }
        died = campaign.run(world, KILLS, KAFKA, broker, reached_s=8)
        tried(KILLS)
        assert died["missed"] <= KILLS / 6, died
        campaign.finish(world)
    finally:
        world.close()


@pytest.mark.fault(
    "checks that notice nothing",
    "commits in a naive order of writes, killed in between, on Apache Kafka, which the campaigns' checks must find",
    tried=2,
)
@pytest.mark.parametrize(
    ("naive", "order", "promise"),
    [
        ("scorer", OUTPUTS_FIRST, "check_decided_once"),
        ("scorer", POSITIONS_FIRST, "check_decided_once"),
        ("learner", POSITIONS_FIRST, "check_learned_once"),
    ],
)
def test_the_same_checks_notice_a_naive_order_of_writes(tmp_path, kafka_bootstrap, naive, order, promise):
    names = [name for name, role in campaign.ROLES.items() if role == naive]
    nursery = Nursery(orders=dict.fromkeys(names, order))
    world = make(tmp_path, kafka_bootstrap, launch=nursery.launch, broker=BROKER, bucket_s=5)
    try:
        campaign.begin(world)
        for _ in range(2):
            assert campaign.die(world, names[0], BETWEEN, 15) == BETWEEN
        world.dry()
        with contextlib.suppress(AssertionError):  # what is lost never comes
            world.wait_until_quiet(12)
        assert promise in broken_promises(world)
    finally:
        world.close()
