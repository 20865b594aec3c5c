"""Crashes around commits change nothing that anybody can read."""

from __future__ import annotations

import itertools
import random

import msgspec
import numpy as np
import pytest

from stream_al.codec import decode_ledger
from stream_al.core.coin import coin
from stream_al.core.fold import Fold
from stream_al.core.messages import Budget
from stream_al.service.follower import Follower
from stream_al.transport.port import TopicPartition
from tests.lockstep import Lockstep


@pytest.fixture(scope="module")
def calm():
    return Lockstep().run()


def test_the_calm_run_does_its_job(calm):
    fold = calm.learner.follower.fold
    assert fold.learned > 100
    assert fold.outcomes["learned"] == calm.scorer.scorer.machine.outcomes["requested"]
    assert not calm.learner.learner.machine.pending
    assert fold.accuracy.window(None).dr.value > 0.5


@pytest.mark.fault(
    "a crash before or after a commit",
    "an interrupted run must write the same records as a calm one",
)
@pytest.mark.parametrize("seed", range(12))
def test_an_interrupted_run_writes_the_same_records(calm, seed):
    rng = random.Random(seed)
    crashes = {
        (role, rng.randrange(1, 60)): rng.choice(["before", "after"])
        for role in ("scorer", "learner")
        for _ in range(rng.randrange(1, 8))
    }
    run = Lockstep(crashes=dict(crashes)).run()
    assert run.crashes >= 1
    expected = calm.topics()
    for name, records in run.topics().items():
        assert records == expected[name], name


def test_tallies_tile_each_partition(calm):
    ends = calm.broker.ends("samples")
    tallies = [v for _, _, v, _ in calm.topic("reports") if v["kind"] == "tally"]
    for partition, end in ends.items():
        ranges = sorted((t["from_offset"], t["to_offset"]) for t in tallies if t["partition"] == partition)
        assert ranges[0][0] == 0
        assert ranges[-1][1] == end
        assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))


def test_every_decision_can_be_derived_again_from_its_record(calm):
    seed = calm.settings.seed
    requests = [v for _, _, v, _ in calm.topic("labels-requested") if v]
    assert requests
    for r in requests:
        source, query = r["meta"]["source"], r["meta"]["query"]
        assert query["coin"] == coin(seed, "samples", source["partition"], source["offset"])
        assert query["coin"] < query["inclusion_probability"] <= 1
        assert r["meta"]["request_id"] == f"{source['partition']}-{source['offset']}"


def test_the_budget_holds_at_every_prefix_of_every_partition(calm):
    budget = Budget(fraction=0.1)
    ledger = [v for _, _, v, _ in calm.topic("ledger")]
    requests = [v["meta"]["source"] for _, _, v, _ in calm.topic("labels-requested") if v]
    for partition in (0, 1):
        granted = sum(g["tokens"] for g in ledger if g["kind"] == "grant" and g["partition"] == partition)
        offsets = sorted(s["offset"] for s in requests if s["partition"] == partition)
        for i, offset in enumerate(offsets, start=1):
            assert i <= 0.1 * (offset + 1) + granted
    assert len(requests) <= 0.1 * 2000 + budget.allowance


def test_no_request_is_learned_twice(calm):
    closed = [
        v["request_id"] for _, _, v, _ in calm.topic("ledger") if v["kind"] in ("label", "skip", "expire")
    ]
    assert len(closed) == len(set(closed))


def test_a_fresh_fold_of_the_final_ledger_predicts_the_same(calm):
    fresh = Follower(calm.broker, "ledger")
    fresh.catch_up(fresh.end())
    running = calm.learner.follower.fold
    batch = [{"x": x / 3, "y": -x / 5, "where": "a"} for x in range(-9, 10)]
    np.testing.assert_allclose(fresh.fold.model.predict(batch), running.model.predict(batch), atol=1e-9)
    assert fresh.fold.version == running.version
    assert fresh.fold.accuracy.window(None) == running.accuracy.window(None)


def test_the_fold_does_not_raise_on_anything_in_the_ledger():
    fold = Fold()
    for offset, value in enumerate(
        [b"", b"{}", b"nonsense", b'{"kind":"label"}', b'{"kind":"unheard of"}', b"[" * 5000]
    ):

        class Record:
            topic, partition, key, headers, timestamp = "ledger", 0, None, (), 0

        record = Record()
        record.value, record.offset = value, offset
        fold.apply(offset, decode_ledger(record))
    assert fold.position == 6
    assert fold.errors["unreadable"] == 6


def test_a_second_closing_of_a_request_is_ignored(calm):
    records = []
    with calm.broker.reader({TopicPartition("ledger", 0): 0}) as reader:
        for batch in reader.poll(100_000, 0).values():
            records += batch
    once, twice = Fold(), Fold()
    for r in records:
        once.apply(r.offset, decode_ledger(r))
        twice.apply(r.offset, decode_ledger(r))
        if msgspec.json.decode(r.value)["kind"] == "label":
            twice.apply(r.offset, decode_ledger(r))
    assert twice.learned == once.learned
    assert twice.errors["closed_twice"] == once.outcomes["learned"] + once.outcomes["credited"]
    assert twice.accuracy.window(None) == once.accuracy.window(None)
