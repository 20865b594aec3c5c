"""Query by committee: how far the members are from their consensus."""

from __future__ import annotations

import math

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.entropy import Entropy
from stream_al.core.utility import Vector, entropies


class ConsensusKl(Entropy):
    """u = mean over members of KL(p_m ‖ p̄) / log min(M, K), p̄ being their mean (McCallum & Nigam, 1998).

    It is computed as H(p̄) - mean H(p_m). Doubt that all members share does not count, unlike in
    ``vote_entropy``. Without at least two members nothing is known of disagreement, and it is ``entropy``.

    >>> members = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
    >>> ConsensusKl().utility(Assessment(members.mean(axis=0), committee=members))
    array([1., 0.])
    """

    def _utility(self, batch: Assessment) -> Vector:
        members = batch.committee
        if members is None or len(members) < 2:
            return super()._utility(batch)
        m, n, k = members.shape
        own = entropies(members.reshape(m * n, k)).reshape(m, n).mean(axis=0)
        u: Vector = np.divide(entropies(members.mean(axis=0)) - own, math.log(min(m, k)))
        return u
