"""The system on Apache Kafka, from its first start to its end. The tests stand in the order in which they run."""

from __future__ import annotations

import json

import pytest

from tests.docker.expressions import alert_operands, panel_expressions, recorded
from tests.docker.stack import PORTS, Stack, until

PROFILE = "demo"
SERVICE = ("scorer-1", "scorer-2", "learner-1", "learner-2", "desk")
SCORERS, LEARNERS = SERVICE[:2], SERVICE[2:4]
LONG_S = 120  # on a machine with much else to do


@pytest.fixture(scope="module")
def told(stack):
    """What the webhook was told, a line for each time."""
    return stack.hook()


def learned(stack: Stack) -> float:
    return max(stack.metrics(name).get('stream_al_labels_total{outcome="learned"}', 0.0) for name in LEARNERS)


def tapped(stack: Stack, topic: str) -> list[dict]:
    text = stack.stream_al("desk", "tap", topic, "--from", "beginning", "--no-follow")
    return [json.loads(line) for line in text.splitlines()]


def requested(stack: Stack, prefix: str) -> set[str]:
    ids = {message["data"]["id"] for message in tapped(stack, "labels-requested")}
    return {name for name in ids if name.startswith(prefix)}


def answered(stack: Stack) -> set[str]:
    return {record["id"] for record in tapped(stack, "ledger") if record["kind"] == "label"}


def test_the_compose_file_is_valid(engine, stack):
    stack.compose("config", "--quiet")


def started(stack: Stack) -> dict[str, str]:
    return {name: stack.state(name)["StartedAt"] for name in SERVICE}


def test_all_may_start_in_any_order(stack, engine):
    """The last first, Kafka at the end, topics never made by hand; nobody gives up meanwhile."""
    stack.compose("create", "--no-build")
    for name in ("netns", *reversed(SERVICE)):
        engine.docker("start", f"stream-al-{name}-1")
    until(lambda: all(stack.metrics(name) for name in SERVICE), LONG_S, "not all answer without Kafka")
    assert not any(map(stack.ready, SERVICE))
    begun = started(stack)
    engine.docker("start", "stream-al-kafka-1")
    until(lambda: all(map(stack.ready, SERVICE)), LONG_S, "they do not find Kafka")
    assert started(stack) == begun


def test_the_rest_comes_up_and_all_are_healthy(stack):
    begun = started(stack)
    stack.up()
    watched = (*SERVICE, "kafka", "prometheus", "alertmanager")
    until(
        lambda: {stack.state(n)["Health"]["Status"] for n in watched} == {"healthy"},
        LONG_S,
        "not all are healthy",
    )
    assert stack.state("topics")["ExitCode"] == 0
    assert started(stack) == begun


def test_limits_and_rights_are_those_of_the_file(stack, composed):
    for name in SERVICE:
        host, config = stack.container(name)["HostConfig"], stack.container(name)["Config"]
        assert host["ReadonlyRootfs"]
        assert host["Init"]
        assert host["CapDrop"] == ["ALL"]
        assert host["Memory"] == 768 << 20
        assert host["NanoCpus"] == 10**9
        assert host["PidsLimit"] == 128
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert config["User"] == "10001:10001"
    for name in ("kafka", "prometheus", "alertmanager"):
        host = stack.container(name)["HostConfig"]
        assert host["Memory"] > 0
        assert host["RestartPolicy"]["Name"] == "unless-stopped"


def test_samples_are_scored_and_answers_learned(stack):
    """The demo's, and those of somebody who sends with the command line."""
    lines = "".join(
        json.dumps({"id": f"mine-{n}", "features": {"x": n % 7, "y": n % 3}}) + "\n" for n in range(400)
    )
    assert "sent 400 lines" in stack.stream_al("desk", "send", "samples", stdin=lines)
    asked = until(lambda: requested(stack, "mine-"), LONG_S, "nothing is asked")
    answers = "".join(json.dumps({"id": name, "label": n % 2 == 0}) + "\n" for n, name in enumerate(asked))
    stack.stream_al("desk", "send", "labels", stdin=answers)
    until(lambda: asked <= answered(stack), LONG_S, "answers are not learned")
    until(lambda: learned(stack) > len(asked) + 30, LONG_S, "the demo's answers are not learned")
    shares = [stack.total("stream_al_samples_total", name) for name in SCORERS]
    assert min(shares) > 0, f"one scorer does all the work: {shares}"


def test_the_desk_lets_nobody_in_without_a_token(stack):
    ((status, text),) = stack.ask("http://127.0.0.1:9108/requests")
    assert status in (401, 403), text


