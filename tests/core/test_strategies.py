"""Query strategies: every strategy under every check, what each must be monotone in, and how new classes are found.

A new strategy needs no test of its own to be held to the contract: it is in the table, so it is here.
"""

from __future__ import annotations

import copy
import doctest
import math
import pickle
import pkgutil
from dataclasses import fields, replace
from importlib import import_module

import numpy as np
import pytest

from stream_al.core import strategies
from stream_al.core.assessment import Assessment
from stream_al.core.budget import PartitionBudget
from stream_al.core.fold import Fold
from stream_al.core.messages import Budget, Genesis, Learned, Observe, Query, Sample, Shown, Source, timestamp
from stream_al.core.model import Model
from stream_al.core.scorer import Scorer
from stream_al.core.strategies.neighbourhood import Neighbourhood
from stream_al.core.strategies.novelty import MOST_CREDIT, Novelty, with_novelty
from stream_al.core.strategies.rows import WIDEST, sketch
from stream_al.core.strategies.table import STRATEGIES, create

NOW = 1_800_000_000_000
MAKERS = {
    **STRATEGIES,
    **{f"{name}+novelty": lambda n=name: Novelty(create(n), share=0.1) for name in ("margin", "diversity")},
}
PARTS = ("gap", "variance", "features", "committee")


def assessment(n, k, *, d=6, seed=0, parts=PARTS):
    """Return random answers in which the parts agree with each other."""
    rng = np.random.default_rng([seed, n, k])
    committee = rng.dirichlet(np.ones(k), size=(3, n)) if k else np.zeros((3, n, 0))
    features = np.hstack([np.ones((n, 1)), rng.normal(size=(n, d - 1))])
    p = committee.mean(axis=0)
    top = np.sort(np.log(np.maximum(p, 1e-12)), axis=1)
    all_parts = {
        "gap": top[:, -1] - top[:, -2] if k > 1 else np.zeros(n),
        "variance": rng.gamma(1.0, size=n),
        "features": features,
        "committee": committee,
    }
    return Assessment(p, **{name: all_parts[name] for name in parts})


def part(batch, rows):
    """Return some rows of an assessment."""
    cut = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return Assessment(**{
        name: v if v is None else v[:, rows] if name == "committee" else v[rows] for name, v in cut.items()
    })  # fmt: skip


def joined(parts):
    return np.concatenate(parts) if parts else np.zeros(0)


def taught(strategy, *, d=6, rounds=80, k=3, seed=1):
    """Return the strategy after so many labels and observed samples."""
    batch = assessment(2 * rounds, k, d=d, seed=seed)
    batch = replace(batch, values=batch.probabilities[:, 0])
    for i in range(rounds):
        strategy.observe(part(batch, [2 * i]))
        strategy.learn(part(batch, [2 * i + 1]))
    return strategy


# --- every strategy, every check -----------------------------------------------------------------------------


def stays_in_bounds(strategy):
    for k in (2, 3, 20):
        for parts in (PARTS, (), *((name,) for name in PARTS), ("gap", "variance")):
            u = strategy.utility(assessment(50, k, parts=parts))
            assert u.shape == (50,)
            assert u.dtype == np.float64
            assert np.isfinite(u).all()
            assert ((u >= 0) & (u <= 1)).all()


def says_the_same_again(strategy):
    batch = assessment(40, 3)
    np.testing.assert_array_equal(strategy.utility(batch), strategy.utility(batch))
    np.testing.assert_array_equal(strategy.utility(batch), copy.deepcopy(strategy).utility(batch))


def follows_the_order_of_the_batch(strategy):
    batch, order = assessment(40, 3), np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(
        strategy.utility(part(batch, order)), strategy.utility(batch)[order], rtol=1e-9
    )


