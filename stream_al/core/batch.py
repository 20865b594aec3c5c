"""Samples of a poll of which most are never looked at but as numbers: each is made when somebody asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from stream_al.core.messages import Features, Sample

T = TypeVar("T")


class _Made(Sequence[T]):
    """A sequence of n things that ``make`` makes."""

    def __init__(self, n: int, make: Callable[[int], T]) -> None:
        self._all, self._make = range(n), make

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self._make(k) for k in self._all[i]]
        return self._make(self._all[i])


class Numbers(_Made[Features]):
    """The features of n samples, as a matrix as well.

    Parameters
    ----------
    columns
        The d features that have a column.
    values
        Shape (n, d); NaN is a missing value.
    odd
        The features of those samples that are not in the matrix.
    largest
        The largest magnitude in it, NaN where a value is missing.
    make
        Returns the features of the i-th sample as they came.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        values: NDArray[np.float64],
        odd: Mapping[int, Features],
        make: Callable[[int], Features],
        largest: float = math.nan,
    ) -> None:
        super().__init__(len(values), make)
        self.columns, self.values, self.odd, self.largest = columns, values, odd, largest


class Samples(_Made[Sample]):
    """The readable samples of one poll of one partition, in order of their offsets.

    Parameters
    ----------
    offsets
        Shape (n,).
    features
        Those of each sample.
    make
        Returns the i-th sample.
    """

    def __init__(
        self, offsets: NDArray[np.int64], features: Sequence[Features], make: Callable[[int], Sample]
    ) -> None:
        super().__init__(len(offsets), make)
        self.offsets, self.features = offsets, features

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Samples:
        """Return samples that are made already."""
        if isinstance(samples, Samples):
            return samples
        offsets = np.fromiter((s.source.offset for s in samples), dtype=np.int64, count=len(samples))
        return cls(offsets, [s.features for s in samples], samples.__getitem__)
