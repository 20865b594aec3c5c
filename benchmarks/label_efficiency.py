"""How much is a label worth here? The service against its peers, and against asking at random.

The real machines run over each stream in virtual time, with 1, 5 and 20 % of the labels. They are compared with the
contestants of ``peers.py`` - the *best single combination* of a model and a way of asking is the one with the
highest mean accuracy over the streams at that budget - and with themselves asking at random: same learner, same
seeds, same coins, several budgets, so that the labels that random needs for the same accuracy can be read off its
curve. A value with > is a lower bound (random never gets there with 80 % of the labels), one with < an upper bound.
The bar is held against the geometric mean of the streams' ratios; the ratio on the curve of mean accuracies, which
streams with much to gain dominate, stands beside it.

Accuracy counts every sample, as in ``peers.py``. Peers have their labels at once; here a label takes about two
blocks to be asked for, answered and learned, so blocks are of 8 samples: with the usual 64 the first 128 samples
would find no model, which costs a point in 10,000 samples.

A model and a strategy can be chosen: ``--model mixture --strategy entropy --set budget.exploration=0.1``. The
service's own results are kept, too, for as long as none of its files changes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

from _harness import Bars, Cache, Key, Result, digest, mean, parse, parser, percent, points, table
from estimation import settings_of
from peers import MANAGERS, MARK, best, by_stream, competition, extent, over_streams
from streams import VERSION as STREAMS_VERSION
from streams import available, coin_seed, stream

from stream_al import logs
from stream_al.config import DEFAULT_SPEC, STRATEGIES, ConfigError
from stream_al.core.model_spec import ModelSpecError, build
from stream_al.simulate import Simulation
from stream_al.whatif.summary import labels_needed

SGD = {"river.optim.SGD": {"lr": 0.1}}
MODELS: dict[str, list[Any]] = {
    "default": DEFAULT_SPEC,
    "lr": [
        "river.preprocessing.StandardScaler",
        {"river.linear_model.LogisticRegression": {"optimizer": SGD}},
    ],
    "ht": ["river.tree.HoeffdingTreeClassifier"],
    "nb": ["river.naive_bayes.GaussianNB"],
    "bayesian": ["stream_al.models.BayesianClassifier"],
    "mixture": ["stream_al.models.MixtureClassifier"],
}
CURVE = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
QUICK_CURVE = (0.02, 0.05, 0.1, 0.2, 0.4)
BLOCK = 8  # samples a turn
LATE = 500
MIDDLE = 0.05
EARLY = 4_000  # samples; with 5 % of the labels, 200 labels
LEAD = {0.01: 0.03, 0.05: 0.06, 0.2: 0.06}  # over the best single combination
SOURCES = ("core", "models", "service", "transport", "codec.py", "config.py", "datasets.py", "simulate.py")


def run(
    spec: list[Any],
    strategy: str,
    sets: Sequence[str],
    stream_name: str,
    seed: int,
    budget: float,
    n: int,
    delay: int,
) -> Result:
    """Let the service run over one stream.

    Returns
    -------
    accuracy over all samples; asked, the requests made; over, by how many the limit was exceeded at worst; curve,
    samples, right answers and requests after about each thousand samples.
    """
    logs.configure("error")
    own = (f"scorer.commit_samples={BLOCK}", f"strategy={strategy}", f"model.spec={json.dumps(spec)}", *sets)
    settings = settings_of(coin_seed(stream_name, seed), *own, fraction=budget)
    over = -math.inf
    curve: list[tuple[int, int, int]] = []
    rows = stream(stream_name, n, seed)
    with Simulation(settings, rows, delay=delay, samples_per_s=BLOCK) as simulation:
        for progress in simulation.run():
            over = max(over, progress.requests - progress.allowed)
            if progress.samples >= MARK * (len(curve) + 1):
                curve.append((progress.samples, simulation.right, progress.requests))
    return {"accuracy": progress.true, "asked": progress.requests, "over": over, "curve": curve}


def version() -> str:
    """Return what the service's own results depend on."""
    return f"{BLOCK}-{digest(*(f'stream_al/{place}' for place in SOURCES))}-{STREAMS_VERSION}"