def does_not_depend_on_where_a_batch_is_cut(strategy):
    batch = assessment(40, 3)
    for cuts in ([], [1], [7, 8, 39], range(1, 40)):
        parts = [strategy.utility(part(batch, rows)) for rows in np.split(np.arange(40), cuts)]
        np.testing.assert_allclose(joined(parts), strategy.utility(batch), rtol=1e-9)


def looks_without_touching(strategy):
    batch = assessment(40, 3)
    before, given = pickle.dumps(strategy), pickle.dumps(batch)
    strategy.utility(batch)
    assert pickle.dumps(strategy) == before
    assert pickle.dumps(batch) == given


def asks_while_the_model_is_cold(strategy):
    for k in (0, 1):
        assert strategy.utility(Assessment(np.ones((5, k)))).tolist() == [1.0] * 5
    batch = assessment(6, 3)
    batch.probabilities[[1, 4]] = 0.0
    for known in (batch, replace(batch, features=None, variance=None, gap=None, committee=None)):
        u = strategy.utility(known)
        assert u[[1, 4]].tolist() == [1.0, 1.0]
        assert (strategy.utility(Assessment(np.zeros((3, 2)))) == 1.0).all()


def takes_an_empty_batch(strategy):
    for k in (0, 1, 2, 3):
        assert strategy.utility(assessment(0, k)).shape == (0,)


def bears_certainty(strategy):
    p = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    sure = np.array([0.0, 500.0, 0.0, 1e-300])
    for variance in (sure, np.zeros(4), np.full(4, 1e300)):
        batch = Assessment(p, sure, variance, np.zeros((4, 6)), np.stack([p, p[::-1]]))
        for given in (batch, Assessment(p)):
            with np.errstate(all="raise", under="ignore"):
                assert np.isfinite(strategy.utility(given)).all()


def bears_wild_numbers(strategy):
    wild = np.array([[np.inf, -np.inf, np.nan, 1e300, -1e300, 0.0]] * 2)
    batch = replace(
        assessment(2, 3), features=wild, gap=np.array([np.inf, np.nan]), variance=np.array([np.nan, np.inf])
    )
    for _ in range(3):
        strategy.learn(part(batch, [0]))
        strategy.observe(part(batch, [1]))
    for given in (batch, assessment(30, 3)):
        u = strategy.utility(given)
        assert ((u >= 0) & (u <= 1)).all()


def learns_from_answers_that_lack_parts(strategy):
    before = strategy.utility(assessment(9, 2))
    for k in (0, 1, 2):
        strategy.learn(Assessment(np.zeros((1, k))))
        strategy.observe(Assessment(np.zeros((1, k))))
        strategy.observe(assessment(1, k, parts=("features",)))
        strategy.learn(assessment(1, k, parts=("features",)))
    assert strategy.utility(assessment(9, 2)).shape == before.shape


def bears_columns_that_come_and_go(strategy):
    for d in (3, 40, 6, WIDEST + 5, 4):
        taught(strategy, d=d, rounds=5)
        for width in (1, 6, WIDEST, 3 * WIDEST + 1):
            u = strategy.utility(assessment(8, 3, d=width))
            assert ((u >= 0) & (u <= 1)).all()


def is_the_same_after_a_snapshot(strategy):
    twin = pickle.loads(pickle.dumps(strategy))
    taught(strategy, rounds=20, seed=3)
    taught(twin, rounds=20, seed=3)
    np.testing.assert_array_equal(strategy.utility(assessment(40, 3)), twin.utility(assessment(40, 3)))


def keeps_a_bounded_state(strategy):
    taught(strategy, rounds=400, d=10 * WIDEST)
    size = len(pickle.dumps(strategy))
    taught(strategy, rounds=400, d=10 * WIDEST)
    assert len(pickle.dumps(strategy)) <= size + 100
    assert size < 2_000_000


