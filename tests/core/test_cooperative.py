"""Pseudo-labels stay within their bounds, end where they do harm, and are the same for every replica."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stream_al.config import ConfigError, load
from stream_al.core.calibration import Calibration
from stream_al.core.cooperative import CALM_SAMPLES, EVERY, LEAN, OBSERVES_PER_LABEL, Cooperative
from stream_al.core.fold import OBSERVED_AT_ONCE, WARM_LABELS, Fold
from stream_al.core.messages import (
    Bucket,
    Budget,
    Genesis,
    Learned,
    Observe,
    Query,
    Shown,
    Source,
    Sums,
    timestamp,
)
from stream_al.core.model import Model
from stream_al.metrics import Exposition
from stream_al.service.figures import Figures
from stream_al.service.follower import Follower
from stream_al.service.learning import compare
from stream_al.service.snapshot import Snapshots
from tests.lockstep import Lockstep

NOW = 1_800_000_000_000
BAYES = ["river.naive_bayes.GaussianNB"]
NEIGHBOURS = [
    {
        "river.neighbors.KNNClassifier": {
            "n_neighbors": 5,
            "engine": {"river.neighbors.LazySearch": {"window_size": 2000}},
        }
    }
]


def genesis(*, cooperative=True, spec=BAYES):
    return Genesis(
        "id", "samples", {0: 0}, "default", spec, ["a", "b"], "random", 1, timestamp(NOW), cooperative=cooperative
    )  # fmt: skip


def label(k, x, y, *, p=0.05, said=None):
    """Return a label whose request showed the class ``said``, by default the right one."""
    query = Query("random", "explore", 0.5, 0.5, p, 0.1, 0.01, 0.9)
    return Learned(
        f"0-{k}", f"s-{k}", Source("samples", 0, k), query, Shown("default", 1, {said or y: 0.98}), timestamp(NOW),
        {"x": x}, y, True, timestamp(NOW + k), f"labels-0-{k}",
    )  # fmt: skip


def observe(x):
    return Observe(Source("samples", 0, 0), {"x": x})


def bucket(number, samples):
    sums = Sums(samples=samples, sum_p=0.05 * samples, predicted={"a": samples}, sum_confidence=0.9 * samples)
    start = number * samples
    return Bucket(number, {0: (start, start + samples)}, sums, timestamp(NOW), timestamp(NOW + 1000))


def fold(records, into=None):
    into = into or Fold()
    for record in records:
        into.apply(into.position, record)
    return into


def begun(**kind):
    return [genesis(**kind), Budget(fraction=0.05, novelty=0.0)]


def labels(n, share=0.5, seed=0):
    """Return n labels of two classes that are far apart, of which ``share`` are a's."""
    rng = np.random.default_rng(seed)
    ys = np.where(rng.permutation(n) < share * n, "a", "b").tolist()
    return [label(k, float(rng.normal() + (5 if y == "b" else -5)), y) for k, y in enumerate(ys)]


def observes(n, share=0.5, seed=1):
    rng = np.random.default_rng(seed)
    return [observe(float(rng.normal() + (5 if rng.random() >= share else -5))) for _ in range(n)]


def mixed(seed=2):
    """Return labels, observes and buckets in turn, for a model that has enough to be warm."""
    rng = np.random.default_rng(seed)
    records = [*begun(), *labels(60)]
    for i in range(20):
        records.append(bucket(i, 100))
        records += observes(6, seed=int(rng.integers(1_000)))
        records += [replace(r, request_id=f"{i}-{r.request_id}") for r in labels(3, seed=i)]
    return records


# --- bounds --------------------------------------------------------------------------------------------------------


def test_never_more_pseudo_labels_are_learned_than_labels():
    folded = fold([*begun(), *labels(60), *observes(600)])
    assert folded.pseudo_labels == 60
    assert folded.learned == 60, "they are no labels: budgets, warm-up and what is told do not count them"
    assert folded.class_counts.total() == 60
    fold([replace(label(100, 5.0, "b"), request_id="new")], folded)
    fold(observes(20), folded)
    assert folded.pseudo_labels == 61