class Runs:
    """The service's own results, by strategy, budget and delay."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = results

    def of(self, strategy: str, budget: float, delay: int = 0) -> list[Result]:
        wanted = (strategy, budget, delay)
        return [r for r in self.results if (r["strategy"], r["budget"], r["delay"]) == wanted]

    def curve(self, budgets: Sequence[float], stream_name: str | None = None) -> list[tuple[float, float]]:
        """Return labels and accuracy of asking at random, of one stream or as means over all."""
        found = []
        for budget in budgets:
            held = [r for r in self.of("random", budget) if stream_name in {None, r["stream_name"]}]
            found.append((over_streams(held, "asked"), over_streams(held)))
        return found


def service(
    options: Any, streams: Sequence[str], budgets: Sequence[float], curve: Sequence[float], n: int
) -> Runs:
    """Run or remember the service: its strategy at the budgets, random along the curve, both with late labels."""
    plan = [(options.strategy, b, 0) for b in budgets] + [("random", b, 0) for b in curve]
    plan += [(options.strategy, MIDDLE, LATE), ("random", MIDDLE, LATE)]
    tasks: list[Key] = [
        {
            "spec": MODELS[options.model], "sets": options.set, "strategy": strategy, "stream_name": s,
            "seed": seed, "budget": budget, "n": n, "delay": delay,
        }
        for seed in range(1, options.seeds + 1)
        for s in streams
        for strategy, budget, delay in plan
    ]  # fmt: skip
    results = Cache.of("service").each(run, tasks, options.jobs, version=version())
    return Runs([{**task, **result} for task, result in zip(tasks, results, strict=True)])


def at(results: Sequence[Result], samples: int) -> list[Result]:
    """Return what each run had reached after so many samples."""
    found = []
    for one in results:
        seen, right, asked = next(point for point in one["curve"] if point[0] >= samples)
        found.append({**one, "accuracy": right / seen, "asked": asked})
    return found


# Telling


def against_peers(
    runs: Runs, strategy: str, budgets: Sequence[float], peers: Sequence[Result], bars: Bars, slack: float
) -> None:
    """Print and judge the comparison with the best single combination."""
    note = "" if {p["name"].split("/")[1] for p in peers} >= set(MANAGERS) else ", without scikit-activeml"
    summary, rows = [], []
    for budget in budgets:
        ours, rand = runs.of(strategy, budget), runs.of("random", budget)
        name, theirs = best(peers, budget) or ("nobody", math.nan)
        rival = [p for p in peers if p["name"] == name and p["budget"] == budget]
        lead = over_streams(ours) - theirs
        shares = [percent(mean(r["asked"] / r["n"] for r in held)) for held in (ours, rand, rival)]
        summary.append(
            (
                f"{100 * budget:g} %",
                f"{over_streams(ours):.3f}",
                shares[0],
                f"{over_streams(rand):.3f}",
                shares[1],
                name,
                f"{theirs:.3f}",
                shares[2],
                points(lead),
            )
        )
        per_stream, against = by_stream(ours), by_stream(rival)
        rows.append((f"{100 * budget:g} %: ours", *(f"{per_stream[s]:.3f}" for s in per_stream)))
        rows.append(("    random", *(f"{by_stream(rand)[s]:.3f}" for s in per_stream)))
        rows.append(
            (f"    over {name}", *(points(per_stream[s] - against.get(s, math.nan)) for s in per_stream))
        )
        bars.add(f"lead over the best peer at {100 * budget:g} %{note}", lead, low=LEAD[budget] - slack)
        bars.add(
            f"worst stream against it at {100 * budget:g} %{note}",
            min(per_stream[s] - against.get(s, math.nan) for s in per_stream),
            low=-0.03 - slack,
        )
    table(
        "Mean accuracy over the streams, and labels spent in %",
        ("budget", "ours", "spent", "random", "spent", "best single peer", "", "spent", "lead"),
        summary,
    )
    table("By stream", ("", *by_stream(runs.of(strategy, budgets[0]))), rows)
    _, highest = best(peers, budgets[-1]) or ("", math.nan)
    over = over_streams(runs.of(strategy, MIDDLE)) - highest
    bars.add(f"at 5 % over the best peer at {100 * budgets[-1]:g} %{note}", over, low=-slack)


def against_random(
    runs: Runs, strategy: str, budgets: Sequence[float], curve: Sequence[float], bars: Bars, slack: float
) -> None:
    """Print and judge how many labels random needs for the same accuracy."""
    rows = []
    for budget in budgets:
        ours = runs.of(strategy, budget)
        accuracy, asked = by_stream(ours), by_stream(ours, "asked")
        needed = {s: labels_needed(runs.curve(curve, s), accuracy[s]) for s in accuracy}
        ratios = {s: needed[s][0] / asked[s] for s in accuracy}
        labels, bound = labels_needed(runs.curve(curve), over_streams(ours))
        ratio = labels / over_streams(ours, "asked")
        geometric = math.exp(mean(math.log(r) for r in ratios.values()))
        rows.append(
            (
                f"{100 * budget:g} %", f"{bound}{ratio:.1f}", f"{median(ratios.values()):.1f}", f"{geometric:.1f}",
                *(f"{needed[s][1]}{ratios[s]:.1f}" for s in accuracy),
            )
        )  # fmt: skip
        if budget == MIDDLE:
            bars.add("labels random needs / ours, geometric mean at 5 %", geometric, low=2.0 - 20 * slack)
    table(
        "Labels that random needs for the same accuracy, same learner, in multiples of ours",
        ("budget", "mean curve", "median", "geo-mean", *by_stream(runs.of(strategy, budgets[0]))),
        rows,
    )
    drawn = runs.curve(curve)
    table(
        "Asking at random: mean labels and mean accuracy",
        ("", *(f"{100 * b:g} %" for b in curve)),
        [("labels", *(f"{x:.0f}" for x, _ in drawn)), ("accuracy", *(f"{a:.3f}" for _, a in drawn))],
    )


def early(runs: Runs, strategy: str, bars: Bars, slack: float) -> None:
    """Print and judge the accuracy after 4,000 samples with 200 labels."""
    rows = []
    for name in (strategy, "random"):
        held = at(runs.of(name, MIDDLE), EARLY)
        accuracy = by_stream(held)
        rows.append(
            (
                name,
                f"{over_streams(held):.3f}",
                f"{over_streams(held, 'asked'):.0f}",
                *(f"{a:.3f}" for a in accuracy.values()),
            )
        )
        if name == strategy:
            bars.add("accuracy, 5 % of 4,000 samples", over_streams(held), low=0.80 - slack)
            streams = list(accuracy)
    table("After 4,000 samples with a budget of 5 %", ("", "mean", "labels", *streams), rows)


def late(runs: Runs, strategy: str, bars: Bars, slack: float) -> None:
    """Print and judge the runs whose labels come 500 samples late."""
    ours, rand = (by_stream(runs.of(name, MIDDLE, LATE)) for name in (strategy, "random"))
    rows = [
        (strategy, f"{mean(ours.values()):.3f}", *(f"{a:.3f}" for a in ours.values())),
        ("random", f"{mean(rand.values()):.3f}", *(f"{a:.3f}" for a in rand.values())),
        (
            "difference",
            points(mean(ours.values()) - mean(rand.values())),
            *(points(ours[s] - rand[s]) for s in ours),
        ),
    ]
    table(f"Labels {LATE} samples late, 5 %", ("", "mean", *ours), rows)
    bars.add(
        "late labels: worst stream against random", min(ours[s] - rand[s] for s in ours), low=-0.01 - slack
    )
    bars.add(
        "late labels: most over the limit, labels", max(r["over"] for r in runs.results if r["delay"]), high=0
    )
    bars.add("most over the limit, labels", max(r["over"] for r in runs.results), high=0)


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__ or "", seeds=3)
    made.add_argument("--model", choices=MODELS, default="default", help="what learns")
    made.add_argument("--strategy", choices=STRATEGIES, default="margin", help="how it asks")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting")
    options = parse(made, argv)
    try:
        build(MODELS[options.model], seed=1)
        settings_of(1, *options.set)
    except (ModelSpecError, ConfigError) as problem:
        print(problem, file=sys.stderr)
        return 2
    n, budgets, kinds = extent(options.quick)
    n = options.samples or n
    curve = QUICK_CURVE if options.quick else CURVE
    streams = available(options.streams)
    runs = service(options, streams, budgets, curve, n)
    peers = competition(streams, options.seeds, budgets, n, options.jobs, kinds=kinds)
    bars, slack = Bars(), 0.02 if options.quick else 0.0
    print(
        f"Model {options.model}, strategy {options.strategy}; {len(streams)} streams of {n:,} samples, {options.seeds} seed(s)."
    )
    against_peers(runs, options.strategy, budgets, peers, bars, slack)
    against_random(runs, options.strategy, budgets, curve, bars, slack)
    if n >= EARLY:
        early(runs, options.strategy, bars, slack)
    late(runs, options.strategy, bars, slack)
    return bars.end()


if __name__ == "__main__":
    sys.exit(main())
