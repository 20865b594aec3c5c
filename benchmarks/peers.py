"""What others reach with as many labels: River's EntropySampler and scikit-activeml's budget managers.

All contestants see the same streams, seeds and budgets in the same loop; accuracy counts every sample, the class
being shown before the label is asked for, and a sample without a shown class counts as wrong. Models are River's:

* lr: LogisticRegression (SoftmaxRegression for more than two classes), SGD 0.1, on features standardised with all
  samples - better than the defaults;
* ht: HoeffdingTreeClassifier;  nb: GaussianNB.

Ways of asking:

* random: a coin with the budget's probability;
* split, variable, biqf: scikit-activeml's SplitBudgetManager, VariableUncertaintyBudgetManager and
  BalancedIncrementalQuantileFilter, on 1 - the highest probability. River models, which learn label by label, in
  place of scikit-activeml's own classifiers, which are fitted anew at each label;
* entropy-1, -3, -10, -30: River's EntropySampler with that discount factor. It knows no budget: it runs once, and
  its real rate is shown. It never asks while the model knows less than two classes, so here such samples are asked.

scikit-activeml is no dependency of the project. To measure with it, in an environment of its own::

    uv venv /tmp/peers && uv pip install --python /tmp/peers/bin/python -e . scikit-activeml==1.0.1
    /tmp/peers/bin/python benchmarks/peers.py

Results are kept in .cache/benchmarks, so that any environment can use them afterwards.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from _harness import Cache, Key, Result, mean, parse, parser, percent, table
from streams import VERSION as STREAMS_VERSION
from streams import available, coin_seed, stream

from stream_al.core.labels import Label

VERSION = f"1-{STREAMS_VERSION}"  # of the results kept; to be raised when a contestant changes
BUDGETS = (0.01, 0.05, 0.2)
KINDS = ("lr", "ht", "nb")
MANAGERS = ("split", "variable", "biqf")
DISCOUNTS = (1, 3, 10, 30)
MARK = 1_000  # samples between two entries of the curve
TOLERATED = 0.01  # of the samples: who spends more over the budget, on average, is out of competition

Probabilities = dict[int, float]  # by class code


class Contestant(Protocol):
    """Whoever shows classes and asks for labels."""

    def decide(self, x: dict[str, Any]) -> tuple[bool, Label | None]:
        """Return whether the label is asked for, and the class shown (None: no answer)."""
        ...

    def learn(self, x: dict[str, Any], y: Label) -> None:
        """Learn a label that was asked for."""
        ...


class RiverModel:
    """A River classifier over class codes; its scaler, if it has one, learns from every sample shown."""

    def __init__(self, kind: str, classes: Sequence[Label]) -> None:
        from river import preprocessing

        self.classes = classes
        self.codes = {label: code for code, label in enumerate(classes)}
        self.scaler = preprocessing.StandardScaler() if kind == "lr" else None
        self.model = _classifier(kind, len(classes))
        self.binary = not self.model._multiclass  # noqa: SLF001  River's way to ask
        self.seen: set[int] = set()

    def show(self, x: dict[str, Any]) -> Probabilities:
        """Return the probabilities by class code; empty without an answer."""
        if self.scaler is not None:
            self.scaler.learn_one(x)
        return {int(k): p for k, p in self.model.predict_proba_one(self._scaled(x)).items()}

    def learn(self, x: dict[str, Any], y: Label) -> None:
        code = self.codes[y]
        self.seen.add(code)
        self.model.learn_one(self._scaled(x), bool(code) if self.binary else code)

    def _scaled(self, x: dict[str, Any]) -> dict[str, Any]:
        return x if self.scaler is None else self.scaler.transform_one(x)


def _classifier(kind: str, classes: int) -> Any:
    from river import linear_model, naive_bayes, optim, tree

    if kind == "ht":
        return tree.HoeffdingTreeClassifier()
    if kind == "nb":
        return naive_bayes.GaussianNB()
    linear = linear_model.LogisticRegression if classes == 2 else linear_model.SoftmaxRegression
    return linear(optimizer=optim.SGD(0.1))


class Asking:
    """A River model with a way of asking: a function of the probabilities."""

    def __init__(self, model: RiverModel, ask: Callable[[Probabilities], bool]) -> None:
        self.model, self.ask = model, ask

    def decide(self, x: dict[str, Any]) -> tuple[bool, Label | None]:
        p = self.model.show(x)
        guess = self.model.classes[max(p, key=p.__getitem__)] if p else None
        return self.ask(p), guess

    def learn(self, x: dict[str, Any], y: Label) -> None:
        self.model.learn(x, y)


def contestant(name: str, classes: Sequence[Label], budget: float, seed: int) -> Contestant:
    """Return the contestant called ``name``, for example lr/split."""
    kind, way = name.split("/")
    model = RiverModel(kind, classes)
    if way == "random":
        coins = random.Random(seed)
        return Asking(model, lambda _: coins.random() < budget)
    if way.startswith("entropy-"):
        return Asking(model, _entropy(model, float(way.removeprefix("entropy-")), seed))
    return Asking(model, _managed(way, budget, seed))


def _entropy(model: RiverModel, discount: float, seed: int) -> Callable[[Probabilities], bool]:
    from river import active

    sampler = active.EntropySampler(model.model, discount_factor=discount, seed=seed)
    return lambda p: len(model.seen) < 2 or sampler._ask_for_label({}, p)  # noqa: SLF001


def _managed(way: str, budget: float, seed: int) -> Callable[[Probabilities], bool]:
    """Return a budget manager of scikit-activeml as a function of the probabilities."""
    from skactiveml.stream import budgetmanager as managers

    makers: dict[str, Callable[[], Any]] = {
        "split": lambda: managers.SplitBudgetManager(random_state=seed, budget=budget),
        "variable": lambda: managers.VariableUncertaintyBudgetManager(budget=budget),
        "biqf": lambda: managers.BalancedIncrementalQuantileFilter(budget=budget),
    }
    manager, candidate = makers[way](), np.zeros((1, 1))

    def ask(p: Probabilities) -> bool:
        utilities = np.array([1.0 - max(p.values(), default=0.0)])
        chosen = manager.query_by_utility(utilities)
        more = {"utilities": utilities} if way == "biqf" else {}
        manager.update(candidate, chosen, **more)
        return len(chosen) > 0

    return ask


def run(name: str, stream_name: str, seed: int, budget: float, n: int, delay: int = 0) -> Result:
    """Let one contestant run over one stream.

    Returns
    -------
    accuracy over all samples; asked, the labels asked for; over, by how many labels the budget was exceeded at worst;
    curve, the number of right answers after each thousand samples.
    """
    rows = stream(stream_name, n, seed)
    classes = list(dict.fromkeys(label for _, label in rows))
    player = contestant(name, classes, budget, coin_seed(stream_name, seed))
    waiting: deque[tuple[int, dict[str, Any], Label]] = deque()
    right = asked = 0
    over = 0.0
    curve = []
    for i, (x, y) in enumerate(rows, 1):
        wanted, guess = player.decide(x)
        right += guess == y
        if wanted:
            asked += 1
            over = max(over, asked - budget * i)
            waiting.append((i + delay, x, y))
        while waiting and waiting[0][0] <= i:
            player.learn(*waiting.popleft()[1:])
        if i % MARK == 0:
            curve.append(right)
    return {"accuracy": right / n, "asked": asked, "over": over, "curve": curve}


# The competition


def names(kinds: Sequence[str] = KINDS) -> list[str]:
    """Return all contestants."""
    ways = ["random", *MANAGERS]
    entropies = [f"entropy-{d}" for d in DISCOUNTS]
    return [f"{kind}/{way}" for kind in kinds for way in (ways if kind == "nb" else [*ways, *entropies])]


def competition(
    streams: Sequence[str],
    seeds: int,
    budgets: Sequence[float],
    n: int,
    jobs: int,
    *,
    kinds: Sequence[str] = KINDS,
) -> list[Result]:
    """Run or remember every contestant on every stream; each result says whose it is.

    Without scikit-activeml, its contestants take part as far as their results are remembered.
    """
    tasks: list[Key] = [
        {"name": name, "stream_name": s, "seed": seed, "budget": budget, "n": n}
        for seed in range(1, seeds + 1)
        for s in streams
        for name in names(kinds)
        for budget in ((1.0,) if "entropy" in name else budgets)  # one run without a budget stands for all
    ]
    cache = Cache.of("peers")
    if importlib.util.find_spec("skactiveml") is None:
        tasks = _remembered(tasks, cache)
    results = cache.each(run, tasks, jobs, version=VERSION)
    own = [{**task, **result} for task, result in zip(tasks, results, strict=True)]
    return [
        {**one, "budget": budget}
        for one in own
        for budget in (budgets if "entropy" in one["name"] else (one["budget"],))
    ]


def _remembered(tasks: list[Key], cache: Cache) -> list[Key]:
    """Leave out the contestants of scikit-activeml of which any result would have to be measured."""
    lacking = {
        task["name"]
        for task in tasks
        if task["name"].split("/")[1] in MANAGERS and cache.get({**task, "version": VERSION}) is None
    }
    if lacking:
        print(
            f"scikit-activeml is not installed: without {', '.join(sorted(lacking))}. "
            "The head of benchmarks/peers.py says how to measure them."
        )
    return [task for task in tasks if task["name"] not in lacking]


def best(results: Sequence[Result], budget: float) -> tuple[str, float] | None:
    """Return the single combination with the highest mean accuracy at a budget, and that; None of nobody.

    One that overspends, on average, by more than ``TOLERATED`` is out of competition.
    """
    totals = {}
    for name in dict.fromkeys(r["name"] for r in results):
        held = [r for r in results if r["name"] == name and r["budget"] == budget]
        if held and mean(r["asked"] / r["n"] for r in held) <= budget + TOLERATED:
            totals[name] = over_streams(held)
    return max(totals.items(), key=lambda item: item[1]) if totals else None


def over_streams(results: Sequence[Result], key: str = "accuracy") -> float:
    """Return the mean over streams of the mean over seeds."""
    per_stream = by_stream(results, key)
    return mean(per_stream.values())


def by_stream(results: Sequence[Result], key: str = "accuracy") -> dict[str, float]:
    """Return the mean over seeds of each stream."""
    return {
        s: mean(r[key] for r in results if r["stream_name"] == s)
        for s in dict.fromkeys(r["stream_name"] for r in results)
    }


def tell(results: Sequence[Result], budgets: Sequence[float]) -> None:
    """Print all tables."""
    rows = []
    for name in dict.fromkeys(r["name"] for r in results):
        cells: list[str] = []
        for budget in budgets:
            held = [r for r in results if r["name"] == name and r["budget"] == budget]
            rates = [r["asked"] / r["n"] for r in held]
            over = "-" if "entropy" in name else f"{max(r['over'] for r in held):.0f}"
            cells += [
                f"{over_streams(held):.3f}",
                f"{percent(min(rates))}/{percent(mean(rates))}/{percent(max(rates))}",
                over,
            ]
        rows.append((name, *cells))
    by = [f"{what} {100 * b:g} %" for b in budgets for what in ("accuracy", "spent", "over")]
    table(
        "Peers: mean accuracy over the streams; labels spent in %, least/mean/most; most over the budget, labels",
        ("", *by),
        rows,
    )
    rows = []
    for budget in budgets:
        found = best(results, budget)
        if found:
            held = [r for r in results if r["name"] == found[0] and r["budget"] == budget]
            rows.append(
                (
                    f"{100 * budget:g} %",
                    found[0],
                    f"{found[1]:.3f}",
                    percent(mean(r["asked"] / r["n"] for r in held)),
                )
            )
    table("The best single combination", ("budget", "", "accuracy", "spent %"), rows)
    rows = []
    for budget in budgets:
        found = best(results, budget)
        if found:
            ours = by_stream([r for r in results if r["name"] == found[0] and r["budget"] == budget])
            rows.append((f"{100 * budget:g} % {found[0]}", *(f"{ours[s]:.3f}" for s in ours)))
    streams = list(dict.fromkeys(r["stream_name"] for r in results))
    table("The best single combination, by stream", ("", *streams), rows)


def extent(quick: bool) -> tuple[int, tuple[float, ...], tuple[str, ...]]:
    """Return samples, budgets and models of a quick or a full run."""
    return (4_000, BUDGETS[1:], KINDS[:2]) if quick else (10_000, BUDGETS, KINDS)


def main(argv: list[str] | None = None) -> int:
    options = parse(parser(__doc__ or "", seeds=3), argv)
    n, budgets, kinds = extent(options.quick)
    n = options.samples or n
    streams = available(options.streams)
    results = competition(streams, options.seeds, budgets, n, options.jobs, kinds=kinds)
    print(f"{len(streams)} streams of {n:,} samples, {options.seeds} seed(s).")
    tell(results, budgets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
