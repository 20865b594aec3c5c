"""How honest is the accuracy that the service reports? Bias, coverage and width of its intervals, and its spending.

The real machines run over each stream in virtual time, with a budget of 5 %. Every 500 samples each full window, of
1,000 and of 5,000 samples, is compared with the truth over exactly the samples in its buckets, which end where
answers had time to come. Six settings:

* plain: every sample has an id of its own; labels come within a turn;
* twice: every id comes twice, the second time in another order, so a known label may close a request at once;
* few ids: 300 samples, over and over;
* late: labels come 500 samples late;
* lost: a quarter of the hard labels (utility above one half) and one in twenty of the easy ones never come;
* capped: 200 labels an hour at two samples a second, about half of what 5 % would be: requests come in grants of half a
  minute, and samples that nobody had a token for are uncovered.

Bars are means over the streams.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from _harness import Bars, Result, each, mean, parse, parser, percent, points, table
from streams import Row, available, coin_seed, stream

from stream_al import logs
from stream_al.config import Settings, load
from stream_al.core.accuracy import Interval
from stream_al.core.budget import Decisions
from stream_al.core.fold import Scores
from stream_al.core.labels import same
from stream_al.core.messages import LabelRequest, Sample
from stream_al.simulate import BLOCK, Annotator, Oracle, Simulation
from stream_al.transport.port import Output

FRACTION = 0.05
WINDOWS = (1_000, 5_000)
EVERY = 500
VARIANTS = ("plain", "twice", "few ids", "late", "lost", "capped")
ESTIMATORS = ("dr", "hajek", "naive")
LATE, FEW, REPEATED_AFTER = 500, 300, 500
LOST_HARD, LOST_EASY = 0.25, 0.05
PER_HOUR, SLOWLY = 200, 2.0  # samples a second
REST_TURNS = 8  # after the stream: requests are read, answered, learned, and reported

Named = tuple[str, Row]


def settings_of(seed: int, *sets: str, fraction: float = FRACTION) -> Settings:
    """Return the defaults, with one partition and short buckets, as a short stream needs them."""
    own = (
        "broker.partitions=1", "state_dir=null", "log.level=error", "http.port=null", "samples.timestamp=null",
        "ledger.bucket_s=1", "scorer.commit_samples=64", f"seed={seed}", f"budget.fraction={fraction!r}",
    )  # fmt: skip
    return load(None, [*own, *sets], environ={})


class Forgetful(Annotator):
    """An annotator that never answers some requests, hard ones more often."""

    def turn(self, seen: int) -> None:
        super().turn(seen)
        self.due = [one for one in self.due if not self._lost(one[1])]

    def _lost(self, request: LabelRequest) -> bool:
        rate = LOST_HARD if request.query.utility > 0.5 else LOST_EASY
        return random.Random(f"{self.settings.seed} {request.request_id}").random() < rate


class Measured(Simulation):
    """A simulation that names its samples and remembers, by offset, which the shown class got right."""

    def __init__(
        self, settings: Settings, named: Sequence[Named], *, delay: int, forgetful: bool, **more: float
    ) -> None:
        self.names = iter([name for name, _ in named])
        self.correct = np.zeros(len(named), dtype=bool)
        super().__init__(settings, [row for _, row in named], delay=delay, **more)
        if forgetful:
            self.annotator = Forgetful(self.broker, settings, self.truth, Oracle(max(delay, 1)))

    def _feed(self) -> int:
        outputs = []
        for _, (features, label) in zip(range(self.block), self.stream, strict=False):
            name = next(self.names)
            self.truth[name] = label
            outputs.append(
                Output(self.settings.topics.samples, json.dumps({"id": name, "features": features}).encode())
            )
            self.samples += 1
        if outputs:
            self.broker.append(outputs)
            self.clock.ms += round(len(outputs) * 1000 / self.samples_per_s)
        return len(outputs)

    def _watch(self, samples: Sequence[Sample], scores: Scores, decisions: Decisions) -> None:
        super()._watch(samples, scores, decisions)
        if scores.probabilities.shape[1]:
            said = scores.probabilities.argmax(axis=1).tolist()
            for sample, k, confidence in zip(samples, said, scores.confidence.tolist(), strict=True):
                right = same(self.fold.classes[k], self.truth[sample.id])
                self.correct[sample.source.offset] = confidence > 0 and right

    def _drain(self) -> None:
        """Let the labels come that will come; requests that are lost stay open."""
        assert self.service.scorer is not None
        assert self.service.learner is not None
        for turn in range(1, REST_TURNS + self.annotator.oracle.delay // self.block + 1):
            self.clock.ms += round(self.block * 1000 / self.samples_per_s)
            self.service.turn()
            self.service.scorer.drain()
            self.annotator.turn(self.samples + turn * self.block)
        self.service.learner.flush()

    def looks(self) -> Iterator[dict[str, Any]]:
        """Run; every ``EVERY`` samples hold each full window against the truth over its buckets."""
        due = EVERY
        self.over = 0.0
        for progress in self.run():
            self.over = max(self.over, progress.requests - progress.allowed)
            self.requests = progress.requests
            if sum(slot.sums.samples for slot in self.fold.accuracy.slots) >= due:
                due += EVERY
                for window in WINDOWS:
                    yield from self._judged(window)

    def _judged(self, window: int) -> Iterator[dict[str, Any]]:
        accuracy = self.fold.accuracy
        slots = accuracy.run(window)  # the latest first
        said = accuracy.window(window)
        if sum(slot.sums.samples for slot in slots) >= window and said.labels:
            start, end = slots[-1].ranges[0][0], slots[0].ranges[0][1]
            truth = float(self.correct[start:end].mean())
            intervals = {name: _held(getattr(said, name), truth) for name in ESTIMATORS}
            yield {"window": window, "labels": said.labels, **intervals}


def _held(interval: Interval, truth: float) -> tuple[float, bool, float]:
    """Return error, whether the truth is inside, and width."""
    return interval.value - truth, interval.low <= truth <= interval.high, interval.high - interval.low


def named(name: str, variant: str, n: int, seed: int) -> list[Named]:
    """Return the samples of a stream with their ids."""
    order = random.Random(seed)
    if variant == "few ids":
        rows = [(f"s-{i}", row) for i, row in enumerate(stream(name, FEW, seed))]
        return [row for _ in range(-(-n // FEW)) for row in order.sample(rows, FEW)][:n]
    if variant != "twice":
        return [(f"s-{i}", row) for i, row in enumerate(stream(name, n, seed))]
    rows = [(f"s-{i}", row) for i, row in enumerate(stream(name, -(-n // 2), seed))]
    blocks = [rows[i : i + REPEATED_AFTER] for i in range(0, len(rows), REPEATED_AFTER)]
    return [row for block in blocks for row in [*block, *order.sample(block, len(block))]][:n]


def measure(name: str, variant: str, n: int, seed: int) -> Result:
    """Run one stream once; return what all its windows said."""
    logs.configure("error")
    samples = named(name, variant, n, seed)
    delay = LATE if variant == "late" else 0
    capped = variant == "capped"
    settings = settings_of(coin_seed(name, seed), *([f"budget.per_hour={PER_HOUR}"] if capped else []))
    pace = {"samples_per_s": SLOWLY} if capped else {}
    with Measured(settings, samples, delay=delay, forgetful=variant == "lost", **pace) as simulation:
        judged = list(simulation.looks())
        sums = simulation.fold.accuracy.everything
        return {
            "stream": name, "variant": variant, "seed": seed, "judged": judged, "over": simulation.over,
            "spend": simulation.requests / (FRACTION * n) - 1, "true": float(simulation.correct.mean()),
            "uncovered": sums.uncovered / sums.samples,
        }  # fmt: skip


# Telling


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one estimator in one window: means over the looks of one or more streams; ``sem`` is that of the bias."""

    bias: float
    sem: float
    coverage: float
    width: float
    labels: float


