"""A rebuild: the model begins anew with corrected labels, for everybody at the same record of the ledger."""

from __future__ import annotations

import numpy as np
import pytest
from structlog.testing import capture_logs

from stream_al.codec import answer_bytes, decode_ledger, encode
from stream_al.config import load
from stream_al.core.messages import Answer, Correction, Learned, Rebuild, timestamp
from stream_al.core.model import Model
from stream_al.service.follower import Follower
from stream_al.service.loop import Service, topic_specs
from stream_al.service.snapshot import Snapshots
from stream_al.simulate import VirtualClock
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Output, TopicPartition
from tests.folding import folded
from tests.lockstep import Lockstep

pytestmark = pytest.mark.fault(
    "answers late, twice, changed, withdrawn, for nobody",
    "a rebuild with corrections: all replicas, restarts in the middle",
)

BATCH = [{"x": x / 3, "y": -x / 5, "where": "a"} for x in range(-9, 10)]


def ledger(run):
    with run.broker.reader({TopicPartition("ledger", 0): 0}) as reader:
        records = reader.poll(10**6, 0).get(TopicPartition("ledger", 0), [])
    return [(r.offset, decode_ledger(r)) for r in records]


def learned(run):
    return [(o, r) for o, r in ledger(run) if isinstance(r, Learned) and r.learn]


def correct(run, every=5):
    """Turn every fifth label over."""
    turned = [(r, "down" if r.label == "up" else "up") for _, r in learned(run)[::every]]
    answers = [Answer(r.id, label, request_id=r.request_id) for r, label in turned]
    run.broker.append([Output("labels", value, partition=0) for value in answer_bytes(answers)])
    run._turn("learner")
    return {r.answer: label for r, label in turned}


def ask(run, begin, name="one"):
    genesis = run.learner.follower.fold.genesis
    wanted = Rebuild(name, genesis.ledger_id, begin, timestamp(run.clock.ms))
    run.broker.append([Output("reports", encode(wanted), partition=0)])


def expected(run, begin, until, corrections):
    """Return the model that the records of a range make, by hand."""
    genesis = run.learner.follower.fold.genesis
    model = Model(genesis.spec, classes=genesis.classes, seed=genesis.seed)
    for offset, record in ledger(run):
        if begin <= offset < until and record.kind == "observe":
            model.observe(record.features)
        elif begin <= offset < until and isinstance(record, Learned) and record.learn:
            model.learn(record.features, corrections.get(record.answer, record.label))
    return model


@pytest.fixture
def run():
    return Lockstep().run(rounds=20)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_new_model_is_that_of_the_range_with_corrected_labels(run, share):
    before = run.learner.follower.fold.model.predict(BATCH)
    corrections = correct(run)
    fold = run.learner.follower.fold
    np.testing.assert_array_equal(fold.model.predict(BATCH), before)
    assert len(fold.corrections) == len(corrections) > 10
    closed, window, learned_before = dict(fold.closed), fold.accuracy.window(None), fold.learned
    begin, version = int(share * fold.position), fold.version
    ask(run, begin)
    run._turn("learner")
    assert (fold.rebuilds, fold.epoch.begin) == (1, begin)
    assert fold.version == fold.epoch.until + 1 > version
    model = expected(run, begin, fold.epoch.until, corrections)
    np.testing.assert_allclose(fold.model.predict(BATCH), model.predict(BATCH), atol=1e-9)
    if share < 1:
        assert np.abs(fold.model.predict(BATCH) - before).max() > 0.01
    assert (fold.closed, fold.accuracy.window(None), fold.learned) == (closed, window, learned_before)


@pytest.mark.parametrize("cooperative", ["false", "true"])
def test_everybody_goes_on_with_the_same_model(cooperative, tmp_path):
    run = Lockstep(sets=[f"model.cooperative={cooperative}"]).run(rounds=20)
    correct(run)
    ask(run, 30)
    run.on()
    ask(run, 0, "two")
    run.on()
    fold = run.learner.follower.fold
    assert fold.rebuilds == 2
    scorer = run.scorer.follower.fold
    fresh = folded(ledger(run))
    halves = Follower(run.broker, "ledger", Snapshots(tmp_path))
    for end in range(0, halves.end(), 60):  # a snapshot and a new start again and again
        halves.catch_up(end)
        halves.save()
        halves.close()
        halves = Follower(run.broker, "ledger", Snapshots(tmp_path))
    halves.catch_up(halves.end())
    for one in (scorer, fresh, halves.fold):
        np.testing.assert_allclose(one.model.predict(BATCH), fold.model.predict(BATCH), atol=1e-9)
        assert (one.version, one.position, one.epoch) == (fold.version, fold.position, fold.epoch)
        assert (one.closed, one.grants, one.labels) == (fold.closed, fold.grants, fold.labels)
        assert one.accuracy.window(None) == fold.accuracy.window(None)


