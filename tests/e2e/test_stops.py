"""Processes that stand still for a while, on the embedded log."""

from __future__ import annotations

import time

import pytest

from tests.e2e import campaign, scenarios
from tests.e2e.held import UNFENCED, Nursery
from tests.e2e.world import World

SESSION_S = 0.8
LONGEST_PAUSE_S = 5.0  # between two tries, when the log could not be written
SLACK_S = 3.0  # for a machine that does other things too
TREE = {
    "broker": {"partitions": 4, "session_timeout_ms": round(SESSION_S * 1000)},
    "budget": {"fraction": 0.1},
    "ledger": {"bucket_s": 5},
    "samples": {"start": "earliest"},
    "http": {"port": None},
}


@pytest.fixture
def make(tmp_path):
    made = []

    def world(nursery=None, **broker):
        broker = {**TREE["broker"], "url": f"embedded://{tmp_path / 'log.db'}", **broker}
        made.append(World(tmp_path, {**TREE, "broker": broker}, launch=(nursery or Nursery()).launch))
        return made[-1]

    yield world
    for each in made:
        each.close()


@pytest.mark.fault(
    "a scorer or a learner that stands still",
    "the learner killed meanwhile, the last answer delivered again, on the embedded log",
)
def test_a_scorer_that_stands_still_does_not_keep_the_learner_from_learning(make):
    took = scenarios.learning_goes_on_beside_a_scorer_that_stands_still(make())
    assert took < SESSION_S + SLACK_S, took


@pytest.mark.fault(
    "a scorer or a learner that stands still",
    "stopped inside a transaction, for less and more than its timeout, on the embedded log",
)
@pytest.mark.parametrize("timeout_ms", [10_000, 500], ids=["shorter", "longer"])
def test_all_wait_for_a_scorer_stopped_inside_its_transaction_and_then_go_on(make, timeout_ms):
    """One file has one lock: for a time shorter or longer than ``transaction_timeout_ms``."""
    world = make(transaction_timeout_ms=timeout_ms)
    campaign.begin(world)
    world.until(lambda: world.learned() > 5)
    campaign.stop(world, "one", "written")
    time.sleep(0.3)  # who is writing now is through
    before = world.learned()
    world.kill("learner")
    world.start("learner", "learner")
    time.sleep(1.5)
    assert world.learned() == before
    world.wake("one")
    took = scenarios.seconds_until(world, lambda: world.learned() > before)
    assert took < LONGEST_PAUSE_S + SLACK_S, took
    scenarios.deliver_again(world)
    campaign.finish(world)


@pytest.mark.fault(
    "a scorer or a learner that stands still",
    "woken after its session with a commit to write, which is refused, on the embedded log",
)
def test_a_scorer_stopped_past_its_session_writes_nothing_late(make):
    scenarios.the_late_write_is_refused(make())


@pytest.mark.fault(
    "checks that notice nothing",
    "a late write that nobody refuses, on the embedded log, which the campaigns' checks must find",
)
def test_the_checks_notice_a_late_write_that_is_not_refused(make):
    scenarios.the_late_write_is_noticed(make(Nursery(order=UNFENCED)))


@pytest.mark.fault(
    "a scorer or a learner that stands still",
    "the owner stopped, the standby takes over, the woken one ends, on the embedded log",
)
def test_a_standby_takes_over_from_a_learner_that_stands_still_and_this_one_ends_when_it_wakes(make):
    took = scenarios.a_standby_takes_over(make())
    assert took < 2 * SESSION_S + SLACK_S, took
