"""Tools that show what others wrote show all of it, whatever it is."""

import pytest

from stream_al.codec import BadRecord, dead_letter
from stream_al.transport.embedded_log import EmbeddedRecord
from stream_al.transport.port import Output

from .conftest import jsons, samples

pytestmark = pytest.mark.fault(
    "hostile records before an operator's eyes", "every tool shows topics full of them"
)
VALUES = [
    b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe\x00", b'"\\ud800"', b'{"id": "\\udfff"}', b"9" * 5_000, b'{"x": 1e999}',
    b"\x1b[2J\x07\r\n", b"", b'{"id": ' + b"9" * 5_000 + b"}",
]  # fmt: skip


@pytest.fixture
def topics(broker):
    for topic in ("samples", "labels-requested", "labels", "reports", "ledger"):
        broker.append([Output(topic, value, key=b"\x1b\xff") for value in VALUES])
    for n, value in enumerate(VALUES):
        record = EmbeddedRecord("samples", 0, n, 0, b"\x1b[2J", value, (("h", b"\xff\x1b"),))
        broker.append(
            [dead_letter("dead-letters", record, BadRecord("not_json", "no \ud800 \x1b[2J"), "scorer")]
        )
    return broker


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead-letters", "list"), ("dead-letters", "list", "--json"), ("dead-letters", "replay", "--dry-run"),
        ("tap", "dead-letters", "--from", "beginning", "--no-follow"), ("tap", "samples", "--from", "beginning", "--no-follow", "--json"),
        ("tap", "ledger", "--from", "beginning", "--no-follow"), ("status",), ("status", "--json"), ("check",), ("inspect", "s-1"),
        ("inspect", "0-1"),
    ],
)  # fmt: skip
def test_nothing_written_ends_a_tool(cli, topics, arguments):
    end = cli(*arguments)
    assert end.exception is None or isinstance(end.exception, SystemExit), end.exception
    assert "bug" not in end.stderr, end.stderr
    assert "Traceback" not in end.stderr
    assert "\x1b[2J" not in end.stdout + end.stderr, "a control sequence would move the reader's terminal"
    if "--json" in arguments:
        assert jsons(end.stdout)


def test_a_replay_writes_hostile_bytes_as_they_came(cli, topics):
    assert jsons(cli("dead-letters", "replay", "--yes", "--json").stdout)[0]["written"] == len(VALUES)
    assert cli("send", "samples", stdin=samples(1)).exit_code == 0
