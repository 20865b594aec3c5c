"""Processes that stand still for a while, in the middle of a commit, and go on as if nothing had happened.

On either broker: what they check is what the topics say.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from stream_al.transport.port import Output
from tests.e2e import campaign
from tests.e2e.world import World, broken_promises


def deliver_again(world: World) -> None:
    """Deliver the last answer once more, as it was."""
    world.broker.append([Output(world.topics.labels, world.records(world.topics.labels)[-1].value)])


def seconds_until(world: World, true: Callable[[], object], longest: float = 40.0) -> float:
    began = time.monotonic()
    world.until(true, longest)
    return time.monotonic() - began


def owns(world: World, name: str) -> int:
    """Return how often a learner became the owner of the ledger."""
    return world.told(name).count('"owns the ledger"')


def learning_goes_on_beside_a_scorer_that_stands_still(world: World) -> float:
    """The learner is killed meanwhile, and the last answer comes again; return how long learning took to go on."""
    campaign.begin(world)
    world.until(lambda: world.learned() > 5)
    campaign.stop(world, "one", "before")
    world.kill("learner")
    deliver_again(world)
    before = world.learned()
    world.start("learner", "learner")
    took = seconds_until(world, lambda: world.learned() > before)
    world.wake("one")
    campaign.finish(world)
    return took


def sleep_past_the_session(world: World) -> None:
    """Stop a scorer before a commit until the other has its partitions and has decided the same samples; wake it."""
    campaign.begin(world)
    campaign.stop(world, "one", "before")
    had = world.told("two").count('"partition assigned"')
    world.until(lambda: world.told("two").count('"partition assigned"') > had)
    decided = world.decided()
    world.until(lambda: world.decided() > decided + 100)
    world.wake("one")


def the_late_write_is_refused(world: World) -> None:
    sleep_past_the_session(world)
    world.until(lambda: "commit refused" in world.told("one"))
    campaign.finish(world)


def the_late_write_is_noticed(world: World) -> None:
    """For a commit that nobody refuses."""
    sleep_past_the_session(world)
    time.sleep(0.5)
    world.dry()
    with contextlib.suppress(AssertionError):
        world.wait_until_quiet(2)
    assert "check_decided_once" in broken_promises(world)


def a_standby_takes_over(world: World) -> float:
    """The owner stands still in the middle of its work, and ends when it wakes; return how long the change took."""
    campaign.begin(world)
    world.start("standby", "learner")
    world.until(lambda: world.learned() > 5)
    world.until(lambda: '"ready"' in world.told("standby"))
    campaign.stop(world, "learner", "before")
    before = world.learned()
    took = seconds_until(world, lambda: owns(world, "standby") and world.learned() > before)
    world.wake("learner")
    assert world.ended("learner") == 1
    assert "another process has taken over" in world.told("learner")
    deliver_again(world)
    campaign.finish(world)
    return took
