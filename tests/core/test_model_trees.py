"""The trees that are faster than River's compute what River's do, to the last bit."""

import math
import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest
from river import forest, tree
from river.tree import splitter

from stream_al.core.model_spec import build
from stream_al.core.model_trees import ARFClassifier, GaussianSplitter, Leaf, Split

N = 800
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no naive Bayes": {"leaf_prediction": "mc"},
    "naive Bayes only": {"leaf_prediction": "nb", "nb_threshold": 20},
    "gini": {"split_criterion": "gini"},
    "hellinger": {"split_criterion": "hellinger"},
    "poor attributes": {"remove_poor_attrs": True, "merit_preprune": False},
    "shallow": {"max_depth": 3, "grace_period": 10},
    "many split points": {"splitter": 25, "grace_period": 10, "tau": 0.3},
    "nominal": {"nominal_attributes": ["country"], "binary_split": False},
    "nominal, two branches": {"nominal_attributes": ["country"], "binary_split": True},
    "small": {"max_size": 0.03, "memory_estimate_period": 200, "grace_period": 10, "tau": 0.3},
    "small, and stops": {
        "max_size": 0.03,
        "memory_estimate_period": 200,
        "grace_period": 10,
        "tau": 0.3,
        "stop_mem_management": True,
    },
}


def stream(classes: int, seed: int = 1) -> Iterator[tuple[dict[str, float], int]]:
    """Yield samples whose classes trade places in the middle; features are missing here and there."""
    draw = random.Random(seed)
    for i in range(N):
        x = {name: draw.gauss(0, 1) for name in ("a", "b", "c", "d")}
        x["country"] = draw.randrange(4)
        x["steps"] = draw.randrange(3)
        y = int(x["a"] + x["b"] * (x["country"] > 1) > 0) + (x["c"] > 0.5) * (classes > 2)
        if draw.random() < 0.05:
            del x[draw.choice(["a", "b", "c"])]
        yield x, (y + (i > N // 2)) % classes


def as_if_of_the_same_size(made: Any) -> int:
    """Return what River would count in bytes, if the faster classes were no smaller."""
    return 1_000 * (made.n_nodes if isinstance(made, tree.HoeffdingTreeClassifier) else 1)


def settings_of(name: str, ours: bool) -> dict[str, Any]:
    found = dict(SETTINGS[name])
    if "splitter" in found:
        found["splitter"] = (GaussianSplitter if ours else splitter.GaussianSplitter)(found["splitter"])
    return found


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_forest_is_rivers_to_the_last_bit(monkeypatch, name, classes):
    monkeypatch.setattr("river.tree.hoeffding_tree.calculate_object_size", as_if_of_the_same_size)
    rivers = forest.ARFClassifier(n_models=3, seed=4, **settings_of(name, ours=False))
    ours = ARFClassifier(n_models=3, seed=4, **settings_of(name, ours=True))
    for x, y in stream(classes):
        assert ours.predict_proba_one(x) == rivers.predict_proba_one(x)
        rivers.learn_one(x, y)
        ours.learn_one(x, y)
    assert [t.n_nodes for t in ours.models] == [t.n_nodes for t in rivers.models]
    assert max(t.n_nodes for t in ours.models) > 5, "they are trees"
    assert ours.n_drifts_detected() == rivers.n_drifts_detected()
    inactive = [t._n_inactive_leaves for t in rivers.models]
    assert [t._n_inactive_leaves for t in ours.models] == inactive
    assert any(inactive) == (name in ("small", "small, and stops", "shallow"))


@pytest.mark.parametrize(
    "tree_type",
    [
        tree.HoeffdingTreeClassifier,
        tree.HoeffdingAdaptiveTreeClassifier,
        tree.ExtremelyFastDecisionTreeClassifier,
    ],
)
def test_a_tree_is_rivers_to_the_last_bit(tree_type):
    settings = {"grace_period": 20, "tau": 0.3}
    settings |= {"seed": 3} if tree_type is tree.HoeffdingAdaptiveTreeClassifier else {}
    rivers, spec = tree_type(**settings), {f"river.tree.{tree_type.__name__}": settings}
    ours = list(build([spec], seed=1).steps.values())[-1]
    assert type(ours.splitter) is GaussianSplitter
    for x, y in stream(3):
        assert ours.predict_proba_one(x) == rivers.predict_proba_one(x)
        rivers.learn_one(x, y)
        ours.learn_one(x, y)
    assert ours.n_nodes == rivers.n_nodes >= 5


def test_a_forest_of_a_spec_is_made_of_the_faster_classes_and_small():
    ours = list(build([{"river.forest.ARFClassifier": {"n_models": 3}}], seed=1).steps.values())[-1]
    rivers = forest.ARFClassifier(n_models=3, seed=1)
    for x, y in stream(2):
        ours.learn_one(x, y)
        rivers.learn_one(x, y)
    root = ours.models[0]._root
    assert type(root) is Split
    leaves = list(root.iter_leaves())
    assert {type(leaf) for leaf in leaves} == {Leaf}
    assert {type(s) for leaf in leaves for s in leaf.splitters.values()} == {GaussianSplitter}
    assert len(pickle.dumps(ours)) < len(pickle.dumps(rivers)) / 5


def test_a_forest_that_was_pickled_goes_on_as_if_nothing_had_happened():
    ours = ARFClassifier(n_models=3, seed=4)
    samples = list(stream(2))
    for x, y in samples[: N // 2]:
        ours.learn_one(x, y)
    again = pickle.loads(pickle.dumps(ours))
    for x, y in samples[N // 2 :]:
        assert again.predict_proba_one(x) == ours.predict_proba_one(x)
        for one in (ours, again):
            one.learn_one(x, y)


def test_a_splitter_says_what_rivers_says_whatever_it_has_seen():
    draw = random.Random(3)
    odd = [math.nan, math.inf, -math.inf, 1e18, -1e18, 5e-324, -0.0, 0, True, 3]
    criterion = tree.split_criterion.InfoGainSplitCriterion(0.01)
    for _ in range(200):
        ours, rivers = GaussianSplitter(), splitter.GaussianSplitter()
        stats: dict[int, float] = {}
        for _ in range(draw.randrange(1, 12)):
            x, y, w = (
                draw.choice([*odd, draw.gauss(0, 1), draw.gauss(5, 1)]),
                draw.randrange(3),
                draw.randrange(1, 5),
            )
            stats[y] = stats.get(y, 0.0) + w
            for one in (ours, rivers):
                one.update(x, y, w)
        said = [one.best_evaluated_split_suggestion(criterion, stats, "x", True) for one in (ours, rivers)]
        assert repr(said[0]) == repr(said[1])
        for y in range(4):
            for x in (0.5, -0.5, 1e9):
                assert repr(ours.cond_log_proba(x, y)) == repr(rivers.cond_log_proba(x, y))
                assert repr(ours.cond_proba(x, y)) == repr(rivers.cond_proba(x, y))


def test_rivers_splitter_in_a_spec_is_the_faster_one():
    spec = {
        "river.tree.HoeffdingTreeClassifier": {
            "splitter": {"river.tree.splitter.GaussianSplitter": {"n_splits": 7}}
        }
    }
    made = list(build([spec], seed=1).steps.values())[-1].splitter
    assert type(made) is GaussianSplitter
    assert made.n_splits == made.clone().n_splits == 7
    assert made.clone({"n_splits": 3}).n_splits == 3
