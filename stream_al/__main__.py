"""``python -m stream_al`` is ``stream-al``."""

from __future__ import annotations

from stream_al.cli import main

if __name__ == "__main__":
    main()