def does_not_ask_more_where_the_model_is_surer(strategy):
    first = np.linspace(0.5, 1.0, 30)
    p = np.column_stack([first, 1 - first])
    same = {"variance": np.ones(30), "features": np.ones((30, 6))}
    gap = np.log(np.maximum(first, 1e-300)) - np.log(np.maximum(1 - first, 1e-300))
    for given in (Assessment(p), Assessment(p, gap=gap, **same), Assessment(p, committee=np.stack([p, p]))):
        assert (np.diff(strategy.utility(given)) <= 1e-12).all()


CHECKS = (
    stays_in_bounds, says_the_same_again, follows_the_order_of_the_batch, does_not_depend_on_where_a_batch_is_cut,
    looks_without_touching, asks_while_the_model_is_cold, takes_an_empty_batch, bears_certainty, bears_wild_numbers,
    learns_from_answers_that_lack_parts, bears_columns_that_come_and_go, is_the_same_after_a_snapshot,
    keeps_a_bounded_state, does_not_ask_more_where_the_model_is_surer,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", MAKERS)
def test_a_strategy(name, check):
    check(MAKERS[name]())
    if MAKERS[name]().stateful:
        check(taught(MAKERS[name]()))


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_what_says_so_has_state(name):
    strategy = STRATEGIES[name]()
    fresh = pickle.dumps(strategy)
    assert (pickle.dumps(taught(strategy)) != fresh) == strategy.stateful


@pytest.mark.parametrize(
    "module",
    ["stream_al.core.utility"]
    + [m.name for m in pkgutil.iter_modules(strategies.__path__, "stream_al.core.strategies.")],
)
def test_the_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(import_module(module)).failed == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_shows_its_formula_and_its_class_is_named_as_its_file(name):
    kind = STRATEGIES[name]
    assert kind.__module__.rpartition(".")[2] == name
    assert kind.__doc__.startswith("u ") or name == "random"
    assert repr(kind()) == f"{kind.__name__}()"


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="'margn' is no query strategy; there are margin, "):
        create("margn")


# --- what a strategy must grow with --------------------------------------------------------------------------

P = np.tile([0.7, 0.2, 0.1], (30, 1))
UP = np.linspace(0.0, 5.0, 30)
GAP = np.full(30, 1.5)
AGREED, SPLIT = np.array([0.5, 0.5]), np.array([1.0, 0.0])
DISAGREEING = np.stack(
    [AGREED + (SPLIT - AGREED) * t * sign for t in np.linspace(0, 1, 30) for sign in (1, -1)]
).reshape(30, 2, 2).transpose(1, 0, 2)  # fmt: skip
FARTHER = np.hstack([np.ones((30, 1)), np.outer(UP + 3.0, np.ones(5))])
GROWS = [
    ("moderated_margin", Assessment(P, gap=GAP, variance=UP)),
    ("flip", Assessment(P, gap=GAP, variance=UP)),
    ("variance_reduction", Assessment(P, variance=UP)),
    ("gradient_length", Assessment(P, features=np.outer(UP, np.ones(6)))),
    ("consensus_kl", Assessment(DISAGREEING.mean(axis=0), committee=DISAGREEING)),
    ("diversity", Assessment(P, features=FARTHER)),
    ("margin+novelty", Assessment(P, features=FARTHER - np.array([0, *[2.5] * 5]))),
]


@pytest.mark.parametrize(("name", "batch"), GROWS, ids=[name for name, _ in GROWS])
def test_a_strategy_grows_with_what_it_looks_for(name, batch):
    u = taught(MAKERS[name]()).utility(batch)
    assert (np.diff(u) >= -1e-12).all()
    assert u[-1] > u[0]


def test_dense_regions_count_more_and_outliers_less():
    strategy = STRATEGIES["density_margin"]()
    here, there = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    for i in range(100):
        strategy.observe(Assessment(P[:1], features=there if i % 10 == 0 else here))
    dense, sparse = strategy.utility(Assessment(P[:2], features=np.vstack([here, there])))
    assert dense > 2 * sparse > 0


