"""How verbs end: exit codes, and what people are told."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stream_al.cli.outcome import report
from stream_al.transport.port import Fenced, PositionGone, Unavailable

from .conftest import SETTINGS, write_settings


def test_a_misspelt_key_is_refused_with_its_line_and_the_right_one(cli):
    write_settings({**SETTINGS, "budget": {"fracton": 0.1}})
    for verb in (["run"], ["status"], ["config", "show"], ["send", "samples"]):
        end = cli(*verb)
        assert end.exit_code == 78
        assert end.stdout == ""
        assert "config.yaml:9 budget.fracton: unknown key; did you mean fraction?" in end.stderr


def test_every_problem_of_the_settings_is_told_at_once(cli):
    end = cli("run", "--set", "seed=-1", "--set", "strategy=margn")
    assert end.exit_code == 78
    assert len(end.stderr.splitlines()) == 2


def test_a_missing_settings_file_is_told(cli):
    end = cli("config", "show", "--config", "nofile.yaml")
    assert (end.exit_code, end.stderr) == (78, "error: nofile.yaml: no such file; check the name\n")


def test_a_wrong_model_is_told_with_the_name_that_was_meant(cli):
    spec = ["river.preprocessing.StandardScaler", "river.linear_model.LogisticRegresion"]
    write_settings({**SETTINGS, "model": {"spec": spec}})
    end = cli("run", "--set", "http.port=null")
    assert end.exit_code == 78
    step = next(
        n for n, text in enumerate(Path("config.yaml").read_text().splitlines(), 1) if "Regres" in text
    )
    assert f"error: config.yaml:{step} model.spec[1].river.linear_model.LogisticRegresion: " in end.stderr
    assert f"✗ model: config.yaml:{step} model.spec[1].river" in cli("check", "--no-broker").stdout
    assert "did you mean river.linear_model.LogisticRegression?" in end.stderr


def test_a_port_that_is_taken_is_told(cli):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        end = cli("run", "--set", f"http.port={taken.getsockname()[1]}")
    assert end.exit_code == 1
    assert "http.port" in end.stderr.splitlines()[-1]


def test_missing_topics_are_a_matter_of_configuration_where_none_may_be_created(cli, place):
    from stream_al.transport import connect

    connect("embedded://log.db").close()
    end = cli("run", "--set", "broker.create_topics=false", "--set", "http.port=null")
    assert end.exit_code == 78
    assert "topic 'samples' does not exist" in end.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Fenced("someone writes as me"), "another process has taken over"),
        (PositionGone("samples-0@3"), "raise the retention"),
        (Unavailable("connect: no route"), "the broker is away: connect"),
        (FileNotFoundError(2, "No such file", "x.jsonl"), "x.jsonl: No such file"),
    ],
)
def test_what_only_an_operator_can_mend_is_explained(capsys, error, words):
    assert report(error) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_a_bug_is_called_one_and_shown(cli, monkeypatch):
    monkeypatch.setattr("stream_al.config.show", lambda _: 1 / 0)
    end = cli("config", "show")
    assert end.exit_code == 1
    assert "unexpected ZeroDivisionError" in end.stderr
    assert "Traceback" in end.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--role", "boss"], "'--role': 'boss' is not one of 'scorer', 'learner', 'desk', 'all'."),
        (["demo", "--dataset", "x"], "'--dataset': 'x' is not one of 'phishing'"),
        (["demo", "--budget", "2"], "'--budget': 2 is no share of the samples; write for example 0.05"),
        (["demo", "--budget", "0"], "'--budget': 0 is no share"),
        (["top", "--json"], "there is stream-al status --json"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(cli, arguments, words):
    end = cli(*arguments)
    assert end.exit_code == 2
    assert words in " ".join(end.stderr.replace("│", "").split())


def test_a_demo_whose_reader_goes_ends_quietly(place):
    command = f"{sys.executable} -m stream_al demo --samples 300 --no-compare | head -1"
    end = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=True
    )
    assert "rror" not in end.stderr


def test_an_unknown_verb_or_option_is_misuse(cli):
    assert cli("nosuch").exit_code == 2
    assert cli("status", "--nosuch").exit_code == 2


@pytest.mark.parametrize(
    "verb", [["status"], ["tap", "samples"], ["inspect", "s-1"], ["dead-letters", "list"]]
)
def test_looking_creates_no_log(cli, place, verb):
    end = cli(*verb)
    assert end.exit_code == 1
    assert "log.db does not exist" in end.stderr
    assert not (place / "log.db").exists()


def test_the_settings_in_force_are_shown_without_secrets(cli, monkeypatch):
    monkeypatch.setenv("STREAM_AL_BROKER__CLIENT__SASL_PLAIN_PASSWORD", "hush")
    masked = cli("config", "show", "--json")
    assert masked.exit_code == 0
    assert "hush" not in masked.stdout
    origins = cli("config", "show", "--origins", "--set", "seed=7").stdout
    assert "seed: 7  # --set" in origins
    assert "budget.fraction: 0.2  # config.yaml:9" in origins
