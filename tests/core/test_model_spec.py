"""A model spec builds a seeded River pipeline, or says where it is wrong."""

import inspect
import subprocess
import sys

import pytest

from stream_al.core.model_hints import MISFIT, fit, hints
from stream_al.core.model_spec import ModelSpecError, build, digest

SCALER = "river.preprocessing.StandardScaler"
LOGISTIC = "river.linear_model.LogisticRegression"
BAGGING = "river.ensemble.BaggingClassifier"


def steps(spec, **options):
    return [str(step) for step in build(spec, seed=1, **options).steps.values()]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ([SCALER, "river.naive_bayes.GaussianNB"], ["StandardScaler", "GaussianNB"]),
        ([SCALER, LOGISTIC], ["StandardScaler", "OneVsRestClassifier(LogisticRegression)"]),
        ("river.dummy.PriorClassifier", ["PriorClassifier"]),
        ({"river.dummy.PriorClassifier": None}, ["PriorClassifier"]),
        (
            {"river.compose.Pipeline": {"steps": [SCALER, "river.naive_bayes.GaussianNB"]}},
            ["StandardScaler", "GaussianNB"],
        ),
        (
            {BAGGING: {"model": [SCALER, LOGISTIC]}},
            ["OneVsRestClassifier(BaggingClassifier(StandardScaler | LogisticRegression))"],
        ),
        (
            {"river.ensemble.VotingClassifier": {"models": [LOGISTIC, LOGISTIC]}},
            ["OneVsRestClassifier(Votes(VotingClassifier))"],
        ),
        (
            [{"river.compose.Select": {"keys": ["b", "a"]}}, "river.naive_bayes.GaussianNB"],
            ["['a', 'b']", "GaussianNB"],
        ),
    ],
)
def test_forms_of_a_spec(spec, expected):
    assert steps(spec) == expected


@pytest.mark.parametrize(("n_classes", "wrapped"), [(2, False), (3, True), (None, True)])
def test_a_binary_only_classifier_is_wrapped_unless_there_are_two_classes(n_classes, wrapped):
    assert ("OneVsRest" in steps(LOGISTIC, n_classes=n_classes)[0]) == wrapped


def test_arguments_are_built_recursively():
    spec = {
        LOGISTIC: {
            "l2": 0,
            "optimizer": {
                "river.optim.SGD": {"lr": {"river.optim.schedulers.InverseScaling": {"learning_rate": 0.1}}}
            },
            "loss": "river.optim.losses.Log",
        }
    }
    model = build(spec, seed=1, n_classes=2)["LogisticRegression"]
    assert type(model.optimizer.lr).__name__ == "InverseScaling"
    assert type(model.loss).__name__ == "Log"


def test_a_function_with_arguments_is_bound():
    spec = {"river.neighbors.LazySearch": {"dist_func": {"river.utils.math.minkowski_distance": {"p": 1}}}}
    model = build({"river.neighbors.KNNClassifier": {"engine": spec}}, seed=1)
    assert model["KNNClassifier"].engine.dist_func.distance_function.keywords == {"p": 1}


def test_lists_become_tuples_and_sets_where_river_wants_them():
    bag = {"river.feature_extraction.BagOfWords": {"on": "text", "ngram_range": [1, 2], "stop_words": ["a"]}}
    extractor = build([bag, "river.naive_bayes.MultinomialNB"], seed=1)["BagOfWords"]
    assert extractor.stop_words == {"a"}


def seeds(spec, seed=1):
    model = build(spec, seed=seed)
    return {name: value for name, value in walk(model) if name.endswith(("seed", "random_state"))}


def walk(owner, path=""):
    from river import base, compose

    if isinstance(owner, compose.Pipeline):
        parts = dict(owner.steps)
    elif isinstance(owner, base.Base):
        parts = {name: getattr(owner, name, None) for name in inspect.signature(type(owner)).parameters}
    else:
        parts = dict(enumerate(owner)) if isinstance(owner, list) else {}
    for name, value in parts.items():
        yield f"{path}.{name}", value
        yield from walk(value, f"{path}.{name}")