def test_error_reduction_prefers_where_the_stream_is_and_nothing_was_learned():
    strategy = STRATEGIES["error_reduction"]()
    rows = np.eye(3)
    for i in range(90):
        strategy.observe(Assessment(P[:1], features=rows[[i % 2]]))  # the third direction never comes
        if i % 3 == 0:
            strategy.learn(Assessment(P[:1], features=rows[[0]]))  # the first is known
    known, unknown, absent = strategy.utility(Assessment(P[:3], features=rows))
    assert unknown > 5 * known
    assert unknown > 100 * absent


def test_error_reduction_is_what_the_trace_loses():
    """The closed form against the inverse computed anew."""
    strategy = taught(STRATEGIES["error_reduction"](), rounds=40)
    batch = assessment(5, 3, seed=9)
    s, f = strategy._covariance, strategy._fisher
    h = (1 - (batch.probabilities**2).sum(axis=1)) / 2
    after = [
        np.trace(np.linalg.inv(np.linalg.inv(s) + w * np.outer(x, x)) @ f)
        for w, x in zip(h, batch.features, strict=True)
    ]
    np.testing.assert_allclose(strategy.utility(batch), 1 - np.array(after) / np.trace(s @ f), rtol=1e-6)


def test_without_what_it_needs_a_strategy_is_what_its_docstring_says():
    p = assessment(30, 4).probabilities
    by = {name: STRATEGIES[name]().utility(Assessment(p)) for name in STRATEGIES}
    for name in ("moderated_margin", "density_margin", "diversity"):
        np.testing.assert_array_equal(by[name], by["margin"])
    for name in ("vote_entropy", "consensus_kl"):
        np.testing.assert_array_equal(by[name], by["entropy"])
    np.testing.assert_array_equal(by["error_reduction"], by["variance_reduction"])
    np.testing.assert_array_equal(Novelty(create("margin"), share=0.1).utility(Assessment(p)), by["margin"])


# --- neighbours ----------------------------------------------------------------------------------------------


def predicted(*values):
    return Assessment(np.zeros((len(values), 0)), values=np.array(values, dtype=np.float64))


def test_stratified_asks_where_predictions_are_rare():
    strategy, rng = create("stratified"), np.random.default_rng(1)
    for i, value in enumerate(rng.exponential(size=400)):
        assert i >= 50 or strategy.utility(predicted(0.0, 9.0)).tolist() == [0.5, 0.5]
        strategy.observe(predicted(value))
        strategy.observe(predicted(math.nan))
    u = strategy.utility(predicted(-1e18, 0.1, 1.5, 3.0, 1e18, math.nan))
    assert u[0] == u[1] < u[2] < u[3]
    assert u[4] >= u[2]
    assert u[5] == 1.0, "a model without an answer asks"


def test_stratified_spends_the_same_on_each_stratum():
    strategy, rng = create("stratified"), np.random.default_rng(2)
    values = np.minimum(rng.exponential(size=20_000), 4.0)
    for value in values[:256]:
        strategy.observe(predicted(value))
    budget, limits = PartitionBudget(), Budget(fraction=0.05, exploration=0.0)
    asked = budget.decide(
        strategy.utility(predicted(*values)), np.zeros(len(values), bool), rng.random(len(values)), limits,
        warming=False, spread=strategy.spread,
    )  # fmt: skip
    strata = np.searchsorted(strategy._edges, values, side="right")
    settled = np.arange(len(values)) > 2_000
    spent = np.bincount(strata[settled], asked.p[settled], minlength=10)
    counts = np.bincount(strata[settled])
    assert counts.max() > 8 * counts.min()
    assert spent.max() < 2.5 * spent.min(), "what 256 observed samples do not tell of the rarest strata"
    assert spent.sum() / settled.sum() == pytest.approx(0.05, rel=0.2)
    assert asked.p[settled].min() > 0


def test_stratified_asks_the_same_of_a_model_that_always_says_the_same():
    strategy = create("stratified")
    for _ in range(100):
        strategy.observe(predicted(3.0))
    assert len(set(strategy.utility(predicted(3.0, 3.0)).tolist())) == 1


