"""What the model says of a micro-batch: all that query strategies may look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Assessment:
    """A model's answers for n samples and K classes; None stands for what the model cannot tell.

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
    """

    probabilities: NDArray[np.float64]
    gap: NDArray[np.float64] | None = None
    variance: NDArray[np.float64] | None = None
    features: NDArray[np.float64] | None = None
    committee: NDArray[np.float64] | None = None
