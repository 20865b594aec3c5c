"""The fold of a whole ledger, without a broker: what a follower must come to."""

from __future__ import annotations

from collections.abc import Sequence

from stream_al.core.fold import Fold
from stream_al.core.messages import LedgerRecord, Probe
from stream_al.service.agreement import TOLERANCE


def folded(ledger: Sequence[tuple[int, LedgerRecord | None]], fold: Fold | None = None) -> Fold:
    """Fold records with their offsets, from a fold's position on; a rebuild's range is looked up among them.

    Probes must agree."""
    fold = fold or Fold()
    for offset, record in ledger:
        if offset >= fold.position:
            if isinstance(record, Probe):
                assert fold.disagreement(record) <= TOLERANCE, offset
            fold.apply(offset, record)
        if fold.rebuilding is not None:
            for o, r in ledger:
                if fold.rebuilding.begin <= o < fold.rebuilding.until:
                    fold.refold(o, r)
            fold.rebuilt()
    return fold
