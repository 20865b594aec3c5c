"""Matrices give what River gives, for any features, whenever something was learned in between."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_al.core.model import Model

SCALER = "river.preprocessing.StandardScaler"
SPECS = {
    "logistic, binary": ([SCALER, "river.linear_model.LogisticRegression"], ("a", "b")),
    "logistic, one-vs-rest": ([SCALER, "river.linear_model.LogisticRegression"], None),
    "logistic, unscaled": (["river.linear_model.LogisticRegression"], ("a", "b", "c")),
    "two scalers": (
        [{SCALER: {"with_std": False}}, {SCALER: {"window_size": 5}}, "river.linear_model.LogisticRegression"],
        None,
    ),
    "softmax": ([SCALER, "river.linear_model.SoftmaxRegression"], None),
    "naive bayes": (["river.naive_bayes.GaussianNB"], None),
    "naive bayes, scaled": ([SCALER, "river.naive_bayes.GaussianNB"], None),
    "bayesian": ([{"stream_al.models.BayesianClassifier": {"n_features": 8}}], None),
    "bayesian, scaled": ([SCALER, {"stream_al.models.BayesianClassifier": {"n_features": 4}}], None),
    "mixture": (["stream_al.models.MixtureClassifier"], None),
}  # fmt: skip

numbers = st.floats(-1e6, 1e6) | st.integers(-1000, 1000) | st.booleans()
odd = (
    st.none() | st.text(max_size=3) | st.lists(st.floats(-1, 1), max_size=2) | st.integers(-(10**30), 10**30)
)
names = st.sampled_from(["x", "y", "z", "w[0]", "late"])
plain = st.fixed_dictionaries({"x": numbers, "y": numbers, "z": numbers})
anything = st.dictionaries(names, numbers | odd, max_size=4)


def slowly(model: Model, batch) -> np.ndarray:
    """Return what the model says sample by sample."""
    return np.array([model._state.row(features) for features in batch])


@pytest.mark.parametrize("name", SPECS)
@given(
    st.lists(st.tuples(plain | anything, st.sampled_from(["a", "b", "c", None])), min_size=1, max_size=25),
    st.lists(plain | anything, min_size=1, max_size=8),
)
@settings(max_examples=25, deadline=None)
def test_a_batch_gives_what_river_gives_one_by_one(name, history, batch):
    spec, classes = SPECS[name]
    model = Model(spec, classes=classes, seed=1)
    model.learn({"x": 0.5, "y": 1.0, "z": -1.0}, "a")
    for features, label in history:
        if label is None:
            model.observe(features)
        else:
            model.learn(features, label)
    np.testing.assert_allclose(model.predict(batch), slowly(model, batch), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SPECS)
def test_plain_numbers_take_the_fast_way_and_follow_what_is_learned(name):
    spec, classes = SPECS[name]
    model = Model(spec, classes=classes, seed=1)
    rng = np.random.default_rng(3)
    rows = [{"x": float(a), "y": float(b), "z": float(c)} for a, b, c in rng.normal(size=(120, 3))]
    seen = []
    for i, row in enumerate(rows):
        model.learn(row, "ab"[row["x"] > 0])
        if i % 10 == 9:
            batch = rows[i - 9 : i + 1]
            found = model._state.vectorised()(batch, whole=False)
            assert found is not None
            np.testing.assert_allclose(found.probabilities, slowly(model, batch), rtol=0, atol=1e-9)
            np.testing.assert_array_equal(model.predict(batch), found.probabilities)
            seen.append(found.probabilities)
    assert not np.allclose(seen[0], seen[-1])


def test_the_table_gives_the_same_rows_as_a_matrix():
    model = Model(SPECS["softmax"][0], classes=None, seed=1)
    model.learn({"n": 1.0, "where": "here", "list": [1.0, 2.0], "on": True}, "a")
    model.observe({"n": 3, "where": "there", "more": 2.5})
    table = model._state.features
    batch = [
        {"n": 2, "where": "there", "list": [5], "on": False, "more": 1e300},
        {"n": "text", "where": None, "list": "x"},
        {"unknown": 1},
        {},
    ]
    wanted = [[table.encode(features)[c] for c in table.columns] for features in batch]
    np.testing.assert_array_equal(table.matrix(batch), wanted)


@pytest.mark.parametrize(
    "values", [[math.nan, 1.0], [math.inf, 1.0], [1e30, 1.0], ["1.5", 1.0], [[1.0], 1.0], [10**400, 2]]
)
def test_what_is_no_plain_number_is_translated(values):
    model = Model(SPECS["softmax"][0], classes=None, seed=1)
    model.learn({"x": 1.0, "y": 2.0}, "a")
    table = model._state.features
    row = dict(zip("xy", values, strict=True))
    wanted = [table.encode(row)[c] for c in table.columns]
    np.testing.assert_array_equal(table.matrix([row]), [wanted])


def test_a_model_without_an_equivalent_is_asked_one_by_one():
    for last in (
        "river.tree.HoeffdingTreeClassifier",
        {"river.linear_model.LogisticRegression": {"loss": "river.optim.losses.Hinge"}},
    ):
        model = Model([SCALER, last], classes=("a", "b"), seed=1)
        model.learn({"x": 1.0}, "a")
        model.learn({"x": 2.0}, "b")
        assert model._state.vectorised() is None
        assert model.predict([{"x": 1.5}]).shape == (1, 2)
