"""What do challengers and the random twin cost, and is what they say true?

*Costs*: labels a second that a fold learns, in CPU time, alone and beside others.

*Labels saved*: the real machines run over each stream in virtual time with 5 % of the labels. The live ratio is held
against the true one: copies of the model at every half doubling of its labels, and the twin every twenty labels, are
asked about 2,000 later samples whose labels all are known. The twin's accuracy and labels are the means with the same
fading as the live ones; because 2,000 samples know an accuracy to a point, the true ratio has a range. Runs whose stretch began with a drift alarm or a switch are left out: a number is rare there.

*Difference*: what is said of a naive Bayes challenger and of the twin against the truth: both foretell all samples of
the turns in which labels arrived, a turn counts by its labels.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from _harness import Bars, Result, each, mean, parse, parser, points, table
from estimation import settings_of
from streams import Row, available, coin_seed, stream

from stream_al import logs
from stream_al.config import DEFAULT_SPEC
from stream_al.core.challenger import RANDOM, Contest
from stream_al.core.classification import Known
from stream_al.core.fold import Fold
from stream_al.core.labels import same
from stream_al.core.messages import (
    Budget,
    Challenger,
    Challengers,
    Genesis,
    Learned,
    LedgerRecord,
    Query,
    Shown,
    Source,
    timestamp,
)
from stream_al.core.model import Model
from stream_al.core.random_twin import FADE, Point, crossing, rising
from stream_al.core.sequence import Interval
from stream_al.simulate import Simulation

BAYES = ["river.naive_bayes.GaussianNB"]
TREE = ["river.tree.HoeffdingTreeClassifier"]
MODELS: dict[str, list[Any]] = {
    "logistic": ["river.preprocessing.StandardScaler", "river.linear_model.LogisticRegression"],
    "default": DEFAULT_SPEC,
}
LINEUPS = {
    "alone": Challengers(),
    "naive Bayes": Challengers([Challenger("bayes", BAYES)]),
    "naive Bayes and a tree": Challengers([Challenger("bayes", BAYES), Challenger("tree", TREE)]),
    "the random twin": Challengers([], random_twin=True),
}
POINT = 0.01  # by which an accuracy on the later samples may be off
BLOCK, LATER, EVERY, ROUNDS = 64, 2_000, 20, 3
STEADY = "phishing,segments,bananas"  # streams that do not change
COVERED = 0.8  # of few runs


# Costs


def labelled(spec: Sequence[Any], lineup: Challengers, rows: Sequence[Row]) -> list[LedgerRecord]:
    """Return a ledger of labels, a fifth of them by exploration."""
    draw = random.Random(1)
    begun = Genesis("id", "samples", {0: 0}, "default", list(spec), None, "margin", 1, timestamp(0))
    found: list[LedgerRecord] = [begun, Budget(fraction=0.05), lineup]
    for k, (x, y) in enumerate(rows):
        query = Query("margin", "informative", 0.5, 0.5, 0.05, 0.01, 0.05 * draw.random(), 0.9)
        source, shown = Source("samples", 0, k), Shown("default", 1, {str(y): 0.9})
        found.append(
            Learned(
                f"0-{k}", f"s-{k}", source, query, shown, timestamp(0), x, y, True, timestamp(k), f"l-{k}"
            )
        )
    return found


def rate(spec: Sequence[Any], lineup: Challengers, rows: Sequence[Row]) -> float:
    """Return labels by second of CPU."""
    records, fold = labelled(spec, lineup, rows), Fold()
    started = time.process_time()
    for record in records:
        fold.apply(fold.position, record)
    return len(rows) / (time.process_time() - started)


def costs(n: int) -> None:
    rows = stream("bananas", n, 1)
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for (model, spec), (name, lineup) in itertools.product(MODELS.items(), LINEUPS.items()):
            found.setdefault((name, model), []).append(rate(spec, lineup, rows))
    told = [(name, *(f"{median(found[name, model]):,.0f}" for model in MODELS)) for name in LINEUPS]
    table("Labels a second that a fold learns", ("beside the model", *MODELS), told)


# What is true


class Truth:
    """Looks at a contest from outside, with labels that nobody gave to it."""

    def __init__(self, later: Sequence[Row]) -> None:
        self.later = later
        self.copies: dict[int, Model] = {}
        self.twin: list[tuple[int, int, float]] = []  # labels of both, and the twin's accuracy
        self.turns: list[tuple[int, dict[str, float]]] = []  # labels, and differences over all samples
        self._asked = -1

    def label(self, contest: Contest, model: Model) -> None:
        """Note what can be known after a turn."""
        twin = contest.twin
        assert twin is not None
        if twin.asked < self._asked:
            self.copies, self.twin, self.turns = {}, [], []
        before, self._asked = self._asked, twin.asked
        if self.grid(twin.asked) > self.grid(before):
            self.copies[twin.asked] = copy.deepcopy(model)
        if twin.asked // EVERY > before // EVERY:
            self.twin.append((twin.asked, twin.random, accuracy(twin.model, self.later)))

    @staticmethod
    def grid(labels: int) -> int:
        return int(2 * math.log2(labels)) if labels >= 11 else -1

    def ratio(self, model: Model) -> Interval:
        """Return the true one, and what it would be with a point of accuracy more or less for the twin.

        Infinity where it lies before the first copy.
        """
        return Interval(*(self._ratio(model, more) for more in (0.0, POINT, -POINT)))

    def _ratio(self, model: Model, more: float) -> float:
        now = self.twin[-1][0]
        weights = [FADE ** (now - asked) for asked, _, _ in self.twin]
        level = more + sum(w * a for w, (_, _, a) in zip(weights, self.twin, strict=True)) / sum(weights)
        random = sum(w * n for w, (_, n, _) in zip(weights, self.twin, strict=True)) / sum(weights)
        known = {**self.copies, now: model}
        d = rising([accuracy(m, self.later) - level for m in known.values()], [1.0] * len(known))
        nothing = Interval(0.0, 0.0, 0.0)
        found = crossing([Point(random / n, nothing) for n in known], d)
        return random / now if found is None else found


def accuracy(model: Model, rows: Sequence[Row]) -> float:
    return mean(right(model, rows))


def right(model: Model, rows: Sequence[Row]) -> list[float]:
    p = model.predict([x for x, _ in rows])
    if not p.size:
        return [0.0] * len(rows)
    shown = zip(p.argmax(axis=1).tolist(), p.any(axis=1).tolist(), rows, strict=True)
    return [float(there and same(model.classes[k], y)) for k, there, (_, y) in shown]


def run(stream_name: str, seed: int, n: int) -> Result:
    """Let the service run over one stream; return what it says and what is true."""
    logs.configure("error")
    rows = stream(stream_name, n + LATER, seed)
    own = (
        f"scorer.commit_samples={BLOCK}",
        "accuracy.random_twin=true",
        "challengers=[{name: bayes, spec: [river.naive_bayes.GaussianNB]}]",
    )
    settings = settings_of(coin_seed(stream_name, seed), *own, fraction=0.05)
    truth = Truth(rows[n:])
    with Simulation(settings, rows[:n], samples_per_s=BLOCK) as simulation:
        fold, seen, learned = simulation.fold, 0, 0
        for progress in simulation.run():
            here, seen = rows[seen : progress.samples], progress.samples
            assert fold.model is not None
            if here and fold.learned > learned:
                ours = mean(right(fold.model, here))
                others = {name: c.model for name, c in fold.contest.others.items()}
                assert fold.contest.twin is not None
                others[RANDOM] = fold.contest.twin.model
                differences = {name: mean(right(m, here)) - ours for name, m in others.items()}
                truth.turns.append((fold.learned - learned, differences))
            learned = fold.learned
            truth.label(fold.contest, fold.model)
        saved = fold.contest.saved()
        assert saved is not None
        assert fold.model is not None
        return {
            "stream_name": stream_name,
            "seed": seed,
            "saved": saved,
            "true": truth.ratio(fold.model) if truth.twin else Interval(math.nan, math.nan, math.nan),
            "said": {s.name: s.difference for s in fold.standings},
            "truly": {
                name: sum(n * d[name] for n, d in truth.turns) / max(1, sum(n for n, _ in truth.turns))
                for name in ("bayes", RANDOM)
            },
        }


# Telling


def interval(known: Known | None, scale: float = 1.0) -> str:
    if not isinstance(known, Interval):
        return "-"
    return f"{scale * known.value:.1f} [{scale * known.low:.1f}, {scale * known.high:.1f}]"


def holds(known: Known | None, truth: float) -> bool:
    return isinstance(known, Interval) and known.low <= truth <= known.high


def meets(known: Interval, truth: Interval) -> bool:
    return known.low <= truth.high and truth.low <= known.high


def main(argv: list[str] | None = None) -> int:
    options = parse(parser(__doc__ or "", seeds=8), argv)
    n = options.samples or (4_000 if options.quick else 10_000)
    costs(min(n, 1_500))
    plan = [
        {"stream_name": s, "seed": seed, "n": n}
        for s in available(options.streams or STEADY)
        for seed in range(1, options.seeds + 1)
    ]
    found = each(run, plan, options.jobs)
    rows = [
        (
            f"{r['stream_name']}, {r['seed']}", r["saved"].state, r["saved"].random, r["saved"].asked,
            interval(r["saved"].ratio), interval(r["true"]),
            *(text for name in ("bayes", RANDOM) for text in (interval(r["said"][name], 100), points(r["truly"][name]))),
        )
        for r in found
    ]  # fmt: skip
    head = ("", "", "random", "asked", "saved", "true", "bayes, points", "true", "twin, points", "true")
    table("Labels saved, and differences of accuracy", head, rows)
    told = [r for r in found if r["saved"].ratio is not None and not r["saved"].begin]
    known = [(r["said"][name], r["truly"][name]) for r in found for name in ("bayes", RANDOM)]
    known = [(d, truth) for d, truth in known if isinstance(d, Interval)]
    logs_of = [
        (math.log(r["saved"].ratio.value), math.log(r["true"].value))
        for r in told
        if math.isfinite(r["true"].value)
    ]
    bars, slack = Bars(), 0.3 if options.quick else 0.0
    bars.add("saved: mean ratio", math.exp(mean(a for a, _ in logs_of)), low=0.0)
    bars.add("saved: mean true ratio", math.exp(mean(b for _, b in logs_of)), low=0.0)
    bars.add("saved: coverage", mean(meets(r["saved"].ratio, r["true"]) for r in told), low=COVERED - slack)
    bars.add("difference: coverage", mean(holds(d, truth) for d, truth in known), low=0.95 - slack)
    bars.add("difference: bias in points", 100 * mean(d.value - truth for d, truth in known), low=-1, high=1)
    return bars.end()


if __name__ == "__main__":
    sys.exit(main())
