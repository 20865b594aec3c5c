"""Metrics for Prometheus, read from the latest picture of the service at each scrape.

``METRICS`` is the one source: what is exported, by whom, and what it means. ``python -m stream_al.metrics``
writes ``docs/metrics.md`` from it.

Counters never start late: every combination of labels that can be known beforehand is there from the first
scrape, so that ``rate()`` sees the step from 0. A gauge without a value yet is NaN. What derives from the
ledger is exported by the ledger's owner alone, so that a sum over processes counts it once; the fold restores
it at every start.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from stream_al import __version__
from stream_al.core.accuracy import Estimate, Interval
from stream_al.core.classification import Known
from stream_al.core.classification import Metric as ByClass
from stream_al.core.drift import SIGNALS
from stream_al.core.learner import Rejection
from stream_al.core.messages import Reason
from stream_al.core.model import POISONED, UNKNOWN_CLASS
from stream_al.core.regression import Errors
from stream_al.service.figures import Figures, Histogram, LearnerFigures, ScorerFigures

SAMPLE_OUTCOMES = ("requested", "passed", "uncovered", "invalid", "skipped")
CLOSINGS = ("learned", "credited", "skipped", "expired", "withdrawn", "corrected", "unsolicited")
REJECTIONS = get_args(Rejection)
UNREADABLE = {
    "scorer": ("empty", "not_json", "too_large", "wrong_type"),
    "learner": ("empty", "not_json", "unknown_kind", "wrong_type"),
}
FOLD_ERRORS = (
    "unreadable",
    "before_genesis",
    "second_genesis",
    "closed_twice",
    "no_probability",
    "corrects_nothing",
    "rebuilt_twice",
    "unsolicited_twice",
    "challengers_in_regression",
    "promoted_twice",
    "promotes_nobody",
    UNKNOWN_CLASS,
    POISONED,
)
ESTIMATORS = ("dr", "hajek", "naive")
INPUT = ("consumergroup", "topic", "partition")
MOST_CLASSES = 20  # with metrics of their own

Type = Literal["counter", "gauge", "histogram", "info"]
Exporter = Literal["process", "scorer", "owner"]
Value = float | Histogram
Series = Iterable[tuple[tuple[str, ...], Value]]
Part = Callable[[Interval], float]

EXPORTERS: dict[Exporter, str] = {
    "process": "every process",
    "scorer": "processes with the role scorer, each its own",
    "owner": "the learner that owns the ledger",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric: what it is called and means, and how it is read from a picture."""

    name: str
    type: Type
    labels: tuple[str, ...]
    unit: str
    exporter: Exporter
    help: str
    read: Callable[[Figures], Series]


# --- reading ------------------------------------------------------------------------------------------------


def _one(read: Callable[[Figures], Value]) -> Callable[[Figures], Series]:
    return lambda figures: [((), read(figures))]


def _of_scorer(read: Callable[[ScorerFigures], Series]) -> Callable[[Figures], Series]:
    return lambda figures: () if figures.scorer is None else read(figures.scorer)


def _of_learner(read: Callable[[LearnerFigures], Series]) -> Callable[[Figures], Series]:
    return lambda figures: () if figures.learner is None else read(figures.learner)


def _scorer(read: Callable[[ScorerFigures], Value]) -> Callable[[Figures], Series]:
    return _of_scorer(lambda scorer: [((), read(scorer))])


def _learner(read: Callable[[LearnerFigures], Value]) -> Callable[[Figures], Series]:
    return _of_learner(lambda learner: [((), read(learner))])


def _counts(known: Sequence[str], *found: Mapping[str, int]) -> Series:
    """Yield a count for each known name, 0 where nothing was found, and for each other one found."""
    counts = dict.fromkeys(known, 0) | {name: n for counts in found for name, n in counts.items()}
    return (((name,), n) for name, n in counts.items())


