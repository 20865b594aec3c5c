"""What no honest peer does, slow models, clocks that differ, and a stream's last samples."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from structlog.testing import capture_logs

from stream_al.codec import BadRecord, decode_report, encode
from stream_al.config import ConfigError, load
from stream_al.core.budget import TOKEN, PartitionBudget
from stream_al.core.fold import Fold
from stream_al.core.messages import Bucket, Budget, Genesis, Sums, Tally, timestamp
from stream_al.service.loop import Service, topic_specs
from stream_al.simulate import Simulation, VirtualClock
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Output
from tests.lockstep import Lockstep

pytestmark = pytest.mark.fault(
    "absurd records, slow models, clocks that differ",
    "what no honest peer does, given to machines and service",
)
OWN = [
    "broker.partitions=1",
    "state_dir=null",
    "http.port=null",
    "samples.start=earliest",
    "ledger.bucket_s=1",
]
HOSTILE = [
    Sums(samples=60, predicted={"x": 10**400}),
    Sums(samples=60, sum_p=5e-324),
    Sums(samples=-(10**400)),
    Sums(samples=10**400, sum_confidence=1.0, predicted={"x": 1}),
]


def settings(*more):
    return load(None, [*OWN, *more], environ={})


@pytest.mark.parametrize("sums", HOSTILE[:3])
def test_a_tally_that_no_scorer_would_write_is_refused(sums):
    tally = Tally(
        partition=0, from_offset=0, to_offset=60, first_at=timestamp(0), last_at=timestamp(1), sums=sums
    )
    record = type("R", (), {"value": encode(tally)})()
    with pytest.raises(BadRecord):
        decode_report(record)


@pytest.mark.parametrize("sums", HOSTILE)
def test_no_record_of_the_ledger_ends_the_fold_or_its_figures(sums):
    fold = Fold()
    genesis = Genesis(
        ledger_id="a", topic="samples", start={0: 0}, model="m", spec=["river.naive_bayes.GaussianNB"],
        classes=None, strategy="margin", seed=1, created_at=timestamp(0),
    )  # fmt: skip
    fold.apply(0, genesis)
    fold.apply(1, Budget(fraction=1e308))
    for n in range(3):
        bucket = Bucket(
            number=n, ranges={0: (60 * n, 60 * n + 60)}, sums=dataclasses.replace(sums),
            first_at=timestamp(0), last_at=timestamp(1),
        )  # fmt: skip
        fold.apply(2 + n, bucket)
    assert fold.position == 5


def test_without_a_floor_no_probability_is_too_small_to_count_with():
    budget, rng = Budget(fraction=0.01, exploration=0.0), np.random.default_rng(0)
    state = PartitionBudget(level=budget.burst * TOKEN)
    u = np.where(rng.random(20_000) < 0.01, 1.0, 1e-4 * rng.random(20_000))
    p = state.decide(u, np.zeros(len(u), bool), rng.random(len(u)), budget, warming=False).p
    assert p[p > 0].min() >= 1e-9


def test_the_last_samples_of_a_finite_stream_are_counted_and_learned():
    rows = [({"x": float(i % 7), "y": float(i % 3)}, "up" if i % 7 > 3 else "down") for i in range(3_001)]
    with Simulation(settings("log.level=error"), rows, delay=0) as simulation:
        *_, last = simulation.run()
        assert simulation.fold.accuracy.everything.samples == 3_001
        assert last.labels == last.requests > 100


def served(clock, *more, role="all"):
    made = settings(*more)
    broker = EmbeddedBroker(":memory:", clock=clock.seconds)
    broker.ensure(topic_specs(made), create=True)
    return broker, Service(broker, made, role, clock=clock)


def turns(service):
    for _ in range(3):
        service.turn()


def feed(broker, n):
    lines = [b'{"id": "s-%d", "features": {"x": %d}}' % (i, i % 5) for i in range(n)]
    broker.append([Output("samples", line) for line in lines])


def test_a_ledger_record_that_could_not_be_learned_is_warned_of_by_its_place():
    broker, service = served(VirtualClock())
    turns(service)
    broker.append([Output("ledger", b'{"kind": "hearsay"}') for _ in range(3)])
    with capture_logs() as said:
        turns(service)
    (line,) = [line for line in said if line["log_level"] == "warning"]
    assert (line["reason"], line["at"]) == ("unreadable", f"ledger-0@{broker.ends('ledger')[0] - 3}")


def test_a_slow_model_commits_in_the_middle_of_a_poll(monkeypatch):
    clock = VirtualClock()
    broker, service = served(clock)
    turns(service)
    score = Fold.score

    def slowly(self, batch):
        time.sleep(0.11)
        clock.ms += 3_000
        return score(self, batch)

    monkeypatch.setattr(Fold, "score", slowly)
    feed(broker, 1_500)
    for _ in range(4):
        service.turn()
    assert service.scorer.commits >= 10
    service.close()


def test_a_scorer_whose_configuration_contradicts_the_ledger_does_not_start():
    clock = VirtualClock()
    broker, service = served(clock)
    turns(service)
    for role in ("scorer", "learner"):
        other = Service(broker, settings("seed=7"), role, clock=clock)
        with pytest.raises(ConfigError, match="seed"):
            turns(other)
    service.close()


def test_buckets_close_although_a_scorers_clock_is_ahead():
    clock = VirtualClock()
    broker, learner = served(clock, role="learner")
    learner.turn()
    ahead = lambda: clock.ms + 3_600_000  # noqa: E731
    scorer = Service(broker, settings(), "scorer", clock=ahead)
    for _ in range(20):
        feed(broker, 100)
        clock.ms += 2_000
        scorer.turn()
        scorer.scorer.drain()
        learner.turn()
    assert learner.follower.fold.buckets >= 5
    for one in (scorer, learner):
        one.close()


@pytest.mark.parametrize("positions", ["gone", "set back, not as far as the ledger"])
def test_a_scorer_without_its_positions_begins_after_all_that_was_told_to_the_learner(positions):
    """The open bucket is not in the ledger yet: a tally that begins inside it could only be dropped whole."""
    clock = VirtualClock()
    broker, learner = served(clock, "ledger.bucket_s=1000", role="learner")
    scorer = Service(broker, settings(), "scorer", clock=clock)
    turns(learner)

    def decide(n):
        feed(broker, n)
        for _ in range(3):
            scorer.turn()
            scorer.scorer.drain()
            learner.turn()

    decide(60)
    decide(30)
    assert learner.follower.fold.ends == {0: 60}, "the second tally waits in an open bucket"
    change = "DELETE FROM position" if positions == "gone" else "UPDATE position SET offset = 75, state = ''"
    broker._log.db.execute(f"{change} WHERE grp LIKE '%-scorer'")
    scorer.abandon()
    decide(20)
    learner.learner.flush()
    turns(learner)
    everything = learner.follower.fold.accuracy.everything
    assert everything.samples + everything.invalid == 110
    assert scorer.scorer.outcomes.total() == 110, "none is decided twice"
    for one in (scorer, learner):
        one.close()


def test_one_underscore_in_an_environment_name_is_not_ignored():
    with pytest.raises(ConfigError, match="STREAM_AL_BROKER__URL"):
        load(None, [], environ={"STREAM_AL_BROKER_URL": "kafka://somewhere:9092"})


def test_labels_are_learned_while_an_open_transaction_hides_later_requests(monkeypatch):
    """A scorer may stand still in the middle of its commit; the requests seen before can be answered meanwhile."""
    ends = EmbeddedBroker.ends

    def with_an_open_one(self, topic, *, committed=True):
        more = topic == "labels-requested" and not committed
        return {p: end + 1_000 * more for p, end in ends(self, topic).items()}

    monkeypatch.setattr(EmbeddedBroker, "ends", with_an_open_one)
    run = Lockstep().run(rounds=8)
    assert run.learner.follower.fold.learned > 20
