"""What the model says of a micro-batch: all that query strategies may look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Assessment:
    """A model's answers for n samples and K classes, 0 in regression; None stands for what the model cannot tell.

    Attributes
    ----------
    probabilities
        Shape (n, K); a row of zeros where the model has no answer.
    gap
        Shape (n,), at least 0: difference of the two highest logits.
    variance
        Shape (n,), at least 0: posterior variance of a logit, φ' S φ.
    features
        Shape (n, D): the standardised inputs, or the random Fourier features, that the model sees.
    committee
        Shape (M, n, K): the probabilities of each of M members.
    values
        Shape (n,): the predictions of a regressor, NaN where it has no answer.
    """

    probabilities: NDArray[np.float64]
    gap: NDArray[np.float64] | None = None
    variance: NDArray[np.float64] | None = None
    features: NDArray[np.float64] | None = None
    committee: NDArray[np.float64] | None = None
    values: NDArray[np.float64] | None = None

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Where the model has an answer; while it knows fewer than two classes it has none.

        >>> Assessment(np.array([[0.5, 0.5], [0.0, 0.0]])).answered
        array([ True, False])
        """
        if self.values is not None:
            return np.isfinite(self.values)
        p = self.probabilities
        return p.sum(axis=1) > 0 if p.shape[1] > 1 else np.zeros(len(p), dtype=np.bool_)
