"""The metrics agree with the topics, keep to Prometheus' conventions, and exist before they count."""

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from stream_al import codec
from stream_al.codec import answer_bytes, decode_ledger, decode_request
from stream_al.config import load
from stream_al.core import fold
from stream_al.core.accuracy import Interval
from stream_al.core.classification import Insufficient
from stream_al.core.messages import Answer, LabelRequest, Learned, Skipped
from stream_al.core.regression import Errors
from stream_al.datasets import stream
from stream_al.metrics import DOCUMENT, FOLD_ERRORS, METRICS, UNREADABLE, Exposition, document
from stream_al.service.figures import BATCH_BOUNDS_S, Figures, Observations
from stream_al.service.loop import Service
from stream_al.simulate import Simulation
from stream_al.transport.port import Output, TopicPartition

SETTINGS = load(
    None,
    [
        "state_dir=null",
        "budget.fraction=0.15",
        "budget.per_hour=100000",
        "labels.wait_unknown_s=1",
        "ledger.bucket_s=0.1",
        "samples.max_bytes=1024",
        "samples.start=earliest",
        "accuracy.random_twin=true",
        "challengers=[{name: bayes, spec: [river.naive_bayes.GaussianNB]}]",
    ],
    environ={},
)
TOPICS = SETTINGS.topics


def read(broker, topic):
    """Return every committed record of a topic."""
    with broker.reader({TopicPartition(topic, p): 0 for p in range(broker.partitions(topic))}) as reader:
        found = []
        while batch := reader.poll(10_000, 0.0):
            found += [record for records in batch.values() for record in records]
        return found


def unanswered(simulation):
    pending = simulation.service.learner.machine.pending
    return [request for _, request, *_ in simulation.annotator.due if request.request_id in pending]


def disturb(simulation):
    """Send what a stream should not hold, and answers of every kind."""
    first, second, third, fourth = unanswered(simulation)[:4]
    samples = [b"{", b'{"id": 1, "features": {"x": [[]]}}', b'"' + b"x" * 2_000 + b'"', None]
    answers = [
        Answer(first.id, skip=True, request_id=first.request_id),
        Answer("nobody", label=True),
        Answer("other", label=True, request_id=second.request_id),
        Answer(third.id, label=True),  # the annotator's own answer comes second
    ]
    withdrawal = Output(TOPICS.labels_requested, None, key=fourth.id.encode())
    simulation.broker.append([Output(TOPICS.samples, value) for value in samples])
    simulation.broker.append([Output(TOPICS.labels, value) for value in answer_bytes(answers)])
    simulation.broker.append([withdrawal, Output(TOPICS.labels, b"not json"), Output(TOPICS.labels, b"{}")])


@pytest.fixture(scope="module")
def simulation():
    with Simulation(SETTINGS, stream("phishing", 600, 1), delay=250) as simulation:
        disturbed = False
        for _ in simulation.run():
            if not disturbed and len(unanswered(simulation)) >= 4:
                disturb(simulation)
                disturbed = True
        assert disturbed
        for _ in range(3):
            simulation.clock.ms += 2_000
            simulation.service.turn()
        yield simulation


@pytest.fixture(scope="module")
def figures(simulation):
    return replace(Figures.of(simulation.service), unread_s={("g", "t", 0): 0.0})


def series(figures, accept=""):
    """Return what a scrape gives: each sample's value by its name and labels."""
    text = Exposition(lambda: figures).render(accept)[0].decode()
    return {(s.name, *s.labels.values()): s.value for family in parse(text) for s in family.samples}


def by_label(figures, name):
    return {key[1]: value for key, value in series(figures).items() if key[0] == name and value}


# --- what the numbers mean ---------------------------------------------------------------------------------------


def test_samples_are_counted_as_they_were_decided(simulation, figures):
    requests = [
        r
        for r in map(decode_request, read(simulation.broker, TOPICS.labels_requested))
        if isinstance(r, LabelRequest)
    ]
    sums = simulation.fold.accuracy.everything
    found = by_label(figures, "stream_al_samples_total")
    assert found["requested"] == len(requests) == sums.requests
    assert found["invalid"] == 4 == sums.invalid
    assert (
        found.get("uncovered", 0) == series(figures)["stream_al_uncovered_samples_total",] == sums.uncovered
    )
    assert sum(found.values()) == len(read(simulation.broker, TOPICS.samples)) == 604


def test_requests_are_counted_by_the_reason_in_the_topic(simulation, figures):
    requests = map(decode_request, read(simulation.broker, TOPICS.labels_requested))
    reasons = Counter(r.query.reason for r in requests if isinstance(r, LabelRequest))
    assert by_label(figures, "stream_al_label_requests_total") == reasons
    assert len(reasons) > 1


def test_labels_are_counted_by_their_fate_in_the_ledger(simulation, figures):
    fates = Counter()
    for record in map(decode_ledger, read(simulation.broker, TOPICS.ledger)):
        if isinstance(record, Learned):
            fates["learned" if record.learn else "credited"] += 1
        elif record.kind in ("skip", "expire"):
            fates[{"skip": "skipped"}.get(record.kind) or record.reason] += 1
    assert fates["skipped"] == fates["withdrawn"] == 1
    rejected = {"unknown_request": 1, "id_mismatch": 1, "closed_request": 3}
    assert by_label(figures, "stream_al_labels_total") == fates | rejected