def test_each_counts_half_for_every_class():
    folded = fold([*begun(), *labels(200), *observes(100)])
    learned, accepted = folded.cooperative.learned, folded.cooperative.accepted
    assert min(learned.values()) > 10
    assert learned == {key: n // EVERY for key, n in accepted.items()}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_no_class_gets_more_than_its_share_of_the_labels_and_a_little(share):
    folded, least = fold([*begun(), *labels(300, share)]), 0
    for record in observes(600, share=0.95):
        fold([record], folded)
        learned = folded.cooperative.learned
        for key, n in learned.items():
            known = folded.class_counts[key] / folded.learned
            assert n <= LEAN * known * learned.total() + 1
        least = learned.total()
    assert least > 10


def test_a_class_without_labels_gets_none():
    folded = fold([*begun(), *labels(60)])
    folded.class_counts = Counter({"a": 60})
    fold(observes(100), folded)
    assert set(folded.cooperative.learned) == {"a"}


def test_what_is_not_sure_is_no_pseudo_label():
    between = [observe(0.0)] * 50
    assert fold([*begun(), *labels(60), *between]).pseudo_labels == 0
    doubtful = [replace(r, model=Shown("default", 1, {"a": 0.98})) for r in labels(200)]
    folded = fold([*begun(), *doubtful, *observes(200)])
    assert folded.pseudo_labels == 0, "a model that was often wrong when it was sure is not believed"


def test_a_model_that_warms_up_learns_no_pseudo_labels():
    assert fold([*begun(), *labels(WARM_LABELS - 1), *observes(50)]).pseudo_labels == 0
    assert fold([*begun(), *labels(WARM_LABELS), *observes(50)]).pseudo_labels > 0


def test_after_an_alarm_there_are_none_until_many_samples_were_counted():
    folded = fold([*begun(), *labels(150)])
    wrong = [label(1_000 + k, 5.0, "b", said="a") for k in range(20)]
    for record in wrong:
        if not folded.drift.alarms:
            fold([record], folded)
    assert folded.drift.alarms.total() == 1
    folded.calibration = Calibration()  # which does not believe the model either, now
    for number in range(CALM_SAMPLES // 100):
        fold(observes(10, seed=number), folded)
        assert folded.pseudo_labels == 0
        fold([bucket(number, 100)], folded)
    fold(observes(10), folded)
    assert folded.pseudo_labels > 0


def test_more_is_observed_while_the_model_learns_from_it():
    def room(*, cooperative):
        folded = fold(
            [*begun(cooperative=cooperative), *labels(60), *observes(OBSERVED_AT_ONCE), bucket(0, 100)]
        )
        fold([replace(r, request_id=f"later-{r.request_id}") for r in labels(30)], folded)
        return fold([bucket(1, 2_000)], folded)

    assert room(cooperative=False).observe_room == 30
    assert room(cooperative=True).observe_room == 30 * OBSERVES_PER_LABEL
    assert room(cooperative=True).observe_rate > room(cooperative=False).observe_rate


def test_a_pseudo_label_that_raises_is_an_observation(monkeypatch):
    folded = fold([*begun(), *labels(60)])
    monkeypatch.setattr(folded.model, "learn", lambda *_: "ValueError")
    seen = []
    monkeypatch.setattr(folded.model, "observe", lambda features: seen.append(features))
    fold(observes(20), folded)
    assert len(seen) == 20
    assert folded.pseudo_labels == 0
    assert not folded.errors


# --- the guard -----------------------------------------------------------------------------------------------------


def harmful():
    """Return a ledger whose model is sure and wrong between 2 and 4, where it observes before it gets labels."""
    rng = np.random.default_rng(4)
    early = [
        (float(rng.uniform(-6, -1)), "a") if k % 2 else (float(rng.uniform(4.5, 6)), "b") for k in range(200)
    ]
    records = [*begun(spec=NEIGHBOURS), *(label(k, x, y) for k, (x, y) in enumerate(early))]
    records += [observe(float(rng.uniform(2.5, 4) if k % 2 else rng.uniform(-6, -1))) for k in range(400)]
    late = [
        (float(rng.uniform(2, 4)), "a") if k % 2 else (float(rng.uniform(4.5, 6)), "b") for k in range(120)
    ]
    return [*records, *(label(200 + k, x, y) for k, (x, y) in enumerate(late))]


def test_the_guard_ends_what_does_harm_and_the_twin_goes_on():
    records = harmful()
    folded, plain = fold(records), fold([replace(records[0], cooperative=False), *records[1:]])
    assert folded.cooperation == "stopped"
    assert folded.pseudo_labels > 50
    assert said(folded.model) == said(plain.model)
    before = folded.pseudo_labels
    fold(observes(50), folded)
    assert folded.pseudo_labels == before, "it has ended for good"
    assert folded.version == folded.position
    assert not folded.errors


def test_the_guard_leaves_alone_what_does_no_harm():
    for seed in range(5):
        assert fold(mixed(seed)).cooperation == "on"


def test_the_guard_counts_labels_by_how_many_samples_they_stand_for():
    """One label that is better and stands for ten weighs as much as ten that are worse and stand for one."""

    class Fixed:
        classes = ("a", "b")

        def __init__(self, said):
            self.row = np.array([[said == "a", said == "b"]], dtype=float)

        def predict(self, _):
            return self.row

        def learn(self, *_):
            return None

    model, twin = Fixed("a"), Fixed("b")
    guard = Cooperative(twin)
    for _ in range(50):
        assert guard.label(model, {}, "a", 10.0) is model
        for _ in range(10):
            assert guard.label(model, {}, "b", 1.0) is model
    for _ in range(300):
        if guard.label(model, {}, "b", 1.0) is twin:
            break
    assert guard.state == "stopped"
    assert guard.label(twin, {}, "b", 1.0) is twin


def test_a_label_without_a_probability_is_learned_and_judges_nothing():
    folded = fold([*begun(), *labels(60), *observes(50), label(99, 5.0, "b", p=float("nan"))])
    assert folded.learned == 61
    assert folded.errors == {"no_probability": 1}
    assert folded.cooperation == "on"


def said(model):
    """Return what a model says of many samples, to the last bit."""
    return model.predict([{"x": x / 4} for x in range(-40, 41)]).tolist()


# --- replicas ------------------------------------------------------------------------------------------------------


def state_of(folded):
    return (
        folded.position, folded.version, folded.cooperative.accepted, folded.cooperative.learned, folded.cooperation,
        said(folded.model), said(folded.cooperative.twin or folded.model),
        folded.cooperative._difference, folded.cooperative._variance,
    )  # fmt: skip


@pytest.mark.parametrize("records", [mixed(), harmful()], ids=["mixed", "harmful"])
@pytest.mark.parametrize("stop", [0.2, 0.5, 0.9])
def test_a_snapshot_goes_on_as_a_replay_does(records, stop):
    at = int(stop * len(records))
    again = pickle.loads(pickle.dumps(fold(records[:at])))
    assert state_of(fold(records[at:], again)) == state_of(fold(records))


def test_the_twin_is_the_model_without_cooperative_learning():
    records = mixed()
    off, on = fold([replace(records[0], cooperative=False), *records[1:]]), fold(records)
    assert said(on.cooperative.twin) == said(off.model)
    assert said(on.model) != said(off.model)


@pytest.fixture(scope="module")
def calm():
    return Lockstep(sets=["model.cooperative=true"]).run()


@pytest.mark.parametrize("seed", range(2))
def test_crashes_change_nothing(calm, seed):
    rng = np.random.default_rng(seed)
    crashes = {(role, int(rng.integers(1, 60))): "after" for role in ("scorer", "learner") for _ in range(4)}
    run = Lockstep(crashes=crashes, sets=["model.cooperative=true"]).run()
    assert run.crashes
    assert run.topics() == calm.topics()
    assert state_of(run.learner.follower.fold)[:5] == state_of(calm.learner.follower.fold)[:5]


def test_a_snapshot_on_disk_carries_all_of_it(calm, tmp_path):
    live = calm.learner.follower.fold
    assert live.pseudo_labels > 0
    follower = Follower(calm.broker, "ledger", Snapshots(tmp_path))
    follower.catch_up(follower.end() // 2)
    follower.save()
    again = Follower(calm.broker, "ledger", Snapshots(tmp_path))
    assert again.fold.position == follower.fold.position > 0
    again.catch_up(again.end())
    assert state_of(again.fold)[:5] == state_of(live)[:5]


def test_metrics_tell_how_many_there_were_and_whether_they_ended(calm):
    def shown(figures):
        text = Exposition(lambda: figures).render()[0].decode().splitlines()
        return [line for line in text if line.startswith("stream_al_pseudo_labels_")]

    figures, n = Figures.of(calm.learner), calm.learner.follower.fold.pseudo_labels
    assert shown(figures) == [
        f"stream_al_pseudo_labels_total {float(n)}",
        "stream_al_pseudo_labels_stopped 0.0",
    ]
    ended = replace(figures, learner=replace(figures.learner, pseudo_labels_stopped=True))
    assert shown(ended)[1] == "stream_al_pseudo_labels_stopped 1.0"


def test_a_ledger_with_it_is_not_read_by_a_configuration_without(calm):
    found = calm.learner.follower.fold.genesis
    assert found.cooperative
    compare(found, calm.settings)
    compare(found, load(None, environ={}))  # nobody wrote it
    with pytest.raises(ConfigError, match=r"model\.cooperative: the ledger was founded with True"):
        compare(found, load(None, ["model.cooperative=false"], environ={}))


# --- off -----------------------------------------------------------------------------------------------------------


def test_by_default_there_is_none_and_the_model_is_what_it_always_was():
    records = mixed()
    off = fold([genesis(cooperative=False), *records[1:]])
    assert off.cooperative is None
    assert (off.cooperation, off.pseudo_labels) == ("off", 0)
    model = Model(BAYES, classes=["a", "b"], seed=1)
    for record in records:
        if isinstance(record, Learned):
            model.learn(record.features, record.label)
        elif isinstance(record, Observe):
            model.observe(record.features)
    assert said(off.model) == said(model)
    run = Lockstep().run(rounds=2)
    assert run.learner.follower.fold.cooperative is None


def test_a_ledger_of_regression_that_says_otherwise_folds_without():
    numbers = replace(
        genesis(), task="regression", spec=["river.linear_model.LinearRegression"], classes=None
    )
    folded = fold([numbers, *begun()[1:], label(0, 1.0, 2.0, said="a")])
    assert folded.cooperative is None
    assert folded.learned == 1