def test_every_seed_left_open_gets_a_number_of_its_own():
    spec = [
        {"river.preprocessing.FeatureHasher": {"n_features": 8}},
        {BAGGING: {"model": {"river.forest.ARFClassifier": {"n_models": 3}}}},
    ]
    found = seeds(spec)
    assert len(found) == 3
    assert len(set(found.values())) == 3
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in found.values())
    assert found == seeds(spec)
    assert not set(found.values()) & set(seeds(spec, seed=2).values())


def test_a_given_seed_is_kept():
    assert set(seeds({"river.forest.AMFClassifier": {"seed": 7}}).values()) == {7}


def test_an_unseeded_object_that_a_constructor_makes_for_itself_is_refused(monkeypatch):
    from stream_al.core import model_spec

    monkeypatch.setattr(model_spec, "DEFAULTS", {})
    with pytest.raises(
        ModelSpecError, match=r"KNNClassifier\.engine: must be given: the default SWINN has no seed"
    ):
        build("river.neighbors.KNNClassifier", seed=1)


def test_neighbours_search_without_leaving_a_trace():
    for spec in ("river.neighbors.KNNClassifier", {"river.neighbors.KNNClassifier": {"engine": None}}):
        assert type(build(spec, seed=1)["KNNClassifier"].engine).__name__ == "LazySearch"
    model = build({"river.neighbors.KNNClassifier": {"engine": "river.neighbors.SWINN"}}, seed=1)
    assert type(model["KNNClassifier"].engine).__module__ == "stream_al.core.model_adapters"


