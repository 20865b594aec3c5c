"""Write the fixtures of the present version, once, when it is released: ``python -m tests.compat``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from stream_al import __version__
from tests.compat.fixtures import HERE, line, records, snapshot


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="replace those of a version not released yet")
    again = parser.parse_args().again
    path = HERE / f"{__version__}.jsonl"
    if path.exists() and not again:
        print(f"{path} exists; what a released version wrote does not change", file=sys.stderr)
        return 1
    path.write_text("".join(line(kind, record) + "\n" for kind, record in records()), encoding="utf-8")
    with tempfile.TemporaryDirectory() as directory:
        held = json.dumps(snapshot(Path(directory)), indent=1)
    path.with_suffix(".snapshot.json").write_text(held + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