def _labels(learner: LearnerFigures) -> Series:
    closed = {name: learner.labels.get(name, 0) for name in CLOSINGS}
    return _counts((*CLOSINGS, *REJECTIONS), closed, learner.rejections)


def _dead_letters(figures: Figures) -> Series:
    scorer, learner = figures.scorer, figures.learner
    if scorer is not None:
        yield from ((("scorer", *key), n) for key, n in _counts(UNREADABLE["scorer"], scorer.dead_letters))
    if learner is not None:
        found = _counts((*UNREADABLE["learner"], *REJECTIONS), learner.dead_letters, learner.rejections)
        yield from ((("learner", *key), n) for key, n in found)


def _fold_errors(figures: Figures) -> Series:
    if figures.learner is None:
        return ()
    return (((figures.model, *key), n) for key, n in _counts(FOLD_ERRORS, figures.fold_errors))


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _estimates(part: Callable[[Interval], float], learner: LearnerFigures) -> Series:
    for window, found in learner.estimates.items():
        for name, interval in zip(ESTIMATORS, _intervals(found), strict=True):
            yield (name, window), math.nan if interval is None else part(interval)


def _intervals(found: Estimate) -> tuple[Interval | None, ...]:
    return found.dr, found.hajek, found.naive


def _accuracy(part: Callable[[Interval], float]) -> Callable[[Figures], Series]:
    return _of_learner(partial(_estimates, part))


def _part(part: Part, known: Known | None) -> float:
    return part(known) if isinstance(known, Interval) else math.nan


def _by_class(metric: ByClass) -> Callable[[Part, LearnerFigures], Series]:
    def read(part: Part, learner: LearnerFigures) -> Series:
        for name, known in islice(learner.by_class.classes.items(), MOST_CLASSES):
            yield (name, learner.by_class_window), _part(part, known[metric])

    return read


def _overall(read: Callable[[LearnerFigures], Known]) -> Callable[[Part, LearnerFigures], Series]:
    return lambda part, learner: (
        [((learner.by_class_window,), _part(part, read(learner)))] if _classifies(learner) else ()
    )


def _classifies(learner: LearnerFigures) -> bool:
    """Whether there is an accuracy; in regression its metrics are absent."""
    return not learner.errors


def _anytime(part: Part) -> Callable[[Figures], Series]:
    return _of_learner(lambda x: [((), _part(part, x.always))] if _classifies(x) else ())


def _challengers(part: Part, learner: LearnerFigures) -> Series:
    return (((c.name,), _part(part, c.difference)) for c in learner.challengers if c.difference is not None)


def _saved(part: Part, learner: LearnerFigures) -> Series:
    return [] if learner.saved is None else [((), _part(part, learner.saved.ratio))]


def _errors(part: Part, learner: LearnerFigures) -> Series:
    for window, found in learner.errors.items():
        for name, known in _by_metric(found).items():
            yield (name, window), _part(part, known)


def _by_metric(found: Errors) -> dict[str, Known]:
    return {"mae": found.mae, "rmse": found.rmse}


def _by_name(values: Mapping[str, float]) -> Series:
    return (((name,), value) for name, value in values.items())


def _remaining(learner: LearnerFigures) -> Series:
    return (((name,), limit - learner.spent.get(name, 0)) for name, limit in learner.limits.items())


def _inputs(values: Mapping[tuple[str, str, int], float]) -> Series:
    return (((group, topic, str(partition)), value) for (group, topic, partition), value in values.items())


