"""How do the query strategies rank? All of them on the real machines, with the default model.

Each runs over each stream in virtual time with 5 % of the labels, which come at once: the same samples, coins and seeds.
The difference of the accuracy over all samples to that of ``margin`` is in points; its standard error is over the
runs, each a stream and a seed. Costs of a sample are in the documentation of the strategies.

A model can be chosen: ``--model bayesian``.
"""

from __future__ import annotations

import math
import sys
from statistics import stdev

from _harness import Bars, Cache, Key, mean, parse, parser, table
from label_efficiency import MIDDLE, MODELS, run, version
from streams import available

from stream_al.core.strategies import CLASSIFICATION

SAMPLES, QUICK_SAMPLES = 5_000, 1_000


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__ or "", seeds=2)
    made.add_argument("--model", choices=MODELS, default="default", help="what learns")
    options = parse(made, argv)
    n = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    streams = available(options.streams)
    tasks: list[Key] = [
        {
            "spec": MODELS[options.model], "sets": [], "strategy": strategy, "stream_name": name,
            "seed": seed, "budget": MIDDLE, "n": n, "delay": 0,
        }
        for seed in range(1, options.seeds + 1)
        for name in streams
        for strategy in CLASSIFICATION
    ]  # fmt: skip
    results = Cache.of("service").each(run, tasks, options.jobs, version=version())
    reached: dict[str, list[float]] = {strategy: [] for strategy in CLASSIFICATION}
    for task, result in zip(tasks, results, strict=True):
        reached[task["strategy"]].append(result["accuracy"])
    rows, differences = [], {}
    for strategy, accuracies in reached.items():
        leads = [100 * (a - b) for a, b in zip(accuracies, reached["margin"], strict=True)]
        differences[strategy] = mean(leads)
        error = stdev(leads) / math.sqrt(len(leads)) if len(leads) > 1 else math.nan
        rows.append((strategy, f"{mean(accuracies):.3f}", f"{mean(leads):+.1f}", f"{error:.1f}"))
    rows.sort(key=lambda row: -differences[row[0]])
    print(f"Model {options.model}; {len(streams)} streams of {n:,} samples, {options.seeds} seed(s).")
    table(f"With {100 * MIDDLE:g} % of the labels", ("", "accuracy", "to margin, points", "+-"), rows)
    bars = Bars()
    bars.add("margin's lead over random, points", -differences["random"], low=-5 if options.quick else 0)
    return bars.end()


if __name__ == "__main__":
    sys.exit(main())
