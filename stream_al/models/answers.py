"""What a classifier of this package says of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Answers(NamedTuple):
    """Predictions for n samples over K classes in order of appearance; what a model does not have is None.

    Attributes
    ----------
    classes
        The K labels.
    probabilities
        Shape (n, K); rows sum to 1, except before the first label (K = 0).
    gap
        Shape (n,), at least 0: the difference of the two highest mean logits.
    variance
        Shape (n,), at least 0: the variance of each logit under the posterior.
    features
        Shape (n, D): the inputs as the model sees them.
    committee
        Shape (M, n, K): the probabilities of each of M members.
    """

    classes: Sequence[Any]
    probabilities: NDArray[np.float64]
    gap: NDArray[np.float64] | None = None
    variance: NDArray[np.float64] | None = None
    features: NDArray[np.float64] | None = None
    committee: NDArray[np.float64] | None = None
