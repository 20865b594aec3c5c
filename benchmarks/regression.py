"""How honest are the errors that the service reports of a regressor, and does stratified asking pay?

The real machines run over each stream in virtual time, with a budget of 5 % and the default regressor. Every 500 samples
MAE and RMSE of each full window, of 1,000 and of 5,000 samples, are compared with the truth over exactly the
samples in its buckets that had a prediction. Three settings: asking at random, stratified, and at random with labels that
come 500 samples late. All errors are relative: a bias of +2 is an estimate that is 2 % too high.

Streams: River's Trump approval and chick weights, repeated in new orders, synthetic Friedman without drift and with three
abrupt ones, Planes2D and Mv. The balanced MAE is the mean of the MAEs in ten strata of the label, so that rare labels
count as much as common ones.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from _harness import Bars, Result, each, mean, parse, parser, points, table
from estimation import settings_of

from stream_al import logs
from stream_al.config import Settings
from stream_al.core.accuracy import Interval
from stream_al.core.budget import Decisions
from stream_al.core.classification import Known
from stream_al.core.fold import Scores
from stream_al.core.messages import Features, Sample
from stream_al.core.regression import Errors
from stream_al.simulate import Simulation

WINDOWS = (1_000, 5_000)
EVERY = 500
STREAMS = ("trump", "chickweights", "friedman", "friedman drift", "planes", "mv")
VARIANTS = {"random": ("random", 0), "stratified": ("stratified", 0), "random, late": ("random", 500)}
METRICS = ("mae", "rmse")
STRATA = 10

Row = tuple[Features, float]


def stream(name: str, n: int, seed: int) -> list[Row]:
    """Return the first n samples."""
    rows = itertools.islice(_endless(name, n, seed), n)
    return [({str(k): v for k, v in x.items()}, float(y)) for x, y in rows]


def _endless(name: str, n: int, seed: int) -> Iterator[tuple[dict[Any, Any], float]]:
    from river import datasets
    from river.datasets import synth

    if name in {"trump", "chickweights"}:
        return _repeated(
            {"trump": datasets.TrumpApproval, "chickweights": datasets.ChickWeights}[name](), seed
        )
    switches = (n // 4, n // 2, 3 * n // 4)
    made = {
        "friedman": lambda: synth.Friedman(seed=seed),
        "friedman drift": lambda: synth.FriedmanDrift(drift_type="lea", position=switches, seed=seed),
        "planes": lambda: synth.Planes2D(seed=seed),
        "mv": lambda: synth.Mv(seed=seed),
    }
    return iter(made[name]())


def _repeated(rows: Any, seed: int) -> Iterator[tuple[dict[Any, Any], float]]:
    held, order = list(rows), random.Random(seed)
    while True:
        order.shuffle(held)
        yield from held


class Measured(Simulation):
    """A simulation that remembers, by offset, how far off the model was; NaN where no estimate has to cover it."""

    def __init__(self, settings: Settings, rows: Sequence[Row], *, delay: int) -> None:
        self.errors = np.full(len(rows), np.nan)
        super().__init__(settings, rows, delay=delay)

    def _watch(self, samples: Sequence[Sample], scores: Scores, decisions: Decisions) -> None:
        super()._watch(samples, scores, decisions)
        assert scores.values is not None
        for sample, value, p in zip(samples, scores.values, decisions.p, strict=True):
            if p > 0:
                self.errors[sample.source.offset] = abs(value - float(self.truth[sample.id]))

    def looks(self) -> Iterator[dict[str, Any]]:
        """Run; every ``EVERY`` samples hold each full window against the truth over its buckets."""
        due = EVERY
        for _ in self.run():
            if sum(slot.sums.samples for slot in self.fold.accuracy.slots) >= due:
                due += EVERY
                for window in WINDOWS:
                    yield from self._judged(window)

    def _judged(self, window: int) -> Iterator[dict[str, Any]]:
        accuracy = self.fold.accuracy
        slots = accuracy.run(window)  # the latest first
        if sum(slot.sums.samples for slot in slots) < window:
            return
        start, end = slots[-1].ranges[0][0], slots[0].ranges[0][1]
        errors, said = self.errors[start:end], accuracy.errors(window)
        truth = {"mae": float(np.nanmean(errors)), "rmse": math.sqrt(float(np.nanmean(errors**2)))}
        if isinstance(said.mae, Interval):
            held = {name: _held(said, name, truth[name]) for name in METRICS}
            yield {"window": window, "labels": said.labels, **held}


def _held(said: Errors, name: str, truth: float) -> dict[str, float]:
    """Return relative bias, whether the truth is inside, relative width, and the relative bias of the naive error."""
    known: Known = getattr(said, name)
    naive = getattr(said, f"naive_{name}")
    assert isinstance(known, Interval)
    return {
        "bias": known.value / truth - 1, "cover": known.low <= truth <= known.high,
        "width": (known.high - known.low) / truth, "naive": naive / truth - 1,
    }  # fmt: skip


def measure(name: str, variant: str, n: int, seed: int) -> Result:
    """Run one stream once; return what all its windows said, and how good the model was."""
    logs.configure("error")
    strategy, delay = VARIANTS[variant]
    rows = stream(name, n, seed)
    settings = settings_of(100 * seed + STREAMS.index(name), "model.task=regression", f"strategy={strategy}")
    with Measured(settings, rows, delay=delay) as simulation:
        judged = list(simulation.looks())
        labels = np.array([y for _, y in rows])
        return {
            "stream": name, "variant": variant, "seed": seed, "judged": judged,
            "requests": simulation.progress().requests, **_quality(simulation.errors, labels),
        }  # fmt: skip


def _quality(errors: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return the model's errors over the stream by the mean absolute deviation of the labels: 1 is a constant's."""
    known = np.isfinite(errors)
    errors, scale = errors[known], float(np.mean(np.abs(labels - np.median(labels))))
    edges = np.linspace(*np.quantile(labels, [0.02, 0.98]), STRATA + 1)[1:-1]
    strata = np.searchsorted(edges, labels[known], side="right")
    balanced = fmean(float(errors[strata == k].mean()) for k in np.unique(strata))
    rmse = math.sqrt(float(np.mean(errors**2)))
    return {"mae": float(errors.mean()) / scale, "rmse": rmse / scale, "balanced": balanced / scale}


