"""Online Bayesian softmax regression: a River classifier that is total, repeatable and calibrated."""

import copy
import doctest
import itertools
import json
import math
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from river import checks, datasets
from river.datasets import synth

from stream_al.core.model import Model
from stream_al.models import BayesianClassifier, MixtureClassifier, bayes, columns, draws, fourier, mixture
from stream_al.models.columns import BOUND, WIDE, Columns
from stream_al.models.fourier import Fourier

BOTH = [BayesianClassifier, MixtureClassifier]
VARIANTS = [BayesianClassifier(), BayesianClassifier(n_features=5, sparse=1.0, seed=3)]
SPECS = [{f"stream_al.models.{cls.__name__}": {}} for cls in BOTH]


def rows_of(n, d=4, seed=0):
    rng = random.Random(seed)
    return [{f"f{j}": rng.gauss(0, 1) for j in range(d)} for _ in range(n)]


def label_of(x):
    return "in" if x["f0"] ** 2 + x["f1"] ** 2 < 1.2 else "out"


def trained(model, n=300, d=4):
    for x in rows_of(n, d):
        model.learn_one(x, label_of(x))
    return model


@pytest.mark.parametrize("module", [bayes, columns, draws, fourier, mixture])
def test_the_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("model", VARIANTS, ids=repr)
def test_it_keeps_rivers_contract(model):
    for check in checks.yield_checks(model):
        check(model.clone())


@pytest.mark.parametrize(
    "wrong", [{"n_features": -1}, {"prior": 0}, {"forgetting": 1}, {"width": 0}, {"sparse": 2}]
)
def test_it_refuses_parameters_that_mean_nothing(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BayesianClassifier(**wrong)


@pytest.mark.parametrize("cls", BOTH)
def test_a_micro_batch_says_what_one_by_one_would(cls):
    model = trained(cls(seed=1))
    rows = [
        *rows_of(40, seed=5),
        {},
        {"f1": None},
        {"f0": math.nan, "other": 3.0},
        {"f0": 1e300, "f1": -1e18},
    ]
    at_once = model.predict_proba_batch(rows)
    single = [[model.predict_proba_one(x)[c] for c in model.classes] for x in rows]
    np.testing.assert_allclose(at_once, single, atol=1e-9)
    answers = model.assess_batch(rows)
    alone = [model.assess_batch([x]) for x in rows]
    np.testing.assert_allclose(answers.probabilities, at_once, atol=1e-12)
    np.testing.assert_allclose(answers.gap, np.concatenate([a.gap for a in alone]), atol=1e-9)
    np.testing.assert_allclose(answers.variance, np.concatenate([a.variance for a in alone]), atol=1e-9)
    assert (answers.gap >= 0).all()
    assert (answers.variance >= 0).all()
    assert answers.features.shape[0] == len(rows)


@pytest.mark.parametrize("cls", BOTH)
def test_large_batches_are_cut_without_a_difference(cls, monkeypatch):
    model, rows = trained(cls(seed=1)), rows_of(40, seed=5)
    whole = model.assess_batch(rows)
    monkeypatch.setattr(bayes, "BLOCK", 30)
    for one, other in zip(whole, model.assess_batch(rows), strict=True):
        if one is not None and not isinstance(one, list):
            np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("cls", BOTH)
def test_predicting_leaves_no_trace_and_pickling_changes_nothing(cls):
    plain, other = cls(seed=2), cls(seed=2)
    for i, x in enumerate(rows_of(120)):
        plain.learn_one(x, label_of(x))
        other.learn_one(x, label_of(x))
        other.predict_proba_batch([*rows_of(3, seed=i), {"never": 1.0}])
        if i == 40:
            other = pickle.loads(pickle.dumps(other))
        if i == 80:
            other = copy.deepcopy(other)
    probes = rows_of(20, seed=9)
    np.testing.assert_array_equal(plain.predict_proba_batch(probes), other.predict_proba_batch(probes))


PROGRAM = """
import json, sys
sys.path.insert(0, ".")
from tests.models.test_bayes import SPECS, label_of, rows_of
from stream_al.core.model import Model
for spec in SPECS:
    model = Model(spec, classes=None, seed=7)
    for i, x in enumerate(rows_of(60)):
        x = {**x, "colour": "rgb"[i % 3]}
        model.observe(x)
        model.learn(x, label_of(x))
    print(json.dumps(model.predict(rows_of(5, seed=1)).tolist()))
"""


def test_the_same_in_every_process():
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for seed in (1, 2)
    ]
    for one, other in zip(*said, strict=True):
        np.testing.assert_allclose(json.loads(one), json.loads(other), atol=1e-9)


def test_the_order_of_keys_and_unlabelled_samples_does_not_matter_to_the_features():
    one, other = BayesianClassifier(seed=1), BayesianClassifier(seed=1)
    for x in rows_of(50):
        one.learn_one(x, label_of(x))
        other.learn_one(dict(reversed(x.items())), label_of(x))
    np.testing.assert_array_equal(one.predict_proba_batch(rows_of(5)), other.predict_proba_batch(rows_of(5)))


