"""What earlier versions wrote is read, and means the same; what later ones add is ignored."""

from __future__ import annotations

import base64
import json
import zlib
from typing import get_args

import msgspec
import pytest

from stream_al import __version__, codec
from stream_al.core.messages import Genesis, LedgerRecord, Report
from stream_al.service.snapshot import Snapshots, digest
from tests.compat import examples
from tests.compat.fixtures import HERE, READERS, parsed, read, records

pytestmark = pytest.mark.fault("messages of another version", "fixtures of every kind, with fields added")
FILES = sorted(HERE.glob("*.jsonl"))
FIXTURES = [
    pytest.param(*parsed(text), id=f"{file.stem}-{number}-{json.loads(text)['kind']}")
    for file in FILES
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
]
STRICT = {"request", "prediction", "tally", "skipped answer", "answer", "number", *examples.LEDGER}
INSIDE = (
    ("meta",),
    ("meta", "query"),
    ("meta", "source"),
    ("meta", "model"),
    ("source",),
    ("query",),
    ("model",),
    ("sums",),
)


@pytest.mark.parametrize(("kind", "record", "meant"), FIXTURES)
def test_it_is_read_and_means_the_same(kind, record, meant):
    found = read(kind, record)
    if isinstance(found, dict):  # a later version may know more, with a default
        found = {name: value for name, value in found.items() if name in meant}
    assert _without_new(found, meant) == meant


def _without_new(found, meant):
    """Drop keys that the version which wrote it did not know."""
    if isinstance(found, dict) and isinstance(meant, dict):
        return {k: _without_new(v, meant[k]) for k, v in found.items() if k in meant}
    return found


@pytest.mark.parametrize(("kind", "record", "meant"), [f for f in FIXTURES if f.values[0] in STRICT])
def test_unknown_fields_are_ignored(kind, record, meant):
    value = json.loads(record.value)
    for path in ((), *INSIDE):
        place = value
        for name in path:
            place = place.get(name) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place["added_later"] = {"anything": [1, None, {"x": "y"}]}
    assert read(kind, record._replace(value=json.dumps(value).encode())) == read(kind, record)


def test_every_kind_of_message_has_a_fixture():
    kinds = {of.__dataclass_fields__["kind"].default for of in (*get_args(LedgerRecord), *get_args(Report))}
    kinds |= set(codec._RECORDS) | set(READERS) | {kind for kind, _ in records()}
    for file in FILES[-1:]:
        held = {parsed(text)[0] for text in file.read_text(encoding="utf-8").splitlines()}
        missing = kinds - held
        assert not missing, (
            f"no fixture: {missing}; add to tests/compat/examples.py, python -m tests.compat --again"
        )


def test_every_decoder_reads_some_fixture():
    used = {getattr(reader, "__name__", type(reader).__name__) for reader in READERS.values()}
    decoders = {name for name in codec.__all__ if name.startswith("decode_") or name.endswith("Decoder")}
    assert decoders <= used


def test_this_version_has_fixtures():
    assert (HERE / f"{__version__}.jsonl").exists(), "a new version: python -m tests.compat"


@pytest.mark.parametrize("file", sorted(HERE.glob("*.snapshot.json")), ids=lambda file: file.name)
def test_a_snapshot_of_any_version_is_used_or_ignored(file, tmp_path):
    held = json.loads(file.read_text())
    genesis = msgspec.json.decode(held["genesis"], type=Genesis)
    content = zlib.decompress(base64.b64decode(held["packed"]))
    (tmp_path / "key").write_bytes(base64.b64decode(held["key"]))
    (tmp_path / "key").chmod(0o600)
    tmp_path.chmod(0o700)
    (tmp_path / held["name"]).write_bytes(content)
    snapshots = Snapshots(tmp_path)
    body = snapshots.opened(held["name"], content)
    assert body is not None, "its seal is read"
    found = snapshots.load(genesis, 100)
    assert (found is not None) == (digest(genesis) == held["digest"]), "other libraries: another name"
    if found is not None:
        assert (found.fold.position, found.fold.learned) == (3, 1)
    assert snapshots.load(genesis, 2) is None, "beyond the end of the ledger"

    other = held["name"].replace(held["digest"], digest(genesis))  # even where the name promises too much
    (tmp_path / other).write_bytes(snapshots.sealed(other, body))
    again = snapshots.load(genesis, 100)
    assert again is None or again.fold.position == 3