MISTAKES = [
    ([], "model: has no steps: the last one must be a classifier"),
    (None, "model: must be a dotted name or {name: arguments}, is None"),
    ("os.system", "model: must be a dotted name or {name: arguments}, is 'os.system'"),
    ([[SCALER], LOGISTIC], "model[0]: must be a dotted name or {name: arguments}, is ['river.preprocessing.StandardScaler']"),
    ("river.stream.iter_csv.random.Random", "model.river.stream.iter_csv.random.Random: there is no river.stream.iter_csv.random.Random"),
    ("river.linear_model", "model.river.linear_model: is a module; name a class in it"),
    (
        "river.linear.LogisticRegression",
        "model.river.linear.LogisticRegression: there is no river.linear.LogisticRegression; did you mean river.linear_model.LogisticRegression?",
    ),
    ("river.linear_model.LogisticRegresion", "did you mean river.linear_model.LogisticRegression?"),
    ("river.tree.ARFClassifier", "did you mean river.forest.ARFClassifier?"),
    ([SCALER, {LOGISTIC: {"l2": "x"}}], f"model[1].{LOGISTIC}.l2: must be a number, is 'x'"),
    ([SCALER, {LOGISTIC: {"l2": True}}], f"model[1].{LOGISTIC}.l2: must be a number, is True"),
    ([SCALER, {LOGISTIC: {"l2": "1e-3"}}], "(a text; YAML wants 0.001 without quotes and with a point)"),
    ([SCALER, {LOGISTIC: {"l2": float("nan")}}], f"model[1].{LOGISTIC}.l2: must be a number, is nan"),
    ({LOGISTIC: {"optimiser": None}}, f"model.{LOGISTIC}.optimiser: is no argument; did you mean optimizer?"),
    ({LOGISTIC: {"optimizer": "adam"}}, "must be optim.base.Optimizer | None, is 'adam'; did you mean river.optim.Adam?"),
    ({LOGISTIC: {"optimizer": "river.optim.Adma"}}, "there is no river.optim.Adma; did you mean river.optim.Adam?"),
    ({LOGISTIC: {"optimizer": {"river.optim.Adma": {}}}}, f"model.{LOGISTIC}.optimizer.river.optim.Adma: there is no"),
    ({LOGISTIC: [1]}, "arguments must be a mapping of names to values, are [1]"),
    ({"river.forest.ARFClassifier": {"n_models": 2.5}}, "n_models: must be int, is 2.5"),
    (BAGGING, f"model.{BAGGING}: needs the argument model"),
    ({BAGGING: {"model": [3]}}, f"model.{BAGGING}.model: must be Classifier, is [3]"),
    ({"river.ensemble.VotingClassifier": {"models": [LOGISTIC]}}, "cannot be built: ValueError: At least 2 models are expected"),
    ("river.base.Classifier", "model.river.base.Classifier: is abstract"),
    ([LOGISTIC, SCALER], "model[0]: LogisticRegression is not a transformer; only the last step is a classifier"),
    (SCALER, "model: StandardScaler is not a classifier; the last step must be one"),
    ([SCALER, "river.linear_model.LinearRegression"], "model[1]: LinearRegression is not a classifier"),
    (["river.optim.SGD", LOGISTIC], "model[0]: SGD is not a transformer"),
    ({"river.active.EntropySampler": {"classifier": LOGISTIC}}, "stream-al itself decides which labels to request"),
    (["river.feature_extraction.TFIDF", LOGISTIC], "model[0].river.feature_extraction.TFIDF: needs the argument on"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_path(spec, message):
    with pytest.raises(ModelSpecError) as caught:
        build(spec, seed=1)
    assert message in str(caught.value)
    assert str(caught.value) == f"{caught.value.path}: {caught.value.message}"


@pytest.mark.parametrize(
    ("task", "spec", "message"),
    [
        (
            "regression",
            [SCALER, LOGISTIC],
            (
                "model[1]: LogisticRegression is not a regressor; the last step must be one; it is a classifier: write"
                " model.task: classification, or name a regressor"
            ),
        ),
        (
            "classification",
            "river.linear_model.LinearRegression",
            (
                "model: LinearRegression is not a classifier; the last step must be one; it is a regressor: write"
                " model.task: regression, or name a classifier"
            ),
        ),
        ("regression", SCALER, "model: StandardScaler is not a regressor; the last step must be one"),
        (
            "regression",
            "river.tree.ISOUPTreeRegressor",
            "model: ISOUPTreeRegressor predicts several numbers; a label is one",
        ),
        ("regression", [], "model: has no steps: the last one must be a regressor"),
        (
            "regression",
            ["river.tree.HoeffdingTreeRegressor", SCALER],
            "model[0]: HoeffdingTreeRegressor is not a transformer; only the last step is a regressor",
        ),
    ],
)
def test_the_last_step_must_be_for_the_task_and_the_other_task_is_named(task, spec, message):
    with pytest.raises(ModelSpecError) as caught:
        build(spec, seed=1, task=task)
    assert str(caught.value) == message


def test_a_spec_that_holds_itself_is_a_mistake():
    endless = []
    endless.append(endless)
    with pytest.raises(ModelSpecError, match="nested deeper"):
        build({LOGISTIC: {"optimizer": endless}}, seed=1)
    with pytest.raises(ModelSpecError, match="plain JSON"):
        digest(endless)


def test_the_digest_says_whether_specs_are_the_same():
    spec = [SCALER, {LOGISTIC: {"l2": 0.001, "l1": 0}}]
    assert (
        digest(spec)
        == digest([{SCALER: {}}, {LOGISTIC: {"l1": 0, "l2": 0.001}}])
        == "0737e2da4c660c93a608ee40ce13150a"
    )
    assert digest(spec) != digest([SCALER, {LOGISTIC: {"l2": 0.002, "l1": 0}}])
    with pytest.raises(ModelSpecError):
        digest({LOGISTIC: {"l2": float("inf")}})


def test_rivers_own_defaults_pass_its_annotations():
    from river import base, ensemble, forest, linear_model, naive_bayes, neighbors, optim, preprocessing, tree

    modules = (base, ensemble, forest, linear_model, naive_bayes, neighbors, optim, preprocessing, tree)
    classes = [getattr(m, name) for m in modules for name in m.__all__ if inspect.isclass(getattr(m, name))]
    for cls in classes:
        for name, hint in hints(cls).items():
            default = inspect.signature(cls).parameters[name].default
            default = list(default) if isinstance(default, tuple) else default
            assert default is inspect.Parameter.empty or fit(default, hint.type) is not MISFIT, (cls, name)


def test_importing_the_model_does_not_import_river():
    code = "import sys, stream_al.core.model; print([m for m in sys.modules if m.split('.')[0] in ('river', 'scipy')])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
