"""The budget of one partition is never exceeded, is used up, and does not depend on where polls were cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_al.core.budget import BLOCK, TOKEN, PartitionBudget
from stream_al.core.messages import Budget, Grant, timestamp

NOW = 1_800_000_000_000
N = 60_000


def streams(n: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    at = np.arange(n)
    return {
        "uniform": rng.random(n),
        "skewed": rng.beta(0.3, 3, n),
        "constant": np.full(n, 0.3),
        "ties": rng.integers(0, 3, n) / 2,
        "tiny": rng.random(n) * 1e-3,
        "scale changes": np.where((at // 5000) % 2 == 0, rng.random(n) * 0.1, 0.5 + 0.5 * rng.random(n)),
        "bursts of interest": np.where(
            (at // 1000) % 10 == 0, 0.9 + 0.1 * rng.random(n), 0.3 * rng.random(n)
        ),
        "drift": np.linspace(0, 1, n),
        "rare": (rng.random(n) < 0.01).astype(float),
        "all one": np.ones(n),
        "all zero": np.zeros(n),
    }


def decide(state, u, budget, seed=0, warming=False, cuts=None):
    coins = np.random.default_rng(seed).random(len(u))
    p, chosen, at = [], [], 0
    cut = np.random.default_rng(seed + 1)
    while at < len(u):
        n = cuts or int(cut.integers(1, 300))
        part = slice(at, at + n)
        d = state.decide(u[part], np.zeros(len(u[part]), bool), coins[part], budget, warming=warming)
        p.append(d.p)
        chosen.append(d.chosen)
        at += n
    return np.concatenate(p), np.concatenate(chosen)


@pytest.mark.parametrize("name", streams())
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.2])
def test_spend_never_exceeds_the_budget_at_any_prefix(name, fraction):
    budget, u = Budget(fraction=fraction), streams()[name]
    state = PartitionBudget(clock_ms=NOW, level=budget.burst * TOKEN)
    _, chosen = decide(state, u, budget)
    n = np.arange(1, len(u) + 1)
    assert (np.cumsum(chosen) <= fraction * n + budget.burst + 1e-9).all()


@pytest.mark.parametrize("name", streams())
@pytest.mark.parametrize(("fraction", "error"), [(0.05, 0.03), (0.1, 0.02)])
def test_the_budget_is_used_and_nothing_is_left_uncovered(name, fraction, error):
    budget, u = Budget(fraction=fraction), streams()[name]
    state = PartitionBudget(clock_ms=NOW, level=budget.burst * TOKEN)
    p, chosen = decide(state, u, budget)
    assert abs(chosen.mean() / fraction - 1) <= error
    assert (p == 0).mean() <= 1e-4


def test_informative_samples_are_asked_more_often():
    u = streams()["uniform"]
    p, chosen = decide(PartitionBudget(level=20 * TOKEN), u, Budget(fraction=0.05))
    assert u[chosen].mean() > u.mean() + 0.15
    assert p[u > 0.9].mean() > 5 * p[u < 0.1].mean()


def test_the_coin_decides_with_the_recorded_probability():
    u = streams(200_000)["uniform"]
    p, chosen = decide(PartitionBudget(level=20 * TOKEN), u, Budget(fraction=0.05))
    for low, high in [(0, 0.02), (0.02, 0.05), (0.05, 0.15), (0.15, 1)]:
        inside = (p > low) & (p <= high)
        if inside.sum() > 2000:
            expected = p[inside].sum()
            assert abs(chosen[inside].sum() - expected) < 4 * np.sqrt(expected)


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=60),
    st.sampled_from([0.01, 0.05, 0.3]),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_where_a_poll_was_cut_changes_nothing(cuts, fraction, seed):
    budget = Budget(fraction=fraction)
    n = sum(cuts)
    rng = np.random.default_rng(seed)
    u, coins, cold = rng.beta(0.5, 2, n), rng.random(n), rng.random(n) < 0.1
    whole, pieces = (
        PartitionBudget(level=5 * TOKEN, debt=3 * TOKEN),
        PartitionBudget(level=5 * TOKEN, debt=3 * TOKEN),
    )
    once = whole.decide(u, cold, coins, budget, warming=False)
    at, p = 0, []
    for cut in cuts:
        part = slice(at, at + cut)
        p.append(pieces.decide(u[part], cold[part], coins[part], budget, warming=False).p)
        restored = PartitionBudget.decode(
            pieces.encode("ledger", at), "ledger", at
        )  # a restart after every poll
        assert restored is not None
        pieces = restored
        at += cut
    np.testing.assert_array_equal(np.concatenate(p), once.p)
    assert pieces.encode("x", 0) == whole.encode("x", 0)


def test_state_is_small_ascii_and_valid_at_its_own_position_only():
    state = PartitionBudget(clock_ms=NOW, level=123, taken=10**9)
    grants = [Grant(10**9 + i, "cap", 0, 10**6, timestamp(NOW), timestamp(NOW + 30_000)) for i in range(1, 9)]
    state.take(grants, Budget(per_hour=10), warming=False)
    decide(state, streams(5000)["skewed"], Budget(fraction=0.05))
    text = state.encode("0123456789abcdef", 10**12)
    assert text.isascii()
    assert len(text) <= 1000
    assert PartitionBudget.decode(text, "0123456789abcdef", 10**12).encode("0123456789abcdef", 10**12) == text
    assert PartitionBudget.decode(text, "0123456789abcdef", 10**12 + 1) is None
    assert PartitionBudget.decode(text, "another", 10**12) is None


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_anything_else_is_no_state(text):
    assert PartitionBudget.decode(text, "ledger", 5) is None


def test_a_partition_without_tokens_asks_only_what_it_earned():
    budget = Budget(fraction=0.05)
    _, chosen = decide(PartitionBudget(), streams(10_000)["all one"], budget)
    n = np.arange(1, 10_001)
    assert (np.cumsum(chosen) <= 0.05 * n + 1e-9).all()


# --- grants --------------------------------------------------------------------------------------------------


def grant(number, kind, tokens, life_ms=30_000):
    return Grant(number, kind, 0, tokens, timestamp(NOW), timestamp(NOW + life_ms))


def test_the_advance_is_spent_at_one_half_and_repaid():
    budget = Budget(fraction=0.05)
    state = PartitionBudget(clock_ms=NOW)
    state.take([grant(1, "advance", 30), grant(2, "burst", 20)], budget, warming=True)
    u = np.ones(4000)
    p, chosen = decide(state, u, budget, warming=True)
    assert (p[:40] == 0.5).all()
    spent_at = int(np.flatnonzero(np.cumsum(chosen) == 30)[0])
    assert 40 < spent_at < 100
    assert state.debt == 0, "30 tokens are repaid within 3,000 samples"
    n = np.arange(1, 4001)
    assert (np.cumsum(chosen) <= 0.05 * n + budget.allowance).all()


def test_a_grant_is_taken_once_and_lapses_early():
    budget = Budget(fraction=0.05)
    state = PartitionBudget(clock_ms=NOW)
    first = grant(1, "burst", 5)
    assert state.take([first], budget, warming=True)[1].closed
    assert state.take([first], budget, warming=True) == {}
    assert state.level == 5 * TOKEN
    state.take([grant(2, "advance", 9)], budget, warming=True)
    state.tick(NOW + 25_000, 0)
    ended = state.take([], budget, warming=True)
    assert ended[2].closed
    assert ended[2].spent == 0
    state.tick(NOW + 26_000, 0)
    assert state.take([grant(3, "burst", 5)], budget, warming=True)[3].spent == 0, "too late to take"


def test_caps_need_cap_tokens_as_well():
    budget = Budget(fraction=0.5, per_hour=10)
    state = PartitionBudget(clock_ms=NOW, level=20 * TOKEN)
    p, chosen = decide(state, np.ones(500), budget)
    assert not p.any()
    state.take([grant(1, "cap", 3)], budget, warming=False)
    state.tick(NOW + 100, 100)
    _, chosen = decide(state, np.ones(3000), budget)
    assert chosen.sum() <= 3


def test_cap_tokens_are_spread_over_their_life():
    budget = Budget(fraction=None, per_hour=1000)
    state = PartitionBudget(clock_ms=NOW)
    rng = np.random.default_rng(3)
    spent_at = []
    for second in range(200):
        now = NOW + second * 1000
        state.tick(now, 50)
        if second % 20 == 0:
            g = Grant(second + 1, "cap", 0, 10, timestamp(now), timestamp(now + 30_000))
            state.take([g], budget, warming=False)
        else:
            state.take([], budget, warming=False)
        d = state.decide(rng.random(50), np.zeros(50, bool), rng.random(50), budget, warming=False)
        spent_at += [second] * int(d.chosen.sum())
    assert len(spent_at) <= 100
    assert len(spent_at) >= 70
    assert np.histogram(spent_at, bins=10)[0].max() <= 20


def test_the_clock_never_goes_back_and_a_jump_says_nothing_about_the_rate():
    state = PartitionBudget(clock_ms=NOW)
    for i in range(100):
        state.tick(NOW + i * 100, 10)
    rate = state.rate
    state.tick(NOW - 10**9, 10)
    assert state.clock_ms == NOW + 9900
    state.tick(NOW + 10**9, 10)
    assert state.rate == pytest.approx(rate, rel=0.3)


def test_the_threshold_moves_at_fixed_counts_only():
    budget = Budget(fraction=0.05)
    state = PartitionBudget(level=20 * TOKEN)
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(BLOCK * 4):
        d = state.decide(rng.random(1), np.zeros(1, bool), np.ones(1), budget, warming=False)
        seen.append(float(d.threshold[0]))
    changes = [i for i in range(1, len(seen)) if seen[i] != seen[i - 1]]
    assert changes
    assert all(i % BLOCK == 0 for i in changes)


def test_a_million_samples_over_changing_streams_and_restarts():
    budget = Budget(fraction=0.05)
    state = PartitionBudget(level=budget.burst * TOKEN)
    rng = np.random.default_rng(11)
    u = np.concatenate([rng.permutation(s) if i % 2 else s for i, s in enumerate(streams(91_000).values())])
    coins = rng.random(len(u))
    asked = at = 0
    while at < len(u):
        n = int(rng.integers(1, 5000))
        part = slice(at, at + n)
        d = state.decide(u[part], np.zeros(len(u[part]), bool), coins[part], budget, warming=False)
        before = asked + np.cumsum(d.chosen)
        assert (before <= 0.05 * (at + 1 + np.arange(len(before))) + budget.burst + 1e-9).all()
        asked, at = int(before[-1]), at + n
        state = PartitionBudget.decode(state.encode("l", at), "l", at)
    assert len(u) > 1_000_000
    assert asked / (0.05 * len(u)) > 0.97
