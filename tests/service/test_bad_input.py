"""Whatever is written to the topics, the stream goes on and nothing is dropped silently."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import structlog
from structlog.testing import capture_logs

from stream_al.service.trouble import Trouble
from stream_al.transport.port import Output, TopicPartition
from tests.lockstep import Lockstep

pytestmark = pytest.mark.fault(
    "unreadable samples and answers", "among others through the whole service: dead letters, each once"
)
BAD_SAMPLES = [
    b"not json",
    b"",
    b"[1, 2]",
    b'{"features": {"x": NaN}}',
    b'{"features": {"x": "' + b"a" * 2_000_000 + b'"}}',
    b'{"id": {}, "features": {}}',
    b"\xff\xfe\x00",
]
BAD_LABELS = [
    b"not json",
    b'{"label": "up"}',
    b'{"id": "s-1", "label": 1.5}',
    b'{"id": "s-1"}',
    b'{"id": "stranger", "label": "up"}',
]


@pytest.fixture(scope="module")
def run():
    """A stream with bad samples and bad labels in its middle, and an answer given twice."""
    world = Lockstep(sets=["labels.wait_unknown_s=1"])
    feed = world.feed
    rounds = iter(range(1_000))

    def feed_badly(n):
        feed(n)
        if next(rounds) == 5:
            world.broker.append(
                [
                    Output("samples", value, key=b"k", partition=0, headers=(("h", b"1"),))
                    for value in BAD_SAMPLES
                ]
            )
            world.broker.append([Output("labels", value, partition=0) for value in BAD_LABELS])

    world.feed = feed_badly
    world.random.random = lambda: 0.5  # nothing bad but this
    with capture_logs() as said:
        world.run(rounds=20)
    world.said = [line for line in said if "dead letters" in line["event"]]
    return world


def letters(run):
    found = []
    for p, end in run.broker.ends("dead-letters").items():
        with run.broker.reader({TopicPartition("dead-letters", p): 0}) as reader:
            while reader.position(TopicPartition("dead-letters", p)) < end:
                found += [r for batch in reader.poll(1_000, 0).values() for r in batch]
    return found


def test_the_stream_went_on(run):
    assert run.learner.follower.fold.learned > 50
    assert not run.learner.learner.machine.pending
    assert not run.learner.follower.fold.errors


def test_every_bad_record_is_a_dead_letter_with_its_reason(run):
    found = letters(run)
    reasons = Counter(
        (dict(r.headers)["stream_al.error.stage"], dict(r.headers)["stream_al.error.reason"]) for r in found
    )
    assert sum(n for (stage, _), n in reasons.items() if stage == b"scorer") == len(BAD_SAMPLES)
    assert sum(n for (stage, _), n in reasons.items() if stage == b"learner") == len(BAD_LABELS)
    assert reasons[b"scorer", b"too_large"] == 1
    assert reasons[b"learner", b"unknown_request"] == 1


def test_each_reason_is_warned_of_once_with_its_place_and_without_the_payload(run):
    assert {(line["log_level"], line["so_far"]) for line in run.said} == {("warning", 1)}
    places = {line["reason"]: line["at"] for line in run.said}
    assert len({(line["event"], line["reason"]) for line in run.said}) == len(run.said)
    assert places["too_large"].startswith("samples-0@")
    assert places["unknown_request"].startswith("labels-0@")
    assert "stranger" not in json.dumps(run.said)


def test_a_flood_is_counted_and_told_once_a_minute():
    now = iter([0.0, 1.0, 59.0, 60.0, 61.0])
    with capture_logs() as said:
        trouble = Trouble(structlog.get_logger(), "bad", lambda: next(now))
        for offset in range(4):
            trouble.note("a", "samples", 0, offset)
        trouble.note("b", "samples", 0, 9)
    assert [(line["reason"], line["at"], line["so_far"]) for line in said] == [
        ("a", "samples-0@0", 1), ("a", "samples-0@3", 4), ("b", "samples-0@9", 1),
    ]  # fmt: skip


def test_dead_letters_keep_bytes_key_and_headers(run):
    by_offset = {
        int(dict(r.headers)["stream_al.error.offset"]): r
        for r in letters(run)
        if dict(r.headers)["stream_al.error.stage"] == b"scorer"
    }
    values = [by_offset[o].value for o in sorted(by_offset)]
    assert [v for v in values if len(v) < 1_000] == [v for v in BAD_SAMPLES if len(v) < 1_000]
    assert max(map(len, values)) == 64 * 1024, "the first 64 kB of what does not fit"
    assert all(r.key == b"k" and ("h", b"1") in list(map(tuple, r.headers)) for r in by_offset.values())


def test_bad_samples_count_in_the_tallies(run):
    tallies = [v for _, _, v, _ in run.topic("reports") if v["kind"] == "tally"]
    assert sum(t["sums"]["invalid"] for t in tallies) == len(BAD_SAMPLES)
    assert json.dumps(tallies)