def test_a_dead_letter_raises_an_alert_that_reaches_the_webhook(stack, told):
    stack.stream_al("desk", "send", "samples", stdin="{broken\n" * 3)
    until(lambda: "StreamAlDeadLetters" in told.read_text(), LONG_S, lambda: told.read_text()[:2_000])
    sent = [json.loads(line) for line in told.read_text().split("\n") if line]
    ((alert, *_),) = [
        [a for a in one["alerts"] if a["labels"]["alertname"] == "StreamAlDeadLetters"]
        for one in sent
        if "StreamAlDeadLetters" in one["groupLabels"].values()
    ][:1]
    assert alert["status"] == "firing"
    assert alert["labels"]["reason"] == "not_json"
    assert alert["annotations"]["runbook_url"].endswith("#streamaldeadletters")


def test_every_expression_finds_something(stack):
    """Panels, both sides of each alert, and what is recorded: at least one value that is a number."""
    wanted = {**panel_expressions(), **alert_operands(), **recorded()}

    def silent():
        found = stack.query(*wanted.values())
        return [f"{name}: {wanted[name]}" for name, values in zip(wanted, found, strict=True) if not values]

    until(lambda: not silent(), LONG_S, lambda: "\n".join(silent()))
    assert len(wanted) > 80


def test_all_rules_are_evaluated_without_an_error(stack):
    ((_, text),) = stack.ask("http://127.0.0.1:9090/api/v1/rules")
    rules = [rule for group in json.loads(text)["data"]["groups"] for rule in group["rules"]]
    assert len(rules) > 25
    assert {rule["health"] for rule in rules} == {"ok"}, [r for r in rules if r["health"] != "ok"]


def test_prometheus_reaches_everybody(stack):
    assert stack.query('sum(up{job="stream-al"})') == [[len(SERVICE)]]


def test_the_standby_takes_over_from_an_owner_that_is_killed(stack, engine):
    """The killed one stays away; had it come back at once, either of the two could own the ledger now."""
    owner = until(stack.owner, LONG_S, "nobody owns the ledger")
    standby = next(name for name in LEARNERS if name != owner)
    before = learned(stack)
    engine.docker("kill", f"stream-al-{owner}-1")
    assert stack.state(owner)["ExitCode"] == 137
    until(lambda: stack.owner() == standby, LONG_S, "the standby does not take over")
    until(lambda: learned(stack) > before, LONG_S, "nothing more is learned")
    engine.docker("start", f"stream-al-{owner}-1")
    until(lambda: stack.ready(owner), LONG_S, "the killed one does not come back")


def test_a_scorer_that_stands_still_is_replaced_and_comes_back(stack):
    first, second = SCORERS
    with stack.paused(first):
        owned = 'kafka_consumergroup_lag{consumergroup="stream-al-scorer"'
        until(
            lambda: sum(name.startswith(owned) for name in stack.metrics(second)) == 4,
            LONG_S,
            "its partitions are not taken over",
        )
    until(lambda: all(map(stack.ready, SCORERS)), LONG_S, "it does not come back")
    before = stack.total("stream_al_samples_total", first)
    until(
        lambda: stack.total("stream_al_samples_total", first) > before, LONG_S, "it scores nothing any more"
    )


def test_a_broker_that_is_killed_is_waited_for(stack):
    before = {name: stack.container(name)["RestartCount"] for name in SERVICE}
    stack.kill("kafka")
    until(lambda: stack.container("kafka")["RestartCount"] == 1, LONG_S, "Kafka is not started again")
    until(lambda: all(map(stack.ready, SERVICE)), LONG_S, "they do not come back")
    count = learned(stack)
    until(lambda: learned(stack) > count, LONG_S, "nothing more is learned")
    assert {name: stack.container(name)["RestartCount"] for name in SERVICE} == before


def test_nothing_is_learned_twice(stack):
    records = tapped(stack, "ledger")
    closed = [r["request_id"] for r in records if r["kind"] in ("label", "skip", "expire")]
    assert len(closed) == len(set(closed)) > 30
    assert sum(r["kind"] == "genesis" for r in records) == 1


def test_all_drain_within_ten_seconds_and_end_with_zero(stack):
    """One that needs longer is killed, and ends with 137."""
    stack.compose("stop", "--timeout", "10", *SERVICE)
    assert {name: stack.state(name)["ExitCode"] for name in SERVICE} == dict.fromkeys(SERVICE, 0)
    said = stack.compose("logs", "--no-log-prefix", *SERVICE).stdout
    assert said.count('"stopping"') >= len(SERVICE)
    assert "this is a bug" not in said


def test_it_goes_down_and_leaves_nothing(stack, engine):
    stack.down()
    assert engine.docker("ps", "--all", "--quiet").stdout == ""
    assert engine.docker("volume", "ls", "--quiet").stdout == ""


def test_the_ports_asked_are_those_of_the_file(composed):
    set_ = {n: int(composed[n]["environment"]["STREAM_AL_HTTP__PORT"]) for n in SERVICE}
    assert {name: PORTS[name] for name in SERVICE} == set_