def test_dead_letters_are_counted_by_the_headers_in_the_topic(simulation, figures):
    letters = Counter()
    for record in read(simulation.broker, TOPICS.dead_letters):
        headers = {k.removeprefix("stream_al.error."): v.decode() for k, v in record.headers}
        letters[headers["stage"], headers["reason"]] += 1
    found = {
        (s.labels["stage"], s.labels["reason"]): s.value
        for family in parse(Exposition(lambda: figures).render()[0].decode())
        for s in family.samples
        if s.name == "stream_al_dead_letters_total" and s.value
    }
    assert found == letters
    assert letters["scorer", "too_large"] == letters["scorer", "empty"] == letters["learner", "not_json"] == 1


def test_waits_are_those_between_request_and_answer(simulation, figures):
    answered = [
        r
        for r in map(decode_ledger, read(simulation.broker, TOPICS.ledger))
        if isinstance(r, Learned | Skipped)
    ]
    found = series(figures)
    assert found["stream_al_label_wait_seconds_count",] == len(answered)
    assert 0 < found["stream_al_label_wait_seconds_sum",] < 10 * len(answered)


def test_timings_count_every_batch_and_every_learned_label(simulation, figures):
    found = series(figures)
    assert found["stream_al_learn_seconds_count",] == simulation.fold.learned
    assert 0 < found["stream_al_score_batch_seconds_count",] <= 600
    assert 0 < found["stream_al_score_batch_seconds_sum",] < 10


def test_the_accuracy_is_the_fold_s_with_its_interval(simulation, figures):
    found, estimate = series(figures), simulation.fold.accuracy.window(None)
    for name, interval in (("dr", estimate.dr), ("hajek", estimate.hajek), ("naive", estimate.naive)):
        assert found["stream_al_accuracy_ratio", name, "all"] == interval.value
        assert found["stream_al_accuracy_low_ratio", name, "all"] == interval.low
        assert found["stream_al_accuracy_high_ratio", name, "all"] == interval.high


def test_budgets_are_shown_for_the_limits_that_are_set(simulation, figures):
    found = series(figures)
    assert set(by_label(figures, "stream_al_budget_limit")) == {"stream", "hour"}
    assert found["stream_al_budget_limit", "hour"] == 100_000
    for window in ("stream", "hour"):
        limit, spent = found["stream_al_budget_limit", window], found["stream_al_budget_spent", window]
        assert found["stream_al_budget_remaining", window] == limit - spent >= 0
    assert found["stream_al_budget_spent", "stream"] == simulation.fold.accuracy.everything.requests


def test_lags_are_named_as_the_exporters_name_them(figures):
    text = Exposition(lambda: figures).render()[0].decode()
    lags = [s for f in parse(text) for s in f.samples if s.name == "kafka_consumergroup_lag"]
    assert {(s.labels["consumergroup"], s.labels["topic"]) for s in lags} == {
        ("stream-al-scorer", "samples"),
        ("stream-al-learner", "labels-requested"),
        ("stream-al-learner", "reports"),
        ("stream-al-learner", "labels"),
    }
    assert {s.value for s in lags} == {0}


ERRORS = {"stream_al_error", "stream_al_error_low", "stream_al_error_high"}  # exported in regression only


# --- who exports what ----------------------------------------------------------------------------------------------


def test_what_derives_from_the_ledger_outlives_a_restart_and_what_does_not_begins_anew(simulation, figures):
    simulation.service.close()
    simulation.service = Service(simulation.broker, SETTINGS, "all", clock=simulation.clock, slot="again")
    for _ in range(5):
        simulation.service.turn()
    before, after = series(figures), series(Figures.of(simulation.service))
    kept = (
        "stream_al_labels_total",
        "stream_al_uncovered",
        "stream_al_accuracy",
        "stream_al_fold_errors",
        "stream_al_model",
    )
    rejected = {"unknown_request", "closed_request", "id_mismatch"}
    same = [key for key in before if key[0].startswith(kept) and not rejected & set(key)]
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert not any(
        v for k, v in after.items() if k[0] in ("stream_al_samples_total", "stream_al_label_requests_total")
    )


@pytest.mark.parametrize(("role", "missing"), [("scorer", "owner"), ("learner", "scorer")])
def test_a_process_exports_the_metrics_of_its_role_only(simulation, figures, role, missing):
    figures = replace(figures, **{"learner" if role == "scorer" else "scorer": None})
    names = set(re.findall(r"^# TYPE (\w+)", Exposition(lambda: figures).render()[0].decode(), re.MULTILINE))
    absent = {m.name for m in METRICS if m.exporter == missing}
    assert {m.name for m in METRICS} - names - ERRORS == absent - ERRORS