@cache
def build() -> dict[str, str]:
    """Return the versions that decide what this process does."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "river": version("river"),
        "kafka_python": version("kafka-python"),
    }


def _with_ends(
    name: str,
    unit: str,
    labels: tuple[str, ...],
    text: str,
    read: Callable[[Part, LearnerFigures], Series],
) -> tuple[Entry, ...]:
    """Return a gauge and those of the ends of its 95 % interval."""
    parts: tuple[tuple[str, str, Part], ...] = (
        ("", text, lambda i: i.value),
        ("low_", "Lower end of its 95 % interval.", lambda i: i.low),
        ("high_", "Upper end of its 95 % interval.", lambda i: i.high),
    )
    return tuple(
        Entry(
            f"{name}_{end}{unit}".rstrip("_"),
            "gauge",
            labels,
            unit,
            "owner",
            said,
            _of_learner(partial(read, part)),
        )
        for end, said, part in parts
    )


BY_CLASS, OVERALL = ("class", "window"), ("window",)

METRICS: tuple[Entry, ...] = (
    Entry(
        "stream_al_samples_total", "counter", ("outcome",), "samples", "scorer",
        "Samples decided and committed by this process: `requested` a label, `passed` on by the coin, "
        "`uncovered` (inclusion probability 0: the budget was spent), `invalid` (a dead letter), or "
        "`skipped` because they had been decided before positions were reset backwards.",
        _of_scorer(lambda s: _counts(SAMPLE_OUTCOMES, s.samples)),
    ),
    Entry(
        "stream_al_label_requests_total", "counter", ("reason",), "requests", "scorer",
        "Label requests committed by this process: `warm_up`, `informative`, or `explore` (the coin fell "
        "below the exploration floor).",
        _of_scorer(lambda s: _counts(get_args(Reason), s.requests)),
    ),
    Entry(
        "stream_al_labels_total", "counter", ("outcome",), "labels", "owner",
        "Requests closed in the ledger: `learned`, `credited` (the same answer, learned once already), "
        "`skipped`, `expired`, `withdrawn`; and learned labels `corrected` later. `alike`: those of the credited that "
        "another's answer served; `voted`: votes, which close nothing. Labels rejected by this process: "
        "`unknown_request`, `closed_request`, `id_mismatch`.",
        _of_learner(_labels),
    ),
    Entry(
        "stream_al_query_rate_ratio", "gauge", (), "ratio", "owner",
        "Requests by samples over the latest 20 buckets of the ledger.",
        _learner(lambda x: _known(x.query_rate)),
    ),
    Entry(
        "stream_al_accuracy_ratio", "gauge", ("estimator", "window"), "ratio", "owner",
        "Accuracy of the shown class over the latest `window` samples, `fading` (a sample of age n counts "
        "0.9995 to the power of n), or `all`: `dr` (doubly robust, the one to trust), `hajek`, and `naive` over "
        "the queried samples alone, which is biased.",
        _accuracy(lambda i: i.value),
    ),
    Entry(
        "stream_al_accuracy_low_ratio", "gauge", ("estimator", "window"), "ratio", "owner",
        "Lower end of the 95 % interval.",
        _accuracy(lambda i: i.low),
    ),
    Entry(
        "stream_al_accuracy_high_ratio", "gauge", ("estimator", "window"), "ratio", "owner",
        "Upper end of the 95 % interval.",
        _accuracy(lambda i: i.high),
    ),
    Entry(
        "stream_al_accuracy_anytime_low_ratio", "gauge", (), "ratio", "owner",
        "Lower end of a 99 % interval for the accuracy since the last drift alarm that holds at all times at "
        "once, so that it may be watched. NaN before 300 samples.",
        _anytime(lambda i: i.low),
    ),
    Entry(
        "stream_al_accuracy_anytime_high_ratio", "gauge", (), "ratio", "owner",
        "Upper end of it: alert where it is below your objective.",
        _anytime(lambda i: i.high),
    ),
    *_with_ends(
        "stream_al_precision", "ratio", BY_CLASS,
        "Of the samples for which the class was shown, the share that is of it, over the last configured "
        "window; of at most 20 classes, those shown most. NaN under 10 effective labels.",
        _by_class("precision"),
    ),
    *_with_ends(
        "stream_al_recall", "ratio", BY_CLASS,
        "Of the samples of the class, the share for which it was shown; else as precision.",
        _by_class("recall"),
    ),
    *_with_ends(
        "stream_al_f1", "ratio", BY_CLASS,
        "Harmonic mean of precision and recall; else as precision.",
        _by_class("f1"),
    ),
    *_with_ends(
        "stream_al_macro_f1", "ratio", OVERALL,
        "Mean of F1 over the classes of the last configured window. NaN under 10 effective labels.",
        _overall(lambda x: x.by_class.macro_f1),
    ),
    *_with_ends(
        "stream_al_kappa", "ratio", OVERALL,
        "Cohen's kappa over the last configured window, from -1 to 1. NaN under 10 effective labels.",
        _overall(lambda x: x.by_class.kappa),
    ),
    *_with_ends(
        "stream_al_log_loss", "nats", OVERALL,
        "Mean of -log of the true class's probability, at most 10, over the last configured window. NaN under 10 "
        "effective labels.",
        _overall(lambda x: x.by_class.log_loss),
    ),
    *_with_ends(
        "stream_al_error", "", ("metric", "window"),
        "Regression: mean absolute error (`mae`) or root mean squared error (`rmse`) of the prediction, in the "
        "label's unit, over the same windows as the accuracy, which is absent then. NaN under 10 effective labels.",
        _errors,
    ),
    Entry(
        "stream_al_budget_limit", "gauge", ("window",), "requests", "owner",
        "Requests allowed: in any `hour` or `day`, `outstanding` at once, or since the beginning of the "
        "`stream` (fraction of its samples plus allowance). Limits that are not set are absent.",
        _of_learner(lambda x: _by_name(x.limits)),
    ),
    Entry(
        "stream_al_budget_spent", "gauge", ("window",), "requests", "owner",
        "What of the limit is used now.",
        _of_learner(lambda x: _by_name({name: x.spent.get(name, 0) for name in x.limits})),
    ),
    Entry(
        "stream_al_budget_remaining", "gauge", ("window",), "requests", "owner",
        "Limit minus spent.",
        _of_learner(_remaining),
    ),
    Entry(
        "stream_al_uncovered_samples_total", "counter", (), "samples", "owner",
        "Samples of the whole stream whose inclusion probability was 0; no estimate covers them.",
        _learner(lambda x: x.uncovered),
    ),
    Entry(
        "stream_al_pending_requests", "gauge", (), "requests", "owner",
        "Requests that nobody has answered yet.",
        _learner(lambda x: x.pending),
    ),
    Entry(
        "stream_al_pending_oldest_seconds", "gauge", (), "seconds", "owner",
        "Age of the oldest of them; 0 without any.",
        _learner(lambda x: x.pending_oldest_s),
    ),
    Entry(
        "stream_al_label_wait_seconds", "histogram", (), "seconds", "owner",
        "From a request to its answer, a label or a skip, of those that this process joined. A request "
        "closed by a label already known waited for nobody and is not in it.",
        _learner(lambda x: x.label_wait_s),
    ),
    Entry(
        "stream_al_score_batch_seconds", "histogram", (), "seconds", "scorer",
        "Scoring and deciding one batch of one partition.",
        _scorer(lambda s: s.score_batch_s),
    ),
    Entry(
        "stream_al_learn_seconds", "histogram", (), "seconds", "process",
        "Folding one label into the model, in this process; a replay of the ledger counts too.",
        _one(lambda f: f.learn_s),
    ),
    Entry(
        "stream_al_model_version", "gauge", (), "offset", "process",
        "Version of the model in use: the ledger offset after the last record that changed it; 0 before "
        "the first label.",
        _one(lambda f: f.model_version),
    ),
    Entry(
        "stream_al_disagreements_total", "counter", (), "probes", "process",
        "Probes of the ledger at which this process's model was not the learner's, by more than 1e-6. At the first it "
        "folds the ledger from its start; if that does not help, it is not ready.",
        _one(lambda f: f.disagreements),
    ),
    Entry(
        "stream_al_rejoins_total", "counter", ("client",), "rejoins", "process",
        "Times that the `scorer` or `learner` got nothing for a minute although records waited, and joined its group "
        "anew; if that does not help for another minute the process ends.",
        lambda f: _by_name(f.rejoins),
    ),
    Entry(
        "stream_al_rebuilding", "gauge", (), "", "process",
        "1 while this process folds earlier records of the ledger again for `stream-al rebuild`; it goes on with "
        "the model it has.",
        _one(lambda f: float(f.rebuilding)),
    ),
    Entry(
        "stream_al_rebuilds_total", "counter", (), "rebuilds", "owner",
        "Times that the model was begun anew.",
        _learner(lambda x: x.rebuilds),
    ),
    Entry(
        "stream_al_ledger_lag_records", "gauge", (), "records", "process",
        "Records of the ledger that this process has not folded yet.",
        _one(lambda f: f.ledger_lag),
    ),
    Entry(
        "stream_al_fold_errors_total", "counter", ("model", "error"), "records", "owner",
        "Records of the ledger that changed nothing, or not all they should; all replicas do the same. "
        "Errors with a capital are the model's: learning raised, and the state before was kept.",
        _fold_errors,
    ),
    Entry(
        "stream_al_partition_state_lost_total", "counter", (), "partitions", "scorer",
        "Partitions taken over without the state that travels with their position; they earn their tokens "
        "anew.",
        _scorer(lambda s: s.states_lost),
    ),
    Entry(
        "stream_al_drift_alarms_total", "counter", ("signal",), "alarms", "owner",
        "Alarms of concept drift: `residual` where labels alone give it, `confidence` where a fall of the "
        "confidence in all samples confirms a warning of the labels.",
        _of_learner(lambda x: _counts(SIGNALS, x.drift_alarms)),
    ),
    Entry(
        "stream_al_pseudo_labels_total", "counter", (), "samples", "owner",
        "With `model.cooperative`: samples learned with the class that the model was sure of.",
        _learner(lambda x: x.pseudo_labels),
    ),
    Entry(
        "stream_al_pseudo_labels_stopped", "gauge", (), "", "owner",
        "1 once pseudo-labels turned out to do harm, and the model without them has taken over; else 0.",
        _learner(lambda x: float(x.pseudo_labels_stopped)),
    ),
    *_with_ends(
        "stream_al_accuracy_difference", "ratio", ("challenger",),
        "Accuracy of a challenger minus that of the model in use, over all samples since the last drift alarm or "
        "promotion; `random` is the twin that learns at random. The interval holds at all times at once: it may be "
        "watched. NaN under 10 effective labels.",
        _challengers,
    ),
    *_with_ends(
        "stream_al_labels_saved", "ratio", (),
        "With `accuracy.random_twin`: how many labels drawn at random made the twin as accurate as one that was asked "
        "for made the model. An end of the interval that is open is 0 or +Inf; NaN where it is not comparable.",
        _saved,
    ),
    Entry(
        "stream_al_promotions_total", "counter", (), "promotions", "owner",
        "Times that a challenger took the model's place.",
        _learner(lambda x: x.promotions),
    ),
    Entry(
        "stream_al_dead_letters_total", "counter", ("stage", "reason"), "records", "process",
        "Records written to the dead letters by this process: those of stage `learner` while it owns the "
        "ledger.",
        _dead_letters,
    ),
    Entry(
        "stream_al_build_info", "info", ("version", "python", "river", "kafka_python"), "", "process",
        "Versions in use; the value is 1.",
        lambda _: [(tuple(build().values()), 1)],
    ),
    Entry(
        "kafka_consumergroup_lag", "gauge", INPUT, "records", "process",
        "Records behind the position of a partition that this process reads for the group. Where samples "
        "are written in transactions, the marker after the last one counts too.",
        lambda f: _inputs(f.lags),
    ),
    Entry(
        "kafka_consumergroup_lag_seconds", "gauge", INPUT, "seconds", "process",
        "For how long this process has seen the first unread record waiting; 0 without any. Records' own "
        "timestamps are not asked. After a start it counts from there, so it is a lower bound.",
        lambda f: _inputs(f.unread_s),
    ),
)  # fmt: skip


# --- writing ------------------------------------------------------------------------------------------------


def _family(
    entry: Entry,
) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily:
    text = entry.help.replace("`", "")
    base = entry.name.removesuffix("_total").removesuffix("_info")
    unit = entry.unit if base.endswith(f"_{entry.unit}") else ""
    if entry.type == "counter":
        return CounterMetricFamily(base, text, labels=entry.labels, unit=unit)
    if entry.type == "histogram":
        return HistogramMetricFamily(base, text, labels=entry.labels, unit=unit)
    if entry.type == "info":
        return InfoMetricFamily(base, text, labels=())
    return GaugeMetricFamily(base, text, labels=entry.labels, unit=unit)


def _add(family: Metric, entry: Entry, labels: tuple[str, ...], value: Value) -> None:
    if isinstance(family, InfoMetricFamily):
        family.add_metric((), dict(zip(entry.labels, labels, strict=True)))
    elif isinstance(family, HistogramMetricFamily):
        assert isinstance(value, Histogram)
        bounds = [*map(str, value.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(value.counts), strict=True))
        family.add_metric(labels, buckets, value.total)
    elif isinstance(family, CounterMetricFamily | GaugeMetricFamily):
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)


def families(figures: Figures) -> Iterator[Metric]:
    """Yield everything that a picture holds; metrics of a role that is not played are left out."""
    for entry in METRICS:
        family = _family(entry)
        for labels, value in entry.read(figures):
            _add(family, entry, labels, value)
        if family.samples:
            yield family


class Exposition(Collector):
    """Renders the latest figures, and those of the process itself, from a registry of its own.

    Parameters
    ----------
    latest
        Returns the latest figures; called at each scrape.
    """

    def __init__(self, latest: Callable[[], Figures]) -> None:
        self._latest = latest
        self._registry = CollectorRegistry()
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def collect(self) -> Iterator[Metric]:
        return families(self._latest())

    def describe(self) -> Iterator[Metric]:
        """Name what may come, so that registering needs no figures."""
        return map(_family, METRICS)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the text and its content type: OpenMetrics where it is accepted, else Prometheus' own."""
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


