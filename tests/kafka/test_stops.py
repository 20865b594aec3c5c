"""Processes that stand still for a while, on Apache Kafka: what their open transactions hide, and who is fenced."""

from __future__ import annotations

import time

import pytest

from tests.e2e import campaign, scenarios
from tests.e2e.held import Nursery
from tests.kafka import job

SESSION_S, TRANSACTION_S = 3.0, 8.0
ABORT_EVERY_S = 0.5  # of the tests' broker
SLACK_S = 8.0  # for a machine that does other things too
BROKER = {
    "session_timeout_ms": round(SESSION_S * 1000),
    "transaction_timeout_ms": round(TRANSACTION_S * 1000),
}


@pytest.fixture
def world(tmp_path, kafka_bootstrap):
    made = job.make(tmp_path, kafka_bootstrap, launch=Nursery().launch, broker=BROKER)
    yield made
    made.close()


def hidden(world):
    """Return how many records of the requests' topic are behind an open transaction."""
    topic = world.topics.labels_requested
    return world.broker.ends(topic, committed=False)[0] - world.broker.ends(topic)[0]


def stop_with_open_requests(world, name):
    for _ in range(50):
        campaign.stop(world, name, "written")
        if hidden(world):
            return
        world.wake(name)
        time.sleep(0.1)
    raise AssertionError("no commit with requests")


@pytest.mark.fault(
    "a scorer or a learner that stands still",
    "stopped inside a transaction with requests, the learner killed, the last answer delivered again, on Apache Kafka; learned in under 1 s",
)
def test_a_scorer_stopped_inside_its_transaction_hides_later_requests_but_delays_no_label(world):
    """The learner is killed meanwhile, and the last answer comes again.

    Nobody sees the requests behind the open transaction until the broker ends it; those before it are answered, and
    learned at once.
    """
    campaign.begin(world, delay_s=2.0)
    world.until(lambda: world.learned() > 5)
    stop_with_open_requests(world, "one")
    stopped, visible = time.monotonic(), len(world.requests())
    world.kill("learner")
    scenarios.deliver_again(world)
    world.start("learner", "learner")
    world.until(lambda: scenarios.owns(world, "learner") == 2)
    took_over = time.monotonic() - stopped
    world.until(lambda: len(world.records(world.topics.labels)) > visible)  # one came twice
    took = scenarios.seconds_until(world, lambda: world.learned() >= visible)
    assert took < 1, took
    assert hidden(world), "the labels did not wait for the requests behind the transaction"
    world.until(lambda: len(world.requests()) > visible)
    blind = time.monotonic() - stopped
    assert blind < TRANSACTION_S + ABORT_EVERY_S + SLACK_S, blind
    print(
        f"the heir owned the ledger after {took_over:.1f} s, the last visible label was learned {took:.2f} s after the"
    )
    print(f"answers were there, requests were hidden for {blind:.1f} s")
    world.wake("one")
    campaign.finish(world)


@pytest.mark.fault(
    "a scorer or a learner that stands still",
    "the learner killed meanwhile, the last answer delivered again, on Apache Kafka",
)
def test_a_scorer_that_stands_still_does_not_keep_the_learner_from_learning(world):
    took = scenarios.learning_goes_on_beside_a_scorer_that_stands_still(world)
    assert took < SESSION_S + SLACK_S, took


@pytest.mark.fault(
    "a scorer or a learner that stands still",
    "woken after its session with a commit to write, which is refused, on Apache Kafka",
)
def test_a_scorer_stopped_past_its_session_writes_nothing_late(world):
    scenarios.the_late_write_is_refused(world)


@pytest.mark.fault(
    "a scorer or a learner that stands still",
    "the owner stopped, the standby takes over, the woken one ends, on Apache Kafka",
)
def test_a_standby_takes_over_from_a_learner_that_stands_still_and_this_one_ends_when_it_wakes(world):
    took = scenarios.a_standby_takes_over(world)
    assert took < SESSION_S + SLACK_S, took