def test_the_usual_distances_are_those_to_the_rows_held_now():
    near, rng = Neighbourhood(learned=20, observed=15), np.random.default_rng(4)
    learned, observed = [], []
    for i in range(200):
        row = rng.normal(size=(1, 3 if i < 60 else 5)) + 3 * (i % 2)
        held = learned if rng.random() < 0.6 else observed
        held.append(np.pad(row[0], (0, 5 - row.shape[1])))
        (near.learn if held is learned else near.observe)(row)
        if learned and observed:
            table = [[((a - b) ** 2).sum() for b in learned[-20:]] for a in observed[-15:]]
            np.testing.assert_allclose(sorted(near.usual), sorted(np.min(table, axis=1)), atol=1e-9)
    np.testing.assert_allclose(near.distances(np.array(learned[-20:])), 0.0, atol=1e-9)


def test_a_sketch_keeps_distances_on_average_and_columns_in_their_places():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(400, 1500))
    true = ((rows[::2] - rows[1::2]) ** 2).sum(axis=1)
    kept = sketch(rows)
    told = ((kept[::2] - kept[1::2]) ** 2).sum(axis=1)
    assert kept.shape == (400, WIDEST)
    assert abs((told / true).mean() - 1) < 0.03
    narrow = rows[:, :WIDEST]
    grown = np.hstack([narrow, np.zeros((400, 200))])
    np.testing.assert_array_equal(sketch(grown), sketch(narrow))


# --- novelty -------------------------------------------------------------------------------------------------


def test_the_share_of_novelty_can_change_and_what_is_known_stays():
    strategy = taught(with_novelty(create("margin"), 0.1))
    known = strategy.utility(assessment(30, 3))
    changed = with_novelty(strategy, 0.3)
    assert repr(changed) == "Novelty(Margin(), share=0.3)"
    np.testing.assert_array_equal(changed.utility(assessment(30, 3)), known)
    assert with_novelty(with_novelty(changed, 0.0), 0.0) is changed.strategy


def lone(features):
    return Assessment(np.array([[0.99, 0.01]]), features=np.asarray(features, dtype=float)[np.newaxis])


def test_novelty_takes_its_share_and_no_more():
    """Where half of the stream stays new for ever, a tenth of the labels and the first credit go to it."""
    rng, strategy, taken, labels = np.random.default_rng(6), Novelty(create("margin"), share=0.1), 0, 2_000
    for i in range(labels):
        strategy.observe(lone(rng.normal(size=4)))
        far = rng.normal(size=4) * 1e3 if i >= 100 else rng.normal(size=4)
        asked = strategy.utility(lone(far))[0] == 1.0
        taken += asked
        strategy.learn(lone(far if asked else rng.normal(size=4)))
    assert 0.8 * 0.1 * labels <= taken <= 0.1 * labels + MOST_CREDIT


def test_what_was_learned_is_no_longer_new():
    rng, strategy = np.random.default_rng(7), Novelty(create("margin"), share=0.1)
    for _ in range(100):
        strategy.observe(lone(rng.normal(size=4)))
        strategy.learn(lone(rng.normal(size=4)))
    there = np.full(4, 8.0)
    assert strategy.utility(lone(there))[0] == 1.0
    strategy.learn(lone(there))
    assert strategy.utility(lone(there + 0.1))[0] < 0.1


def stream_with_a_new_class(n, at, seed):
    """Two overlapping classes; from ``at`` on a tenth of the samples is of a third one, far away."""
    rng = np.random.default_rng(seed)
    centres, away = rng.normal(size=(2, 8)), rng.normal(size=8)
    away *= 10 / np.linalg.norm(away)
    for i in range(n):
        new = i >= at and rng.random() < 0.1
        k = int(rng.integers(2))
        x = (away if new else centres[k]) + rng.normal(size=8)
        yield {f"x{j}": float(v) for j, v in enumerate(x)}, "new" if new else "ab"[k]


