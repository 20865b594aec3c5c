"""Checking before running."""

import json

import pytest

from stream_al.cli.outcome import styled
from stream_al.transport.port import TopicSpec, Unavailable

from .conftest import SETTINGS, jsons, samples, write_settings


def checked(cli, *arguments):
    """Return the exit code and (level, what, message, todo) of each line."""
    end = cli("check", "--json", *arguments)
    return end.exit_code, [tuple(line.values()) for line in jsons(end.stdout)[0]]


def found(lines, level):
    return [" ".join(line[1:]) for line in lines if line[0] == level]


def test_good_settings_need_nothing(cli, place):
    code, lines = checked(cli, "--deny-warnings")
    assert (code, {line[0] for line in lines}) == (0, {"ok"})
    assert not (place / "log.db").exists()
    shown = cli("check").stdout
    assert "✓ config: config.yaml can be used" in shown
    assert "✓ model: MixtureClassifier" in shown


def test_every_problem_of_the_settings_is_a_line(cli):
    code, lines = checked(cli, "--set", "budget.fracton=1", "--set", "seed=x")
    assert code == 78
    assert len(found(lines, "error")) == 2


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("[river.linear_model.LogisticRegresion]", "did you mean river.linear_model.LogisticRegression"),
        ("[river.linear_model.LinearRegression]", "is not a classifier"),
        ("[{river.linear_model.LogisticRegression: {l3: 1}}]", "is no argument"),
    ],
)
def test_a_model_that_cannot_be_built_fails(cli, spec, words):
    code, lines = checked(cli, "--no-broker", "--set", f"model.spec={spec}")
    assert code == 78
    assert words in found(lines, "error")[0]
    assert found(lines, "error")[0].startswith("model --set model.spec[0]")


def test_a_regressor_learns_numbers(cli):
    code, lines = checked(cli, "--no-broker", "--set", "model.task=regression")
    assert code == 0
    assert (
        "StandardScaler | TargetStandardScaler is built, learns and answers: numbers" in found(lines, "ok")[1]
    )
    code, lines = checked(
        cli, "--no-broker", "--set", "model.task=regression", "--set", "model.spec=[river.tree.HoeffdingTreeClassifier]"
    )  # fmt: skip
    assert code == 78
    assert "it is a classifier: write model.task: classification" in found(lines, "error")[0]


def test_a_model_that_cannot_do_with_a_type_of_feature_is_warned_of(cli):
    code, lines = checked(cli, "--no-broker", "--set", "model.spec=[river.naive_bayes.MultinomialNB]")
    assert code == 0
    (warning,) = found(lines, "warning")
    assert "samples with negative numbers only" in warning
    assert "cannot be learned (Poisoned)" in warning


def test_with_the_topics_there_everything_is_looked_at(cli, broker):
    cli("send", "samples", stdin=samples(60))
    code, lines = checked(cli)
    assert (code, {line[0] for line in lines}) == (0, {"ok"})
    said = " ".join(found(lines, "ok"))
    for words in (
        "keeps the state",
        "samples, partitions: 1",
        "60 of the latest 60",
        "learns them",
        "none yet",
    ):
        assert words in said


def test_unreadable_samples_and_returning_ids_are_warned_of(cli):
    lines = [json.dumps({"id": f"device-{i % 3}", "features": {"x": i}}) for i in range(40)]
    cli("send", "samples", stdin="\n".join([*lines, "oops", '{"id": "x", "features": {"deep": {"a": 1}}}']))
    code, lines = checked(cli)
    warned = " ".join(found(lines, "warning"))
    assert code == 0
    assert "2 of the latest 42 cannot be read" in warned
    assert "wrong_type" in warned
    assert "is this a device or user id?" in warned
    assert checked(cli, "--deny-warnings")[0] == 78
    text = cli("check").stdout
    assert "! samples: 2 of the latest 42 cannot be read\n    for example samples-0@41" in text


def test_missing_topics_are_notes_or_errors(cli, place):
    from stream_al.transport import connect

    connect("embedded://log.db").close()
    code, lines = checked(cli)
    assert code == 0
    assert "ledger does not exist yet; run and send create it" in " ".join(found(lines, "ok"))
    code, lines = checked(cli, "--set", "broker.create_topics=false")
    assert code == 78
    assert len(found(lines, "error")) == 6


def test_a_topic_that_would_lose_the_model_is_refused(cli, place):
    from stream_al.transport import connect

    with connect("embedded://log.db") as broker:
        broker.ensure([TopicSpec("ledger", 1, {"retention.ms": 604_800_000})], create=True)
    code, lines = checked(cli)
    assert code == 78
    assert "ledger is not configured as it must be" in found(lines, "error")[0]
    assert "retention.ms" in found(lines, "error")[0]


@pytest.mark.parametrize(
    "url", ["embedded://config.yaml/log.db", "embedded://folder", "embedded://config.yaml"]
)
def test_a_log_that_cannot_be_is_refused_by_check_as_by_run(cli, place, url):
    (place / "folder").mkdir()
    before = sorted(place.iterdir())
    code, lines = checked(cli, "--set", f"broker.url={url}")
    assert code == 78
    assert found(lines, "error")[0].startswith("broker --set broker.url: ")
    assert sorted(place.iterdir()) == before
    end = cli("run", "--set", f"broker.url={url}", "--set", "http.port=null")
    assert end.exit_code == 78
    assert found(lines, "error")[0].partition("broker.url: ")[2].strip() in end.stderr


def test_a_ledger_with_a_strategy_of_another_version_is_refused(cli, settings, broker):
    from stream_al.codec import encode
    from stream_al.service.learning import found as founded
    from stream_al.transport.port import Output

    genesis = json.loads(encode(founded(broker, settings(), 0))) | {"strategy": "astrology"}
    broker.append([Output("ledger", json.dumps(genesis).encode())])
    code, lines = checked(cli)
    assert code == 78
    assert "its strategy 'astrology' is not known to this version" in found(lines, "error")[0]
    for verb in ("run", "status"):
        end = cli(verb, "--set", "http.port=null")
        assert end.exit_code == 78
        assert "strategy: 'astrology' is no query strategy" in end.stderr
        assert "run the stream-al that knows it" in end.stderr


def test_colours_are_left_out_where_nobody_wants_them(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert styled("✗", fg="red") != "✗"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("✗", fg="red") == "✗"


def test_a_broker_that_is_away_is_no_matter_of_configuration(cli, broker, monkeypatch):
    def away(*_):
        raise Unavailable("nobody answers")

    monkeypatch.setattr("stream_al.transport.connect", away)
    code, lines = checked(cli)
    assert code == 1
    assert found(lines, "away")
    assert checked(cli, "--no-broker")[0] == 0


def test_settings_that_contradict_the_ledger_are_told(cli, settings):
    from stream_al.simulate import Simulation

    Simulation(settings("state_dir=null"), iter(()), path="log.db").close()
    assert checked(cli)[0] == 0
    write_settings({**SETTINGS, "seed": 9})
    code, lines = checked(cli)
    assert code == 78
    assert "seed: the ledger was founded with 1, the configuration says 9" in found(lines, "error")[0]
