"""The board: the latest picture of the service, written by its loop and read by the HTTP thread.

Publishing is one assignment of an immutable value, so readers need no lock and never see half a picture. What
can only be known from several pictures, the age of unread records, is added here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from stream_al.service.figures import Figures, Input

SILENT_S = 30.0
MOST_SIGHTINGS = 600


@dataclass(frozen=True, slots=True)
class Picture:
    """Figures and when they were published, in monotonic seconds; number 0 is from before the first."""

    figures: Figures
    at: float
    number: int


class Board:
    """Holds the latest figures.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._arrivals = Arrivals()
        self.latest = Picture(Figures.away("starting"), clock(), 0)

    @property
    def figures(self) -> Figures:
        return self.latest.figures

    def publish(self, figures: Figures) -> None:
        """Show new figures; called by one thread only."""
        now = self._clock()
        shown = (
            replace(figures, unread_s=self._arrivals.see(figures, now))
            if figures.reachable
            else self._away(figures)
        )
        self.latest = Picture(shown, now, self.latest.number + 1)

    def _away(self, figures: Figures) -> Figures:
        """Keep what this process has counted; what only the broker knows is unknown now."""
        before = self.figures
        if not before.ledger_id:
            return figures
        return replace(
            before, reachable=False, ready=False, why_not=figures.why_not, learner=None, lags={}, unread_s={}
        )

    def silent_s(self) -> float:
        """Return for how long nothing was published."""
        return self._clock() - self.latest.at

    def alive(self) -> bool:
        """Whether the loop turns."""
        return self.silent_s() < SILENT_S


class Arrivals:
    """Remembers when each input's end was first seen where, and so how old its first unread record is.

    No clock but ours is asked: records may carry any timestamp, those of a replayed stream are months old.
    What was unread before the first picture counts from there: the age is a lower bound then, and otherwise
    exact to the time between two pictures.
    """

    def __init__(self) -> None:
        self._seen: dict[Input, list[tuple[int, float]]] = {}

    def see(self, figures: Figures, now: float) -> Mapping[Input, float]:
        """Note where all inputs end; return the age of each one's first unread record in seconds, or 0."""
        self._seen = {name: self._seen.get(name, []) for name in figures.lags}
        return {name: self._age(name, figures.ends[name], lag, now) for name, lag in figures.lags.items()}

    def _age(self, name: Input, end: int, lag: int, now: float) -> float:
        seen = self._seen[name]
        if seen and end < seen[-1][0]:
            seen.clear()  # another topic of that name
        if not seen or end > seen[-1][0]:
            seen.append((end, now))
        unread = [sighting for sighting in seen if sighting[0] > end - lag]
        if len(unread) > MOST_SIGHTINGS:
            unread = unread[::2]
        self._seen[name] = unread
        return now - unread[0][1] if lag and unread else 0.0
