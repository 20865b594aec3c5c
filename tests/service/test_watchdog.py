"""A client that gets nothing although records wait: it joins anew, and if that does not help the process ends."""

from __future__ import annotations

import msgspec
import pytest

from stream_al.cli.outcome import FAILURE, explained
from stream_al.config import load
from stream_al.service.figures import Figures
from stream_al.service.loop import Service, topic_specs
from stream_al.service.watchdog import Stuck, Watchdog
from stream_al.simulate import VirtualClock
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Output, TopicPartition
from tests.lockstep import PassingMember

pytestmark = pytest.mark.fault(
    "a client that gets nothing",
    "members and readers that return nothing for a minute: joined anew, then the process ends",
)

SAMPLES = TopicPartition("samples", 0)


class Deaf(PassingMember):
    """Is assigned partitions and renews its membership, and gets no records."""

    def poll(self, max_records, timeout_s):
        return self.inner.poll(0, 0.0)


class DeafReader:
    """Stands where it is and gets nothing."""

    def __init__(self, inner):
        self.inner = inner

    def poll(self, max_records, timeout_s):
        return {}

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Deafening:
    """A broker of which the first so many members or readers of its tasks are deaf."""

    def __init__(self, inner, members=0, readers=0):
        self.inner, self.members, self.readers = inner, members, readers

    def join(self, *args, **kwargs):
        joined = self.inner.join(*args, **kwargs)
        self.members -= 1
        return Deaf(joined) if self.members >= 0 else joined

    def reader(self, positions):
        made = self.inner.reader(positions)
        self.readers -= 1
        return DeafReader(made) if self.readers >= 0 else made

    def __getattr__(self, name):
        return getattr(self.inner, name)


class World:
    def __init__(self):
        self.clock = VirtualClock()
        self.settings = load(
            None, ["state_dir=null", "samples.start=earliest", "broker.partitions=2"], environ={}
        )
        self.broker = EmbeddedBroker(":memory:", clock=self.clock.seconds)
        self.broker.ensure(topic_specs(self.settings), create=True)
        self.learner = Service(self.broker, self.settings, "learner", clock=self.clock)
        self.scorer = Service(self.broker, self.settings, "scorer", clock=self.clock)
        for _ in range(3):
            self.learner.turn()

    def feed(self, n=100):
        values = (msgspec.json.encode({"id": f"s-{i}", "features": {"x": float(i % 9)}}) for i in range(n))
        self.broker.append([Output("samples", value) for value in values])

    def seconds(self, n, *services):
        for _ in range(n):
            self.clock.ms += 1_000
            for service in services:
                service.turn()


@pytest.fixture
def world():
    return World()


def test_a_scorer_that_gets_nothing_joins_anew(world):
    world.scorer.scorer.broker = Deafening(world.broker, members=1)
    world.feed()
    world.seconds(55, world.scorer)
    assert world.scorer.scorer.watchdog.rejoins == 0
    world.seconds(20, world.scorer)
    assert world.scorer.scorer.watchdog.rejoins == 1
    assert world.scorer.scorer.outcomes.total() == 100
    assert Figures.of(world.scorer).rejoins == {"scorer": 1}
    world.feed()
    world.seconds(200, world.scorer)
    assert world.scorer.scorer.outcomes.total() == 200


def test_it_ends_where_that_does_not_help(world):
    world.scorer.scorer.broker = Deafening(world.broker, members=10**6)
    world.feed()
    world.seconds(110, world.scorer)
    with pytest.raises(
        Stuck, match=r"the scorer got nothing for 60 s, although samples-\d@0 can be read"
    ) as stuck:
        world.seconds(30, world.scorer)
    assert explained(stuck.value)[0] == FAILURE


def test_a_quiet_stream_is_no_reason(world):
    world.feed(10)
    world.seconds(5, world.scorer)
    world.seconds(300, world.scorer, world.learner)
    assert world.scorer.scorer.watchdog.rejoins == world.learner.learner.watchdog.rejoins == 0


def test_a_learner_whose_readers_get_nothing_starts_over(world):
    world.learner.learner.abandon()
    world.learner.learner.broker = Deafening(world.broker, readers=2)
    world.broker.append([Output("labels", b'{"id": "nobody", "label": "up"}')])
    world.seconds(55, world.learner)
    assert not sum(world.broker.ends("dead-letters").values())
    world.seconds(80, world.learner)
    assert world.learner.learner.watchdog.rejoins == 1
    assert sum(world.broker.ends("dead-letters").values()) == 1


def test_only_time_counts_in_which_it_was_asked(world):
    world.feed()
    dog = Watchdog(world.broker, "the scorer")
    assert not any(dog.silent(0, {SAMPLES: 0}, hour * 3_600_000) for hour in range(50))
    assert not any(dog.silent(0, {}, 200_000_000 + s * 1_000) for s in range(200)), "nothing is assigned"
    assert any(dog.silent(0, {SAMPLES: 0}, 200_200_000 + s * 1_000) for s in range(12))
