"""Feed spoiled payloads to targets and collect what came out that should not."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field

from stream_al.codec import BadRecord
from tests.fuzz.mutator import Mutator
from tests.fuzz.targets import Target

SHOWN = 200
SLOW_S = 1.0


@dataclass
class Outcome:
    """What one target did."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def fuzz(name: str, target: Target, count: int, seed: int, most_failures: int = 5) -> Outcome:
    """Try ``count`` payloads; the same name, count and seed try the same ones."""
    mutator = Mutator(seed * 1_000_003 + zlib.crc32(name.encode()), target.seeds)
    found, began = Outcome(), time.perf_counter()
    assert any(_reads(target, value) for value in target.seeds), f"{name} reads none of its own examples"
    for number in range(count):
        value = mutator.payload()
        started = time.perf_counter()
        try:
            if target.decode(value) is None:
                found.refused += 1
            else:
                found.read += 1
        except BadRecord:
            found.refused += 1
        except Exception as problem:
            found.failures.append(_failure(number, value, repr(problem)))
        if (took := time.perf_counter() - started) > SLOW_S:
            found.failures.append(_failure(number, value, f"took {took:.1f} s"))
        if len(found.failures) >= most_failures:
            break
    found.tried = number + 1
    found.seconds = time.perf_counter() - began
    return found


def _reads(target: Target, value: bytes) -> bool:
    try:
        return target.decode(value) is not None
    except BadRecord:
        return False


def _failure(number: int, value: bytes, what: str) -> str:
    more = f"... {len(value):,} bytes" if len(value) > SHOWN else ""
    return f"payload {number}: {what[:SHOWN]}\n    {value[:SHOWN]!r}{more}"