def test_it_goes_on_with_the_old_model_until_the_new_one_is_there_and_a_restart_begins_again(run, tmp_path):
    ask(run, 0)
    run._turn("learner")
    whole = run.learner.follower.fold
    follower = Follower(run.broker, "ledger", Snapshots(tmp_path))
    follower.catch_up(follower.end(), through=False)
    at, old = follower.fold.position, follower.fold.model.predict(BATCH)
    follower.advance()
    assert follower.fold.rebuilding is not None
    assert (follower.position(), follower.fold.version) == (at, follower.fold.version)
    np.testing.assert_array_equal(follower.fold.model.predict(BATCH), old)
    follower.save()
    assert not list(tmp_path.glob("*.fold")), "no snapshot of half a rebuild"
    follower.close()
    again = Follower(run.broker, "ledger", Snapshots(tmp_path))
    again.catch_up(again.end())
    np.testing.assert_allclose(again.fold.model.predict(BATCH), whole.model.predict(BATCH), atol=1e-9)
    assert list(tmp_path.glob("*.fold")), "and one as soon as it is through"
    third = Follower(run.broker, "ledger", Snapshots(tmp_path))
    assert third.fold.position > whole.epoch.until, "so that it need not be done again"


def test_a_learner_that_dies_in_it_has_written_it_once(run):
    run.plan.crashes[("learner", run.plan.count["learner"] + 1)] = "after"
    ask(run, 0)
    run._turn("learner")
    assert run.crashes == 1
    run.on()
    assert len([r for _, r in ledger(run) if isinstance(r, Rebuild)]) == 1
    assert run.learner.follower.fold.rebuilds == 1


def test_a_correction_after_a_rebuild_waits_for_the_next_one(run):
    correct(run)
    ask(run, 0)
    run._turn("learner")
    fold = run.learner.follower.fold
    model, known = fold.model.predict(BATCH), len(fold.corrections)
    correct(run, 7)
    assert len(fold.corrections) > known
    assert len(fold.corrections) == len([r for _, r in ledger(run) if isinstance(r, Correction)])
    np.testing.assert_array_equal(fold.model.predict(BATCH), model)


def test_a_rebuild_of_a_label_that_cannot_be_learned_is_counted():
    run = Lockstep(sets=["model.classes=[up, down]"]).run(rounds=10)
    _, first = learned(run)[0]
    run.broker.append(
        [
            Output(
                "labels",
                answer_bytes([Answer(first.id, "sideways", request_id=first.request_id)])[0],
                partition=0,
            )
        ]
    )
    ask(run, 0)
    run._turn("learner")
    ask(run, 0, "two")
    run._turn("learner")
    assert run.learner.follower.fold.errors == {"UnknownClass": 1}


def test_a_scorer_that_is_given_partitions_in_a_rebuild_answers_its_group_meanwhile(monkeypatch):
    """Its lease would run out, and others take what it is about to decide."""
    monkeypatch.setattr("stream_al.service.follower.AGAIN_AT_ONCE", 20)
    clock = VirtualClock()
    settings = load(None, ["broker.partitions=2", "samples.start=earliest", "state_dir=null"], environ={})
    broker = EmbeddedBroker(":memory:", clock=clock.seconds)
    broker.ensure(topic_specs(settings), create=True)
    learner, one, two = (
        Service(broker, settings, role, clock=clock, slot=slot)
        for role, slot in (("learner", ""), ("scorer", "one"), ("scorer", "two"))
    )

    def turns(*services):
        for _ in range(4):
            for service in services:
                service.turn()
                if service.scorer is not None:
                    service.scorer.drain()

    def feed(n):
        lines = [b'{"id": "s-%d", "features": {"x": %d}}' % (i, i % 5) for i in range(n)]
        broker.append([Output("samples", line, partition=i % 2) for i, line in enumerate(lines)])

    learner.turn()
    feed(800)
    turns(one, learner)
    one.abandon()
    one.scorer._joined()  # a member that was given nothing yet
    genesis = learner.follower.fold.genesis
    asked = Rebuild("one", genesis.ledger_id, 0, timestamp(clock.ms))
    broker.append([Output("reports", encode(asked), partition=0)])
    turns(learner)
    again, pieces = one.follower._advance_again, []

    def slowly(*args):
        clock.ms += 10_000
        turns(two)  # takes whatever is nobody's
        pieces.append(len(two.scorer.machine.partitions))
        return again(*args)

    one.follower._advance_again = slowly
    with capture_logs() as logs:
        one.turn()
        assert len(pieces) > 4, "longer than a session"
        assert max(pieces) == 1, "the other takes its share only"
        feed(200)
        turns(one, two)
    assert not [line for line in logs if "refused" in line["event"]]
    assert [len(each.scorer.machine.partitions) for each in (one, two)] == [1, 1]
    assert one.scorer.outcomes.total() + two.scorer.outcomes.total() == 1_000
    for service in (one, two, learner):
        service.close()