def test_seeds_draw_different_features():
    a, b = (trained(BayesianClassifier(seed=seed)).predict_proba_batch(rows_of(5)) for seed in (1, 2))
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize("cls", BOTH)
def test_before_labels_there_is_no_answer_and_with_one_class_a_sure_one(cls):
    model = cls(seed=1)
    assert model.predict_proba_one({"a": 1.0}) == {}
    assert model.predict_one({"a": 1.0}) is None
    assert model.predict_proba_batch([{}, {}]).shape == (2, 0)
    model.observe_one({"a": 1.0})
    model.learn_one({"a": 2.0}, "only")
    assert model.predict_proba_one({"b": 1.0}) == pytest.approx({"only": 1.0})


@pytest.mark.parametrize("cls", BOTH)
def test_a_new_class_and_a_new_column_are_learned_late(cls):
    model = trained(cls(seed=1), 200)
    for i in range(120):
        far = i % 2 == 0
        x = {**rows_of(1, seed=i)[0], "late": 8.0 if far else 0.0}
        model.learn_one(x, "new" if far else label_of(x))
    assert model.classes[2] == "new"
    right = [
        (model.predict_one({**x, "late": 8.0 * far}) == "new") == far
        for x, far in itertools.product(rows_of(50, seed=999), (True, False))
    ]
    assert np.mean(right) > 0.9
    known = [model.predict_one({**x, "late": 0.0}) == label_of(x) for x in rows_of(100, seed=998)]
    assert np.mean(known) > 0.7


def right_of(model, rows, probes):
    return np.mean(
        [model.classes[k] == label_of(x) for k, x in zip(rows.argmax(axis=1), probes, strict=True)]
    )


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("value", [1e300, -1e18, math.inf, math.nan, None, 10**400, "text", True, 5e-324])
def test_no_value_poisons_it(cls, value):
    model = trained(cls(seed=1), 100)
    probes = rows_of(50, seed=3)
    before = model.predict_proba_batch(probes)
    for row in rows_of(3):
        x = {**row, "f0": value}
        model.learn_one(x, label_of(row))
    after = model.predict_proba_batch(probes)
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after.sum(axis=1), 1.0)
    assert right_of(model, after, probes) > right_of(model, before, probes) - 0.15


def test_constant_columns_say_nothing():
    with_them, without = BayesianClassifier(0), BayesianClassifier(0)
    for x in rows_of(100):
        with_them.learn_one({**x, "zero": 0.0, "big": 1e12}, label_of(x))
        without.learn_one(x, label_of(x))
    probe = rows_of(1, seed=4)[0]
    said = with_them.predict_proba_one({**probe, "zero": 1.0, "big": 5.0})
    assert said == pytest.approx(without.predict_proba_one(probe), abs=1e-9)


def test_forgetting_keeps_it_learning_for_ever():
    model = BayesianClassifier(forgetting=0.01, seed=1)
    for i in range(3000):
        model.learn_one({"a": math.sin(i), "b": math.cos(i)}, math.sin(i) > 0)
    for i in range(300):
        model.learn_one({"a": math.sin(i), "b": math.cos(i)}, math.sin(i) <= 0)
    assert model.predict_one({"a": 1.0, "b": -1.0}) is False
    full = model._posterior._full
    assert np.array_equal(full, full.T)
    assert np.linalg.eigvalsh(full).min() > 0


@pytest.mark.parametrize("cls", BOTH)
def test_after_an_alarm_it_knows_the_same_but_less_surely(cls):
    model, probes = trained(cls(seed=1)), rows_of(50, seed=6)
    before = model.assess_batch(probes)
    model.on_drift()
    after = model.assess_batch(probes)
    assert (after.variance > before.variance).all()
    assert right_of(model, after.probabilities, probes) > right_of(model, before.probabilities, probes) - 0.1


def test_wide_samples_are_learned_with_a_diagonal_covariance():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=600)
    model, right = BayesianClassifier(seed=1), []
    for i in range(160):
        y = i % 2
        x = dict(enumerate((rng.normal(size=600) + 0.4 * (2 * y - 1) * centre).tolist()))
        right.append(model.predict_one(x) == y)
        model.learn_one(x, y)
    assert len(model._posterior._full) == 97
    assert np.mean(right[60:]) > 0.85


def test_it_widens_without_forgetting_what_the_inputs_said():
    model = BayesianClassifier(seed=1)
    for x in rows_of(200):
        model.learn_one(x, x["f0"] > 0)
    for i, x in enumerate(rows_of(5, seed=2)):
        model.learn_one({**x, **{f"g{j}": math.sin(i * j) for j in range(WIDE)}}, x["f0"] > 0)
    assert np.mean([model.predict_one(x) == (x["f0"] > 0) for x in rows_of(200, seed=5)]) > 0.85


def test_sparse_words_are_learned():
    rng = random.Random(1)
    model, right = BayesianClassifier(seed=1), []
    for i in range(400):
        y = "ab"[i % 2]
        words = {f"w{rng.randrange(800)}": 1.0 for _ in range(15)} | {
            f"{y}{rng.randrange(20)}": 1.0 for _ in range(2)
        }
        right.append(model.predict_one(words) == y)
        model.learn_one(words, y)
    assert np.mean(right[200:]) > 0.8