# Telling


def figure(runs: Sequence[Result], window: int, metric: str, what: str) -> float:
    """Return a figure as the mean over the streams, each of them the mean over its looks."""
    per_stream = [
        [look[metric][what] for run in runs if run["stream"] == name for look in run["judged"] if look["window"] == window]
        for name in dict.fromkeys(run["stream"] for run in runs)
    ]  # fmt: skip
    return mean(fmean(values) for values in per_stream if values)


def _windows_of(runs: Sequence[Result]) -> list[int]:
    return sorted({look["window"] for run in runs for look in run["judged"]})


def _of(runs: Sequence[Result], **wanted: object) -> list[Result]:
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def tell(runs: Sequence[Result]) -> None:
    """Print all tables."""
    names = list(dict.fromkeys(run["stream"] for run in runs))
    header = ("", *(f"{what} {m}" for m in METRICS for what in ("bias %", "cover", "width %", "naive %")))
    rows = [
        (f"{variant}, {window:,}", *_cells(held, window))
        for variant in VARIANTS
        for held in [_of(runs, variant=variant)]
        for window in _windows_of(held)
    ]
    table("Errors: means over the streams", header, rows)
    rows = [
        (f"{name}, {window:,}", *_cells(held, window))
        for name in names
        for held in [_of(runs, stream=name, variant="random")]
        for window in _windows_of(held)
    ]
    table("By stream, asking at random", header, rows)
    table("Does stratified asking pay? Errors by the labels' deviation", _PAYS, list(_paid(runs, names)))


_PAYS = (
    "",
    *(
        f"{what}{end}"
        for what in ("MAE", "RMSE", "balanced MAE")
        for end in (" random", " stratified", " change %")
    ),
)


def _cells(runs: Sequence[Result], window: int) -> list[str]:
    cells: list[str] = []
    for metric in METRICS:
        bias, cover, width, naive = (
            figure(runs, window, metric, what) for what in ("bias", "cover", "width", "naive")
        )
        cells += [points(bias), f"{cover:.3f}", f"{100 * width:.0f}", points(naive)]
    return cells


def _paid(runs: Sequence[Result], names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for name in names:
        cells: list[str] = []
        for key in ("mae", "rmse", "balanced"):
            ours, theirs = (
                mean(r[key] for r in _of(runs, stream=name, variant=v)) for v in ("random", "stratified")
            )
            cells += [f"{ours:.3f}", f"{theirs:.3f}", points(theirs / ours - 1)]
        yield (name, *cells)


def judge(runs: Sequence[Result], *, slack: bool) -> Bars:
    """Hold the figures against the bars; a quick run has few looks, so its bars are wider."""
    least, most, bias = (0.84, 1.0, 0.06) if slack else (0.90, 0.99, 0.02)
    bars = Bars()
    for variant in VARIANTS:
        held = _of(runs, variant=variant)
        for window, metric in itertools.product(_windows_of(held), METRICS):
            name = f"{metric.upper()}, {variant}, window {window:,}"
            bars.add(f"coverage, {name}", figure(held, window, metric, "cover"), low=least, high=most)
            bars.add(f"|bias|, {name}", abs(figure(held, window, metric, "bias")), high=bias)
    return bars


def main(argv: list[str] | None = None) -> int:
    options = parse(parser(__doc__ or "", seeds=16, quick_seeds=2), argv)
    n = options.samples or (4_000 if options.quick else 10_000)
    names = tuple(options.streams.split(",")) if options.streams else STREAMS
    if wrong := [name for name in names if name not in STREAMS]:
        sys.exit(f"no stream {', '.join(wrong)}; there are {', '.join(STREAMS)}")
    tasks = [
        {"name": name, "variant": variant, "n": n, "seed": seed}
        for name in names
        for variant in VARIANTS
        for seed in range(1, options.seeds + 1)
    ]
    runs = each(measure, tasks, options.jobs)
    print(f"{len(runs)} runs of {n:,} samples; {options.seeds} seed(s).")
    tell(runs)
    return judge(runs, slack=options.quick).end()


if __name__ == "__main__":
    sys.exit(main())
