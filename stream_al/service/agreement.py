"""Whether this process's model says what the ledger's probes say.

Theory of operation
-------------------
Replicas that fold the same records hold the same model, unless memory, a library or a snapshot is bad. The learner's
probes show it::

    agrees ──▶ disagrees at a probe ──▶ snapshots are dropped, the ledger is folded from its start
       ▲                                      │
       │                                      ├──▶ agrees there: it was this process's state
       └── agrees at a later probe ◀── not ready ◀── disagrees there again: it is something that stays
"""

from __future__ import annotations

from dataclasses import dataclass, field

TOLERANCE = 1e-6


class Diverged(Exception):  # noqa: N818  a fact, and the reaction is to begin again
    """The model of this process is another one than the learner's; the fold must begin at the ledger's start."""


@dataclass(slots=True)
class Agreement:
    """What was found at the probes, over all starts of the service in this process.

    Attributes
    ----------
    disagreements
        How often the model was another one.
    lasting
        Whether it still was after the ledger had been folded from its start.
    folds_again
        Whether that is done; a tool that only looks does not.
    """

    folds_again: bool = True
    disagreements: int = 0
    lasting: bool = False
    _tried: set[int] = field(default_factory=set)

    def compare(self, offset: int, difference: float) -> bool:
        """Note the difference at a probe; say whether to fold from the start, which is tried once for each."""
        if difference <= TOLERANCE:
            self.lasting = False
            return False
        self.disagreements += 1
        tried = offset in self._tried or not self.folds_again
        self._tried.add(offset)
        self.lasting = self.lasting or tried
        return not self.lasting
