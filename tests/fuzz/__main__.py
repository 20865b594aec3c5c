"""Spoiled payloads for every decoder: ``python -m tests.fuzz --count 100000 --seed 1``."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.run import fuzz
from tests.fuzz.targets import targets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="payloads for each decoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one decoder")
    chosen = parser.parse_args()
    failed = 0
    print(f"{'decoder':<20} {'tried':>9} {'read':>9} {'refused':>9} {'seconds':>8}")
    for name, target in targets().items():
        if chosen.only in (None, name):
            found = fuzz(name, target, chosen.count, chosen.seed)
            failed += len(found.failures)
            print(f"{name:<20} {found.tried:>9,} {found.read:>9,} {found.refused:>9,} {found.seconds:>8.1f}")
            for failure in found.failures:
                print(failure)
            sys.stdout.flush()
    print(f"{failed} failures" if failed else f"only BadRecord came out; seed {chosen.seed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
