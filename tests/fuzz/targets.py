"""Everything that turns foreign bytes into values: each with payloads that are right, to be spoiled.

A target returns None or a value, or raises ``BadRecord``; what it returns can be written again. Anything else that comes
out of it ends a process.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stream_al.cli.dead import Letter, Progress
from stream_al.codec import (
    BadRecord,
    SampleDecoder,
    answer_bytes,
    dead_letter,
    decode_answer,
    decode_ledger,
    decode_report,
    decode_request,
    encode,
    encode_request,
)
from stream_al.core.budget import PartitionBudget
from stream_al.core.labels import label_of
from stream_al.core.learner import Withdrawal, answers_read
from stream_al.core.messages import LabelRequest
from stream_al.service.snapshot import Snapshots
from stream_al.transport.port import Position, TransportError
from tests.compat import examples

Record = namedtuple(
    "Record", "value topic partition offset timestamp key headers", defaults=("samples", 2, 7, 0, b"k", ())
)


@dataclass(frozen=True)
class Target:
    """A decoder, and payloads that it reads."""

    decode: Callable[[bytes], object]
    seeds: list[bytes]


def _sample(decode: SampleDecoder) -> Callable[[bytes], object]:
    def run(value: bytes) -> object:
        record = Record(value)
        try:
            sample = decode(record)
        except BadRecord as problem:
            dead_letter("dead-letters", record, problem, "scorer")
            raise
        sample.id.encode()
        request = LabelRequest(
            sample.id, "2-7", sample.features, sample.source, examples.QUERY, examples.SHOWN, "t", "t"
        )
        return encode_request(request, text="comment", image="picture")

    return run


def _request(value: bytes) -> object:
    found = decode_request(Record(value))
    assert isinstance(found, LabelRequest)
    found.id.encode()
    return encode_request(found)


def _withdrawal(value: bytes) -> object:
    found = decode_request(Record(None, key=value, headers=(("stream_al.request_id", value[::-1]),)))
    assert isinstance(found, Withdrawal)
    return found


def _answer(task: str) -> Callable[[bytes], object]:
    def run(value: bytes) -> object:
        found = decode_answer(Record(value), task)
        return answer_bytes([found])

    return run


def _ledger(value: bytes) -> object:
    found = decode_ledger(Record(value))
    return found if found is None else encode(found)


def _partition_state(value: bytes) -> object:
    found = PartitionBudget.decode(value.decode("latin-1"), "a-ledger", 7)
    if found is None:
        return None
    assert all(math.isfinite(number) for number in (found.target, found.threshold, found.scale, found.shift))
    return found.encode("a-ledger", 7)


def _replays_state(value: bytes) -> object:
    try:
        return Progress(Position(5, value.decode("latin-1")), 0)
    except TransportError as problem:
        raise BadRecord("state", str(problem)) from None


def _snapshot() -> Target:
    snapshots = Snapshots(Path(tempfile.mkdtemp()) / "state")
    name = "a-ledger-00000000000000000007-0123456789abcdef.fold"
    sealed = snapshots.sealed(name, b"what is pickled" * 9)

    def run(value: bytes) -> object:
        body = snapshots.opened(name, value)
        assert body is None or value == sealed, "a forged snapshot was believed"
        return body

    return Target(run, [sealed])


def targets() -> dict[str, Target]:
    """Return every target by its name."""
    own = examples.values()
    plain, mapped = own["sample"], own["mapped sample"]
    answers = own["answer"] + own["skipped answer"] + own["annotation"] + own["annotated task"]
    ledger = list(itertools.chain.from_iterable(own[kind] for kind in examples.LEDGER))
    return {
        "plain sample": Target(_sample(SampleDecoder()), plain),
        "mapped sample": Target(_sample(SampleDecoder("who.id", "payload.values", "at")), mapped),
        "flat sample": Target(_sample(SampleDecoder("who.id", None, None)), own["flat sample"]),
        "request": Target(_request, own["request"]),
        "withdrawal": Target(_withdrawal, [b"s-1", b"0-5", "é".encode()]),
        "answer": Target(_answer("classification"), answers),
        "answer in regression": Target(_answer("regression"), answers + own["number"]),
        "report": Target(lambda value: encode(decode_report(Record(value))), own["tally"] + own["observe"]),
        "ledger record": Target(_ledger, ledger),
        "partition state": Target(_partition_state, own["partition state"]),
        "answers' state": Target(lambda value: answers_read(value.decode("latin-1")), own["answers' state"]),
        "replay's state": Target(_replays_state, own["replay's state"]),
        "dead letter": Target(
            lambda value: Letter.of(Record(value, headers=(("stream_al.error.topic", value),))).origin,
            own["sample"],
        ),
        "class": Target(lambda value: label_of(value.decode("utf-8", "replace")), [b"up", b"1", b'"1"', b"true"]),
        "snapshot header": _snapshot(),
    }  # fmt: skip
