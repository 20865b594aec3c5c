"""Many universes, each with its own mix of faults; ``python -m tests.universe SEED`` replays one."""

from __future__ import annotations

import pytest

from tests.universe.checks import check
from tests.universe.world import FAULTS, Universe

SEEDS, BLOCK = 500, 25


@pytest.mark.fault(
    "everything at once: kills, lost acknowledgements, rebalances, spoiled snapshots, lost state, odd records and clocks",
    f"simulated universes with production code, each with its own mix of {len(FAULTS)} faults",
    tried=BLOCK,
)
@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_everything_holds_in_every_universe(first):
    for seed in range(first, first + BLOCK):
        universe = Universe(seed)
        try:
            universe.run()
            check(universe)
        except BaseException as problem:
            problem.add_note(f"replay it: python -m tests.universe {seed}")
            raise
