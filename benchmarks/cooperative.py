"""Does it pay to let the model learn what it is sure of? Cooperative learning on and off.

The real machines run over each stream in virtual time, with 1 and 5 % of the labels: the same samples, coins and
seeds, with ``model.cooperative`` and without, one right after the other. The difference of the accuracies over all
samples is in points; its 95 % interval is Student's over the runs, each a stream and a seed.

Both settings differ in what is observed, too: with pseudo-labels, up to four samples a label enter the ledger, and
one without. A model that standardises its inputs is scaled from more of them.

A model can be chosen: ``--model lr``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from statistics import stdev
from typing import Any

from _harness import Bars, Result, mean, paired, parse, parser, table
from estimation import settings_of
from label_efficiency import BLOCK, MODELS
from streams import available, coin_seed, stream

from stream_al import logs
from stream_al.core.sequence import student
from stream_al.simulate import Simulation

BUDGETS = (0.01, 0.05)
WORST, WORST_STREAM = -0.003, -0.03
FEWEST = 4  # runs of which an interval is told


def run(model: str, stream_name: str, seed: int, budget: float, n: int, *, cooperative: bool) -> Result:
    """Let the service run over one stream."""
    logs.configure("error")
    own = (
        f"scorer.commit_samples={BLOCK}",
        f"model.spec={json.dumps(MODELS[model])}",
        f"model.cooperative={json.dumps(cooperative)}",
    )
    settings = settings_of(coin_seed(stream_name, seed), *own, fraction=budget)
    with Simulation(settings, stream(stream_name, n, seed), samples_per_s=BLOCK) as simulation:
        for _ in simulation.run():
            pass
        fold = simulation.fold
        return {
            "accuracy": simulation.progress().true,
            "labels": fold.learned,
            "observed": fold.observed,
            "pseudo": fold.pseudo_labels,
            "stopped": fold.cooperation == "stopped",
        }


def pairs(options: Any, streams: Sequence[str], budgets: Sequence[float], n: int) -> list[Result]:
    """Run all, on and off in turn; return one result for the two of a stream, seed and budget."""
    plan = [
        {"model": options.model, "stream_name": s, "seed": seed, "budget": budget, "n": n}
        for seed in range(1, options.seeds + 1)
        for s in streams
        for budget in budgets
    ]
    return paired(run, plan, "cooperative", options.jobs)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return mean and half-width of the 95 % interval, NaN of fewer than four.

    >>> [round(x, 3) for x in interval([0.01, 0.02, 0.03, 0.04])]
    [0.025, 0.021]
    """
    n = len(differences)
    half = student(n - 1) * stdev(differences) / math.sqrt(n) if n >= FEWEST else math.nan
    return mean(differences), half


def row(name: str, held: Sequence[Result]) -> tuple[str, ...]:
    middle, half = interval([r["difference"] for r in held])
    return (
        name, f"{mean(r['without'] for r in held):.3f}", f"{mean(r['accuracy'] for r in held):.3f}", f"{100 * middle:+.2f}",
        "-" if math.isnan(half) else f"{100 * half:.2f}", *(f"{mean(r[k] for r in held):.0f}" for k in ("labels", "observed", "pseudo")),
        f"{sum(r['stopped'] for r in held)} of {len(held)}",
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__ or "", seeds=4)
    made.add_argument("--model", choices=MODELS, default="default", help="what learns")
    options = parse(made, argv)
    n = options.samples or (2_000 if options.quick else 10_000)
    budgets = BUDGETS[-1:] if options.quick else BUDGETS
    streams = available(options.streams)
    held = pairs(options, streams, budgets, n)
    print(f"Model {options.model}; {len(streams)} streams of {n:,} samples, {options.seeds} seed(s).")
    header = ("", "off", "on", "points", "+-", "labels", "observed", "pseudo-labels", "stopped")
    bars, slack = Bars(), 0.02 if options.quick else 0.0
    for budget in budgets:
        ours = [r for r in held if r["budget"] == budget]
        by_stream = {s: [r for r in ours if r["stream_name"] == s] for s in streams}
        rows = [row(s, by_stream[s]) for s in streams]
        table(f"Accuracy with {100 * budget:g} % of the labels", header, [*rows, row("all", ours)])
        middle, _ = interval([r["difference"] for r in ours])
        worst = min(mean(r["difference"] for r in by_stream[s]) for s in streams)
        bars.add(f"mean difference at {100 * budget:g} %", middle, low=WORST - slack)
        bars.add(f"worst stream at {100 * budget:g} %", worst, low=WORST_STREAM - slack)
    return bars.end()


if __name__ == "__main__":
    sys.exit(main())
