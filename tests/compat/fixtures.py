"""Fixtures: what a version of stream-al wrote, one record a line, beside what that version read in it."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from stream_al.cli.dead import Letter, Progress
from stream_al.codec import (
    BadRecord,
    SampleDecoder,
    dead_letter,
    decode_answer,
    decode_ledger,
    decode_report,
    decode_request,
)
from stream_al.core.budget import PartitionBudget
from stream_al.core.fold import Fold
from stream_al.core.learner import _answers_state
from stream_al.core.messages import Budget, Genesis, Prediction, timestamp
from stream_al.service.snapshot import Snapshots, digest
from stream_al.transport.port import Position
from tests.compat import examples

HERE = Path(__file__).parent
Record = namedtuple(
    "Record", "value key headers topic partition offset timestamp", defaults=(None, (), "samples", 2, 7, 0)
)


def _state(state: PartitionBudget | None) -> Any:
    assert state is not None
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)} | {
        "histogram": state.histogram.tolist()
    }


def _progress(value: bytes) -> Any:
    return sorted(Progress(Position(10, value.decode()), 0).done)


READERS: dict[str, Callable[[Any], Any]] = {
    "sample": SampleDecoder(),
    "mapped sample": SampleDecoder("who.id", "payload.values", "at"),
    "flat sample": SampleDecoder("who.id", None, None),
    "request": decode_request,
    "withdrawal": decode_request,
    "answer": decode_answer,
    "number": lambda r: decode_answer(r, "regression"),
    "skipped answer": decode_answer,
    "annotation": decode_answer,
    "annotated task": decode_answer,
    "tally": decode_report,
    **dict.fromkeys(examples.LEDGER, decode_ledger),
    "prediction": lambda r: msgspec.json.decode(r.value, type=Prediction),
    "dead letter": lambda r: (Letter.of(r).error, Letter.of(r).again()),
    "partition state": lambda r: _state(PartitionBudget.decode(r.value.decode(), "a-ledger", 7)),
    "answers' state": lambda r: [_answers_state(r.value.decode())[0], sorted(_answers_state(r.value.decode())[1])],
    "replay's state": lambda r: _progress(r.value),
}  # fmt: skip


def records() -> list[tuple[str, Record]]:
    """Return every example as the record that holds it."""
    found = [(kind, Record(value)) for kind, values in examples.values().items() for value in values]
    found.append(("withdrawal", Record(None, b"s-1", (("stream_al.request_id", b"0-5"),))))
    found.append(("withdrawal", Record(None, b"s-1")))
    bad = Record(b"{oops", b"k", (("mine", b"kept"),))
    letter = dead_letter("dead-letters", bad, BadRecord("not_json", "no good"), "scorer")
    found.append(("dead letter", Record(letter.value, letter.key, letter.headers)))
    return found


def read(kind: str, record: Record) -> Any:
    """Return what the present version reads, as plain values."""
    found = READERS[kind](record)
    assert found is not None, "it was not understood"
    return msgspec.json.decode(msgspec.json.encode(found))


def line(kind: str, record: Record) -> str:
    text = [None if part is None else part.decode() for part in (record.value, record.key)]
    headers = [[name, value.decode()] for name, value in record.headers]
    held = {"kind": kind, "value": text[0], "key": text[1], "headers": headers, "read": read(kind, record)}
    return json.dumps(held, ensure_ascii=False)


def parsed(text: str) -> tuple[str, Record, Any]:
    """Return kind, record, and what was read in it when it was written."""
    held = json.loads(text)
    value, key = (None if held[name] is None else held[name].encode() for name in ("value", "key"))
    return held["kind"], Record(value, key, tuple((n, v.encode()) for n, v in held["headers"])), held["read"]


def snapshot(directory: Path) -> dict[str, str]:
    """Return a small snapshot, with its key, as text."""
    genesis = Genesis(
        ledger_id="0123456789abcdef", topic="samples", start={0: 0}, model="default",
        spec=["river.linear_model.LogisticRegression"], classes=["fraud", "ok"], strategy="margin", seed=1, created_at=timestamp(0),
    )  # fmt: skip
    fold = Fold()
    for offset, record in enumerate((genesis, Budget(fraction=0.05), examples.RECORDS["label"][0])):
        fold.apply(offset, record)
    (directory / "key").write_bytes(b"thirty-two bytes of a fixed key.")
    path = Snapshots(directory).save(fold)
    held = {"key": (directory / "key").read_bytes(), "packed": zlib.compress(path.read_bytes(), 9)}
    return {
        "name": path.name,
        "genesis": msgspec.json.encode(genesis).decode(),
        "digest": digest(genesis),
        **{name: base64.b64encode(value).decode() for name, value in held.items()},
    }
