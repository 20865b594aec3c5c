"""Hostile samples and answers through the whole service: it goes on, each one is decided or a dead letter."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from stream_al.codec import decode_ledger
from stream_al.core.messages import Learned
from stream_al.transport.port import Output, TopicPartition
from tests.lockstep import Lockstep

pytestmark = pytest.mark.fault(
    "hostile samples and answers",
    "depth, sizes at and beyond the limit, huge numbers, surrogates, control characters, a million features",
)
MAX_BYTES = 64_000


def sized(n):
    """Return a readable sample of exactly n bytes."""
    empty = b'{"id": "sized-%d", "features": {"x": 1, "y": 2, "pad": ""}}' % n
    return empty.replace(b'""', b'"' + b"p" * (n - len(empty)) + b'"')


def wide(n):
    return json.dumps(
        {"id": f"wide-{n}", "features": {"x": 1, "y": 2, **{f"f{i}": i % 7 for i in range(n)}}}
    ).encode()


READABLE = {
    "sized at the limit": sized(MAX_BYTES),
    "three thousand features": wide(3_000),
    "control characters": b'{"id": "\\u0000\\u001b[2J", "features": {"x": 1, "y": 2, "\\u0007\\n": "\\u0000\\u202e"}}',
    "huge numbers": b'{"id": "huge", "features": {"x": 1e300, "y": -1e300, "z": 1e-320, "v": [1e299, -1e299]}}',
    "many embedded numbers": b'{"id": "long", "features": {"x": 1, "y": 1, "v": ['
    + b"1e15," * 10_000
    + b"1]}}",
    "no features": b'{"id": "none", "features": {}}',
    "an empty id and name": b'{"id": "", "features": {"": 1, "x": 1, "y": 2}}',
    "the same key twice": b'{"id": "a", "id": "twice", "features": {"x": 1, "x": "text", "y": 1}}',
    "other types than before": b'{"id": "types", "features": {"x": "text", "y": [1, 2], "where": 5}}',
}
UNREADABLE = {
    "sized one byte beyond": sized(MAX_BYTES + 1),
    "a million features": wide(1_000_000),
    "two megabytes": sized(2_000_000),
    "deep lists": b'{"id": "deep", "features": {"x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}}",
    "deep objects": b'{"id": "deep", "features": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    "a number of five thousand digits": b'{"id": "digits", "features": {"x": ' + b"9" * 5_000 + b"}}",
    "an infinite number": b'{"id": "inf", "features": {"x": 1e999}}',
    "a lone surrogate as id": b'{"id": "\\ud800", "features": {"x": 1}}',
    "a lone surrogate as name": b'{"id": "s", "features": {"\\udfff": 1}}',
    "a lone surrogate in bytes": b'{"id": "\xed\xa0\x80", "features": {"x": 1}}',
    "bare control characters": b'{"id": "\x00\x07", "features": {"x": 1}}',
    "half a record": sized(5_000)[:2_000],
}  # fmt: skip
ANSWERS = (
    b"[" * 100_000, b'{"id": ' + b"[" * 100_000, b'{"id": "\\ud800", "label": "up"}', b'{"id": "s-1", "label": "\\udfff"}',
    b'{"id": "s-1", "label": ' + b"9" * 5_000 + b"}", b'{"id": "s-1", "label": "' + b"u" * 900_000 + b'"}',
    b'{"id": "s-1", "label": 1e999}', b'{"id": "s-1", "label": {"a": 1}}', b"\x00" * 1_000,
)  # fmt: skip


@pytest.fixture(scope="module", params=["plain", "mapped"])
def run(request):
    sets = [
        f"samples.max_bytes={MAX_BYTES}",
        "labels.wait_unknown_s=1",
        "budget.fraction=1",
        "scorer.predictions=true",
    ]
    if request.param == "mapped":
        sets.append("samples.timestamp=null")
    world = Lockstep(sets=sets)
    world.random.random = lambda: 0.5  # nothing bad but this
    feed, rounds = world.feed, iter(range(1_000))

    def feed_badly(n):
        feed(n)
        if next(rounds) in (2, 6):
            values = [*READABLE.values(), *UNREADABLE.values()]
            world.broker.append([Output("samples", value, partition=0) for value in values])
            world.broker.append([Output("labels", value, partition=0) for value in ANSWERS])

    world.feed, world.annotate = feed_badly, lambda _: annotate_all(world)
    return world.run(rounds=12)


def annotate_all(world):
    """Answer the hostile samples too: the annotator of the harness knows x and y as numbers only."""
    lines = []
    for batch in world.requests_read.poll(1_000, 0).values():
        for record in batch:
            if record.value is not None:
                meta = json.loads(record.value)["meta"]
                label = "up" if meta["source"]["offset"] % 2 else "down"
                lines.append({"id": meta["id"], "request_id": meta["request_id"], "label": label})
    world.broker.append([Output("labels", json.dumps(line).encode(), partition=0) for line in lines])


def test_each_hostile_sample_is_scored_or_a_dead_letter(run):
    errors = [
        {k.removeprefix("stream_al.error."): v for k, v in r.headers} for r in read(run, "dead-letters")
    ]
    stages = Counter(e["stage"] for e in errors if e["reason"] != b"closed_request")
    assert stages == {b"scorer": 2 * len(UNREADABLE), b"learner": 2 * len(ANSWERS)}
    ids = Counter(json.loads(r.value)["id"] for r in read(run, "predictions"))
    named = [json.loads(value)["id"] for value in READABLE.values()]
    assert {name: ids[name] for name in named} == dict.fromkeys(named, 2)


def test_those_that_were_asked_were_learned_and_the_stream_went_on(run):
    fold = run.learner.follower.fold
    assert not fold.errors
    assert not run.learner.learner.machine.pending
    learned = {r.id for r in map(decode_ledger, read(run, "ledger")) if isinstance(r, Learned)}
    assert len(learned & {json.loads(value)["id"] for value in READABLE.values()}) >= 5
    assert fold.learned > 200


def test_no_output_is_larger_than_a_broker_takes(run):
    for topic in ("labels-requested", "reports", "ledger", "dead-letters", "predictions"):
        assert max(len(r.value or b"") for r in read(run, topic)) < 1_000_000


def read(run, topic):
    for partition, end in run.broker.ends(topic).items():
        tp = TopicPartition(topic, partition)
        with run.broker.reader({tp: 0}) as reader:
            while reader.position(tp) < end:
                for batch in reader.poll(1_000, 0).values():
                    yield from batch
