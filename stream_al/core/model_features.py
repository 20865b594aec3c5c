"""Make the features of any sample fit any River model.

A sample's features are numbers, booleans, strings, lists of numbers (embeddings) or missing; a River model
wants a dictionary of finite floats. ``FeatureTable`` stands between them. It is part of the model's state:
it grows only when a record of the ledger is learned or observed, never by a prediction, so all replicas hold
the same table.

* A **number** keeps its name; booleans are the numbers 0 and 1. NaN and infinities are missing, magnitudes
  are clipped at ``LARGEST`` so that squares stay finite.
* A **string** is one-hot: its first ``LEVELS`` values get a column each (``country=FR``), later or long ones
  share ``BUCKETS`` columns by their CRC-32 (``country#7``). Columns of the other values are 0, not absent:
  a standardised column that is only ever 1 says nothing.
* A **list** becomes ``name[0]``, ``name[1]``, ...: as many as it had when first seen, at most
  ``LONGEST_LIST``.
* A feature keeps the type it was first seen with; another type is a missing value.
* **Missing** numbers are the mean of those learned so far, a missing string has 0 in all its columns:
  scalers, naive Bayes, neighbours and Mondrian trees want every sample to have the same columns. A feature
  never learned or observed does not exist. Beyond ``DENSE`` columns the samples are taken as sparse: what is
  missing is left out.
* A string feature that the model's spec itself names (a text extractor's ``on``, a selector's keys) passes
  as it is.
* At most ``MOST`` features and columns are remembered; later ones, and names over ``LONGEST_NAME``, are
  ignored.

Columns stand in the order of their first appearance, sorted by name within one record, whatever the order of
keys.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from operator import itemgetter
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from stream_al.core.batch import Numbers
from stream_al.core.messages import Feature

LARGEST = 1e18
LEVELS = 32
LONGEST_LEVEL = 64
BUCKETS = 16
LONGEST_LIST = 4_096
LONGEST_NAME = 256
DENSE = 1_024
MOST = 10_000

Row = dict[Any, Any]  # River's features: columns → numbers, or texts where the spec names them


class FeatureTable:
    """The features seen so far, their types and columns.

    Parameters
    ----------
    texts
        Features that pass as raw strings and are an empty text when missing.
    named
        Features that pass as raw strings if their first value is one.
    """

    def __init__(self, *, texts: Iterable[str] = (), named: Iterable[str] = ()) -> None:
        self._kinds: dict[str, _Kind | _Levels | _List] = {}
        self._usual: Row = {}  # column → what a sample without it gets, in canonical order
        self._rank: dict[str, int] = {}
        self._counts: dict[str, int] = {}  # column of numbers → values learned
        self._strings: dict[str, _Levels] = {}
        self._raw: Row = {}
        self._names: tuple[str, ...] = ()  # of a record whose features are all known
        self._named = frozenset(named)
        for name in sorted(texts):
            self._add_raw(name)

    def encode(self, features: Mapping[str, Feature]) -> Row:
        """Translate the features of a sample into River's, without remembering anything."""
        row = self._without_features()
        kinds = self._kinds
        for name, value in features.items():
            kind = kinds.get(name)
            if kind is NUMBER:
                if type(value) is float and -LARGEST <= value <= LARGEST:
                    row[name] = value
                else:
                    _write_number(row, name, value)
            elif kind is not None:
                kind.write(row, name, value)
        return self._arranged(row)

    @property
    def _dense(self) -> bool:
        """Whether samples have all columns, or only those that their features write."""
        return len(self._usual) <= DENSE

    def _without_features(self) -> Row:
        return self._usual.copy() if self._dense else self._raw.copy()

    def _arranged(self, row: Row) -> Row:
        """Return a row in canonical order."""
        if self._dense:
            return row
        return {column: row[column] for column in sorted(row, key=self._rank.__getitem__)}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in canonical order."""
        return tuple(self._usual)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns, if each is a feature that is a number; none if not, or if samples are sparse."""
        plain = self._dense and all(kind is NUMBER for kind in self._kinds.values())
        return self.columns if plain else ()

    def matrix(self, batch: Sequence[Mapping[str, Feature]]) -> NDArray[np.float64] | None:
        """Return what ``encode`` gives for n samples as a matrix of shape (n, ``columns``).

        None where samples are sparse or hold texts.
        """
        if self._raw or not 0 < len(self._usual) <= DENSE:
            return None
        if isinstance(batch, Numbers) and batch.columns == self.numbers:
            return self._filled(batch)
        get, dimensions = itemgetter(*self._usual), 1 if len(self._usual) == 1 else 2
        if all(kind is NUMBER for kind in self._kinds.values()):  # perhaps there is nothing to translate
            with contextlib.suppress(KeyError, ValueError, OverflowError):
                found = np.array([get(features) for features in batch])
                if found.dtype.kind in "fiub" and found.ndim == dimensions:
                    values = found.astype(np.float64, copy=False).reshape(len(batch), -1)
                    if np.abs(values).max() <= LARGEST:  # false for NaN, too
                        return values
        return np.array([get(self.encode(features)) for features in batch], dtype=np.float64).reshape(
            len(batch), -1
        )

    def _filled(self, batch: Numbers) -> NDArray[np.float64]:
        values = batch.values
        if batch.odd or not batch.largest <= LARGEST:  # false for NaN, too
            usual = np.fromiter(self._usual.values(), dtype=np.float64)
            values = np.where(np.isnan(values), usual, np.clip(values, -LARGEST, LARGEST))
            for i, features in batch.odd.items():
                values[i] = list(self.encode(features).values())
        return values

    def learn(self, features: Mapping[str, Feature]) -> Row:
        """Remember what is new in these features, then translate them."""
        self._register(features)
        usual, counts, kinds = self._usual, self._counts, self._kinds
        row = self._without_features()  # what is usual moves below
        for name, value in features.items():
            kind = kinds.get(name)
            if kind is NUMBER:
                number = value if type(value) is float and -LARGEST <= value <= LARGEST else _number(value)
                if number is not None:
                    row[name] = number
                    counts[name] = count = counts[name] + 1
                    mean = usual[name]
                    usual[name] = mean + (number - mean) / count
            elif kind is not None:
                kind.write(row, name, value)
                if isinstance(kind, _List) and isinstance(value, list | tuple):
                    self._average(kind.columns, value)
        return self._arranged(row)

    def _average(self, columns: Sequence[str | None], values: Sequence[Any]) -> None:
        for column, value in zip(columns, values, strict=False):
            number = _number(value)
            if column is not None and number is not None:
                self._counts[column] += 1
                self._usual[column] += (number - self._usual[column]) / self._counts[column]

    def _register(self, features: Mapping[str, Feature]) -> None:
        names = tuple(features)
        if names != self._names:  # those of a stream nearly always are those of its last sample
            for name in sorted(features.keys() - self._kinds.keys()):
                if len(self._kinds) < MOST and len(name) <= LONGEST_NAME:
                    self._add(name, features[name])
            self._names = names if features.keys() <= self._kinds.keys() else ()
        if self._strings:
            for name in sorted(features.keys() & self._strings.keys()):
                self._add_level(self._strings[name], name, features[name])

    def _add(self, name: str, value: Feature) -> None:
        if isinstance(value, str):
            if name in self._named:
                self._add_raw(name)
            else:
                self._kinds[name] = self._strings[name] = _Levels()
        elif isinstance(value, list | tuple):
            if value:
                columns = [f"{name}[{i}]" for i in range(min(len(value), LONGEST_LIST))]
                self._kinds[name] = _List([c if self._add_number(c) else None for c in columns])
        elif _number(value) is not None and self._add_number(name):
            self._kinds[name] = NUMBER

    def _add_number(self, column: str) -> bool:
        added = self._add_column(column, 0.0)
        if added:
            self._counts[column] = 0
        return added

    def _add_raw(self, name: str) -> None:
        if self._add_column(name, ""):
            self._kinds[name] = RAW
            self._raw[name] = ""

    def _add_level(self, levels: _Levels, name: str, value: Any) -> None:
        if not isinstance(value, str) or value in levels.columns:
            return
        if len(levels.columns) < LEVELS and len(value) <= LONGEST_LEVEL:
            column = f"{name}={value}"
            if self._add_column(column, 0.0):
                levels.columns[value] = column
            return
        bucket = _bucket(value)
        column = f"{name}#{bucket}"
        if bucket not in levels.buckets and self._add_column(column, 0.0):
            levels.buckets[bucket] = column

    def _add_column(self, column: str, usual: Any) -> bool:
        """Add a column unless there are too many, or another feature's column has this name."""
        if column in self._usual or len(self._usual) >= MOST:
            return False
        self._rank[column] = len(self._usual)
        self._usual[column] = usual
        return True