def figures(runs: Sequence[Result], window: int, estimator: str) -> Figures:
    """Return the figures as means over the streams, each of them the mean over its runs and looks."""
    per_stream = []
    for name in dict.fromkeys(run["stream"] for run in runs):
        per_run = [
            [look for look in run["judged"] if look["window"] == window]
            for run in runs
            if run["stream"] == name
        ]
        if any(per_run):
            per_stream.append(_pooled([looks for looks in per_run if looks], estimator))
    means = {
        key: mean(getattr(f, key) for f in per_stream) for key in ("bias", "coverage", "width", "labels")
    }
    return Figures(**means, sem=math.hypot(*(f.sem for f in per_stream)) / max(1, len(per_stream)))


def _pooled(per_run: Sequence[Sequence[dict[str, Any]]], estimator: str) -> Figures:
    """Return the figures of one stream: runs are independent, the looks of a run are not."""
    biases = [fmean(look[estimator][0] for look in looks) for looks in per_run]
    looks = [look for looks in per_run for look in looks]
    return Figures(
        fmean(look[estimator][0] for look in looks),
        stdev(biases) / math.sqrt(len(biases)) if len(biases) > 1 else math.nan,
        fmean(look[estimator][1] for look in looks),
        fmean(look[estimator][2] for look in looks),
        fmean(look["labels"] for look in looks),
    )


