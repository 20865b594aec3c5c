"""Spoiled payloads for every decoder: ``python -m tests.fuzz --count 100000 --seed 1``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.faults import note
from tests.fuzz.run import fuzz
from tests.fuzz.targets import targets

HOW = "bits, pieces, types, depth, numbers and characters of right ones changed, into every decoder"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="payloads for each decoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one decoder")
    parser.add_argument(
        "--faults", type=Path, help="add what was tried to this file, for docs/reliability.md"
    )
    chosen = parser.parse_args()
    failed = tried = 0
    print(f"{'decoder':<20} {'tried':>9} {'read':>9} {'refused':>9} {'seconds':>8}")
    for name, target in targets().items():
        if chosen.only in (None, name):
            found = fuzz(name, target, chosen.count, chosen.seed)
            failed += len(found.failures)
            tried += found.tried
            print(f"{name:<20} {found.tried:>9,} {found.read:>9,} {found.refused:>9,} {found.seconds:>8.1f}")
            for failure in found.failures:
                print(failure)
            sys.stdout.flush()
    note(chosen.faults, "tests/fuzz", "spoiled payloads", HOW, tried, held=not failed)
    print(f"{failed} failures" if failed else f"only BadRecord came out; seed {chosen.seed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
