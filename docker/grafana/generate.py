"""Writes the dashboards into ``dashboards/``. It needs what is in ``requirements.lock`` beside it, and nothing else.

    python docker/grafana/generate.py [DIRECTORY]

The service's own environment does not have it: `make dashboards` makes one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common as c
from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as cm
from grafana_foundation_sdk.models import dashboard as dm

HERE = Path(__file__).resolve().parent
SOURCE = dm.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, AMBER, RED, GREY, BLUE = "green", "orange", "red", "gray", "blue"

Step = tuple[float | None, str]
Query = tuple[str, str]  # expression and legend


def rate(metric: str, labels: str = "", by: str = "") -> str:
    """Return a rate over what fits the zoom, summed by ``by``."""
    inner = f'{metric}{{namespace=~"$namespace"{"," if labels else ""}{labels}}}'
    return f"sum{f' by ({by})' if by else ''} (rate({inner}[$__rate_interval]))"


def gauge(metric: str, labels: str = "") -> str:
    return f'{metric}{{namespace=~"$namespace"{"," if labels else ""}{labels}}}'


def _is(label: str, value: str) -> str:
    return f'{label}="{value}"'


def quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', by='le')})"


def _dress(panel: Any, title: str, text: str, unit: str, steps: list[Step], queries: list[Query]) -> Any:
    panel.title(title).description(text).datasource(SOURCE).unit(unit)
    panel.thresholds(
        d.ThresholdsConfig()
        .mode(dm.ThresholdsMode.ABSOLUTE)
        .steps([dm.Threshold(value=value, color=color) for value, color in steps])
    )
    for ref, (expr, legend) in zip("ABCDEFGH", queries, strict=False):
        panel.with_target(
            prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(ref).datasource(SOURCE).range()
        )
    return panel


def number(title: str, text: str, unit: str, expr: str, steps: list[Step], decimals: int = 1) -> Any:
    """Return a panel of one number, a sixth of the page wide."""
    panel = _dress(stat.Panel(), title, text, unit, steps, [(expr, title)])
    reduced = c.ReduceDataOptions().calcs(["lastNotNull"])
    return (
        panel.span(4)
        .height(4)
        .decimals(decimals)
        .reduce_options(reduced)
        .graph_mode(cm.BigValueGraphMode.AREA)
        .color_mode(cm.BigValueColorMode.VALUE)
    )


def curves(
    title: str,
    text: str,
    unit: str,
    queries: list[Query],
    steps: list[Step] | None = None,
    *,
    wide: bool = False,
    top: float | None = None,
    bottom: float | None = 0.0,
) -> Any:
    """Return a panel of curves, half the page wide, with its thresholds as lines."""
    panel = _dress(timeseries.Panel(), title, text, unit, steps or [(None, GREEN)], queries)
    lines = cm.GraphThresholdsStyleMode.DASHED if steps else cm.GraphThresholdsStyleMode.OFF
    panel.span(24 if wide else 12).height(10 if wide else 8)
    panel.thresholds_style(c.GraphThresholdsStyleConfig().mode(lines))
    panel.legend(
        c.VizLegendOptions()
        .display_mode(cm.LegendDisplayMode.TABLE)
        .placement(cm.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull"])
    )
    panel.tooltip(c.VizTooltipOptions().mode(cm.TooltipDisplayMode.MULTI).sort(cm.SortOrder.DESCENDING))
    panel.show_points(cm.VisibilityMode.NEVER).line_width(2).fill_opacity(0)
    if bottom is not None:
        panel.min(bottom)
    return panel if top is None else panel.max(top)


def _band(panel: Any, low: str, high: str, color: str) -> Any:
    """Fill between two curves, whose own lines are thin."""
    fixed = {"mode": "fixed", "fixedColor": color}
    thin = [
        dm.DynamicConfigValue(id_val="custom.lineWidth", value=1),
        dm.DynamicConfigValue(id_val="color", value=fixed),
    ]
    fill = [
        dm.DynamicConfigValue(id_val="custom.fillBelowTo", value=low),
        dm.DynamicConfigValue(id_val="custom.fillOpacity", value=20),
    ]
    return panel.override_by_name(high, [*thin, *fill]).override_by_name(low, thin)


def _colored(panel: Any, name: str, color: str, *, dashed: bool = False) -> Any:
    properties = [dm.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})]
    if dashed:
        style = {"fill": "dash", "dash": [6, 6]}
        properties.append(dm.DynamicConfigValue(id_val="custom.lineStyle", value=style))
    return panel.override_by_name(name, properties)


def board(uid: str, title: str, text: str) -> d.Dashboard:
    made = d.Dashboard(title).uid(uid).description(text).tags(["stream-al"]).readonly()
    made.time("now-1h", "now").refresh("10s").timezone("browser").tooltip(dm.DashboardCursorSync.CROSSHAIR)
    made.with_variable(d.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    made.with_variable(
        d.QueryVariable("namespace")
        .label("Namespace")
        .datasource(SOURCE)
        .query("label_values(stream_al_build_info, namespace)")
        .refresh(dm.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .current(dm.VariableOption(text="All", value="$__all", selected=True))
    )
    others = d.DashboardLink("stream-al").type(dm.DashboardLinkType.DASHBOARDS).tags(["stream-al"])
    return made.link(others.as_dropdown(True).keep_time(True).include_vars(True))


def _filled(made: d.Dashboard, panels: Iterable[Any]) -> d.Dashboard:
    for place, panel in enumerate(panels, start=1):
        made.with_panel(panel.id(place))
    return made


def labels_and_budget() -> d.Dashboard:
    made = board(
        "stream-al-labels", "Labels and budget", "What is asked for, what comes back, and what it costs."
    )
    plain: list[Step] = [(None, BLUE)]
    panels = (
        number("Samples", "Samples decided per second.", "cps", rate("stream_al_samples_total"), plain),
        number("Requests", "Labels asked for per second.", "cps", rate("stream_al_label_requests_total"), plain, 2),
        number(
            "Answers", "Labels that answered a request, per second.", "cps",
            rate("stream_al_labels_total", 'outcome=~"learned|credited"'), plain, 2,
        ),
        number(
            "Asked for", "Requests by samples, over the latest 20 buckets of the ledger.", "percentunit",
            f"max({gauge('stream_al_query_rate_ratio')})", plain, 2,
        ),
        number(
            "Open requests", "Requests that nobody has answered yet.", "short",
            f"sum({gauge('stream_al_pending_requests')})", plain, 0,
        ),
        number(
            "Oldest open request", "How long the oldest of them waits; an alert after a day.", "s",
            f"max({gauge('stream_al_pending_oldest_seconds')})", [(None, GREEN), (43_200, AMBER), (86_400, RED)],
        ),
        curves(
            "Budget spent", "What of each limit is used now; a limit is never exceeded.", "percentunit",
            [(gauge("stream_al:budget_spent:ratio"), "{{window}}")],
            [(None, GREEN), (0.9, AMBER), (1.0, RED)], top=1.0,
        ),
        curves(
            "Pace of spending", "The pace of now by the pace that spends exactly the limit: 1 is just right.", "none",
            [(gauge("stream_al:budget_burn:ratio"), "{{window}}")],
            [(None, GREEN), (1.0, AMBER), (1.5, RED)],
        ),
        curves(
            "Requests by reason", "Why labels are asked for: warm-up, informative, or by lot (explore).", "cps",
            [(rate("stream_al_label_requests_total", by="reason"), "{{reason}}")],
        ),
        curves(
            "Requests closed", "What became of requests, and of answers that fitted none.", "cps",
            [(rate("stream_al_labels_total", by="outcome"), "{{outcome}}")],
        ),
        curves(
            "Waiting for an answer", "From a request to its answer.", "s",
            [
                (quantile(0.5, "stream_al_label_wait_seconds"), "half of them"),
                (quantile(0.95, "stream_al_label_wait_seconds"), "95 %"),
            ],
        ),
        curves(
            "Samples without any chance", "The budget was spent: no estimate covers these samples.", "percentunit",
            [(gauge("stream_al:uncovered:ratio30m"), "of the last 30 minutes")],
            [(None, GREEN), (0.2, RED)], top=1.0,
        ),
        curves(
            "Remaining budget", "How many labels may still be asked for, by window.", "short",
            [(f"max by (window) ({gauge('stream_al_budget_remaining')})", "{{window}}")], wide=True,
        ),
    )  # fmt: skip
    return _filled(made, panels)


def accuracy() -> d.Dashboard:
    made = board(
        "stream-al-accuracy", "Accuracy you can trust",
        "How good the model is on all samples, with 95 % intervals, and what the labelled ones alone would say.",
    )  # fmt: skip
    made.with_variable(
        d.QueryVariable("window")
        .label("Window (samples)")
        .datasource(SOURCE)
        .query("label_values(stream_al_accuracy_ratio, window)")
        .refresh(dm.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .current(dm.VariableOption(text="1000", value="1000", selected=True))
    )

    def of(metric: str, estimator: str) -> str:
        return f"max({gauge(metric, _is('estimator', estimator) + ',' + _is('window', '$window'))})"

    share: list[Step] = [(None, RED), (0.6, AMBER), (0.7, GREEN)]
    width = f"{of('stream_al_accuracy_high_ratio', 'dr')} - {of('stream_al_accuracy_low_ratio', 'dr')}"
    off = f"{of('stream_al_accuracy_ratio', 'naive')} - {of('stream_al_accuracy_ratio', 'dr')}"
    honest = curves(
        "Accuracy", "The honest (doubly robust) estimate over all samples with its 95 % interval; beside it what "
        "counting right answers among the labelled samples says, which is biased, because hard ones are asked for.",
        "percentunit",
        [
            (of("stream_al_accuracy_high_ratio", "dr"), "honest, upper end"),
            (of("stream_al_accuracy_low_ratio", "dr"), "honest, lower end"),
            (of("stream_al_accuracy_ratio", "dr"), "honest"),
            (of("stream_al_accuracy_ratio", "naive"), "naive (labelled only)"),
            ("max(stream_al:accuracy_target:ratio)", "target"),
        ],
        wide=True, top=1.0,
    )  # fmt: skip
    _band(honest, "honest, lower end", "honest, upper end", BLUE)
    _colored(_colored(honest, "honest", BLUE), "naive (labelled only)", AMBER, dashed=True)
    _colored(honest, "target", RED, dashed=True)
    always = curves(
        "Accuracy since the last drift alarm", "A 99 % interval that holds at all times at once, so that it may be "
        "watched: the alert fires when its upper end is below the target.", "percentunit",
        [
            (f"max({gauge('stream_al_accuracy_anytime_high_ratio')})", "upper end"),
            (f"max({gauge('stream_al_accuracy_anytime_low_ratio')})", "lower end"),
            ("max(stream_al:accuracy_target:ratio)", "target"),
        ],
        top=1.0,
    )  # fmt: skip
    _colored(_band(always, "lower end", "upper end", BLUE), "target", RED, dashed=True)
    panels = (
        number("Honest accuracy", "Over all samples of the window.", "percentunit",
               of("stream_al_accuracy_ratio", "dr"), share),
        number("Upper end", "Of the 95 % interval.", "percentunit", of("stream_al_accuracy_high_ratio", "dr"), share),
        number("Lower end", "Of the 95 % interval.", "percentunit", of("stream_al_accuracy_low_ratio", "dr"), share),
        number("Width", "Of the 95 % interval: more labels make it narrower.", "percentunit", width,
               [(None, GREEN), (0.15, AMBER), (0.3, RED)]),
        number("Naive accuracy", "Over labelled samples alone: biased, do not use it.", "percentunit",
               of("stream_al_accuracy_ratio", "naive"), [(None, GREY)]),
        number("Naive minus honest", "How far off one would be without the weights.", "percentunit", off,
               [(None, GREY)]),
        honest,
        always,
        curves("Accuracy by window", "Short windows follow a change, long ones are narrower.", "percentunit",
               [(f"max by (window) ({gauge('stream_al_accuracy_ratio', _is('estimator', 'dr'))})",
                 "{{window}}")], top=1.0),
        curves("F1 by class", "Over the last configured window, of the classes shown most.", "percentunit",
               [(f"max by (class) ({gauge('stream_al_f1_ratio')})", "{{class}}")], top=1.0),
        curves("Precision and recall", "Of what is shown as a class, the share that is; of a class, the share shown.",
               "percentunit",
               [(f"max by (class) ({gauge('stream_al_precision_ratio')})", "precision {{class}}"),
                (f"max by (class) ({gauge('stream_al_recall_ratio')})", "recall {{class}}")], top=1.0),
        curves("Macro F1 and kappa", "Mean F1 of the classes; Cohen's kappa, 0 is chance.", "percentunit",
               [(f"max({gauge('stream_al_macro_f1_ratio')})", "macro F1"),
                (f"max({gauge('stream_al_kappa_ratio')})", "kappa")], top=1.0, bottom=None),
        curves("Log loss", "Mean of -log of the true class's probability, with its 95 % interval (nats).", "none",
               [(f"max({gauge('stream_al_log_loss_high_nats')})", "upper end"),
                (f"max({gauge('stream_al_log_loss_low_nats')})", "lower end"),
                (f"max({gauge('stream_al_log_loss_nats')})", "log loss")]),
        curves("Drift alarms", "Alarms in an hour: of labels (residual), or confirmed by the confidence in all.",
               "short", [(f"sum by (signal) (increase({gauge('stream_al_drift_alarms_total')}[1h]))", "{{signal}}")],
               [(None, GREEN), (1.0, RED)]),
        curves("Labels learned", "In all; they derive from the ledger and outlive every restart.", "short",
               [(f"max({gauge('stream_al_labels_total', _is('outcome', 'learned'))})", "learned")]),
    )  # fmt: skip
    return _filled(made, panels)


def health() -> d.Dashboard:
    made = board("stream-al-health", "Pipeline health", "Who is there, who is behind, and what went wrong.")
    own = 'job=~"stream-al.*"'
    none_or_some: list[Step] = [(None, GREEN), (1, RED)]
    panels = (
        number("Processes up", "Those that answer.", "short", f"sum({gauge('up', own)})", [(None, RED), (1, GREEN)],
               0),
        number("Owners of the ledger", "Exactly one learner; the others stand by.", "short",
               f"count({gauge('stream_al_pending_requests')}) or vector(0)", [(None, RED), (1, GREEN), (2, RED)], 0),
        number("Alerts", "That fire now.", "short",
               'count(ALERTS{alertstate="firing",alertname=~"StreamAl.*"}) or vector(0)', none_or_some, 0),
        number("Dead letters", "In the last hour.", "short",
               f"sum(increase({gauge('stream_al_dead_letters_total')}[1h]))", none_or_some, 0),
        number("Restarts", "In the last hour, of all processes.", "short",
               f"sum(changes({gauge('process_start_time_seconds', own)}[1h]))", [(None, GREEN), (3, AMBER), (9, RED)],
               0),
        number("Most behind", "The record that waits longest, of all topics.", "s",
               f"max({gauge('stream_al:consumer_lag:seconds')})", [(None, GREEN), (30, AMBER), (60, RED)]),
        curves("Consumer lag", "Records not read yet, by group and topic.", "short",
               [(gauge("stream_al:consumer_lag:records"), "{{consumergroup}}: {{topic}}")],
               [(None, GREEN), (100_000, RED)]),
        curves("Consumer lag in time", "For how long the first unread record has been seen waiting.", "s",
               [(gauge("stream_al:consumer_lag:seconds"), "{{consumergroup}}: {{topic}}")], [(None, GREEN), (60, RED)]),
        curves("Behind the ledger", "Records of the ledger that a process has not folded yet.", "short",
               [(gauge("stream_al_ledger_lag_records"), "{{instance}}")], [(None, GREEN), (1_000, RED)]),
        curves("Model version", "The same in all processes, but for moments.", "none",
               [(gauge("stream_al_model_version"), "{{instance}}")], bottom=None),
        curves("Samples by scorer", "Samples decided per second.", "cps",
               [(rate("stream_al_samples_total", by="instance"), "{{instance}}")]),
        curves("Time per batch and per label", "Scoring a batch of one partition; folding a label.", "s",
               [(quantile(0.95, "stream_al_score_batch_seconds"), "batch, 95 %"),
                (quantile(0.95, "stream_al_learn_seconds"), "label, 95 %")]),
        curves("Dead letters by reason", "They are kept in a topic and can be replayed.", "cps",
               [(rate("stream_al_dead_letters_total", by="stage, reason"), "{{stage}}: {{reason}}")]),
        curves("What should not happen", "In an hour: records not learned, models that disagreed, state lost, rejoins.",
               "short",
               [(f"sum(increase({gauge('stream_al_fold_errors_total')}[1h]))", "fold errors"),
                (f"sum(increase({gauge('stream_al_disagreements_total')}[1h]))", "disagreements"),
                (f"sum(increase({gauge('stream_al_partition_state_lost_total')}[1h]))", "partition states lost"),
                (f"sum(increase({gauge('stream_al_rejoins_total')}[1h]))", "rejoins")], [(None, GREEN), (1, RED)]),
        curves("Memory", "Resident, by process.", "bytes",
               [(gauge("process_resident_memory_bytes", own), "{{instance}}")]),
        curves("Processor", "Cores in use, by process.", "none",
               [(rate("process_cpu_seconds_total", own, by="instance"), "{{instance}}")]),
    )  # fmt: skip
    return _filled(made, panels)


BOARDS = {"labels-and-budget": labels_and_budget, "accuracy": accuracy, "pipeline-health": health}


def main() -> None:
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "dashboards"
    where.mkdir(parents=True, exist_ok=True)
    for name, build in BOARDS.items():
        text = JSONEncoder(sort_keys=True, indent=2).encode(build().build())
        (where / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
