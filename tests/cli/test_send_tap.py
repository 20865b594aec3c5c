"""Sending lines and tapping topics."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stream_al.cli.printing import json_or_text
from stream_al.scan import scan
from stream_al.transport.port import Output

from .conftest import jsons, until


def test_lines_come_back_as_they_were_sent(cli):
    lines = ['{"id": "a", "features": {"x": 1}}', "not json", '{"id": 5}', '  {"id":"é"}', "[1, 2]"]
    sent = cli("send", "samples", "--json", stdin="\n".join([*lines[:2], "", "  ", *lines[2:]]))
    assert sent.exit_code == 0
    assert {**jsons(sent.stdout)[0], "seconds": 0} == {
        "topic": "samples",
        "sent": 5,
        "skipped": 2,
        "seconds": 0,
    }
    found = jsons(cli("tap", "samples", "--from", "beginning", "--no-follow", "--json").stdout)
    assert [record["key"] for record in found] == ["a", None, None, "é", None]
    assert [record["value"] for record in found] == [
        {"id": "a", "features": {"x": 1}}, "not json", {"id": 5}, {"id": "é"}, [1, 2],
    ]  # fmt: skip
    assert found[0] | {"timestamp": ""} == {
        "topic": "samples", "partition": 0, "offset": 0, "timestamp": "", "key": "a", "headers": {},
        "value": {"id": "a", "features": {"x": 1}},
    }  # fmt: skip


def test_bytes_that_are_no_text_are_sent_and_shown_escaped(cli, place, broker):
    Path("raw").write_bytes(b"\xff\x00\x1b[31m\n")
    assert cli("send", "samples", "raw").exit_code == 0
    (record,) = scan(broker, "samples")
    assert record.value == b"\xff\x00\x1b[31m"
    shown = cli("tap", "samples", "--from", "0", "--limit", "1").stdout
    assert "\\xff\\x00\\x1b[31m" in shown
    assert "\x1b" not in shown


def test_a_role_names_the_topic_of_the_settings(cli, broker):
    end = cli("send", "dead-letters", "--set", "topics.dead_letters=trash", stdin="{}")
    assert "sent 1 lines to trash" in end.stdout
    assert broker.ends("trash") == {0: 1}


def test_an_unknown_topic_is_told(cli, broker):
    for verb in ("send", "tap"):
        end = cli(verb, "nosuch", stdin="{}")
        assert end.exit_code == 1
        assert end.stderr.startswith(
            "error: there is no topic nosuch; those of the settings are samples, labels"
        )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("label", "labels"), ("labels-request", "labels-requested"), ("my-sample", "my-samples")],
)
def test_a_mistyped_topic_is_told_the_nearest_one(cli, broker, typed, meant):
    for verb in ("send", "tap"):
        end = cli(verb, typed, "--set", "topics.samples=my-samples", stdin="{}")
        assert end.stderr == f"error: there is no topic {typed}; did you mean {meant}?\n"


@pytest.mark.parametrize("topic", ["ledger", "reports"])
def test_what_the_service_alone_writes_needs_force(cli, topic):
    refused = cli("send", topic, stdin="{}")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert cli("send", topic, "--force", stdin="{}").exit_code == 0


def test_a_rate_is_kept(cli):
    end = cli("send", "samples", "--rate", "100", "--json", stdin="{}\n" * 30)
    assert 0.25 < jsons(end.stdout)[0]["seconds"] < 1.5


def test_a_pipe_is_sent_as_it_comes(program, broker):
    process = program("send", "samples")
    process.stdin.write("{}\n{}\n{")
    process.stdin.flush()
    until(lambda: broker.ends("samples") == {0: 2})
    out, _ = process.communicate("}")
    assert (process.returncode, broker.ends("samples")) == (0, {0: 3})
    assert out.startswith("sent 3 lines")


def test_where_to_begin_and_when_to_end(cli):
    cli("send", "samples", stdin="".join(f"{i}\n" for i in range(10)))

    def tapped(*arguments):
        found = jsons(cli("tap", "samples", "--no-follow", "--json", *arguments).stdout)
        return [record["value"] for record in found]

    assert tapped() == []
    assert tapped("--from", "beginning") == list(range(10))
    assert tapped("--from", "7") == [7, 8, 9]
    assert tapped("--from", "-2") == [8, 9]
    assert tapped("--from", "beginning", "--limit", "3") == [0, 1, 2]
    assert tapped("--from", "9", "--partition", "0") == [9]
    assert cli("tap", "samples", "--from", "then").exit_code == 2
    assert cli("tap", "samples", "--partition", "1").exit_code == 2


def test_what_a_pipe_gets_can_be_sent_again(cli, broker):
    values = [
        b'{"id": "a",\n "features": {"x": 1.50, "y": "\xc3\xa9\\u0001"}}',
        b"[1]",
        b"nothing",
        b'{"id":"b"}',
    ]
    broker.append([Output("samples", value) for value in [*values, None]])
    tapped = cli("tap", "samples", "--from", "beginning", "--no-follow").stdout
    assert tapped.splitlines() == [
        '{"id":"a","features":{"x":1.50,"y":"é\\u0001"}}', "[1]", "nothing", '{"id":"b"}',
    ]  # fmt: skip
    assert cli("send", "labels", stdin=tapped).exit_code == 0
    sent = list(scan(broker, "labels"))
    assert [json_or_text(r.value) for r in sent] == [json_or_text(value) for value in values]
    assert [r.key for r in sent] == [b"a", None, None, b"b"]


def test_a_terminal_gets_place_and_key_and_no_flood(cli, broker, monkeypatch):
    monkeypatch.setattr("stream_al.cli.tapping._terminal", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    broker.append([Output("samples", b'"%s"' % (b"v" * 9_000), key=b"k" * 5_000)])
    (line,) = cli("tap", "samples", "--from", "0", "--no-follow").stdout.splitlines()
    assert line.startswith("samples-0@0 ")
    assert f" {'k' * 60}… (5,000 characters) " in line
    assert line.endswith("… (9,002 characters)")
    assert len(line) < 2_300


def test_headers_are_shown_on_request(cli, broker):
    broker.append([Output("samples", None, key=b"k", headers=(("why", b"\xff!"),))])
    assert cli("tap", "samples", "--from", "0", "--no-follow").stdout == ""
    assert (
        "k why=\\xff! (no value)" in cli("tap", "samples", "--from", "0", "--no-follow", "--headers").stdout
    )


def test_following_shows_what_comes_and_ends_cleanly(cli, program):
    cli("send", "samples", stdin="1\n")
    process = program("tap", "samples", "--from", "beginning", "--json")
    assert '"value":1' in process.stdout.readline()
    cli("send", "samples", stdin="2\n")
    assert '"value":2' in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")


def test_nobody_complains_when_the_reader_of_a_pipe_goes(cli, place):
    cli("send", "samples", stdin="{}\n" * 5_000)
    command = f"{sys.executable} -m stream_al tap samples --from beginning --no-follow | head -1"
    end = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=True
    )
    assert end.stderr == ""
    assert len(end.stdout.splitlines()) == 1
