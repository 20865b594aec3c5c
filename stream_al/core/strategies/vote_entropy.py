"""Query by committee: the entropy of the vote."""

from __future__ import annotations

import math

import numpy as np

from stream_al.core.assessment import Assessment
from stream_al.core.strategies.entropy import Entropy
from stream_al.core.utility import Vector, entropies


class VoteEntropy(Entropy):
    """u = H(p̄) / log K, p̄ being the mean of the members' probabilities.

    This is soft vote entropy (Dagan & Engelson, 1995; Settles, 2009, section 3.2): members that disagree and
    members that all doubt count alike. Without a committee it is ``entropy``.

    >>> members = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> VoteEntropy().utility(Assessment(members.mean(axis=0), committee=members))
    array([1., 0.])
    """

    def _utility(self, batch: Assessment) -> Vector:
        if batch.committee is None or not len(batch.committee):
            return super()._utility(batch)
        mean = batch.committee.mean(axis=0)
        u: Vector = np.divide(entropies(mean), math.log(mean.shape[1]))
        return u
