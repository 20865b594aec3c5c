"""Status: what is wrong along the chain, and what the topics say."""

import json

import pytest

from stream_al.core.messages import Sums
from stream_al.status import (
    DeadLetters,
    Facts,
    Lag,
    Pending,
    Spending,
    pace_s,
    paced,
    rates,
    returning_finding,
    silent_links,
)
from stream_al.transport.port import Position, TopicPartition
from stream_al.wording import duration

from .conftest import jsons, samples, until

FINE = {
    "samples_topic": "samples",
    "samples_held": 100,
    "founded": True,
    "decided": 100,
    "scorer_group": "g-scorer",
    "learner_group": "g-learner",
    "pending": Pending(2, 30.0, ("s-1", "s-2")),
    "since_label_s": 10.0,
}
BEHIND = (
    Lag("g-scorer", "samples", 0, 5, 12, 7),
    Lag("g-learner", "labels-requested", 0, None, 3, 3),
    Lag("g-learner", "reports", 0, 0, 9, 9),
)


def links(**different):
    return silent_links(Facts(**{**FINE, **different}))


def test_a_chain_that_works_has_nothing_to_say():
    assert links() == ()
    assert links(lags=BEHIND) == ()


@pytest.mark.parametrize(
    ("different", "link", "words"),
    [
        ({"founded": False}, "ledger", "there is no ledger yet"),
        ({"samples_held": 0}, "samples", "no samples: samples is empty"),
        ({"decided": 0}, "samples", "came before the start"),
        (
            {"lags": BEHIND, "still": frozenset({("g-scorer", "samples")}), "unmoved_s": 1.5},
            "scorer",
            "nobody reads the samples: 7 records wait in samples, and none was taken for 1.5 s",
        ),
        (
            {"lags": BEHIND, "still": frozenset({("g-learner", "labels-requested")})},
            "learner",
            "nobody reads requests and labels: 3 records wait",
        ),
        (
            {
                "lags": (Lag("g-learner", "labels", 0, 5, 7, 2),),
                "still": frozenset({("g-learner", "labels")}),
            },
            "learner",
            "2 records wait in labels",
        ),
        ({"latest_ids": ["d" * 5_000] * 30}, "samples", f"'{'d' * 60}… (5,000 characters)' 30 times"),
        ({"spending": Spending(uncovered_share=0.8)}, "budget", "no tokens: 80% of the latest samples"),
        (
            {"spending": Spending(uncovered_share=1.0, per_hour=10, requests_last_hour=10)},
            "budget",
            "all 10 requests of the hour are spent",
        ),
        (
            {"pending": Pending(5, 7_300.0, ("s-9",)), "since_label_s": None},
            "labels",
            "nobody answers: 5 requests are open, the oldest for 2 h, and no label came ever",
        ),
        (
            {"dead_letters": DeadLetters(3, {}, ("1", "2", "3"))},
            "labels",
            "for example '1', '2', '3'; open requests are named 's-1', 's-2'",
        ),
        ({"latest_ids": ["d-1", "d-2"] * 20}, "samples", "is this a device or user id?"),
        ({"clock_ahead_s": 60.0}, "clocks", "60 s ahead"),
    ],
)
def test_each_silent_link_is_named(different, link, words):
    (finding,) = links(**different)
    assert finding.link == link
    assert words in finding.message
    assert finding.todo


def test_old_requests_are_no_silence_while_labels_come():
    assert links(pending=Pending(5, 90_000.0, ("s-1",)), since_label_s=60.0) == ()


def test_findings_come_in_the_order_of_the_chain():
    found = links(samples_held=0, pending=Pending(1, 1e6, ("s-1",)), since_label_s=None, clock_ahead_s=9.0)
    assert [finding.link for finding in found] == ["samples", "labels", "clocks"]


def test_unique_or_few_ids_are_not_warned_of():
    assert returning_finding([str(i) for i in range(100)]) is None
    assert returning_finding(["a"] * 10) is None


