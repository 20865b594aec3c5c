"""Experiments of the literature, each by one command: what is compared, and the comparison.

A scenario has *arms*, of which one is the baseline. Every arm is run with the same seeds on the same samples; what
counts is the difference of the accuracies, seed by seed. Some scenarios are learned from a pool, with samples held
back, the others are grids of simulations.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stream_al.config import load
from stream_al.core.strategies import CLASSIFICATION
from stream_al.logs import configure
from stream_al.simulate import Oracle, Simulation
from stream_al.whatif.grid import OWN, PACE, Model, Plan, Stream, assignments
from stream_al.whatif.models import PRESETS
from stream_al.whatif.pool import RANDOM, SYNTHESIS, Curve, Task, learn_from_pool, right
from stream_al.whatif.processes import Stop, Stopped
from stream_al.whatif.reading import Data, DataError, Row
from stream_al.whatif.synthetic import clusters, redundant

Extent = Literal["full", "quick"]

STREAM = "stream: "  # before the strategy of an arm that meets each sample once
CEAL = " + sure"  # after that of an arm that also learns what it is sure of
TEXT = [
    {"river.feature_extraction.TFIDF": {"on": "text"}},
    {"river.linear_model.LogisticRegression": {"optimizer": {"river.optim.AdaGrad": {"lr": 0.3}}}},
]


@dataclass(frozen=True, slots=True)
class Scenario:
    """An experiment.

    Parameters
    ----------
    title, about
        For people; what it shows, and where it comes from.
    seeds, quick_seeds
        How often it is repeated unless told otherwise.
    beats
        Arms that should be better than the baseline, so that a run in which they are not is worth a word.
    """

    name: str
    title: str
    about: str
    seeds: int
    quick_seeds: int
    baseline: str
    beats: tuple[str, ...]
    arms: tuple[str, ...] = ()
    task: Callable[[Data | None, int, Extent], Task] | None = None
    plan: Callable[[Data | None, int, Extent], Plan] | None = None


def _article(_: Data | None, seed: int, _extent: Extent) -> Task:
    rows = clusters(1_000, seed, flipped=0.1)
    return Task(rows[100:], rows[:100], PRESETS["bayes"], start=90, rounds=20)


def _few(_: Data | None, seed: int, extent: Extent) -> Task:
    rows = clusters(2_000, seed, flipped=0.1)
    return Task(
        rows[500:], rows[:500], PRESETS["bayes"], start=10, rounds=15 if extent == "quick" else 30, batch=3
    )


def _news(data: Data | None, seed: int, extent: Extent) -> Task:
    if data is None:
        raise DataError(
            "this scenario reads texts: name a file of two classes with a column text, and its --label"
        )
    texts = [
        ({"text": x["text"], "split": x.get("split")}, y)
        for x, y in data.rows
        if isinstance(x.get("text"), str)
    ]
    if len(data.classes) != 2 or not texts:
        raise DataError(f"{data.name}: two classes and a column text are needed")
    test = [({"text": x["text"]}, y) for x, y in texts if x["split"] == "test"]
    train = [({"text": x["text"]}, y) for x, y in texts if x["split"] != "test"]
    random.Random(seed).shuffle(train)  # noqa: S311  a shuffle is no secret
    if not test:
        test, train = train[: len(train) // 3], train[len(train) // 3 :]
    pool, test = (train[:400], test[:300]) if extent == "quick" else (train, test)
    return Task(pool, test, TEXT, start=10, rounds=6 if extent == "quick" else 14, batch=20)


def _rows(data: Data | None, extent: Extent, full: int) -> tuple[str, list[Row]]:
    """Return the data's name and its first samples; River's bananas where there is none."""
    from stream_al import datasets  # noqa: PLC0415

    n = full // 4 if extent == "quick" else full
    if data is None:
        return "bananas", list(datasets.stream("bananas", n, 0))
    return data.name, data.rows[:n]


def _grid(
    data: Data | None,
    seeds: int,
    extent: Extent,
    *,
    strategies: Sequence[str],
    models: Sequence[Model],
    budgets: Sequence[float],
) -> Plan:
    name, rows = _rows(data, extent, 4_000)
    made = data is None or name == "redundant"
    stream = Stream(name, Data(name, rows).digest(), rows, shuffled=made)
    return Plan(stream, tuple(strategies), tuple(models), tuple(budgets), seeds, Oracle(), referenced=False)


def _strategies(data: Data | None, seeds: int, extent: Extent) -> Plan:
    names = ("margin", "entropy", RANDOM) if extent == "quick" else CLASSIFICATION
    return _grid(data, seeds, extent, strategies=names, models=[Model("default", {})], budgets=[0.05])


def _cooperative(data: Data | None, seeds: int, extent: Extent) -> Plan:
    models = [Model("without", {"cooperative": False}), Model("cooperative", {"cooperative": True})]
    return _grid(data, seeds, extent, strategies=["margin"], models=models, budgets=[0.01, 0.05])


def _represented(data: Data | None, seeds: int, extent: Extent) -> Plan:
    spec = PRESETS["bayes"]
    models = [
        Model("without", {"spec": spec}),
        Model("with representation", {"spec": ["stream_al.models.MaskedAutoencoder", *spec]}),
    ]
    given = Data("redundant", redundant(4_000, 1)) if data is None else data
    return _grid(given, seeds, extent, strategies=["margin"], models=models, budgets=[0.01, 0.05])


SCENARIOS: Mapping[str, Scenario] = {
    s.name: s
    for s in (
        Scenario(
            name="pool-least-confidence",
            title="Least confidence in a pool",
            about="1,000 made-up samples (10 features, 5 of them informative, a tenth of the labels "
            "drawn by lot); 100 are held back, 90 labelled at the start. Then 20 queries one by "
            "one, the model trained anew after each. It is the experiment with which articles "
            "introduce active learning, many of them with one seed: 88 % before and 91 % after in one. "
            "The mean over seeds is lower. scikit-learn's logistic regression and forest on its "
            "make_classification start at 76 and 79 % and gain 1.3 points so, at random .6.",
            seeds=50,
            quick_seeds=8,
            baseline=RANDOM,
            beats=("least_confidence",),
            arms=("least_confidence", RANDOM),
            task=_article,
        ),
        Scenario(
            name="text-newsgroups",
            title="Two newsgroups, from a pool and from a stream",
            about="Texts of two classes, as atheism and christian of the 20 Newsgroups: River's TF-IDF "
            "and logistic regression. From the pool twenty texts at a time are asked for; as a stream,"
            " the service meets each text once and asks for a share of them.",
            seeds=20,
            quick_seeds=6,
            baseline=RANDOM,
            beats=("margin",),
            arms=("margin", RANDOM, STREAM + "margin", STREAM + RANDOM),
            task=_news,
        ),
        Scenario(
            name="strategies",
            title="All query strategies side by side",
            about="The same stream, the same model, the same budget of 5 %; only what makes a sample "
            "worth asking for differs.",
            seeds=10,
            quick_seeds=6,
            baseline=RANDOM,
            beats=("margin", "entropy"),
            plan=_strategies,
        ),
        Scenario(
            name="cooperative",
            title="Cooperative learning",
            about="The service with what it is sure of fed back as its own labels, against the service "
            "without, with 1 % and 5 % of the labels.",
            seeds=5,
            quick_seeds=2,
            baseline="without",
            beats=(),
            plan=_cooperative,
        ),
        Scenario(
            name="cooperative-pool",
            title="Cooperative learning from a pool, with a falling threshold",
            about="CEAL (Wang et al., 2017): after each round the learner also trains on the samples "
            "whose entropy is below a threshold that falls, with its own answer. 1,500 made-up "
            "samples, 10 labelled at the start, three queries a round.",
            seeds=20,
            quick_seeds=4,
            baseline="least_confidence",
            beats=(),
            arms=("least_confidence", "least_confidence" + CEAL, RANDOM, RANDOM + CEAL),
            task=_few,
        ),
        Scenario(
            name="self-supervised",
            title="A representation learned without labels",
            about="An online masked autoencoder before the Bayesian classifier, and without it, with 1 % and "
            "5 % of the labels. The stream is made for it: forty noisy columns, mixed from four hidden "
            "numbers. Where columns are few it can only lose: try DATA bananas.",
            seeds=10,
            quick_seeds=2,
            baseline="without",
            beats=(),
            plan=_represented,
        ),
        Scenario(
            name="synthesis",
            title="Membership query synthesis, pool and stream",
            about="The learner composes points on its own boundary and asks for the nearest real sample"
            " (synthesis), picks from all samples (least confidence), or meets each sample once "
            "(stream). 1,500 made-up samples, 10 labelled at the start; the stream begins with "
            "none.",
            seeds=50,
            quick_seeds=8,
            baseline=RANDOM,
            beats=("least_confidence", SYNTHESIS),
            arms=(SYNTHESIS, "least_confidence", STREAM + "least_confidence", RANDOM),
            task=_few,
        ),
    )
}


# Arms of pools


@dataclass(frozen=True, slots=True)
class Work:
    """What all arms of a scenario share."""

    scenario: str
    data: Data | None
    extent: Extent


def run_arm(work: Work, arm: tuple[str, int], stop: Stop) -> tuple[str, int, Curve]:
    """Run one arm with one seed; return both with the learning curve.

    Raises
    ------
    DataError, Stopped
    """
    name, seed = arm
    make = SCENARIOS[work.scenario].task
    assert make is not None
    task = make(work.data, seed, work.extent)
    if name.startswith(STREAM):
        return name, seed, learn_from_stream(task, name.removeprefix(STREAM), seed, stop)
    curve = learn_from_pool(task, name.removesuffix(CEAL), seed, stop, sure=name.endswith(CEAL))
    return name, seed, curve


def learn_from_stream(task: Task, strategy: str, seed: int, stop: Stop) -> Curve:
    """Let the service meet each sample of the pool once; return its accuracy on the samples held back as it learns.

    The budget is the share of the pool that is asked for there, so the last point is near the last round's.
    """
    configure("error")
    wanted = task.start + task.rounds * task.batch
    facts: dict[str, Any] = OWN | {
        "model.spec": task.spec,
        "model.classes": list(task.classes),
        "strategy": strategy,
        "seed": seed,
        "budget.fraction": wanted / len(task.pool),
        "scorer.commit_samples": PACE,
    }
    order = list(task.pool)
    random.Random(seed).shuffle(order)  # noqa: S311  a shuffle is no secret
    curve: Curve = []
    with Simulation(load(None, assignments(facts), environ={}), order, samples_per_s=PACE) as simulation:
        for now in simulation.run():
            if stop.is_set():
                raise Stopped
            due = task.start + task.batch * len(curve)
            if now.labels >= due and now.labels <= wanted:
                model = simulation.fold.model
                assert model is not None
                curve.append((now.labels, right(model, task.test)))
    return curve
