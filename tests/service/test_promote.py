"""A promotion: another model for everybody at the same record of the ledger, through crashes and restarts."""

from __future__ import annotations

import numpy as np
import pytest

from stream_al.codec import decode_ledger, decode_request, encode
from stream_al.config import ConfigError, load
from stream_al.core.messages import Challengers, LabelRequest, Promote, timestamp
from stream_al.service.follower import Follower
from stream_al.service.learning import check_challengers, compare, wanted_challengers
from stream_al.service.loop import Service
from stream_al.service.snapshot import Snapshots
from stream_al.transport.port import Output, TopicPartition
from tests.folding import folded
from tests.lockstep import DEFAULTS, Lockstep

CHALLENGERS = "challengers=[{name: bayes, spec: [river.naive_bayes.GaussianNB], strategy: entropy}]"
SETS = (CHALLENGERS, "accuracy.random_twin=true")
BATCH = [{"x": x / 3, "y": -x / 5, "where": "a"} for x in range(-9, 10)]


def ledger(run):
    with run.broker.reader({TopicPartition("ledger", 0): 0}) as reader:
        records = reader.poll(10**6, 0).get(TopicPartition("ledger", 0), [])
    return [(r.offset, decode_ledger(r)) for r in records]


def requests(run):
    with run.broker.reader(
        {TopicPartition("labels-requested", 0): 0, TopicPartition("labels-requested", 1): 0}
    ) as reader:
        found = [decode_request(r) for batch in reader.poll(10**6, 0).values() for r in batch]
    return [r for r in found if isinstance(r, LabelRequest)]


def ask(run, name="bayes", operation="one"):
    genesis = run.learner.follower.fold.genesis
    wanted = Promote(operation, genesis.ledger_id, name, timestamp(run.clock.ms))
    run.broker.append([Output("reports", encode(wanted), partition=0)])


@pytest.fixture
def run():
    return Lockstep(sets=SETS).run(rounds=12)


def test_everybody_goes_on_with_the_same_model_and_asks_by_its_strategy(run, tmp_path):
    ask(run)
    run.on()
    fold = run.learner.follower.fold
    assert (fold.champion.name, fold.asks_by, fold.promotions) == ("bayes", "entropy", 1)
    [(at, record)] = [(o, r) for o, r in ledger(run) if isinstance(r, Promote)]
    assert (record.spec, record.strategy) == (["river.naive_bayes.GaussianNB"], "entropy")
    asked = [r for r in requests(run) if r.model.version > at]
    assert asked
    assert {(r.model.name, r.query.strategy) for r in asked} == {("bayes", "entropy")}
    halves = Follower(run.broker, "ledger", Snapshots(tmp_path))
    for end in range(0, halves.end(), 60):  # a snapshot and a new start again and again
        halves.catch_up(end)
        halves.save()
        halves.close()
        halves = Follower(run.broker, "ledger", Snapshots(tmp_path))
    halves.catch_up(halves.end())
    for one in (run.scorer.follower.fold, folded(ledger(run)), halves.fold):
        np.testing.assert_allclose(one.model.predict(BATCH), fold.model.predict(BATCH), atol=1e-9)
        assert (one.version, one.champion, one.standings) == (fold.version, fold.champion, fold.standings)
        assert one.contest.saved() == fold.contest.saved()


def test_a_learner_that_dies_in_it_has_written_it_once(run):
    run.plan.crashes[("learner", run.plan.count["learner"] + 1)] = "after"
    ask(run)
    run._turn("learner")
    assert run.crashes == 1
    run.on()
    assert len([r for _, r in ledger(run) if isinstance(r, Promote)]) == 1


def test_what_names_nobody_is_not_written(run):
    ask(run, "nobody")
    ask(run, "default", "two")
    ask(run, "bayes", "three")
    ask(run, "bayes", "four")
    run._turn("learner")
    assert [r.id for _, r in ledger(run) if isinstance(r, Promote)] == ["three"]
    assert run.learner.learner.machine.dropped["promote_nobody"] == 3


def restarted(run, *sets):
    """Return a learner that takes over from the run's with its own settings."""
    run.learner.close()
    service = Service(run.broker, load(None, [*DEFAULTS, *sets], environ={}), "learner", clock=run.clock)
    for _ in range(3):
        service.turn()
    return service


def test_a_start_after_a_promotion_is_no_contradiction(run):
    ask(run)
    run.on()
    before = len(ledger(run))
    with restarted(run, *SETS, "strategy=margin", "name=default") as service:
        assert service.learner.owner
        assert service.follower.fold.champion.name == "bayes"
    assert not [r for _, r in ledger(run)[before:] if isinstance(r, Challengers)]


def test_the_ledgers_challengers_are_the_configurations_where_it_names_any(run):
    with restarted(run) as service:  # it names none: those of the ledger stay
        assert [s.name for s in service.follower.fold.standings] == ["bayes", "random"]
    lineup = "challengers=[{name: tree, spec: [river.tree.HoeffdingTreeClassifier]}]"
    with restarted(run, lineup, "accuracy.random_twin=false") as service:
        assert [s.name for s in service.follower.fold.standings] == ["tree"]
        assert service.follower.fold.lineup == wanted_challengers(service.settings)
    assert len([r for _, r in ledger(run) if isinstance(r, Challengers)]) == 2


def test_by_default_the_ledger_says_nothing_of_challengers():
    assert not [r for _, r in ledger(Lockstep().run(rounds=2)) if isinstance(r, Challengers | Promote)]


def test_a_challenger_that_cannot_be_built_is_a_mistake_in_the_configuration():
    settings = load(None, ["challengers=[{name: no, spec: [river.tree.NoSuch]}]"], environ={})
    with pytest.raises(ConfigError, match=r"challengers\[0\]\.spec\[0\].*there is no river\.tree\.NoSuch"):
        check_challengers(settings)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["challengers=[{name: default}]"], "'default' names two models"),
        (["challengers=[{name: a}, {name: a}]"], "'a' names two models"),
        (["challengers=[{name: random}]"], r"challengers\[0\]\.name: 'random' is the name of the twin"),
        (["name=random"], r"name: 'random' is the name of the twin"),
        (["challengers=[{name: a, strategy: margins}]"], "did you mean margin"),
        (["challengers=[{spec: [river.naive_bayes.GaussianNB]}]"], r"challengers\[0\]\.name"),
        (
            ["challengers=[{name: a}]", "model.task=regression"],
            "challengers: models are compared in classification",
        ),
        (
            ["accuracy.random_twin=true", "model.task=regression"],
            "accuracy: random_twin is for classification",
        ),
    ],
)
def test_mistakes_in_the_configuration_are_named(sets, message):
    with pytest.raises(ConfigError, match=message):
        load(None, sets, environ={})


def test_genesis_alone_is_compared(run):
    compare(run.learner.follower.fold.genesis, run.settings)
