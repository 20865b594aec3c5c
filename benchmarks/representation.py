"""Does it pay to learn a representation without labels? With ``MaskedAutoencoder`` before the classifier and without.

The real machines run over each stream in virtual time with 5 % of the labels: the same samples, coins and seeds, with
the transformer and without, one right after the other. The difference of the accuracies over all samples is in points;
its 95 % interval is Student's over the runs, each a stream and a seed. ``redundant`` is a stream made for it: forty
noisy columns, all mixed from four hidden numbers, the largest of which is the class. It is no part of the mean.

Speed is the processor time of one thread for micro-batches of 256 samples with 10 columns, in microseconds a sample.

Models can be chosen: ``--models lr,bayesian``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from _harness import Bars, Result, mean, paired, parse, parser, table
from cooperative import interval
from estimation import settings_of
from label_efficiency import BLOCK, MODELS
from streams import available, coin_seed, stream

from stream_al import logs
from stream_al.models import MaskedAutoencoder
from stream_al.simulate import Simulation
from stream_al.whatif.synthetic import redundant

STEP = "stream_al.models.MaskedAutoencoder"
BUDGET = 0.05
REDUNDANT = "redundant"
REDUNDANT_COINS = 99  # its coins, as the other streams have theirs by their place
COMPARED = ("default", "bayesian", "lr")
WORST, SLOWEST_US = -0.03, 4.0


def run(model: str, stream_name: str, seed: int, n: int, *, represented: bool) -> Result:
    """Let the service run over one stream."""
    logs.configure("error")
    spec = [STEP, *MODELS[model]] if represented else MODELS[model]
    made = stream_name == REDUNDANT
    rows = redundant(n, seed) if made else stream(stream_name, n, seed)
    coins = 100 * seed + REDUNDANT_COINS if made else coin_seed(stream_name, seed)
    own = (f"scorer.commit_samples={BLOCK}", f"model.spec={json.dumps(spec)}")
    with Simulation(settings_of(coins, *own, fraction=BUDGET), rows, samples_per_s=BLOCK) as simulation:
        for _ in simulation.run():
            pass
        return {"accuracy": simulation.progress().true, "labels": simulation.fold.learned}


def pairs(options: Any, models: Sequence[str], streams: Sequence[str], n: int) -> list[Result]:
    """Run all, without and with in turn; return one result for the two of a model, stream and seed."""
    plan = [
        {"model": model, "stream_name": s, "seed": seed, "n": n}
        for seed in range(1, options.seeds + 1)
        for s in streams
        for model in models
    ]
    return paired(run, plan, "represented", options.jobs)


def row(name: str, held: Sequence[Result]) -> tuple[str, ...]:
    middle, half = interval([r["difference"] for r in held])
    return (
        name, f"{mean(r['without'] for r in held):.3f}", f"{mean(r['accuracy'] for r in held):.3f}",
        f"{100 * middle:+.2f}", "-" if half != half else f"{100 * half:.2f}", f"{mean(r['labels'] for r in held):.0f}",
    )  # fmt: skip


def speed() -> tuple[float, float, float]:
    """Return the microseconds of a sample that is learned, transformed alone, and transformed in a micro-batch."""
    rng = np.random.default_rng(1)
    rows = [{f"f{j}": value for j, value in enumerate(x)} for x in rng.normal(size=(256, 10)).tolist()]
    model = MaskedAutoencoder(seed=1)

    def cost(work: Any) -> float:
        start = time.thread_time()
        work()
        return (time.thread_time() - start) / len(rows) * 1e6

    learning = cost(lambda: [model.learn_one(x) for x in rows])
    alone = min(cost(lambda: [model.transform_one(x) for x in rows]) for _ in range(20))
    return learning, alone, min(cost(lambda: model.transform_batch(rows)) for _ in range(20))


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__ or "", seeds=4)
    made.add_argument("--models", default=",".join(COMPARED), metavar="A,B", help="what learns")
    options = parse(made, argv)
    n = options.samples or (2_000 if options.quick else 10_000)
    models = options.models.split(",")
    if not set(models) <= set(MODELS):
        made.error(f"--models: there are {', '.join(MODELS)}")
    streams = available(options.streams)
    held = pairs(options, models, (*streams, REDUNDANT), n)
    print(f"{len(streams) + 1} streams of {n:,} samples, {options.seeds} seed(s).")
    bars, slack = Bars(), 0.02 if options.quick else 0.0
    for model in models:
        ours = [r for r in held if r["model"] == model]
        by_stream = {s: [r for r in ours if r["stream_name"] == s] for s in (*streams, REDUNDANT)}
        usual = [r for r in ours if r["stream_name"] != REDUNDANT]
        rows = [row(s, by_stream[s]) for s in streams]
        rows += [row("all of these", usual), row(REDUNDANT, by_stream[REDUNDANT])]
        header = ("", "without", "with", "points", "+-", "labels")
        table(f"Accuracy with {100 * BUDGET:g} % of the labels, {model}", header, rows)
        bars.add(
            f"mean difference, {model}", interval([r["difference"] for r in usual])[0], low=WORST - slack
        )
    learning, alone, at_once = speed()
    costs = [
        ("learned", f"{learning:.1f}"),
        ("alone", f"{alone:.1f}"),
        ("in a micro-batch", f"{at_once:.1f}"),
    ]
    table("Costs of a sample", ("", "us"), costs)
    bars.add("us a sample in a micro-batch", at_once, high=SLOWEST_US)
    return bars.end()


if __name__ == "__main__":
    sys.exit(main())
