"""Warnings of what may come by the thousand: the first at once, then at most one a minute with their number."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import structlog

EVERY_S = 60.0


class Trouble:
    """Counts one kind of trouble by its reason, and warns of it now and then; never with a payload.

    Parameters
    ----------
    log
        Whose warning it is.
    event
        What happened.
    clock
        Seconds that never go back.
    """

    def __init__(
        self, log: structlog.stdlib.BoundLogger, event: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.log, self.event, self.clock = log, event, clock
        self.counts: Counter[str] = Counter()
        self.told_s: dict[str, float] = {}

    def note(self, reason: str, topic: str, partition: int, offset: int) -> None:
        """Count one, and warn of it unless that was done for this reason a moment ago."""
        self.counts[reason] += 1
        now = self.clock()
        if now - self.told_s.get(reason, -EVERY_S) < EVERY_S:
            return
        self.told_s[reason] = now
        at = f"{topic}-{partition}@{offset}"
        self.log.warning(self.event, reason=reason, at=at, so_far=self.counts[reason])
