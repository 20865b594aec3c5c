"""Limits of the whole stream, with real scorers and a real learner in virtual time."""

from __future__ import annotations

import logging
import random
from collections import Counter

import pytest
import structlog

from stream_al.codec import decode_request
from stream_al.config import load
from stream_al.core.messages import LabelRequest, milliseconds
from stream_al.simulate import Simulation
from stream_al.transport.port import TopicPartition

pytestmark = pytest.mark.fault(
    "a budget exceeded", "hours and days in virtual time, idle and moving partitions"
)
HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def quiet():
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.configure(**before)


def run(sets, n, per_s, *, partitions, route=lambda _: None, delay=20):
    """Return the run, its requests, the most open requests after a turn, and the hours it took."""
    common = [
        f"broker.partitions={partitions}",
        "scorer.commit_samples=64",
        "state_dir=null",
        "samples.start=earliest",
    ]
    common.insert(0, "model.spec=[river.preprocessing.StandardScaler, river.linear_model.LogisticRegression]")
    rng = random.Random(0)

    def stream():
        for _ in range(n):
            x, y = rng.gauss(0, 1), rng.gauss(0, 1)
            yield {"x": x, "y": y}, "a" if x + y > 0 else "b"

    simulation = Simulation(
        load(None, [*common, *sets], environ={}), stream(), delay=delay, samples_per_s=per_s, route=route
    )
    began, most = simulation.clock.ms, 0
    for _ in simulation.run():
        most = max(most, len(simulation.service.learner.machine.pending))
    hours = (simulation.clock.ms - began) / HOUR_MS
    with simulation.broker.reader({TopicPartition("labels-requested", 0): 0}) as reader:
        found = [decode_request(r) for batch in reader.poll(10**7, 0).values() for r in batch]
    return simulation, [q for q in found if isinstance(q, LabelRequest)], most, hours


def most_in_an_hour(requests):
    times = sorted(milliseconds(q.requested_at) for q in requests)
    return max(sum(t <= other < t + HOUR_MS for other in times) for t in times)


def bursts(i):
    """Route everything to one partition for a while: skew that moves."""
    return (i // 300) % 4


@pytest.mark.parametrize(
    ("route", "active", "fraction"),
    [
        (lambda _: None, 4, "null"),
        (lambda i: i % 3, 3, "null"),
        (lambda i: i % 3, 3, "0.05"),
        (bursts, 4, "0.05"),
    ],
    ids=["even", "a quarter idle", "a quarter idle, and a fraction", "skew that moves, and a fraction"],
)
def test_an_hourly_cap_is_kept_used_and_leaves_little_uncovered(route, active, fraction):
    simulation, requests, _, hours = run(
        [f"budget.fraction={fraction}", "budget.per_hour=100"], 5_400, 1.0, partitions=4, route=route
    )
    assert most_in_an_hour(requests) <= 100
    needed = 0.05 * 5_400 if fraction != "null" else 1e9
    share = 0.7 if route is bursts else 0.8  # tokens follow demand half a minute late
    assert len(requests) >= share * min(100 * hours, needed)
    assert len({q.source.partition for q in requests}) == active
    sums = simulation.fold.accuracy.everything
    if route is not bursts:
        assert sums.uncovered / sums.samples < 0.05


def test_ten_labels_an_hour_over_thirty_two_partitions():
    simulation, requests, _, hours = run(
        ["budget.fraction=null", "budget.per_hour=10"], 6_000, 1.0, partitions=32
    )
    assert most_in_an_hour(requests) <= 10
    assert len(requests) >= 0.7 * 10 * hours
    assert len({q.source.partition for q in requests}) >= 10, "drawn by hash, not given to the first"
    assert max(Counter(q.source.partition for q in requests).values()) <= 5
    everything = simulation.fold.accuracy.everything
    assert everything.samples == 6_000
    assert everything.uncovered > 0, "and the share is reported"


def test_outstanding_requests_never_exceed_their_limit():
    _, requests, most, _ = run(
        ["budget.fraction=0.2", "budget.max_outstanding=5"], 6_000, 20.0, partitions=4, delay=300
    )
    assert most <= 5
    assert len(requests) >= 40


def test_all_limits_at_once():
    _, requests, most, hours = run(
        ["budget.fraction=0.1", "budget.per_hour=60", "budget.per_day=1000", "budget.max_outstanding=10"],
        5_000, 1.0, partitions=3,
    )  # fmt: skip
    assert most <= 10
    assert most_in_an_hour(requests) <= 60
    assert len(requests) >= 0.6 * min(1000 / 24, 60) * hours
