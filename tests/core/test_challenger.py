"""Challengers see what the model sees, their difference is honest, and a promotion is the same for every replica."""

from __future__ import annotations

import doctest
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from stream_al.core import challenger, paired, random_twin
from stream_al.core.challenger import Contest
from stream_al.core.classification import Insufficient
from stream_al.core.messages import (
    Bucket,
    Budget,
    Challenger,
    Challengers,
    Genesis,
    Learned,
    Observe,
    Promote,
    Query,
    Rebuild,
    Shown,
    Source,
    Sums,
    timestamp,
)
from stream_al.core.model import Model
from stream_al.core.paired import Paired
from stream_al.core.random_twin import FIRST_RUNG, LARGEST_RUNG, Level, Point, RandomTwin, Rung, ratio_of
from stream_al.core.sequence import Interval
from tests.folding import folded

NOW = 1_800_000_000_000
BAYES = ["river.naive_bayes.GaussianNB"]
LINEAR = ["river.preprocessing.StandardScaler", "river.linear_model.LogisticRegression"]
BATCH = [{"x": x / 4, "y": 1.0} for x in range(-40, 41)]
GENESIS = Genesis("id", "samples", {0: 0}, "default", LINEAR, ["a", "b"], "margin", 1, timestamp(NOW))
LINEUP = Challengers(
    [Challenger("bayes", BAYES, "entropy"), Challenger("same", LINEAR, "random")], random_twin=True
)


def label(k, x, y, *, p=0.05, coin=0.001, floor=0.01, said=None):
    query = Query("margin", "informative", 0.5, 0.5, p, floor, coin, 0.9)
    return Learned(
        f"0-{k}", f"s-{k}", Source("samples", 0, k), query, Shown("default", 1, {said or y: 0.98}), timestamp(NOW),
        {"x": x, "y": 1.0}, y, True, timestamp(NOW + k), f"labels-0-{k}",
    )  # fmt: skip


def labels(n, seed=0, first=0):
    """Return n labels, a fifth of them asked for at random, in bands that a linear model cannot tell apart."""
    rng = np.random.default_rng(seed)
    for k in range(first, first + n):
        x = float(rng.uniform(-6, 6))
        yield label(k, x, "a" if abs(x) < 3 else "b", coin=float(rng.uniform(0, 0.05)))


