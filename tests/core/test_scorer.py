"""The scorer's partitions: fresh, restored, lost, reset."""

from __future__ import annotations

import pytest

from stream_al.core.fold import Fold
from stream_al.core.messages import (
    Bucket,
    Budget,
    Genesis,
    Grant,
    Observe,
    Sample,
    Source,
    Sums,
    timestamp,
)
from stream_al.core.scorer import Scorer

NOW = 1_800_000_000_000


def fold(spec=("river.tree.HoeffdingTreeClassifier",), budget=None, start=None, classes=None):
    made = Fold()
    start = {0: 5} if start is None else start
    records = [
        Genesis("id", "samples", start, "default", list(spec), classes, "margin", 1, timestamp(NOW)),
        budget or Budget(fraction=0.1),
    ]
    records += [Grant(1, "burst", 0, 28, timestamp(NOW), timestamp(NOW + 30_000)), Grant(2, "advance", 0, 60, timestamp(NOW), timestamp(NOW + 30_000))]  # fmt: skip
    for record in records:
        made.apply(made.position, record)
    return made


def samples(start, n, topic="samples", partition=0):
    return [
        Sample(f"s-{i}", {"x": float(i % 7), "c": "red"}, Source(topic, partition, i))
        for i in range(start, start + n)
    ]


def scorer(of):
    return Scorer(of, label_ttl_ms=1000)


def test_a_fresh_partition_starts_where_genesis_says_and_takes_its_grants():
    machine = scorer(fold())
    assert machine.assign(0, None, "") == 5
    machine.on(0, samples(5, 100), 105, 0, NOW)
    out = machine.take()
    assert machine.states_lost == 0
    assert out.tallies[0].from_offset == 5
    assert out.tallies[0].to_offset == 105
    assert out.tallies[0].grants[1].closed
    assert len(out.requests) > 20, "a cold model asks"
    assert {r.query.reason for r in out.requests} == {"warm_up"}
    assert all(r.model.probabilities == {} and r.query.expected_correct == 0.5 for r in out.requests)


def test_a_partition_that_genesis_does_not_know_starts_at_earliest():
    assert scorer(fold()).assign(3, None, "", earliest=17) == 17


def test_the_state_travels_with_the_position():
    of = fold()
    one = scorer(of)
    one.assign(0, None, "")
    one.on(0, samples(5, 200), 205, 0, NOW)
    offset, state = one.take().positions[0]
    two = scorer(of)
    assert two.assign(0, offset, state) == 205
    assert two.states_lost == 0
    assert two.partitions[0].budget.level == one.partitions[0].budget.level
    assert two.partitions[0].budget.taken == 2


@pytest.mark.parametrize("state", ["", "{}", "nonsense"])
def test_lost_state_means_no_tokens_and_old_grants_are_void(state):
    machine = scorer(fold())
    assert machine.assign(0, 50, state) == 50
    assert machine.states_lost == 1
    machine.on(0, samples(50, 9), 59, 0, NOW)
    tally = machine.take().tallies[0]
    assert tally.state_lost
    assert tally.sums.uncovered == 9


def test_a_position_below_the_folds_end_is_skipped_without_tokens():
    of = fold()
    of.apply(of.position, Bucket(0, {0: (5, 90)}, Sums(samples=85), timestamp(NOW), timestamp(NOW)))
    one = scorer(of)
    assert one.assign(0, None, "") == 90
    assert one.outcomes["skipped"] == 85
    assert one.states_lost == 1, "what was spent there is not known"


def test_unreadable_records_are_counted_and_not_decided():
    machine = scorer(fold())
    machine.assign(0, None, "")
    machine.on(0, samples(6, 3), 10, 2, NOW)
    tally = machine.take().tallies[0]
    assert (tally.sums.samples, tally.sums.invalid, tally.to_offset) == (3, 2, 10)


def test_a_revoked_partition_leaves_nothing_behind():
    machine = scorer(fold())
    machine.assign(0, None, "")
    machine.on(0, samples(5, 50), 55, 0, NOW)
    machine.revoke(0)
    out = machine.take()
    assert not out.requests
    assert not out.tallies
    assert machine.gathered == 0


def test_the_observe_share_is_one_at_first_and_small_later():
    of = fold()
    machine = scorer(of)
    machine.assign(0, None, "")
    machine.on(0, samples(5, 64), 69, 0, NOW)
    assert len(machine.take().observes) == 64
    machine.committed()
    for i in range(1_000):
        of.apply(of.position, Observe(Source("samples", 0, i), {"x": 1.0}))
    for k in range(3):
        at = timestamp(NOW + 10_000 * k)
        of.apply(
            of.position, Bucket(k, {0: (5 + 10_000 * k, 10_005 + 10_000 * k)}, Sums(samples=10_000), at, at)
        )
    assert of.observe_rate < 0.01
    assert of.observe_room <= 3


def test_predictions_are_written_if_wanted():
    machine = Scorer(fold(), label_ttl_ms=1000, predictions=True)
    machine.assign(0, None, "")
    machine.on(0, samples(5, 10), 15, 0, NOW)
    assert len(machine.take().predictions) == 10
