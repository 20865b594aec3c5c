"""A replica whose model is another one than the learner's: noticed at a probe, folded again, else not ready."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from stream_al.codec import decode_ledger
from stream_al.config import load
from stream_al.core import fold as folding
from stream_al.core.fold import Fold
from stream_al.core.messages import Probe
from stream_al.datasets import stream
from stream_al.service import loop as looping
from stream_al.service.agreement import Agreement, Diverged
from stream_al.service.follower import Follower
from stream_al.service.loop import Loop, Service, open_broker
from stream_al.service.snapshot import Snapshots
from stream_al.simulate import Simulation
from stream_al.transport.port import TopicPartition
from tests.folding import folded
from tests.lockstep import Lockstep

pytestmark = pytest.mark.fault(
    "replicas that disagree",
    "models disturbed, probes missing or no numbers: folded again, not ready the second time",
)

BATCH = [{"x": x / 3, "y": -x / 5, "where": "a"} for x in range(-9, 10)]


def disturb(fold):
    for _ in range(3):
        fold.model.learn({"x": -5.0, "y": -5.0, "where": "b"}, "up")


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(folding, "PROBE_EVERY", 20)
    return Lockstep().run(rounds=20)


def ledger(run):
    with run.broker.reader({TopicPartition("ledger", 0): 0}) as reader:
        records = reader.poll(10**6, 0).get(TopicPartition("ledger", 0), [])
    return [(r.offset, decode_ledger(r)) for r in records]


def test_the_learner_probes_often_enough_and_an_undisturbed_replica_agrees(run):
    probes = [(o, r) for o, r in ledger(run) if isinstance(r, Probe)]
    assert len(probes) >= run.learner.follower.fold.learned // 20 - 1 > 3
    assert all(len(r.probabilities) == 32 for _, r in probes)
    agreement = Agreement()
    follower = Follower(run.broker, "ledger", agreement=agreement)
    follower.catch_up(follower.end())
    assert agreement == Agreement()
    folded(ledger(run))  # which compares too


def test_a_disturbed_model_is_noticed_its_snapshots_go_and_a_new_start_heals_it(run, tmp_path):
    agreement = Agreement()
    follower = Follower(run.broker, "ledger", Snapshots(tmp_path), agreement=agreement)
    while follower.fold.learned < 50:
        follower.advance(10)
    disturb(follower.fold)
    follower.save()
    follower.close()
    follower = Follower(run.broker, "ledger", Snapshots(tmp_path), agreement=agreement)
    assert follower.fold.position > 0, "the snapshot is sound as a file"
    with pytest.raises(Diverged, match="ledger-0@"):
        follower.catch_up(follower.end())
    assert not list(tmp_path.glob("*.fold"))
    assert (agreement.disagreements, agreement.lasting) == (1, False)
    healed = Follower(run.broker, "ledger", Snapshots(tmp_path), agreement=agreement)
    healed.catch_up(healed.end())
    assert (agreement.disagreements, agreement.lasting) == (1, False)
    expected = run.learner.follower.fold.model.predict(BATCH)
    np.testing.assert_allclose(healed.fold.model.predict(BATCH), expected, atol=1e-9)


def test_a_probe_that_was_wrong_itself_does_no_harm_for_ever(run):
    records = ledger(run)
    at, probe = records[-1][0] + 1, folded(records).probe()
    odd = replace(
        probe, probabilities=[{key: 1 - p for key, p in row.items()} for row in probe.probabilities]
    )
    agreement, starts = Agreement(), 0
    while True:
        fold, starts = folded(records), starts + 1
        if not agreement.compare(at, fold.disagreement(odd)):
            break
    assert (starts, agreement.lasting) == (2, True)
    assert not agreement.compare(at + 9, 1.0), "not tried again and again"
    assert not agreement.compare(at + 10, 0.0)
    assert not agreement.lasting, "a later probe clears it"
    assert agreement.compare(at + 20, 1.0)
    assert not agreement.compare(at, 1.0), "an old one that was tried is not tried at each start"


def test_what_is_missing_or_no_number_disagrees(run):
    fold = folded(ledger(run))
    probe = fold.probe()
    assert fold.disagreement(probe) == 0
    assert fold.disagreement(Probe(probe.version + 1, probe.probabilities)) == math.inf
    assert fold.disagreement(Probe(probe.version, probe.probabilities[1:])) == math.inf
    assert fold.disagreement(Probe(probe.version, [{"never seen": 1.0}] * 32)) == math.inf


def test_a_regressor_is_probed_by_its_values(monkeypatch):
    monkeypatch.setattr(folding, "PROBE_EVERY", 20)
    sets = ["model.task=regression", "model.spec=[river.linear_model.LinearRegression]", "strategy=random"]
    rows = (({"x": float(i % 7)}, 3.0 * (i % 7) + 1e6) for i in range(600))
    with Simulation(load(None, [*sets, "state_dir=null"], environ={}), rows) as simulation:
        for _ in simulation.run():
            pass
        broker = simulation.service.broker
        with broker.reader({TopicPartition("ledger", 0): 0}) as reader:
            records = [
                (r.offset, decode_ledger(r)) for r in reader.poll(10**6, 0)[TopicPartition("ledger", 0)]
            ]
    probes = [r for _, r in records if isinstance(r, Probe)]
    assert probes
    assert all(len(p.values) == 32 for p in probes)
    fold = folded(records)
    probe = fold.probe()
    fold.model.learn({"x": 3.0}, -1e6)
    assert fold.disagreement(probe) > 1e-6


# --- the loop ------------------------------------------------------------------------------------------------


class World:
    """A scorer in its loop, and a learner that does a turn whenever the loop tells its figures."""

    def __init__(self, settings, monkeypatch, spoil):
        self.settings, self.spoil = settings, spoil
        self.services, self.figures, self.told = [], [], 0
        world = self

        class Watched(Service):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                world.services.append(self)

        monkeypatch.setattr(looping, "Service", Watched)
        monkeypatch.setattr(looping, "FIGURES_EVERY_S", 0.0)
        self.broker = open_broker(settings)
        self.learner = Service(self.broker, settings, "learner")
        self.learner.follower.agreement = None  # it is the one that is right
        self.loop = Loop(settings, "scorer", self.publish)

    def publish(self, figures):
        self.figures.append(figures)
        self.told += 1
        self.learner.turn()
        if self.told in (20, 40):
            self.spoil(self.services[-1].follower.fold, self.told)
            self.learner.follower.fold.probe_due = True
        if self.told > 60 or len(self.figures) > 500:
            self.loop.stop()

    def run(self):
        with self.broker, self.learner:
            self.loop.run()
        return self


@pytest.fixture
def settings(tmp_path):
    sets = [
        "ledger.bucket_s=0.2",
        f"state_dir={tmp_path / 'state'}",
        f"broker.url=embedded://{tmp_path}/log.db",
    ]
    settings = load(None, sets, environ={})
    with Simulation(settings, stream("phishing", 300, 1), path=str(tmp_path / "log.db")) as simulation:
        for _ in simulation.run():
            pass
    return settings


def test_a_replica_that_was_disturbed_folds_again_and_is_ready(settings, monkeypatch):
    def once(fold, told):
        if told == 20:
            features = fold.probe_samples[0]
            for _ in range(5):
                fold.model.learn(features, fold.classes[0])

    world = World(settings, monkeypatch, once).run()
    assert len(world.services) == 2
    assert world.figures[-1].disagreements == 1
    assert world.figures[-1].ready


def test_one_that_disagrees_again_is_not_ready_and_says_why(settings, monkeypatch):
    monkeypatch.setattr(Fold, "disagreement", lambda self, record: 0.5)
    world = World(settings, monkeypatch, lambda fold, told: None).run()
    last = world.figures[-1]
    assert len(world.services) == 2, "it is folded again once"
    assert last.disagreements >= 2
    assert not last.ready
    assert "not the learner's" in last.why_not