def ledger(n=150, lineup=LINEUP):
    """Return labels, observes and buckets as they would stand in a ledger."""
    records = [GENESIS, Budget(fraction=0.05, novelty=0.0), lineup]
    for k, record in enumerate(labels(n)):
        records.append(record)
        if k % 3 == 0:
            records.append(Observe(source=record.source, features={"x": float(k % 11) - 5, "y": 1.0}))
        if k % 10 == 9:
            sums = Sums(samples=200, sum_p=10.0, predicted={"a": 200}, sum_confidence=180.0)
            at = 200 * (k // 10)
            records.append(Bucket(k // 10, {0: (at, at + 200)}, sums, timestamp(NOW), timestamp(NOW + k)))
    return records


def fold(records, into=None):
    return folded(list(enumerate(records)), into)


def promote(name, operation="one"):
    return Promote(operation, "id", name, timestamp(NOW))


def said(model):
    return model.predict(BATCH).tolist()


def state_of(found):
    twin = found.contest.twin
    return (
        found.position, found.version, found.champion, said(found.model), found.calibration,
        {n: (said(c.model), c.paired, c.calibration) for n, c in found.contest.others.items()},
        twin and (said(twin.model), twin.random, twin.asked, twin.paired, [r.labels for r in twin.rungs]),
        found.standings, found.contest.saved(), found.errors,
    )  # fmt: skip


def test_the_examples_in_the_docstrings_hold():
    for module in (challenger, paired, random_twin):
        assert doctest.testmod(module).failed == 0


# --- what they learn and how they are judged -----------------------------------------------------------------------


def test_a_challenger_learns_what_it_would_as_the_model():
    alone = fold([replace(GENESIS, spec=BAYES), *ledger()[1:2], *ledger()[3:]])
    assert said(fold(ledger()).contest.others["bayes"].model) == said(alone.model)
    assert said(fold(ledger()).model) == said(fold(ledger(lineup=Challengers())).model), (
        "and the model as before"
    )


def test_the_difference_is_that_of_the_labels_foretold_before_they_are_learned():
    model, other, w, wd = (
        Model(LINEAR, classes=["a", "b"], seed=1),
        Model(BAYES, classes=["a", "b"], seed=1),
        0.0,
        0.0,
    )
    records = list(labels(120))
    for i, r in enumerate(records):
        p = 0.5 if i % 2 else 0.04
        records[i] = replace(r, query=replace(r.query, inclusion_probability=p))
        right = [
            bool(p.any()) and "ab"[int(p.argmax())] == r.label
            for p in (m.predict([r.features])[0] for m in (model, other))
        ]
        weight = min(1 / p, 10)  # no bucket: the mean p is 1
        w, wd = w + weight, wd + weight * (right[1] - right[0])
        model.learn(r.features, r.label)
        other.learn(r.features, r.label)
    found = fold([*ledger(0), *records])
    assert found.contest.others["bayes"].paired.mean == pytest.approx(wd / w)


def test_a_better_model_is_found_and_a_mere_strategy_not_judged():
    bayes, same, twin = fold(ledger(300)).standings
    assert bayes.difference.low > 0.1, "bands are nothing for a linear model"
    assert same.difference is None
    assert "not known" in str(same)
    assert (twin.name, twin.strategy) == ("random", "random")
    few = fold(ledger(5)).standings[0]
    assert isinstance(few.difference, Insufficient)
    assert str(few).startswith("insufficient labels")


@pytest.mark.parametrize("share", [0.05, 0.9])
def test_the_interval_holds_at_all_times(share):
    """Two models that differ on some labels, equally often right: hardly ever is one called better, whenever one looks."""
    missed = 0
    for seed in range(100):
        rng, p = np.random.default_rng(seed), Paired()
        for weight, u in zip(rng.choice([0.2, 1.0, 4.0], 400), rng.random(400), strict=True):
            p.add(float(u < share / 2) - float(u > 1 - share / 2), float(weight))
            known = p.always()
            if isinstance(known, Interval) and not known.low <= 0 <= known.high:
                missed += 1
                break
    assert missed <= 5


def test_what_nobody_asked_for_judges_nothing():
    found = fold([*ledger(60), label(900, 1.0, "a", p=float("nan"))])
    before = fold(ledger(60))
    assert found.standings[0].difference == before.standings[0].difference
    assert found.standings[0].learned == 61


# --- the random twin -----------------------------------------------------------------------------------------------


def test_the_twin_learns_what_exploration_asked_for_alone():
    records = ledger()
    low = [r for r in records if not isinstance(r, Learned) or r.query.coin < r.query.floor]
    found, alone = fold(records), fold([*low[:2], *low[3:]])
    assert said(found.contest.twin.model) == said(alone.model)
    assert found.contest.twin.random == alone.learned < found.contest.twin.asked == found.learned


def test_rungs_are_the_model_as_it_was():
    records = ledger()
    rungs = fold(records).contest.twin.rungs
    assert [r.labels for r in rungs][:2] == [FIRST_RUNG, 2 * FIRST_RUNG]
    n = [i for i, r in enumerate(records) if isinstance(r, Learned)][FIRST_RUNG]
    assert said(rungs[0].model) == said(fold(records[:n]).model)


def point(ratio, value, half):
    return Point(ratio, Interval(value, value - half, value + half))


def test_the_ratio_is_where_the_difference_is_nothing():
    points = [point(8.0, -0.2, 0.1), point(4.0, -0.1, 0.1), point(2.0, 0.1, 0.1), point(1.0, 0.2, 0.1)]
    found = ratio_of(points)
    assert found.value == pytest.approx(math.sqrt(8))
    assert (found.low, found.high) == (pytest.approx(2.0), pytest.approx(4.0))


def test_open_ends_are_open():
    assert ratio_of([point(4.0, 0.1, 0.2), point(1.0, 0.2, 0.3)]) is None, "nothing is known"
    above = ratio_of([point(4.0, 0.1, 0.2), point(1.0, 0.2, 0.2)])
    assert (above.low, above.value, above.high) == (1.0, 4.0, math.inf)
    sure = ratio_of([point(4.0, 0.3, 0.2), point(1.0, 0.3, 0.1)])
    assert (sure.low, sure.value, sure.high) == (4.0, 4.0, math.inf)
    below = ratio_of([point(4.0, -0.3, 0.1), point(0.5, -0.2, 0.1)])
    assert (below.low, below.value, below.high) == (0.0, 0.5, 0.5)


def level(d, n, random, asked):
    found = Level()
    for i in range(n):
        found.judge(d * (i % 2), 1.0, random, asked)
    return found


def test_no_rung_is_added_above_one_that_is_surely_better_and_those_far_below_go():
    model = Model(BAYES, classes=["a", "b"], seed=1)
    worse = [Rung(m, model, level(-1, 100, 50, m)) for m in (16, 32)]
    twin = RandomTwin(model, asked=200, rungs=[*worse])
    twin._add(model)
    assert [r.labels for r in twin.rungs] == [32, 200]
    twin.rungs[1].level = level(1, 100, 50, 200)
    twin.asked = 400
    twin._add(model)
    assert [r.labels for r in twin.rungs] == [32, 200]


def test_a_drift_alarm_begins_a_stretch_and_until_labels_suffice_it_is_not_comparable():
    found = fold(ledger(200))
    assert found.contest.saved().state == "comparable"
    for k in range(30):
        if not found.drift.alarms:
            folded([(found.position, label(500 + k, 0.0, "b", said="a"))], found)
    assert found.drift.alarms.total() == 1
    twin = found.contest.twin
    assert (twin.random, twin.asked, twin.begin) == (
        1,
        1,
        found.drift.samples,
    )  # that label was learned after it
    assert found.contest.saved().state == "drift"
    assert "drift alarm" in str(found.contest.saved())
    assert isinstance(found.standings[0].difference, Insufficient)
    assert found.standings[0].learned > 200, "what it learned it keeps"


def test_a_large_model_is_not_copied(monkeypatch):
    monkeypatch.setattr(Model, "size", LARGEST_RUNG + 1)
    found = fold(ledger())
    assert not found.contest.twin.rungs
    assert found.contest.saved().state == "too large"


# --- line-up -------------------------------------------------------------------------------------------------------


def test_by_default_there_are_none():
    found = fold(ledger(lineup=Challengers()))
    assert (found.standings, found.contest) == ((), Contest())
    assert found.contest.saved() is None


def test_who_stays_goes_on_who_goes_is_gone_and_who_is_new_knows_nothing():
    records = ledger(80)
    other = Challengers([LINEUP.challengers[0], Challenger("new", BAYES)])
    found = fold([*records, other, *labels(20, 1, first=1_000)])
    assert [(s.name, s.learned) for s in found.standings] == [("bayes", 100), ("new", 20)]
    changed = fold([*records, replace(other, challengers=[Challenger("bayes", LINEAR)])])
    assert changed.standings[0].learned == 0, "another model of that name"


def test_a_lineup_that_cannot_be_built_changes_nothing():
    found = fold([*ledger(30), Challengers([Challenger("no", ["river.nothing.At.All"])])])
    assert found.errors == {"ModelSpecError": 1}
    assert [s.name for s in found.standings] == ["bayes", "same", "random"]


def test_in_regression_there_are_none():
    numbers = replace(GENESIS, task="regression", spec=["river.linear_model.LinearRegression"], classes=None)
    found = fold([numbers, Budget(fraction=0.05), LINEUP, label(0, 1.0, 2.0, said="a")])
    assert found.standings == ()
    assert found.errors == {"challengers_in_regression": 1}


# --- promotion -----------------------------------------------------------------------------------------------------


def test_the_promoted_model_answers_and_the_former_one_competes():
    before = fold(ledger())
    found = fold([*ledger(), promote("bayes")])
    assert said(found.model) == said(before.contest.others["bayes"].model)
    assert found.calibration == before.contest.others["bayes"].calibration
    assert (found.champion.name, found.asks_by, repr(found.strategy)) == ("bayes", "entropy", "Entropy()")
    assert found.version == found.position
    assert found.probe_due
    assert [s.name for s in found.standings] == ["same", "default", "random"]
    assert said(found.contest.others["default"].model) == said(before.model)
    assert said(found.contest.twin.model) == said(found.model), "the twin begins as the new model"
    assert found.shown(found.score(BATCH), 0).name == "bayes"


def test_it_can_be_promoted_back():
    found = fold([*ledger(), promote("bayes"), promote("default", "two")])
    before = fold(ledger())
    assert said(found.model) == said(before.model)
    assert (found.champion.name, found.asks_by) == ("default", "margin")
    assert found.promotions == 2


def test_a_strategy_that_is_not_named_stays():
    lineup = Challengers([Challenger("bayes", BAYES)])
    found = fold([*ledger(40, lineup), promote("bayes")])
    assert found.asks_by == "margin"
    assert fold([*ledger(40, lineup), promote("bayes"), promote("default", "two")]).asks_by == "margin"


@pytest.mark.parametrize(
    ("records", "error"),
    [
        ([promote("bayes"), promote("bayes")], "promoted_twice"),
        ([promote("nobody")], "promotes_nobody"),
        ([promote("default")], "promotes_nobody"),
        ([Challengers([Challenger("odd", BAYES, "no strategy")]), promote("odd")], "UnknownStrategyError"),
    ],
)
def test_what_cannot_be_promoted_changes_nothing_but_a_count(records, error):
    found, without = fold([*ledger(40), *records]), fold([*ledger(40), *records[:-1]])
    assert found.errors == {error: 1}
    assert (found.champion, said(found.model), found.asks_by) == (
        without.champion,
        said(without.model),
        without.asks_by,
    )
    assert [s.name for s in found.standings] == [s.name for s in without.standings]


def test_a_lineup_after_a_promotion_keeps_the_model_in_use_and_the_first_one():
    found = fold([*ledger(40), promote("bayes"), Challengers([Challenger("bayes", LINEAR)])])
    assert found.champion.spec == BAYES
    assert [(s.name, s.learned) for s in found.standings] == [("default", 40)]


def test_a_rebuild_after_a_promotion_makes_the_models_in_use_anew():
    records = [*ledger(80), promote("bayes"), *labels(30, 1, first=1_000)]
    found = fold([*records, Rebuild("two", "id", 0, timestamp(NOW))])
    plain = fold(records)
    assert found.rebuilds == 1
    assert (found.champion, found.asks_by) == (plain.champion, plain.asks_by)
    np.testing.assert_allclose(said(found.model), said(plain.model), atol=1e-9)
    assert {s.name: s.learned for s in found.standings}.items() >= {"default": 110, "same": 110}.items()
    late = [*ledger(80, Challengers()), LINEUP, Rebuild("two", "id", 0, timestamp(NOW))]
    assert fold(late).standings[0].learned == 80, "who was added late knows all labels then"


# --- replicas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0.2, 0.5, 0.9])
def test_a_snapshot_goes_on_as_a_replay_does(stop):
    records = [*ledger(120), promote("bayes"), *labels(40, 1, first=1_000), promote("default", "two")]
    records += labels(40, 2, first=2_000)
    at = int(stop * len(records))
    again = pickle.loads(pickle.dumps(fold(records[:at])))
    assert state_of(fold(records, again)) == state_of(fold(records))