def _windows_of(runs: Sequence[Result]) -> list[int]:
    return sorted({look["window"] for run in runs for look in run["judged"]})


def _of(runs: Sequence[Result], **wanted: object) -> list[Result]:
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def tell(runs: Sequence[Result]) -> None:
    """Print all tables."""
    rows = []
    for variant in VARIANTS:
        held = _of(runs, variant=variant)
        for window in _windows_of(held):
            dr, hajek, naive = (figures(held, window, e) for e in ESTIMATORS)
            rows.append(
                (
                    f"{variant}, {window:,}", f"{dr.labels:.0f}", f"{100 * dr.sem:.1f}",
                    *(points(f.bias) for f in (dr, hajek, naive)),
                    *(f"{f.coverage:.3f}" for f in (dr, hajek, naive)),
                    *(f"{f.width:.3f}" for f in (dr, hajek, naive)),
                )
            )  # fmt: skip
    by = [f"{what} {e}" for what in ("bias", "cover", "width") for e in ("DR", "Hajek", "naive")]
    table(
        "Estimates, means over the streams (bias in points, with its standard error for DR)",
        ("setting, window", "labels", "+- DR", *by),
        rows,
    )
    plain = _of(runs, variant="plain")
    rows = []
    for name in dict.fromkeys(run["stream"] for run in plain):
        held = _of(plain, stream=name)
        cells: list[str] = []
        for window in _windows_of(held):
            dr, naive = figures(held, window, "dr"), figures(held, window, "naive")
            cells += [points(dr.bias), f"{dr.coverage:.3f}", f"{dr.width:.3f}", points(naive.bias)]
        rows.append((name, percent(mean(run["true"] for run in held)), *cells))
    by = [f"{what} {w:,}" for w in _windows_of(plain) for what in ("bias", "cover", "width", "naive")]
    table("Plain, by stream (doubly robust; bias in points)", ("", "true %", *by), rows)
    rows = [
        (
            variant,
            points(mean(r["spend"] for r in held)),
            points(mean(abs(r["spend"]) for r in held)),
            f"{max(r['over'] for r in held):.1f}",
            percent(mean(r["uncovered"] for r in held)),
        )
        for variant in VARIANTS
        if (held := _of(runs, variant=variant))
    ]
    table(
        "Spending against 5 % of the samples, in per cent",
        ("", "mean", "mean error", "most over the limit, labels", "uncovered %"),
        rows,
    )


def judge(runs: Sequence[Result], *, slack: bool) -> Bars:
    """Hold the figures against the bars; a quick run has few looks, so its bars are wider."""
    least, most, bias, spend = (0.85, 1.0, 0.015, 0.06) if slack else (0.93, 0.99, 0.005, 0.02)
    bars = Bars()
    for variant in ("plain", "twice", "few ids", "capped"):
        held = _of(runs, variant=variant)
        for window in _windows_of(held):
            dr = figures(held, window, "dr")
            bars.add(f"coverage, {variant}, window {window:,}", dr.coverage, low=least, high=most)
            bars.add(f"|bias|, {variant}, window {window:,}", abs(dr.bias), high=bias)
    plain = _of(runs, variant="plain")
    if WINDOWS[-1] in _windows_of(plain):
        bars.add(
            "width, plain, window 5,000",
            figures(plain, WINDOWS[-1], "dr").width,
            high=0.14 if slack else 0.13,
        )
    bars.add("spending, mean error", mean(abs(run["spend"]) for run in plain), high=spend)
    bars.add("most over the limit, labels", max(run["over"] for run in runs), high=0)
    return bars


def main(argv: list[str] | None = None) -> int:
    options = parse(parser(__doc__ or "", seeds=16, quick_seeds=2), argv)
    n = options.samples or (6_000 if options.quick else 10_000)
    tasks = [
        {"name": name, "variant": variant, "n": n, "seed": seed}
        for name in available(options.streams)
        for variant in VARIANTS
        for seed in range(1, options.seeds + 1)
    ]
    runs = each(measure, tasks, options.jobs)
    print(f"{len(runs)} runs of {n:,} samples, blocks of {BLOCK}; {options.seeds} seed(s).")
    tell(runs)
    print("\nDrift alarms are measured by drift.py.")
    return judge(runs, slack=options.quick).end()


if __name__ == "__main__":
    sys.exit(main())
