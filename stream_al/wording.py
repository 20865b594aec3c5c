"""Time spans and names as people read them."""

from __future__ import annotations

LONGEST_NAME = 60


def duration(seconds: float) -> str:
    """Write a time span for people.

    >>> [duration(s) for s in (0.25, 59, 150, 7_200, 200_000)]
    ['0.2 s', '59 s', '2 min', '2 h', '2 d']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a name, or the beginning of one that would flood a screen.

    >>> shortened("s-123"), shortened("x" * 5_000, 3)
    ('s-123', 'xxx… (5,000 characters)')
    """
    return name if len(name) <= longest else f"{name[:longest]}… ({len(name):,} characters)"
