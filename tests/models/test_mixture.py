"""A mixture of classifiers: as good as its best member, whatever the others do."""

import pickle
import random

import numpy as np
import pytest
from river import base, checks, dummy, forest, linear_model, naive_bayes, preprocessing, tree

from stream_al.core.model import Model
from stream_al.core.model_spec import build
from stream_al.models import BayesianClassifier, MixtureClassifier

SPEC = "stream_al.models.MixtureClassifier"


class Broken(base.Classifier):
    """Fail at everything."""

    @property
    def _multiclass(self):
        return True

    def learn_one(self, x, y):
        raise ZeroDivisionError

    def predict_proba_one(self, x):
        raise ZeroDivisionError


class Poisoned(Broken):
    """Answer with what is no probability."""

    def learn_one(self, x, y):
        pass

    def predict_proba_one(self, x):
        return {"in": float("nan"), "out": -1.0}


class Sure(Poisoned):
    """Be sure of one class for ever."""

    def predict_proba_one(self, x):
        return {"in": 1.0}


def circles(n, seed=0):
    rng = random.Random(seed)
    for _ in range(n):
        x = {name: rng.gauss(0, 1) for name in "abc"}
        yield x, "in" if x["a"] ** 2 + x["b"] ** 2 < 1.2 else "out"


def trained(model, n=300):
    for x, y in circles(n):
        model.learn_one(x, y)
    return model


def accuracy(model, n=300):
    pairs = list(circles(n, seed=7))
    said = model.predict_proba_batch([x for x, _ in pairs]).argmax(axis=1)
    return np.mean([model.classes[k] == y for k, (_, y) in zip(said, pairs, strict=True)])


def test_it_keeps_rivers_contract():
    for check in checks.yield_checks(MixtureClassifier(seed=1)):
        check(MixtureClassifier(seed=1))


@pytest.mark.parametrize("wrong", [{"eta": -1}, {"fade": 0}, {"fade": 1.1}, {"members": []}])
def test_it_refuses_parameters_that_mean_nothing(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MixtureClassifier(**wrong)


def test_weight_goes_to_the_member_that_foretells():
    model = trained(
        MixtureClassifier([dummy.PriorClassifier(), BayesianClassifier(seed=1), BayesianClassifier(0)])
    )
    assert model.weights[1] > 0.95
    assert accuracy(model) > 0.85


def test_without_eta_all_members_count_the_same():
    model = trained(MixtureClassifier([dummy.PriorClassifier(), BayesianClassifier(0)], eta=0.0), 50)
    np.testing.assert_allclose(model.weights, 0.5)


def test_members_that_fail_cost_nothing():
    model = trained(MixtureClassifier([Broken(), Poisoned(), Sure(), BayesianClassifier(seed=1)]))
    assert model.weights[3] > 0.95
    assert accuracy(model) > 0.85
    assert np.isfinite(model.assess_batch([x for x, _ in circles(5)]).committee).all()


def test_it_is_close_to_the_best_member_after_a_change():
    model = trained(MixtureClassifier([BayesianClassifier(seed=1), tree.HoeffdingTreeClassifier()]))
    for x, y in circles(400, seed=3):
        model.learn_one(x, "in" if y == "out" else "out")
    swapped = [model.predict_one(x) != y for x, y in circles(200, seed=8)]
    assert np.mean(swapped) > 0.75


def test_the_committee_is_what_is_mixed():
    model = trained(MixtureClassifier(seed=1), 60)
    answers = model.assess_batch([x for x, _ in circles(9, seed=2)])
    assert answers.committee.shape == (6, 9, 2)
    mixed = np.einsum("m,mnk->nk", model.weights, answers.committee)
    np.testing.assert_allclose(answers.probabilities, mixed, atol=1e-12)
    np.testing.assert_allclose(answers.committee.sum(axis=2), 1.0)


def test_moderating_the_gap_gives_the_mixtures_probabilities_back():
    answers = trained(MixtureClassifier(seed=1), 60).assess_batch([x for x, _ in circles(9, seed=2)])
    gap = answers.gap / np.sqrt(1 + np.pi / 8 * answers.variance)
    p = np.sort(answers.probabilities, axis=1)
    np.testing.assert_allclose(np.tanh(gap / 2), p[:, 1] - p[:, 0], atol=1e-9)


def test_without_bayesian_members_there_is_a_committee_only():
    model = trained(MixtureClassifier([naive_bayes.GaussianNB(), tree.HoeffdingTreeClassifier()]), 60)
    answers = model.assess_batch([x for x, _ in circles(3)])
    assert answers.gap is answers.variance is answers.features is None
    assert answers.committee.shape == (2, 3, 2)


def test_bayesian_members_share_their_scaling_also_after_a_snapshot():
    model = pickle.loads(pickle.dumps(trained(MixtureClassifier(seed=1), 30)))
    model.observe_one({"a": 1.0, "late": 2.0})
    tables = {id(member.model.columns) for member in model._members[:5]}
    assert tables == {id(model.columns)}
    assert model.columns.seen == 31
    assert len(model.predict_proba_one({"late": 1.0})) == 2


def test_observed_samples_reach_the_scaler_of_a_member():
    model = MixtureClassifier([preprocessing.StandardScaler() | linear_model.LogisticRegression()])
    for x, _ in circles(5):
        model.observe_one(x)
    assert model._members[0].model["StandardScaler"].counts["a"] == 5


def test_members_given_are_left_alone():
    given = BayesianClassifier(seed=1)
    trained(MixtureClassifier([given]), 20)
    assert given.classes == []


def test_the_standard_tree_leaves_wide_samples_to_the_others():
    model = MixtureClassifier(seed=1)
    for x, y in circles(30):
        model.learn_one(x | {f"w{i}": 0.0 for i in range(300)}, y)
    assert model.weights[5] < 0.01
    assert model._members[5].model.n_leaves in (None, 0)


def test_a_spec_builds_it_with_seeds_and_members():
    pipeline = build(SPEC, seed=3)
    assert pipeline["MixtureClassifier"].seed is not None
    spec = {SPEC: {"members": [["river.preprocessing.StandardScaler", "river.linear_model.LogisticRegression"],
                               {"river.forest.AMFClassifier": {"n_estimators": 3}}], "eta": 1}}  # fmt: skip
    members = build(spec, seed=3)["MixtureClassifier"].members
    assert isinstance(members[1], forest.AMFClassifier)
    assert members[1].seed is not None
    fold = Model(spec, classes=None, seed=3)
    for x, y in circles(80):
        assert fold.learn(x, y) is None
    seen = fold.assess([x for x, _ in circles(4)])
    assert seen.committee.shape == (2, 4, 2)
    np.testing.assert_allclose(seen.probabilities, fold.predict([x for x, _ in circles(4)]))
