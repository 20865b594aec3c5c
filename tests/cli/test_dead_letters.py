"""Listing dead letters, and giving them a second chance exactly once."""

import pytest

from stream_al.cli.dead import STATE_CHARACTERS, Progress
from stream_al.codec import BadRecord, dead_letter
from stream_al.scan import scan
from stream_al.transport.embedded_log import EmbeddedRecord
from stream_al.transport.port import Output, Position, TopicPartition

from .conftest import jsons

pytestmark = pytest.mark.fault(
    "unreadable samples and answers", "dead letters replayed as they came, each once"
)


@pytest.fixture
def letters(broker):
    """Put letters into the topic: ``letters("unknown_request", "not_json")``."""
    count = iter(range(1_000))

    def put(*reasons, value=None):
        outputs = []
        for reason in reasons:
            n = next(count)
            body = value if value is not None else f'{{"id":"x-{n}"}}'.encode()
            record = EmbeddedRecord("labels", 0, n, 0, f"x-{n}".encode(), body, (("mine", b"kept"),))
            outputs.append(dead_letter("dead-letters", record, BadRecord(reason, "no good"), "learner"))
        broker.append(outputs)

    return put


def replayed(broker):
    """Return what stands in the topic that the letters came from."""
    return list(scan(broker, "labels"))


def replay(cli, *arguments):
    end = cli("dead-letters", "replay", "--yes", "--json", *arguments)
    assert end.exit_code == 0, end.stderr
    return jsons(end.stdout)[0]["written"]


def test_the_list_says_why_and_where_from(cli, letters):
    letters("unknown_request", "not_json", "not_json")
    shown = cli("dead-letters", "list")
    assert shown.exit_code == 0
    assert "dead-letters-0@0  unknown_request  learner  from labels-0@0" in shown.stdout
    assert '{"id":"x-0"}' in shown.stdout
    assert "3 dead letters: not_json 2, unknown_request 1" in shown.stdout
    (found,) = jsons(cli("dead-letters", "list", "--json", "--reason", "unknown_request").stdout)
    assert (found["reason"], found["offset"], found["replayed"]) == ("unknown_request", "0", False)
    assert found["record"]["value"] == {"id": "x-0"}
    assert len(jsons(cli("dead-letters", "list", "--json", "--limit", "2").stdout)) == 2


def test_a_replay_writes_each_letter_as_it_came_once(cli, broker, letters):
    letters("unknown_request", "unknown_request")
    assert replay(cli) == 2
    assert [(r.key, r.value, tuple(r.headers)) for r in replayed(broker)] == [
        (f"x-{n}".encode(), f'{{"id":"x-{n}"}}'.encode(), (("mine", b"kept"),)) for n in range(2)
    ]
    assert replay(cli) == 0
    letters("unknown_request")
    assert replay(cli) == 1
    assert [r.key for r in replayed(broker)] == [b"x-0", b"x-1", b"x-2"]
    assert [x["replayed"] for x in jsons(cli("dead-letters", "list", "--json").stdout)] == [True] * 3


def test_a_chosen_reason_or_number_leaves_the_others_for_later(cli, broker, letters):
    letters("a", "b", "a", "c", "a", "b")
    assert replay(cli, "--reason", "a", "--limit", "2") == 2
    assert replay(cli, "--reason", "a") == 1
    assert replay(cli, "--reason", "b") == 2
    assert replay(cli) == 1
    keys = [int(r.key[2:]) for r in replayed(broker)]
    assert keys == [0, 2, 4, 1, 5, 3]
    position = broker.positions("stream-al-dead-letters", [TopicPartition("dead-letters", 0)])
    assert position == {TopicPartition("dead-letters", 0): Position(6)}


def test_a_dry_run_and_a_missing_yes_write_nothing(cli, broker, letters):
    letters("a", "a")
    assert "would write 2 a to labels" in cli("dead-letters", "replay", "--dry-run").stdout
    refused = cli("dead-letters", "replay", stdin="")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert replayed(broker) == []


def test_of_a_record_that_was_cut_nothing_is_replayed(cli, broker, letters):
    letters("too_large", value=b"x" * 65_536)
    letters("a")
    end = cli("dead-letters", "replay", "--yes")
    assert "wrote 1 of 1 a" in end.stdout
    assert "1 were too large" in end.stdout
    assert len(replayed(broker)) == 1


def test_a_replay_of_nothing_ends_well(cli, broker):
    assert "nothing to replay" in cli("dead-letters", "replay", "--yes").stdout
    broker.append([Output("dead-letters", b"put there by somebody else")])
    assert replay(cli) == 0


def test_many_letters_left_behind_fit_into_the_state():
    progress = Progress(None, 10)
    for offset in range(10, 8_010):
        (progress.left.append if offset % 3 else progress.done.add)(offset)
    position = progress.at(8_010)
    assert position.offset == 10
    assert position.state.isascii()
    assert len(position.state) <= STATE_CHARACTERS
    again = Progress(position, 10)
    assert [o for o in range(10, 8_010) if again.has(o)] == sorted(progress.done)
