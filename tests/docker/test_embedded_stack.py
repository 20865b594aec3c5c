"""The same without Kafka: one process on a log in one file, which the demo's processes share."""

from __future__ import annotations

from tests.docker.stack import Stack, until

PROFILE = "embedded-demo"
LONG_S = 120


def learned(stack: Stack) -> float:
    return stack.metrics("embedded").get('stream_al_labels_total{outcome="learned"}', 0.0)


def test_it_learns_what_the_demo_answers(stack):
    stack.up()
    until(lambda: stack.ready("embedded"), LONG_S, "it is not ready")
    until(lambda: learned(stack) > 10, LONG_S, "nothing is learned")


def test_no_process_of_the_other_profile_runs(stack):
    running = set(stack.compose("ps", "--services").stdout.split())
    ours = {"embedded", "embedded-feed", "embedded-annotator"}
    assert running == {*ours, "netns", "prometheus-embedded", "alertmanager"}


def test_prometheus_reaches_it(stack):
    until(lambda: stack.query('up{job="stream-al"}') == [[1.0]], LONG_S, "Prometheus does not reach it")


def test_killed_in_the_middle_it_goes_on(stack):
    before = learned(stack)
    stack.kill("embedded")
    until(lambda: stack.container("embedded")["RestartCount"] == 1, LONG_S, "it is not started again")
    until(lambda: learned(stack) > before, LONG_S, "nothing more is learned")


def test_it_drains_within_ten_seconds_and_ends_with_zero(stack):
    stack.compose("stop", "--timeout", "10", "embedded")
    assert stack.state("embedded")["ExitCode"] == 0