def service(rows, *, strategy="margin", novelty=0.0, seed=0):
    """Yield fold and requests turn by turn: fold and scorer at 5 %, labels within 16 samples, no service around."""
    fold = Fold()
    spec = [{"stream_al.models.BayesianClassifier": {"n_features": 24}}]
    fold.apply(0, Genesis("id", "samples", {0: 0}, "default", spec, None, strategy, seed, timestamp(NOW)))
    fold.apply(1, Budget(fraction=0.05))
    if novelty:
        fold.strategy = with_novelty(fold.strategy, novelty)
    scorer = Scorer(fold, label_ttl_ms=1000)
    scorer.assign(0, None, "")
    scorer.partitions[0].budget.level = 20 * 10**9
    for start in range(0, len(rows), 16):
        batch = [
            Sample(f"s-{i}", x, Source("samples", 0, i))
            for i, (x, _) in enumerate(rows[start : start + 16], start)
        ]
        scorer.on(0, batch, start + len(batch), 0, NOW + start * 10)
        out = scorer.take()
        scorer.committed()
        for o in out.observes[: 16 if start < 600 else 1]:
            fold.apply(fold.position, Observe(o.source, o.features))
        for r in out.requests:
            answer = (rows[r.source.offset][1], True, r.requested_at, f"labels-0@{r.source.offset}")
            query = (r.request_id, r.id, r.source, r.query, r.model, r.requested_at, r.features)
            fold.apply(fold.position, Learned(*query, *answer))
        yield fold, out.requests


def samples_until_asked(novelty, seed, *, n=1_500, at=800):
    """Return how many samples of the new class had come when one was asked for, and how many were asked of all."""
    rows = list(stream_with_a_new_class(n, at, seed))
    asked = [r.source.offset for _, requests in service(rows, novelty=novelty, seed=seed) for r in requests]
    first = next((i for i in asked if rows[i][1] == "new"), n)
    return sum(y == "new" for _, y in rows[: first + 1]), len(asked)


@pytest.mark.parametrize("seed", range(4))
def test_a_far_away_new_class_is_asked_within_20_of_its_samples(seed):
    first, asked = samples_until_asked(0.1, seed)
    assert first <= 20
    assert asked <= 0.05 * 1_500 + 20


# --- in the fold ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["diversity", "density_margin", "error_reduction"])
def test_the_fold_keeps_the_strategy_s_state_and_a_snapshot_goes_on_with_it(name):
    rows = list(stream_with_a_new_class(400, 200, 1))
    for turn, (fold, _) in enumerate(service(rows, strategy=name)):
        if turn == 15:
            early = pickle.dumps(fold.strategy)
    assert pickle.dumps(fold.strategy) != early
    twin = pickle.loads(pickle.dumps(fold))
    x, observed = rows[3][0], Observe(Source("samples", 0, 999), rows[3][0])
    for one in (fold, twin):
        one.apply(one.position, observed)
    assert fold.score([x]).utility[0] == twin.score([x]).utility[0]


def test_nothing_is_assessed_for_a_strategy_without_state(monkeypatch):
    rows = list(stream_with_a_new_class(200, 200, 1))
    *_, (fold, _) = service(rows)
    monkeypatch.setattr(Model, "assess", lambda *_: pytest.fail("assessed"))
    learned = fold.learned
    fold.apply(fold.position, Observe(Source("samples", 0, 999), rows[0][0]))
    query = Query("margin", "informative", 0.5, 0.5, 0.5, 0.01, 0.2, 0.9)
    record = Learned("0-999", "s", Source("samples", 0, 999), query, Shown("m", 1), timestamp(NOW), rows[0][0], "a", True, timestamp(NOW), "l")  # fmt: skip
    fold.apply(fold.position, record)
    assert fold.learned == learned + 1
