"""Drifts are noticed from residuals and from confidence; the fold says the same wherever it was interrupted."""

from __future__ import annotations

import itertools
import pickle
import sys
import types

import numpy as np
import pytest
from river import base
from river.datasets import synth

from stream_al.codec import decode_ledger
from stream_al.config import load
from stream_al.core.drift import BLIND_LABELS, MOST_ALARMS, Drift
from stream_al.core.fold import Fold
from stream_al.core.messages import Sums
from stream_al.core.model import Model
from stream_al.simulate import Simulation
from stream_al.transport.port import TopicPartition


def play(seed, *, right, confidence, m=0.85, rate=0.05, n=8000, block=100):
    """Return the drift after n samples of a model that is right and confident as told, by the number of the sample."""
    rng, drift = np.random.default_rng(seed), Drift()
    for i in range(0, n, block):
        mean = np.clip(rng.normal(confidence(i), 0.15, block), 0, 1).sum()
        drift.bucket(i, Sums(samples=block, predicted={"a": block}, sum_confidence=mean))
        for _ in range(rng.binomial(block, rate)):
            drift.label(i, m, correct=bool(rng.random() < right(i)))
    return drift


def found(drift, at=4000, within=3000):
    return any(at < alarm.samples <= at + within for alarm in drift.latest)


def test_without_drift_there_are_few_alarms():
    still = [play(seed, right=lambda i: 0.85, confidence=lambda i: 0.85) for seed in range(50)]
    assert sum(drift.alarms.total() for drift in still) / (50 * 8) <= 0.06


@pytest.mark.parametrize("block", [1, 7])
def test_small_buckets_are_taken_together(block):
    for seed in range(10):
        drift = play(
            seed, right=lambda i: 0.85, confidence=lambda i: 0.85 - 0.3 * (i >= 4000), rate=0.0, block=block
        )
        assert 4000 < drift._warned["confidence"] < 4500
        drift = play(seed, right=lambda i: 0.85, confidence=lambda i: 0.85, rate=0.0, block=block)
        assert not drift._warned


def test_a_fall_of_the_accuracy_is_found():
    runs = [
        play(seed, right=lambda i: 0.85 - 0.3 * (i >= 4000), confidence=lambda i: 0.85) for seed in range(50)
    ]
    assert np.mean([found(drift) for drift in runs]) >= 0.9
    assert {alarm.signal for drift in runs for alarm in drift.latest} == {"residual"}


def test_a_fall_of_the_confidence_confirms_a_smaller_one():
    def right(i):
        return 0.85 - 0.1 * (i >= 4000)

    silent = [play(seed, right=right, confidence=lambda i: 0.85) for seed in range(50)]
    telling = [play(seed, right=right, confidence=lambda i: 0.85 - 0.1 * (i >= 4000)) for seed in range(50)]
    assert np.mean([found(drift, within=1500) for drift in telling]) > np.mean(
        [found(drift, within=1500) for drift in silent]
    )
    assert sum(drift.alarms["confidence"] for drift in telling) > 10


def test_confidence_alone_is_no_alarm_and_neither_is_a_rise():
    for after in (0.4, 0.8):
        drift = play(0, right=lambda i: 0.99, confidence=lambda i, after=after: after if i >= 4000 else 0.6)
        assert not drift.alarms


def test_a_model_that_was_always_a_little_overconfident_has_not_drifted():
    runs = [play(seed, right=lambda i: 0.8, confidence=lambda i: 0.85) for seed in range(50)]
    assert sum(drift.alarms.total() for drift in runs) / (50 * 8) <= 0.1


def test_after_an_alarm_it_is_blind_for_a_while_and_keeps_the_latest_only():
    drift, at = Drift(), []
    for i in range(20_000):
        if drift.label(i, 1.0, correct=i < 300):
            at.append(i)
            drift._usual = 0.0
    assert min(b - a for a, b in itertools.pairwise(at)) > BLIND_LABELS
    assert len(drift.latest) <= MOST_ALARMS < drift.alarms["residual"] == len(at)
    assert drift.last_alarm_offset == at[-1]


def test_it_goes_on_the_same_after_a_snapshot():
    one, other = (play(1, right=lambda i: 0.8, confidence=lambda i: 0.8) for _ in range(2))
    other = pickle.loads(pickle.dumps(other))
    rng = np.random.default_rng(2)
    for i in range(400):
        sums = Sums(samples=100, predicted={"a": 100}, sum_confidence=100 * rng.uniform(0.3, 0.7))
        correct = bool(rng.random() < 0.4)
        assert one.bucket(i, sums) == other.bucket(i, sums)
        assert one.label(i, 0.8, correct=correct) == other.label(i, 0.8, correct=correct)
    assert one.latest == other.latest
    assert len(one.latest) > 0


