"""The universes find bugs: each one planted, alone and in company, within a hundred seeds."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.universe.checks import check
from tests.universe.planted import BUGS
from tests.universe.world import Universe

pytestmark = pytest.mark.slow

SEEDS = 100
PAIRS = random.Random(1).sample(list(itertools.combinations(BUGS, 2)), 4)


def found(bugs, patch) -> int | None:
    """Return the first seed whose universe shows that something is wrong."""
    for name in bugs:
        BUGS[name](patch)
    for seed in range(SEEDS):
        universe = Universe(seed)
        try:
            universe.run()
            check(universe)
        except Exception:
            return seed
    return None


@pytest.mark.fault(
    "checks that notice nothing",
    "bugs planted into the production code, which the universes must find",
)
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name, monkeypatch):
    assert len(BUGS) >= 12
    assert found([name], monkeypatch) is not None


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_one_bug_does_not_hide_another(pair, monkeypatch):
    assert found(pair, monkeypatch) is not None