def test_why_little_is_asked_under_caps_is_said():
    assert paced(Spending(), 5) == ""
    assert (
        paced(Spending(every_s=180.0), 0)
        == "spread evenly, one in 3 min on average; the first may take as long"
    )
    full = Spending(requests=20, every_s=180.0, next_in_s=300.0)
    assert paced(full, 0).endswith("; the next one in 5 min at the earliest")
    assert paced(Spending(max_outstanding=5), 4) == ""
    assert paced(Spending(max_outstanding=5), 5).startswith("all 5 requests that may wait are open")
    assert pace_s(None, None) is None
    assert pace_s(20, 24) == 3_600


def test_rates_are_those_of_the_time_that_the_buckets_span():
    buckets = [(1_000, 2_000, Sums(samples=100, requests=5)), (2_000, 5_000, Sums(samples=300, requests=15))]
    found = rates(buckets, 15_000)
    assert (found.samples_per_s, found.requests_per_s, found.over_s) == (100.0, 5.0, 4.0)
    assert found.last_bucket_age_s == 10.0
    assert rates([], 0).samples_per_s is None


def test_spans_of_time_are_written_for_people():
    assert [duration(s) for s in (119, 121, 7_199, 172_799)] == ["119 s", "2 min", "120 min", "48 h"]


@pytest.fixture
def simulated(settings):
    """A finished run of 600 samples on the log of the settings."""
    from stream_al.simulate import Simulation

    stream = (({"x": (-1.0) ** i * (1 + i % 5)}, ["neg", "pos"][i % 2 == 0]) for i in range(600))
    with Simulation(settings("state_dir=null"), stream, path="log.db", delay=50) as simulation:
        *_, last = simulation.run()
    return last


def test_what_a_run_did_can_be_read_from_outside(cli, simulated, place):
    end = cli("status", "--json")
    assert end.exit_code == 0, end.stderr
    (status,) = jsons(end.stdout)
    assert status["labels"]["learned"] == simulated.labels > 50
    assert status["budget"]["samples"] == 600
    assert status["budget"]["requests"] == simulated.requests
    assert status["version"] == simulated.version
    assert set(status["classes"]) == {"neg", "pos"}
    assert status["pending"]["requests"] == 0
    assert status["accuracy"]["all"]["dr"]["value"] == pytest.approx(simulated.estimate.dr.value)
    assert status["accuracy"]["all"]["labels"] == simulated.labels
    assert sum(lag["records"] for lag in status["lags"] if lag["group"] == "stream-al-scorer") == 0
    assert status["silent"] == []
    assert (status["cooperative"], status["pseudo_labels"]) == ("off", 0)
    assert not (place / "state").exists()


def test_people_get_it_in_lines(cli, simulated):
    shown = cli("status").stdout
    for words in (
        "warming up" if simulated.labels < 10 else "asks by margin",
        "doubly robust",
        "no link is silent",
    ):
        assert words in shown


def test_nothing_is_cut_off_on_a_narrow_terminal(cli, simulated, monkeypatch):
    for width in ("60", "45"):
        monkeypatch.setenv("COLUMNS", width)
        shown = cli("status").stdout
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= int(width)


def test_with_cooperative_learning_it_says_how_much_the_model_taught_itself(cli, settings):
    from stream_al.simulate import Simulation

    stream = (({"x": (-1.0) ** i * (1 + i % 5)}, ["neg", "pos"][i % 2 == 0]) for i in range(600))
    chosen = settings("state_dir=null", "model.cooperative=true")
    with Simulation(chosen, stream, path="log.db", delay=50) as simulation:
        for _ in simulation.run():
            pass
        pseudo = simulation.fold.pseudo_labels
    (status,) = jsons(cli("status", "--json").stdout)
    assert (status["cooperative"], status["pseudo_labels"]) == ("on", pseudo)
    assert pseudo > 0
    shown = cli("status").stdout
    assert "pseudo-labels" in shown
    assert "did harm" not in shown


@pytest.fixture
def regressed(settings):
    """A finished run of 600 samples with numbers, on the log of the settings."""
    from stream_al.simulate import Simulation

    stream = (({"x": float(i % 7)}, 2.0 * (i % 7) + (i % 3) / 10) for i in range(600))
    chosen = settings("state_dir=null", "model.task=regression")
    with Simulation(chosen, stream, path="log.db", delay=50) as simulation:
        *_, last = simulation.run()
    return last


