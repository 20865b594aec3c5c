"""The desk's API as an OpenAPI document, as ``/openapi.json`` shows it.

``python -m stream_al.web.openapi`` writes ``docs/openapi.json``; a test holds the committed copy equal.
"""

from __future__ import annotations

import json
from pathlib import Path

from stream_al.config import load
from stream_al.service.desk import DeskRoom
from stream_al.web.app import create_app
from stream_al.web.board import Board

_ROOT = Path(__file__).parent.parent.parent


def text() -> str:
    """Return the document as JSON."""
    with DeskRoom(load(None, ["state_dir=null"], environ={}), lambda: 0) as room:
        return json.dumps(create_app(Board(), room).openapi(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    (_ROOT / "docs" / "openapi.json").write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
