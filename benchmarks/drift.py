"""How many concept drifts does the service notice, how late, and how often does it cry wolf?

The real machines run in virtual time over streams whose concept switches once, in the middle, with a budget of 5 % and
labels that come within a turn. A switch is found if there is an alarm within 3,000 samples after it; any other alarm is
a false one, and so are all those in the streams that do not drift. Bars hold for switches that cost at least 10 points
of true accuracy in the 500 samples after them: nobody can see from 25 labels that hardly anything changed.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from _harness import Bars, Result, each, mean, parse, parser, percent, table
from estimation import settings_of
from streams import Row, stream

from stream_al import logs
from stream_al.simulate import Simulation

WITHIN = 3_000
AROUND = 500
HURTS = 0.1
MODELS = {
    "default": "",
    "bayes": '["stream_al.models.bayes.BayesianClassifier"]',
    "tree": '["river.tree.HoeffdingTreeClassifier"]',
}
SWITCHES = (
    ("sea", 2, 3), ("sea", 3, 2), ("led", 0, 7), ("led", 5, 0),
    ("agrawal", 6, 9), ("agrawal", 9, 6), ("agrawal", 8, 4), ("agrawal", 7, 8),
)  # fmt: skip
STILL = (("sea", 0, 0), ("led", 0, 0), ("agrawal", 6, 6), "phishing", "bananas", "segments")
NAMES = tuple(f"{s[0]} {s[1]}-{s[2]}" if isinstance(s, tuple) else s for s in (*SWITCHES, *STILL))
KINDS = dict(zip(NAMES, (*SWITCHES, *STILL), strict=True))


def concept(generator: str, kind: int, seed: int) -> Any:
    """Return a stream without drift."""
    from river.datasets import synth

    if generator == "sea":
        return synth.SEA(variant=kind, noise=0.1, seed=seed)
    if generator == "agrawal":
        return synth.Agrawal(classification_function=kind, seed=seed)
    return synth.LEDDrift(seed=seed, noise_percentage=0.1, irrelevant_features=True, n_drift_features=kind)


def samples_of(name: str, n: int, seed: int) -> list[Row]:
    kind = KINDS[name]
    if isinstance(kind, str):
        return stream(kind, n, seed)
    generator, before, after = kind
    halves = (concept(generator, k, 1_000 * seed + i) for i, k in enumerate((before, after)))
    rows = itertools.chain.from_iterable(itertools.islice(iter(half), n // 2) for half in halves)
    return [({str(key): value for key, value in x.items()}, y) for x, y in rows]


def measure(name: str, model: str, n: int, seed: int) -> Result:
    """Run one stream once; return its alarms, and what the switch cost."""
    logs.configure("error")
    spec = [f"model.spec={MODELS[model]}"] if MODELS[model] else []
    own = settings_of(1_000 * seed + 20 * list(MODELS).index(model) + NAMES.index(name), *spec)
    right = {0: 0}
    with Simulation(own, samples_of(name, n, seed)) as simulation:
        for progress in simulation.run():
            right[progress.samples] = simulation.right
        alarms = [(alarm.samples, alarm.signal) for alarm in simulation.fold.drift.latest]
    ends = [
        min(right, key=lambda at, to=to: abs(at - to)) for to in (n // 2 - AROUND, n // 2, n // 2 + AROUND)
    ]
    shares = [(right[b] - right[a]) / (b - a) for a, b in itertools.pairwise(ends)]
    return {
        "stream": name, "model": model, "seed": seed, "n": n, "alarms": alarms,
        "switches": KINDS[name] in SWITCHES, "cost": shares[0] - shares[1],
    }  # fmt: skip


def delay(run: Result) -> int | None:
    """Return how long after the switch the first alarm came; None if none came in time."""
    late = [at - run["n"] // 2 for at, _ in run["alarms"]]
    return next((d for d in late if 0 < d <= WITHIN), None) if run["switches"] else None


def false(runs: Sequence[Result]) -> float:
    """Return false alarms per 1,000 samples."""
    alarms, held = 0, 0
    for run in runs:
        middle = run["n"] // 2
        due = (middle, middle + WITHIN) if run["switches"] else (0, 0)
        alarms += sum(not due[0] < at <= due[1] for at, _ in run["alarms"])
        held += run["n"] - min(due[1], run["n"]) + due[0]
    return 1_000 * alarms / held


def found(runs: Sequence[Result]) -> float:
    """Return the share of switches that were found; NaN without any."""
    return mean(delay(run) is not None for run in runs if run["switches"])


def tell(runs: Sequence[Result]) -> None:
    rows = []
    for label, key in (("model", "model"), ("stream", "stream")):
        for value in dict.fromkeys(run[key] for run in runs):
            held = [run for run in runs if run[key] == value]
            switching = [run for run in held if run["switches"]]
            delays = [d for run in switching if (d := delay(run)) is not None]
            rows.append(
                (
                    f"{label} {value}", len(switching),
                    f"{100 * mean(run['cost'] for run in switching):.0f}" if switching else "-",
                    percent(found(held)) if switching else "-",
                    f"{mean(delays):.0f}" if delays else "-", f"{median(delays):.0f}" if delays else "-",
                    f"{false(held):.3f}",
                )
            )  # fmt: skip
    table(
        "Drift alarms",
        ("", "switches", "cost, points", "found %", "delay, mean", "median", "false/1,000"),
        rows,
    )
    signals = Counter(signal for run in runs for _, signal in run["alarms"])
    print("\nAlarms by signal: " + ", ".join(f"{name} {n}" for name, n in sorted(signals.items())))


def judge(runs: Sequence[Result], *, slack: bool) -> Bars:
    hurting = [run for run in runs if run["switches"] and run["cost"] >= HURTS]
    print(f"{len(hurting)} of {sum(run['switches'] for run in runs)} switches cost {HURTS:.0%} or more.")
    bars = Bars()
    bars.add("found, of switches that hurt", found(hurting), low=0.7 if slack else 0.85)
    bars.add("false alarms per 1,000 samples", false(runs), high=0.12 if slack else 0.06)
    return bars


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__ or "", seeds=6)
    made.add_argument(
        "--models", metavar="A,B", help=f"of {', '.join(MODELS)} (default: all; quick: default)"
    )
    options = parse(made, argv)
    n = options.samples or (6_000 if options.quick else 8_000)
    models = (options.models or ("default" if options.quick else ",".join(MODELS))).split(",")
    names = options.streams.split(",") if options.streams else NAMES
    if wrong := [*set(models) - set(MODELS), *set(names) - set(NAMES)]:
        sys.exit(f"no model or stream {', '.join(wrong)}; streams are {', '.join(NAMES)}")
    tasks = [
        {"name": name, "model": model, "n": n, "seed": seed}
        for seed in range(1, options.seeds + 1)
        for model in models
        for name in names
    ]
    runs = each(measure, tasks, options.jobs)
    print(f"{len(runs)} runs of {n:,} samples; {options.seeds} seed(s).")
    tell(runs)
    return judge(runs, slack=options.quick).end()


if __name__ == "__main__":
    sys.exit(main())
