"""A masked autoencoder: features learned without labels, the same in every process, beside the inputs."""

import copy
import doctest
import json
import math
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from river import checks

from stream_al.config import load
from stream_al.core.model import Model
from stream_al.core.model_spec import build
from stream_al.models import MaskedAutoencoder, masked

NAME = "stream_al.models.MaskedAutoencoder"
SCALER = "river.preprocessing.StandardScaler"
CLASSIFIERS = [
    "stream_al.models.MixtureClassifier",
    "stream_al.models.BayesianClassifier",
    "river.linear_model.LogisticRegression",
    "river.linear_model.Perceptron",
    "river.naive_bayes.GaussianNB",
    "river.forest.AMFClassifier",
]
HIDDEN = [f"h{i}" for i in range(4)]


def rows_of(n, seed=0):
    """Eight noisy views of two numbers."""
    rng = random.Random(seed)
    for _ in range(n):
        u, v = rng.gauss(0, 1), rng.gauss(0, 1)
        yield {
            f"f{j}": math.cos(j) * u + math.sin(j) * v + rng.gauss(0, 0.2) + (5 if j == 3 else 0)
            for j in range(8)
        }


def trained(model, n=150, **more):
    for x in rows_of(n):
        model.learn_one({**x, **more})
    return model


def activations(model, rows):
    return np.array([[row[name] for name in HIDDEN] for row in model.transform_batch(list(rows))])


def error_of(model, n=300):
    """The share of the variance of hidden inputs that is not foretold."""
    z = model.columns.matrix(list(rows_of(n, seed=9)))
    hidden = np.random.default_rng(1).random(z.shape) < 0.3
    h = model._activations(np.where(hidden, 0.0, z / 0.7))
    return float(((h @ model._weights[1:].T - z)[hidden] ** 2).mean() / (z[hidden] ** 2).mean())


def test_the_example_in_the_docstring_holds():
    assert doctest.testmod(masked).failed == 0


@pytest.mark.parametrize("model", [MaskedAutoencoder(), MaskedAutoencoder(3, share=0.2, seed=3)], ids=repr)
def test_it_keeps_rivers_contract(model):
    for check in checks.yield_checks(model):
        check(model.clone())