def test_moments_shrug_off_an_outlier_and_follow_a_shift():
    table, rng = Columns(), random.Random(0)
    for _ in range(500):
        table.learn({"a": rng.gauss(5, 2)})
    table.learn({"a": 1e15})
    z = table.matrix([{"a": 5.0}, {"a": 7.0}, {"a": 1e9}])[:, 0]
    assert z == pytest.approx([0.0, 1.0, BOUND], abs=0.35)


@pytest.mark.parametrize(
    "row",
    [
        {"a": "1"},
        {"a": "1", "b": "2"},
        {"a": [1.0]},
        {"a": [1.0, 2.0]},
        {"a": [1.0], "b": [2.0]},
        {"a": [1.0, 2.0], "b": [3.0, 4.0]},
    ],
)
def test_strings_and_lists_are_no_numbers(row):
    table = Columns()
    assert (table.learn(row) == 0).all()
    for value in (3.0, 5.0):
        table.learn(dict.fromkeys(row, value))
    assert table.learn(row).tolist() == [0.0] * len(row)
    assert table.matrix([row, row]).tolist() == [[0.0] * len(row)] * 2
    assert (table.matrix([row, dict.fromkeys(row, 5.0)])[1] == 1.0).all()


def test_a_column_that_comes_later_leaves_the_other_frequencies():
    early = Fourier(32, width=0.5, sparse=16, seed=1)
    early.grow(["a", "b"])
    before = early._omega.copy()
    assert not early.grow(["a", "b", "c"])
    np.testing.assert_array_equal(early._omega[:2], before)
    assert early.grow(["a", "b", "c", "d", "e"])  # more than twice as many: drawn anew
    turned = Fourier(32, width=0.5, sparse=16, seed=1)
    turned.grow(["e", "d", "c", "b", "a"])
    np.testing.assert_array_equal(turned._omega[::-1], early._omega)


@pytest.mark.parametrize(
    ("stream", "least"),
    [
        (lambda: datasets.Phishing().take(1000), 0.86),
        (lambda: datasets.Bananas().take(1000), 0.83),
        (lambda: datasets.ImageSegments().take(1000), 0.80),
        (lambda: synth.SEA(variant=0, seed=1).take(1000), 0.92),
    ],
)
@pytest.mark.parametrize("cls", BOTH)
def test_it_learns_well(cls, stream, least):
    model, right = cls(seed=1), []
    for x, y in stream():
        right.append(model.predict_one(x) == y)
        model.learn_one(x, y)
    assert np.mean(right) > least


@pytest.mark.parametrize("cls", BOTH)
def test_its_probabilities_mean_what_they_say(cls):
    model, said, right = cls(seed=1), [], []
    for i, (x, y) in enumerate(synth.SEA(variant=0, noise=0.2, seed=1).take(1500)):
        p = model.predict_proba_one(x)
        if i >= 300:
            said.append(max(p.values()))
            right.append(max(p, key=p.get) == y)
        model.learn_one(x, y)
    assert abs(np.mean(said) - np.mean(right)) < 0.06


@pytest.mark.parametrize("spec", SPECS)
def test_the_model_assesses_a_micro_batch_with_all_it_knows(spec):
    fold = Model(spec, classes=["out", "never", "in"], seed=1)
    assert fold.assess(rows_of(2)).gap is None
    for x in rows_of(150):
        fold.observe(x)
        assert fold.learn({**x, "colour": "red"}, label_of(x)) is None
    probes = [*rows_of(30, seed=4), {}, {"f0": "text"}]
    seen = fold.assess(probes)
    np.testing.assert_allclose(seen.probabilities, fold.predict(probes), atol=1e-12)
    np.testing.assert_allclose(seen.probabilities.sum(axis=1), 1.0)
    assert seen.probabilities.shape == (32, 3)
    assert fold.classes[seen.probabilities[0].argmax()] == label_of(probes[0])
    assert seen.gap.shape == seen.variance.shape == (32,)
    assert len(seen.features) == 32
    one_by_one = np.array([fold._state.row(x) for x in probes])
    np.testing.assert_allclose(seen.probabilities, one_by_one, atol=1e-9)


def test_the_model_asks_a_pipeline_at_once_too():
    spec = ["river.preprocessing.StandardScaler", SPECS[0]]
    fold = Model(spec, classes=None, seed=1)
    for x in rows_of(50):
        fold.learn(x, label_of(x))
    seen = fold.assess(rows_of(9))
    assert seen.variance.shape == (9,)
    np.testing.assert_allclose(seen.probabilities, [fold._state.row(x) for x in rows_of(9)], atol=1e-9)


def test_observed_samples_reach_the_scaling():
    fold = Model(SPECS[0], classes=None, seed=1)
    for x in rows_of(10):
        fold.observe(x)
    assert next(iter(fold._state.pipeline.steps.values())).columns.seen == 10
