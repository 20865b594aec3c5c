"""Printing: JSON for machines, one line of text for people; results go to standard output."""

from __future__ import annotations

import sys
from typing import Any


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    import msgspec

    print_line(msgspec.json.encode(value).decode())


def print_line(text: str) -> None:
    """Print a line at once, whatever characters the terminal knows."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def text_of(value: bytes | None) -> str | None:
    r"""Return bytes as text, those that are none escaped.

    >>> text_of(b"caf\xc3\xa9 \xff")
    'café \\xff'
    """
    return None if value is None else value.decode("utf-8", "backslashreplace")


def json_or_text(value: bytes | None) -> Any:
    """Return what bytes hold: parsed JSON where they are JSON, else their text."""
    import msgspec

    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return text_of(value)


def one_line(text: str) -> str:
    r"""Return text without control characters, so that a record cannot play with the terminal.

    >>> one_line("a\n\x1b[31mb")
    'a\\n\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
