"""Off-policy estimates: they hold what another way of asking would have found, and say where they cannot."""

import doctest

import numpy as np
import pytest

from stream_al.core.messages import Learned, Query, Shown, Source
from stream_al.whatif import logged
from stream_al.whatif.logged import Recorded, choices, warnings


def label(i, p, utility, *, wrong, strategy="margin", confidence=None):
    q = 1 - utility / 2 if confidence is None else confidence
    query = Query(strategy, "informative", utility, 0.5, p, 0.01, 0.0, 0.5)
    return Learned(
        request_id=f"0-{i}",
        id=f"s-{i}",
        source=Source("samples", 0, i),
        query=query,
        model=Shown("default", 1, {"a": q, "b": 1 - q}),
        requested_at="",
        features={},
        label="b" if wrong else "a",
        learn=True,
        received_at="",
        answer=f"labels-0-{i}",
    )


def world(seed, n=6_000):
    """Return the log of a stream that was asked by utility, and all its utilities and mistakes."""
    rng = np.random.default_rng(seed)
    utility = rng.random(n)
    wrong = rng.random(n) < utility**2 / 2
    p = 0.02 + 0.2 * utility
    asked = np.flatnonzero(rng.random(n) < p)
    labels = tuple(label(i, float(p[i]), float(utility[i]), wrong=bool(wrong[i])) for i in asked)
    return Recorded(labels, n, 0), utility, wrong


def test_intervals_hold_what_another_budget_would_have_found():
    held = 0
    for seed in range(30):
        log, utility, wrong = world(seed)
        [choice] = choices(log, ["margin"], [0.1])
        truth = wrong[utility >= np.quantile(utility, 0.9)].sum() / wrong.sum()
        held += choice.low <= truth <= choice.high
        assert choice.mistakes == pytest.approx(truth, abs=0.12)
        assert choice.labels == 600
        assert choice.threshold == pytest.approx(0.9, abs=0.05)
        assert choice.high - choice.low < 0.25
    assert held >= 26


def test_utilities_that_many_share_do_not_make_a_budget_larger():
    """A tree says few different things; of samples that look the same, asking finds no more than by lot."""
    log, *_ = world(3)
    same = Recorded(
        tuple(label(i, 0.1, 0.5, wrong=i % 3 == 0) for i in range(len(log.labels))), log.samples, 0
    )
    [choice] = choices(same, ["margin"], [0.1])
    assert choice.mistakes == pytest.approx(0.1)
    half = Recorded(
        tuple(label(i, 0.1, 0.9 if i % 2 else 0.1, wrong=i % 4 == 1) for i in range(400)), 4_000, 0
    )
    assert choices(half, ["margin"], [0.1])[0].mistakes == pytest.approx(0.2)


def test_two_classes_have_the_same_order_by_all_that_the_probabilities_tell():
    log, *_ = world(1)
    margin, confidence, entropy, random = choices(
        log, ["margin", "least_confidence", "entropy", "random"], [0.2]
    )
    assert margin.mistakes == pytest.approx(confidence.mistakes, abs=1e-9)
    assert margin.mistakes == pytest.approx(entropy.mistakes, abs=1e-9)
    assert margin.mistakes > 0.3 > random.mistakes == 0.2


def test_what_was_not_recorded_cannot_be_told():
    log, *_ = world(2)
    [unknown] = choices(log, ["vote_entropy"], [0.1])
    assert unknown.mistakes is None
    assert "looks at more than was recorded" in unknown.warning
    flip = Recorded(
        tuple(label(i, 0.1, i / 200, wrong=i % 3 == 0, strategy="flip") for i in range(200)), 2_000, 0
    )
    [known] = choices(flip, ["flip"], [0.1])
    assert known.mistakes is not None


def test_few_mistakes_and_uncovered_samples_are_warned_of():
    few = Recorded(tuple(label(i, 0.1, 0.5, wrong=i < 5) for i in range(50)), 500, 200)
    [choice] = choices(few, ["margin"], [0.1])
    assert "only 5 mistakes' worth" in choice.warning
    assert any("Nothing is known of 40 % of the samples" in said for said in warnings(few))
    right = Recorded(tuple(label(i, 0.1, 0.5, wrong=False) for i in range(50)), 500, 0)
    assert choices(right, ["margin"], [0.1])[0].warning == "no mistake among the labels"
    assert len(warnings(right)) == 1


def test_examples():
    assert doctest.testmod(logged).failed == 0