@pytest.mark.parametrize("wrong", [{"n_hidden": 0}, {"share": 0}, {"share": 1}, {"rate": 0}])
def test_it_refuses_parameters_that_mean_nothing(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MaskedAutoencoder(**wrong)


def test_it_learns_to_foretell_what_is_hidden():
    assert error_of(trained(MaskedAutoencoder(seed=1), 5)) > 0.5
    assert error_of(trained(MaskedAutoencoder(seed=1), 1_000)) < 0.3


def test_a_step_follows_the_gradient():
    model = trained(MaskedAutoencoder(3, seed=1), 30)
    z = model.columns.matrix(list(rows_of(1, seed=4)))[0]
    z[2] = 0.0  # missing: it is not foretold
    drawn = masked.uniform(1, "hidden", "30", masked.MASKS * 8).reshape(masked.MASKS, 8) < model.share

    def loss(weights):
        h = np.tanh(np.where(drawn, 0.0, z / (1 - model.share)) @ weights[1:] + weights[0])
        return 0.5 * (((h @ weights[1:].T - z) * (drawn & (z != 0))) ** 2).sum() / masked.MASKS

    told = model._gradient(z)
    for place in np.ndindex(told.shape):
        step = np.zeros(told.shape)
        step[place] = 1e-6
        numeric = (loss(model._weights + step) - loss(model._weights - step)) / 2e-6
        assert told[place] == pytest.approx(numeric, abs=1e-6)


def test_inputs_pass_whatever_they_are_and_keep_their_names():
    model = trained(MaskedAutoencoder(seed=1), colour="red", parts=[1.0, 2.0], h1="mine")
    odd = {"f0": None, "f1": math.nan, "f2": "text", "parts": [3.0], "h1": "mine", "f3": 1e300, "new": 1}
    said = model.transform_one(odd)
    assert {name: said[name] for name in odd} == odd
    assert said.keys() == odd.keys() | set(HIDDEN)
    assert all(-1 <= said[name] <= 1 for name in HIDDEN if name != "h1")
    few = {"f3": 1e300}
    assert model.transform_one(few)["h0"] == model.transform_one(few | {"f0": None, "f2": "text"})["h0"]


def test_before_anything_is_learned_there_is_nothing_to_tell():
    assert MaskedAutoencoder(2).transform_one({"a": 1.0}) == {"a": 1.0, "h0": 0.0, "h1": 0.0}
    model = MaskedAutoencoder(2)
    model.learn_one({})
    assert model.transform_one({}) == {"h0": 0.0, "h1": 0.0}
    assert model.transform_batch([]) == []


@pytest.mark.parametrize(
    "value", [1e300, -1e18, math.inf, math.nan, None, 10**400, "text", [1.0], True, 5e-324]
)
def test_no_value_poisons_it(value):
    model = trained(MaskedAutoencoder(seed=1), 400)
    before = error_of(model)
    for x in rows_of(5, seed=2):
        model.learn_one({**x, "f0": value})
        model.learn_one(dict.fromkeys(x, value))
    assert np.isfinite(activations(model, rows_of(20))).all()
    for x in rows_of(200, seed=3):
        model.learn_one(x)
    assert error_of(model) < before + 0.1


def test_columns_may_come_later():
    model = trained(MaskedAutoencoder(seed=1), 100)
    before = activations(model, rows_of(5))
    model.learn_one({"late": 1.0})
    assert len(model._weights) == 10
    np.testing.assert_allclose(activations(model, rows_of(5)), before, atol=0.1)
    for i, x in enumerate(rows_of(600)):
        model.learn_one({**x, "late": 2 * x["f0"] + math.sin(i) / 10})
    seen, other = ({**next(rows_of(1, seed=3)), "late": late} for late in (2.0, -2.0))
    assert np.abs(activations(model, [seen]) - activations(model, [other])).max() > 0.1


def test_transforming_leaves_no_trace_and_pickling_and_the_order_of_keys_change_nothing():
    plain, other = MaskedAutoencoder(seed=2), MaskedAutoencoder(seed=2)
    for i, x in enumerate(rows_of(120)):
        plain.learn_one(x)
        other.learn_one(dict(reversed(x.items())))
        other.transform_batch([*rows_of(3, seed=i), {"never": 1.0}])
        if i == 40:
            other = pickle.loads(pickle.dumps(other))
        if i == 80:
            other = copy.deepcopy(other)
    np.testing.assert_array_equal(activations(plain, rows_of(20)), activations(other, rows_of(20)))


def test_seeds_draw_different_features():
    one, other = (activations(trained(MaskedAutoencoder(seed=seed)), rows_of(5)) for seed in (1, 2))
    assert np.abs(one - other).max() > 0.1


def test_large_batches_are_cut_without_a_difference(monkeypatch):
    model, rows = trained(MaskedAutoencoder(seed=1)), list(rows_of(40, seed=5))
    whole = activations(model, rows)
    monkeypatch.setattr(masked, "BLOCK", 30)
    np.testing.assert_allclose(activations(model, rows), whole, atol=1e-12)


def test_a_spec_builds_it_with_a_seed_of_its_own():
    settings = load(None, ['model.spec=["' + NAME + '", "stream_al.models.BayesianClassifier"]'], environ={})
    pipeline = build(settings.model.spec, seed=3)
    assert pipeline["MaskedAutoencoder"].seed not in {
        None,
        build([NAME, CLASSIFIERS[1]], seed=4)["MaskedAutoencoder"].seed,
    }


@pytest.mark.parametrize("last", CLASSIFIERS)
@pytest.mark.parametrize("before", [[NAME], [SCALER, NAME], [NAME, SCALER]], ids=str)
def test_a_micro_batch_says_what_one_by_one_would(before, last):
    fold = Model([*before, last], classes=["out", "never", "in"], seed=1)
    for i, x in enumerate(rows_of(90)):
        sample = {**x, "colour": "rgb"[i % 3], "parts": [x["f0"], 1.0]}
        assert fold.observe(sample) is None
        assert fold.learn(sample, "in" if x["f0"] > 0 else "out") is None
    probes = [*rows_of(30, seed=4), {}, {"f0": "text", "colour": "g"}, {"f1": 1e18, "parts": [None, 3.0]}]
    at_once = fold.predict(probes)
    np.testing.assert_allclose(at_once, [fold._state.row(x) for x in probes], atol=1e-9)
    np.testing.assert_allclose(at_once.sum(axis=1), 1.0)
    np.testing.assert_allclose(fold.assess(probes).probabilities, at_once, atol=1e-9)


def test_a_micro_batch_really_takes_the_short_way(monkeypatch):
    fold = Model([NAME, SCALER, CLASSIFIERS[2]], classes=["a", "b"], seed=1)
    for x in rows_of(20):
        fold.learn(x, "ab"[x["f0"] > 0])
    said = fold.predict(list(rows_of(9)))
    monkeypatch.delattr(MaskedAutoencoder, "transform_one")
    np.testing.assert_array_equal(fold.predict(list(rows_of(9))), said)


def test_a_sample_that_cannot_be_transformed_spares_the_others(monkeypatch):
    fold = Model([NAME, CLASSIFIERS[1]], classes=None, seed=1)
    for x in rows_of(20):
        fold.learn(x, "ab"[x["f0"] > 0])
    good, whole = list(rows_of(4)), MaskedAutoencoder.transform_batch

    def fragile(self, rows):
        if any(row["f0"] == 666.0 for row in rows):
            raise ZeroDivisionError
        return whole(self, rows)

    said = fold.predict(good)
    monkeypatch.setattr(MaskedAutoencoder, "transform_batch", fragile)
    np.testing.assert_allclose(fold.predict([*good, {"f0": 666.0}]), [*said, [0.0, 0.0]], atol=1e-9)


def test_observed_and_learned_samples_teach_it_once_each():
    fold = Model([NAME, CLASSIFIERS[0]], classes=None, seed=1)
    for x in rows_of(10):
        fold.observe(x)
    fold.learn(x, "a")
    fold.predict([x])
    assert fold._state.pipeline["MaskedAutoencoder"].learned == 11


def test_a_snapshot_goes_on_as_the_model_would():
    one = Model([NAME, CLASSIFIERS[0]], classes=None, seed=1)
    for i, x in enumerate(rows_of(80)):
        one.observe(x)
        one.learn(x, "ab"[x["f0"] > 0])
        if i == 40:
            other = pickle.loads(pickle.dumps(one))
        elif i > 40:
            other.observe(x)
            other.learn(x, "ab"[x["f0"] > 0])
    np.testing.assert_array_equal(one.predict(list(rows_of(9))), other.predict(list(rows_of(9))))


PROGRAM = """
import json, sys
sys.path.insert(0, ".")
from tests.models.test_masked import MaskedAutoencoder, activations, rows_of, trained
model = trained(MaskedAutoencoder(seed=7), 60, colour="red", other=1.0)
print(json.dumps(activations(model, rows_of(5)).tolist()))
"""


def test_the_same_in_every_process():
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    ]
    np.testing.assert_allclose(*map(json.loads, said), atol=1e-9)