def test_in_regression_errors_stand_where_the_accuracy_would(cli, regressed):
    (status,) = jsons(cli("status", "--json").stdout)
    assert (status["task"], status["accuracy"]) == ("regression", {})
    assert status["errors"]["all"]["mae"]["value"] == pytest.approx(regressed.errors.mae.value)
    shown = cli("status").stdout
    for words in ("asks by random", "RMSE", "naive MAE", f"{regressed.errors.rmse.value:.4g}"):
        assert words in shown
    for words in ("classes", "accuracy", "by class", "drift"):
        assert words not in shown


def test_a_number_s_story_tells_by_how_much_the_model_was_off(cli, regressed):
    asked = jsons(cli("tap", "labels-requested", "--from", "beginning", "--no-follow", "--json").stdout)
    meta = [record["value"]["meta"] for record in asked if record["value"]][-1]
    text = cli("inspect", meta["id"]).stdout
    assert f"said {meta['model']['value']:.6g}" in text
    assert "the model was off by " in text
    assert "to be correct" not in text


def test_a_service_that_is_down_is_noticed_by_what_waits(cli, simulated):
    cli("send", "samples", stdin=samples(30))
    (status,) = jsons(cli("status", "--json").stdout)
    assert [finding["link"] for finding in status["silent"]] == ["scorer"]
    assert "30 records wait in samples" in status["silent"][0]["message"]
    assert "✗ scorer: nobody reads the samples" in cli("status").stdout


def test_a_learner_that_is_down_is_noticed_by_labels_alone(cli, simulated):
    cli("send", "labels", stdin='{"id": "s-1", "label": "pos"}')
    (status,) = jsons(cli("status", "--json").stdout)
    assert [finding["link"] for finding in status["silent"]] == ["learner"]
    assert "1 records wait in labels" in status["silent"][0]["message"]


def test_labels_that_were_read_and_wait_for_their_request_are_no_silence(cli, simulated, broker):
    cli("send", "labels", stdin='{"id": "s-1", "label": "pos"}')
    labels = TopicPartition("labels", 0)
    end = broker.ends("labels")[0]
    with broker.join("stream-al-learner", "ledger", writer="stream-al-learner", fetch=False) as member:
        member.fence_predecessors()
        until(lambda: TopicPartition("ledger", 0) in member.poll(0, 0.1).assigned)
        member.commit([], {labels: Position(end - 1, f"[{end},{end - 1}]")})
    (status,) = jsons(cli("status", "--json").stdout)
    assert status["silent"] == []


def test_the_pace_of_caps_is_shown_and_ids_are_shortened(cli, settings):
    from stream_al.simulate import Simulation

    name = "n" * 5_000
    request = {"meta": {"id": name, "request_id": "0-9", "requested_at": "2026-01-01T00:00:00Z"}}
    Simulation(settings("state_dir=null", "budget.per_hour=20"), iter(()), path="log.db").close()
    cli("send", "labels-requested", stdin=json.dumps(request))
    shown = cli("status").stdout
    assert "one in 3 min on average" in shown
    assert "(5,000 characters)" in shown
    assert "n" * 200 not in shown.replace("\n", "")
    assert jsons(cli("status", "--json").stdout)[0]["pending"]["ids"] == [name]


def test_before_the_first_start_that_is_what_is_said(cli, broker):
    (status,) = jsons(cli("status", "--json").stdout)
    assert [finding["link"] for finding in status["silent"]] == ["ledger", "samples"]
    assert cli("status").exit_code == 0


# inspect


def test_a_sample_s_story_is_told_and_its_coin_derived_again(cli, simulated):
    asked = [
        record["value"]["meta"]
        for record in jsons(
            cli("tap", "labels-requested", "--from", "beginning", "--no-follow", "--json").stdout
        )
        if record["value"]
    ]
    meta = asked[-1]
    for name in (meta["id"], meta["request_id"]):
        (found,) = jsons(cli("inspect", name, "--json").stdout)
        (case,) = found["cases"]
        assert case["state"] == "learned"
        assert case["coin_agrees"] is True
        assert case["coin"] == meta["query"]["coin"]
        assert case["closing"]["model"] == case["request"]["model"]
        start, end = case["bucket"]["ranges"][str(meta["source"]["partition"])]
        assert start <= meta["source"]["offset"] < end
        assert case["sample"]["id"] == meta["id"]
    text = cli("inspect", meta["id"]).stdout
    assert "recorded, as derived; below p: yes" in text


