"""Replay one universe with a trace: ``python -m tests.universe SEED``."""

from __future__ import annotations

import sys

import structlog

from tests.universe.checks import check, summary
from tests.universe.world import Universe

if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    seed = int(sys.argv[1])
    print(f"{'time':>10} {'who':<10} {'what':<18} samples requests labels ledger")
    universe = Universe(seed, trace=print)
    print(universe.drawn)
    universe.run()
    check(universe)
    print(summary(universe))
    print("all checks hold")