def test_in_regression_there_are_errors_and_no_accuracy(figures):
    few = Insufficient(4.0)
    known = Errors(900, 0, 40, 35.0, Interval(2.0, 1.5, 2.5), few, 1.8, 2.4)
    learner = replace(figures.learner, estimates={}, errors={"1000": known}, challengers=())
    found = series(replace(figures, learner=learner))
    ends = [found[f"stream_al_error{end}", "mae", "1000"] for end in ("", "_low", "_high")]
    assert ends == [2.0, 1.5, 2.5]
    assert math.isnan(found["stream_al_error", "rmse", "1000"])
    absent = ("stream_al_accuracy", "stream_al_macro_f1", "stream_al_kappa", "stream_al_log_loss")
    assert not [name for name, *_ in found if name.startswith(absent)]


def test_every_metric_of_the_table_is_rendered(figures):
    text = Exposition(lambda: figures).render()[0].decode()
    assert "stream_al_error" not in text, "there are no errors where there is an accuracy"
    for metric in METRICS:
        if metric.name in ERRORS:
            continue
        kind = "gauge" if metric.type == "info" else metric.type
        assert f"# TYPE {metric.name} {kind}\n" in text
        assert re.search(rf"^{metric.name}(_bucket)?(\{{| )", text, re.MULTILINE)


def test_what_is_rendered_has_the_labels_of_the_table(figures):
    labels = {metric.name: set(metric.labels) for metric in METRICS}
    for family in parse(Exposition(lambda: figures).render()[0].decode()):
        for sample in family.samples:
            if family.name in labels or sample.name in labels:
                wanted = labels.get(sample.name, labels.get(family.name))
                assert set(sample.labels) - {"le"} == wanted


def test_counters_are_there_before_they_count():
    with Simulation(SETTINGS, iter(())) as simulation:
        found = series(Figures.of(simulation.service))
    assert found["stream_al_labels_total", "expired"] == 0
    assert found["stream_al_samples_total", "uncovered"] == 0
    assert found["stream_al_drift_alarms_total", "residual"] == 0
    assert found["stream_al_label_wait_seconds_bucket", "+Inf"] == 0
    assert ("stream_al_dead_letters_total", "not_json", "scorer") in found
    assert math.isnan(found["stream_al_query_rate_ratio",])
    assert math.isnan(found["stream_al_accuracy_ratio", "dr", "all"])


def test_every_reason_for_a_dead_letter_is_known_beforehand():
    source = Path(codec.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'BadRecord\("(\w+)"', source)) == {
        r for reasons in UNREADABLE.values() for r in reasons
    }


def test_every_error_of_the_fold_is_known_beforehand():
    source = Path(fold.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'errors\["(\w+)"\]', source)) <= set(FOLD_ERRORS)


def test_nothing_but_the_process_is_shown_before_the_first_figures():
    found = {key[0] for key in series(Figures.away("starting"))}
    assert "stream_al_build_info" in found
    assert "process_cpu_seconds_total" in found
    assert not {"stream_al_samples_total", "stream_al_labels_total", "kafka_consumergroup_lag"} & found


# --- how they are written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_names_keep_to_the_conventions(metric):
    words = metric.name.split("_")
    assert re.fullmatch(r"(stream_al|kafka_consumergroup)(_[a-z][a-z0-9]*)+", metric.name)
    assert (words[-1] == "total") == (metric.type == "counter")
    assert (words[-1] == "info") == (metric.type == "info")
    assert not {"count", "sum", "bucket", "created"} & {words[-1]}
    assert not {"ms", "milliseconds", "minutes", "percent", "mb"} & set(words)
    if metric.unit in ("seconds", "ratio", "bytes"):
        assert words[-1] == metric.unit
    assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in metric.labels)
    assert not {"le", "quantile", "job", "instance"} & set(metric.labels)
    assert not set(words) & (set(metric.labels) - {"consumergroup"})
    assert metric.help.endswith(".")


def test_names_are_unique():
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (
            "application/openmetrics-text; version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0",
        ),
        ("application/openmetrics-text", "application/openmetrics-text"),
        ("application/openmetrics-text; version=x", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("", "text/plain; version=0.0.4"),
    ],
)
def test_the_format_is_the_one_that_is_accepted(figures, accept, content_type):
    body, found = Exposition(lambda: figures).render(accept)
    assert found.startswith(content_type)
    families = list((parse_openmetrics if "openmetrics" in content_type else parse)(body.decode()))
    assert len(families) > len(METRICS)


def test_a_label_may_hold_any_text(figures):
    odd = replace(figures, model='a"b\\c\nd')
    assert ("stream_al_fold_errors_total", "unreadable", 'a"b\\c\nd') in series(odd)


def test_a_histogram_counts_each_value_once():
    observations = Observations(BATCH_BOUNDS_S)
    for seconds in (0.0, 0.001, 0.0011, 2.5, 9.0):
        observations.add(seconds)
    picture = observations.picture()
    observations.add(1.0)
    assert (picture.counts[0], picture.counts[1], picture.counts[-2:], sum(picture.counts)) == (
        2,
        1,
        (1, 1),
        5,
    )


def test_the_reference_is_generated():
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `python -m stream_al.metrics`"