class _Kind(Enum):
    """The types of features that need no more than a name."""

    NUMBER = "number"
    RAW = "raw"

    def write(self, row: Row, name: str, value: Feature) -> None:
        if self is NUMBER:
            _write_number(row, name, value)
        elif isinstance(value, str):
            row[name] = value


NUMBER = _Kind.NUMBER
RAW = _Kind.RAW


class _Levels:
    """A string feature: the columns of its values."""

    __slots__ = ("buckets", "columns")

    def __init__(self) -> None:
        self.columns: dict[str, str] = {}
        self.buckets: dict[int, str] = {}

    def column(self, value: str) -> str | None:
        column = self.columns.get(value)
        if column is None and self.buckets:
            return self.buckets.get(_bucket(value))
        return column

    def write(self, row: Row, _name: str, value: Feature) -> None:
        column = self.column(value) if isinstance(value, str) else None
        if column is not None:
            row[column] = 1.0


class _List:
    """An embedding: a column for each position, None where another feature has that name already."""

    __slots__ = ("columns",)

    def __init__(self, columns: Sequence[str | None]) -> None:
        self.columns = tuple(columns)

    def write(self, row: Row, _name: str, value: Feature) -> None:
        if isinstance(value, list | tuple):
            for column, item in zip(self.columns, value, strict=False):
                if column is not None:
                    _write_number(row, column, item)


def _write_number(row: Row, column: str, value: object) -> None:
    number = _number(value)
    if number is not None:
        row[column] = number


def _number(value: object) -> float | None:
    """Return the finite float that a value stands for, or None for a missing one.

    >>> _number(True), _number(10**400), _number(float("nan")), _number("1")
    (1.0, 1e+18, None, None)
    """
    if type(value) is float and -LARGEST <= value <= LARGEST:
        return value
    if isinstance(value, int | float) and -math.inf < value < math.inf:
        return float(max(-LARGEST, min(LARGEST, value)))
    return None


def _bucket(value: str) -> int:
    return crc32(value.encode("utf-8", "surrogatepass")) % BUCKETS