def test_a_sample_that_was_not_asked_for_is_found_too(cli, simulated):
    asked = cli("tap", "labels-requested", "--from", "beginning", "--no-follow").stdout
    name = next(f"s-{i}" for i in range(599, 0, -1) if f'"s-{i}"' not in asked)
    (found,) = jsons(cli("inspect", name, "--json").stdout)
    (case,) = found["cases"]
    assert (case["state"], case["coin_agrees"], case["id"]) == ("not requested", None, name)
    assert 0 <= case["coin"] < 1
    assert "no decision is recorded" in cli("inspect", name).stdout
    (found,) = jsons(cli("inspect", f"0-{case['source']['offset']}", "--json").stdout)
    assert found["cases"][0]["id"] == name


@pytest.fixture
def fed(cli, settings, broker):
    """A service in one turn after another: ``fed(*lines)`` lets it read them."""
    from stream_al.service.loop import Service

    cli("send", "samples", stdin='{"id": "early", "features": {}}')
    with Service(broker, settings("state_dir=null", "samples.id=who.id")) as service:

        def feed(*lines):
            cli("send", "samples", stdin="\n".join(lines))
            for _ in range(4):
                service.turn(0.15)

        for _ in range(4):
            service.turn()
        yield feed


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('{"who": {"id": "bad"}, "features": {"x": {"y": 1}}}', "bad"),
        ('{"who": {"id": "bad"}, "features": {"x": NaN}}', "bad"),
        ('{"who": {"id": 7}, "features": {"x": {"y": 1}}}', "7"),
        ('{"features": {"x": NaN}}', "samples-0-2"),
    ],
)
def test_of_a_sample_that_could_not_be_read_the_reason_is_told(cli, fed, line, name):
    fed('{"who": {"id": "good"}, "features": {"x": 1}}', line)
    shown = cli("inspect", name, "--set", "samples.id=who.id").stdout
    assert "sample: feature 'x' is " in shown
    assert "(samples-0@2)" in shown
    assert "undecided" not in shown
    shown = cli("inspect", "0-2", "--set", "samples.id=who.id").stdout
    assert "state      dead letter: " in shown
    assert "sample: feature 'x' is " in shown


def test_a_sample_is_undecided_only_until_a_scorer_has_read_it(cli, fed):
    fed(*(f'{{"who": {{"id": "s-{i}"}}, "features": {{}}}}' for i in range(9)))
    cli("send", "samples", stdin='{"who": {"id": "late"}, "features": {}}')
    states = [jsons(cli("inspect", f"0-{i}", "--json").stdout)[0]["cases"][0]["state"] for i in range(1, 11)]
    assert set(states[:9]) <= {"not requested", "open"}
    assert states[9] == "undecided"


def test_a_sample_from_before_the_start_was_skipped(cli, fed):
    assert "state      skipped: it came before the service first started" in cli("inspect", "early").stdout


def test_what_is_not_found_is_told_with_where_it_was_looked_for(cli, simulated):
    end = cli("inspect", "nobody")
    assert end.exit_code == 1
    assert end.stdout == ""
    assert "600 records of samples" in end.stderr


def test_a_forged_coin_is_noticed(cli, simulated, broker):
    from stream_al.codec import decode_ledger, encode
    from stream_al.core.messages import Learned
    from stream_al.scan import scan
    from stream_al.transport.port import Output

    closing = next(r for r in map(decode_ledger, scan(broker, "ledger")) if isinstance(r, Learned))
    forged = json.loads(encode(closing)) | {"id": "forged", "request_id": "0-599"}
    forged["source"]["offset"], forged["query"]["coin"] = 599, 0.001
    broker.append([Output("ledger", json.dumps(forged).encode())])
    (found,) = jsons(cli("inspect", "forged", "--json").stdout)
    assert found["cases"][0]["coin_agrees"] is False
    assert "is not genuine" in cli("inspect", "forged").stdout
