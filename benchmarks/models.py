"""Label efficiency and speed of the default models alone, without broker and service.

Margin through the real budget manager (``core/budget.py``), in blocks of 16 samples; labels return at once. Accuracy
is over all samples, and a sample before the first label counts as wrong. Each model meets the same streams and coins.
Speed is the processor time of one thread: micro-batches of 256 samples with 10 columns, two classes.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import Bars, Key, each, mean, parse, parser, percent, table
from streams import available, coin_seed, stream

from stream_al.core.budget import PartitionBudget
from stream_al.core.messages import Budget, Grant, timestamp
from stream_al.core.model import Model
from stream_al.core.utility import top_two

NOW_MS, LIFE_MS = 1_767_225_600_000, 10**10
BLOCK, BATCH = 16, 256
OBSERVED_AT_ONCE = 1_000
LINEAR = ["river.preprocessing.StandardScaler", "river.linear_model.LogisticRegression"]
MODELS: dict[str, Any] = {
    "mixture": "stream_al.models.MixtureClassifier",
    "bayes": "stream_al.models.BayesianClassifier",
    "bayes, linear": {"stream_al.models.BayesianClassifier": {"n_features": 0}},
    "river, logistic": LINEAR,
}


def margins(p: np.ndarray) -> np.ndarray:
    """Return 1 - (p1 - p2); 1 where the model has no answer."""
    if p.shape[1] < 2:
        return np.ones(len(p))
    first, second = top_two(p)
    return np.where(first > 0, np.clip(1.0 - (first - second), 0.0, 1.0), 1.0)


def begun(budget: Budget) -> PartitionBudget:
    """Return the state of a partition that was dealt burst and advance."""
    state = PartitionBudget()
    state.tick(NOW_MS, 0)
    at, until = timestamp(NOW_MS), timestamp(NOW_MS + LIFE_MS)
    burst = Grant(number=1, grant="burst", partition=0, tokens=budget.burst, issued_at=at, until=until)
    advance = Grant(number=2, grant="advance", partition=0, tokens=budget.advance, issued_at=at, until=until)
    state.take([burst, advance], budget, warming=True)
    return state


def run(name: str, model: str, n: int, fraction: float, seed: int) -> dict[str, float]:
    """Run one model over one stream; return its accuracy and what it spent."""
    rows, budget = stream(name, n, seed), Budget(fraction=fraction)
    state, fold = begun(budget), Model(MODELS[model], classes=None, seed=seed)
    coins, observes = np.random.default_rng(coin_seed(name, seed)).random((2, n))
    counts: Counter[Any] = Counter()
    right = observed = 0
    for start in range(0, n, BLOCK):
        block = rows[start : start + BLOCK]
        now = slice(start, start + len(block))
        warming = fold.learned < 30 or min(counts.values()) < 5 or len(counts) < 2
        state.take([], budget, warming=warming)
        p = fold.predict([x for x, _ in block])
        shown = p.max(axis=1, initial=0.0)
        if shown.any():
            said = p.argmax(axis=1)
            right += sum(
                s > 0 and fold.classes[k] == y for k, s, (_, y) in zip(said, shown, block, strict=True)
            )
        cold = (shown <= 0) | (p.shape[1] < 2)
        chosen = state.decide(margins(p), cold, coins[now], budget, warming=warming).chosen
        for i in np.flatnonzero(chosen).tolist():
            x, y = block[i]
            fold.learn(x, y)
            counts[y] += 1
        rate = 1.0 if observed < OBSERVED_AT_ONCE else 2 * fraction
        for i in np.flatnonzero(observes[now] < rate).tolist():
            fold.observe(block[i][0])
            observed += 1
    return {"accuracy": right / n, "spent": fold.learned / n}


def speed(model: str) -> tuple[float, float]:
    """Return samples scored and labels learned a second."""
    rng = random.Random(1)
    rows = [{f"f{j}": rng.gauss(0, 1) for j in range(10)} for _ in range(2_000)]
    fold = Model(MODELS[model], classes=None, seed=1)
    learning = timed(lambda: [fold.learn(x, x["f0"] + x["f1"] ** 2 > 1) for x in rows])
    scoring = min(timed(lambda: fold.predict(rows[:BATCH])) for _ in range(20))
    return BATCH / scoring, len(rows) / learning


def timed(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__ or "", seeds=5)
    made.add_argument(
        "--fraction", type=float, default=0.05, metavar="B", help="the label budget (default 0.05)"
    )
    chosen = parse(made, argv)
    names, n = available(chosen.streams), chosen.samples or 4_000
    models = ("mixture", "bayes") if chosen.quick else tuple(MODELS)
    tasks: list[Key] = [
        {"name": name, "model": model, "n": n, "fraction": chosen.fraction, "seed": seed}
        for seed in range(1, chosen.seeds + 1)
        for name in names
        for model in models
    ]
    done = list(zip(tasks, each(run, tasks, chosen.jobs), strict=True))

    def found(key: str, **where: str) -> float:
        return mean(r[key] for t, r in done if all(t[k] == v for k, v in where.items()))

    table(
        f"Accuracy in %, {n:,} samples, {percent(chosen.fraction)} % labels, {chosen.seeds} seeds",
        ("model", "mean", "spent", *names),
        [
            (
                model,
                percent(found("accuracy", model=model)),
                percent(found("spent", model=model)),
                *(percent(found("accuracy", model=model, name=name)) for name in names),
            )
            for model in models
        ],
    )
    speeds = {model: speed(model) for model in models}
    table(
        "Speed, one thread",
        ("model", "samples/s", "labels/s"),
        [(model, f"{s:,.0f}", f"{labels:,.0f}") for model, (s, labels) in speeds.items()],
    )
    bars, slack = Bars(), 0.02 if chosen.quick else 0.0
    if not chosen.samples and not chosen.streams and chosen.fraction == 0.05:
        bars.add("accuracy, mixture", found("accuracy", model="mixture"), low=0.81 - slack)
        bars.add("accuracy, bayes", found("accuracy", model="bayes"), low=0.80 - slack)
    bars.add("samples/s, bayes", speeds["bayes"][0], low=49_000)
    bars.add("labels/s, bayes", speeds["bayes"][1], low=4_000)
    bars.add("labels/s, mixture", speeds["mixture"][1], low=1_000)
    return bars.end()


if __name__ == "__main__":
    raise SystemExit(main())