# --- in the fold ---------------------------------------------------------------------------------------------------


class Forgetful(base.Classifier):
    """Remembers how often each label came since the last drift."""

    def __init__(self):
        self.counts, self.drifts = {}, 0

    def learn_one(self, x, y):
        self.counts[y] = self.counts.get(y, 0) + 1

    def predict_proba_one(self, x):
        return {y: n / sum(self.counts.values()) for y, n in self.counts.items()}

    def on_drift(self):
        self.drifts += 1
        if self.drifts == 3:
            self.counts = {}
            raise ZeroDivisionError
        self.counts = dict.fromkeys(self.counts, 1)

    @property
    def _multiclass(self):
        return True


@pytest.fixture
def forgetful(monkeypatch):
    name = "stream_al.forgetful_under_test"
    module = types.ModuleType(name)
    monkeypatch.setattr(Forgetful, "__module__", name)
    module.Forgetful = Forgetful
    monkeypatch.setitem(sys.modules, name, module)
    return f"{name}.Forgetful"


def test_a_model_that_can_is_told_and_a_failure_is_undone(forgetful):
    model = Model([forgetful], classes=None, seed=1)
    for label in "aaab":
        model.learn({}, label)
    assert model.predict([{}])[0].tolist() == [0.75, 0.25]
    assert model.on_drift() is None
    assert model.predict([{}])[0].tolist() == [0.5, 0.5]
    assert model.on_drift() is None
    model.learn({}, "a")
    before = model.predict([{}]).tolist()
    assert model.on_drift() == "ZeroDivisionError"
    assert model.predict([{}]).tolist() == before
    assert Model(["river.naive_bayes.GaussianNB"], classes=None, seed=1).on_drift() is None


@pytest.fixture(scope="module")
def ledger():
    """The ledger of a run whose concept switches twice, and the fold that the service made of it."""
    parts = (
        synth.LEDDrift(seed=7 + i, noise_percentage=0.05, n_drift_features=k) for i, k in enumerate((0, 7, 0))
    )
    rows = itertools.chain.from_iterable(itertools.islice(iter(part), 1500) for part in parts)
    settings = load(
        None,
        [
            "broker.partitions=2", "ledger.bucket_s=1", "scorer.commit_samples=64", "state_dir=null", "seed=3",
            "budget.fraction=0.1", "http.port=null", 'model.spec=["river.naive_bayes.GaussianNB"]',
        ],
        environ={},
    )  # fmt: skip
    with Simulation(
        settings, (({str(k): v for k, v in x.items()}, y) for x, y in rows), delay=100
    ) as simulation:
        for _ in simulation.run():
            pass
        with simulation.broker.reader({TopicPartition("ledger", 0): 0}) as reader:
            records = [
                r
                for batch in iter(lambda: reader.poll(10_000, 0), {})
                for part in batch.values()
                for r in part
            ]
        return [(r.offset, decode_ledger(r)) for r in records], simulation.fold


def told(fold):
    a = fold.accuracy
    return (
        fold.version, fold.position, fold.drift.alarms, list(fold.drift.latest), a.window(1000), a.window(None), a.fading(),
        a.always(), a.by_class(2000), a.epoch, fold.errors,
    )  # fmt: skip


def test_a_run_with_drifts_has_alarms_and_metrics(ledger):
    _, fold = ledger
    assert fold.drift.alarms.total() >= 1
    assert found(fold.drift, at=3000, within=1500)
    assert fold.accuracy.epoch > 0, "what is told since the last alarm began anew"
    assert isinstance(fold.accuracy.by_class(2000).macro_f1.value, float)
    assert len(pickle.dumps(fold.accuracy)) < 300_000


@pytest.mark.parametrize("stop", [0.3, 0.6, 0.95])
def test_replay_with_a_snapshot_in_the_middle_gives_the_same(ledger, stop):
    records, live = ledger
    fold = Fold()
    for i, (offset, record) in enumerate(records):
        if i == int(stop * len(records)):
            fold = pickle.loads(pickle.dumps(fold))
        fold.apply(offset, record)
    assert told(fold) == told(live)


def test_an_alarm_changes_the_version_of_a_model_that_forgets(ledger, forgetful):
    from dataclasses import replace

    records, _ = ledger
    fold = Fold()
    for offset, record in records:
        if record.kind == "genesis":
            record = replace(record, spec=[forgetful])
        before = fold.drift.alarms.total()
        fold.apply(offset, record)
        if fold.drift.alarms.total() > before and fold.learned:
            assert fold.version == offset + 1 or fold.errors["ZeroDivisionError"]
    steps = fold.model._state.pipeline.steps
    assert min(fold.drift.alarms.total(), 2) <= next(iter(steps.values())).drifts
