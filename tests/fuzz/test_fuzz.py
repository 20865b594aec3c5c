"""A short fuzzing of every decoder; ``make fuzz`` is the long one. And the fuzzer finds what is planted."""

from __future__ import annotations

import json

import pytest

from stream_al.codec import SampleDecoder
from tests.fuzz.mutator import Mutator
from tests.fuzz.run import fuzz
from tests.fuzz.targets import Record, Target, targets

TARGETS = targets()


@pytest.mark.parametrize("name", TARGETS)
def test_only_bad_record_comes_out(name):
    found = fuzz(name, TARGETS[name], 2_000, seed=0)
    assert not found.failures, "\n".join(found.failures)
    assert found.tried == 2_000


def test_the_same_seed_draws_the_same_payloads():
    seeds = TARGETS["request"].seeds
    first, again, other = (Mutator(seed, seeds) for seed in (1, 1, 2))
    drawn = [first.payload() for _ in range(200)]
    assert drawn == [again.payload() for _ in range(200)]
    assert drawn != [other.payload() for _ in range(200)]
    assert len(set(drawn)) > 190


def raises_on_text(value):
    SampleDecoder()(Record(value))
    if isinstance(json.loads(value)["features"].get("amount"), str):
        raise KeyError("planted")


def raises_beyond_a_depth(value):
    if value.count(b"[") > 200:
        raise RecursionError("planted")
    SampleDecoder()(Record(value))


def returns_what_cannot_be_written(value):
    return json.loads(value)["id"].encode() if b"ud800" in value else None


@pytest.mark.fault(
    "checks that notice nothing",
    "decoders made to raise something else, which the fuzzer must find",
)
@pytest.mark.parametrize("planted", [raises_on_text, raises_beyond_a_depth, returns_what_cannot_be_written])
def test_a_decoder_that_raises_something_else_is_found(planted):
    def run(value):
        planted(value)
        return value

    assert fuzz("planted", Target(run, TARGETS["plain sample"].seeds), 20_000, seed=0).failures