# --- documenting --------------------------------------------------------------------------------------------

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"

_INTRODUCTION = """\
# Metrics

<!-- generated by `python -m stream_al.metrics` -->

`/metrics` on the port of `http.port`, in Prometheus' text format or in OpenMetrics, as the client accepts.

- Ratios are from 0 to 1, times in seconds. A gauge without a value yet is NaN.
- Counters of a scorer, of dead letters and of rejected labels, and the histograms, start at 0 in each
  process. All other counters derive from the ledger: they are restored from it at every start and exported by
  its owner only, so that sums over processes count them once.
- While the broker is away, a process shows what it has counted itself; lags and everything of the ledger's
  owner are absent.
- `process_*`, `python_info` and `python_gc_*` are there too.
"""


def document() -> str:
    """Return the reference of all metrics as Markdown."""
    return "\n".join(chain([_INTRODUCTION], *map(_section, EXPORTERS)))


def _section(exporter: Exporter) -> Iterator[str]:
    yield f"## From {EXPORTERS[exporter]}\n"
    yield "| name | type | labels | unit | meaning |\n|---|---|---|---|---|"
    for entry in METRICS:
        if entry.exporter == exporter:
            labels = ", ".join(f"`{label}`" for label in entry.labels)
            yield f"| `{entry.name}` | {entry.type} | {labels} | {entry.unit} | {entry.help} |"
    yield ""


def main() -> None:
    """Write the reference."""
    DOCUMENT.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
