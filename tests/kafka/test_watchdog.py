"""A client that has partitions, lags behind them and gets nothing, on Apache Kafka."""

from __future__ import annotations

import time

import pytest

from stream_al.service.loop import Service, now_ms
from stream_al.service.watchdog import Stuck
from tests.kafka import job

pytestmark = pytest.mark.fault(
    "a client that gets nothing",
    "a consumer on Apache Kafka that no longer fetches what it has: joined anew, then ends",
)


class Clock:
    """The machine's, plus what the test skips."""

    skipped_ms = 0

    def __call__(self) -> int:
        return now_ms() + self.skipped_ms


@pytest.fixture
def running(tmp_path, kafka_bootstrap):
    world, clock = job.make(tmp_path, kafka_bootstrap), Clock()
    scorer, learner = (
        Service(world.broker, world.settings, role, clock=clock) for role in ("scorer", "learner")
    )

    def turn(*, skip_ms=0):
        clock.skipped_ms += skip_ms
        for service in (learner, scorer):
            service.turn(0.02)

    def until(true, *, skip_ms=0):
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline
            turn(skip_ms=skip_ms)

    world.feed(100)
    until(lambda: scorer.scorer.outcomes.total() == 100)
    yield world, scorer, until
    for service in (scorer, learner):
        service.close()
    world.close()


def deafen(scorer):
    """Leave the consumer as a fault of its client did: in its group, with its partitions, fetching none."""
    consumer = scorer.scorer.member._feed.consumer
    consumer.pause(*consumer.assignment())


def test_it_joins_anew_and_misses_nothing(running):
    world, scorer, until = running
    deafen(scorer)
    world.feed(100)
    until(lambda: scorer.scorer.watchdog.rejoins == 1, skip_ms=2_000)
    until(lambda: scorer.scorer.outcomes.total() == 200)
    assert world.decided() == 200


def test_it_ends_where_that_does_not_help(running):
    world, scorer, until = running
    world.feed(100)

    def deaf():
        if scorer.scorer.member is not None and scorer.scorer.member.assignment():
            deafen(scorer)
        return False

    deaf()
    world.feed(100)
    with pytest.raises(Stuck, match="the scorer got nothing for 60 s"):
        until(deaf, skip_ms=2_000)
