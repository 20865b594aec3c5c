"""Labelled data sets from files: CSV, JSON lines (both also compressed as .gz) and Parquet.

A row is a sample: one column is its label, the others are its features, but for those that the service would not
take for features either (the id and the timestamp of the settings) and those that were to be left out. A row of JSON
may also be a sample as the service reads it, with its features in an object. Rows without a label are left out and
counted: without the truth nothing can be compared.

CSV knows no types: a column whose values all are numbers holds numbers, one of true and false booleans, any other
texts; ``MISSING`` values are missing. The label stays the text it is.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import msgspec

from stream_al.codec import LARGEST_NUMBER, BadRecord, check_class
from stream_al.core.labels import Label
from stream_al.core.messages import Feature, Features

Row = tuple[Features, Label]

FEWEST = 100  # samples; of fewer no accuracy can be told
MISSING = frozenset({"", "?", "NA", "N/A", "NaN", "nan", "null", "None"})
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".parquet")
DELIMITERS = ",;\t"
MOST_CLASSES = 100
PARQUET = "reading Parquet needs pyarrow: pip install 'stream-al[parquet]'"
SORTED = 0.1  # of the changes of label that a random order would have


class DataError(ValueError):
    """A data set that cannot be used; the message says where and why."""


class ColumnError(DataError):
    """A column that is not there, or none was named."""


@dataclass(frozen=True, slots=True)
class Data:
    """A labelled data set.

    Attributes
    ----------
    rows
        Features and label of each sample, in the order of the file.
    unlabelled
        Rows that were left out.
    """

    name: str
    rows: list[Row]
    unlabelled: int = 0

    @property
    def classes(self) -> tuple[Label, ...]:
        """All classes, in order of appearance."""
        return tuple(label for _, label in dict.fromkeys((type(y), y) for _, y in self.rows))

    @property
    def sorted(self) -> bool:
        """Whether the samples seem to be sorted by their label, as no stream is."""
        n, counts = len(self.rows), Counter((type(y), y) for _, y in self.rows)
        expected = n * (1 - sum((c / n) ** 2 for c in counts.values()))
        changes = sum(a[1] != b[1] for a, b in zip(self.rows, self.rows[1:], strict=False))
        return changes < SORTED * expected

    def digest(self) -> str:
        """Return what names the content, whatever file it came from."""
        hashed = blake2b(digest_size=8)
        encode = msgspec.json.Encoder(order="sorted").encode
        for row in self.rows:
            hashed.update(encode(row) + b"\n")
        return hashed.hexdigest()


def read(
    path: Path, label: str | None, *, ignore: Collection[str] = (), features: str | None = "features"
) -> Data:
    """Read a file.

    Parameters
    ----------
    label
        The column that holds the label.
    ignore
        Columns that are no features.
    features
        The field that may hold the features in a row of JSON.

    Raises
    ------
    ColumnError, DataError, OSError
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    readers: dict[str, Callable[[], Iterable[tuple[str, dict[str, Any]]]]] = {
        **dict.fromkeys(("csv", "tsv", "txt"), lambda: _csv(path, label)),
        **dict.fromkeys(("jsonl", "ndjson", "json"), lambda: _json(path, label, features)),
        **dict.fromkeys(("parquet", "pq"), lambda: _parquet(path)),
    }
    if kind not in readers:
        raise DataError(f"{path}: what kind of file is this? Its name should end in {', '.join(SUFFIXES)}")
    rows: list[Row] = []
    unlabelled = seen = 0
    columns: dict[str, None] = {}
    for place, row in readers[kind]():
        seen += 1
        columns.update(dict.fromkeys(row))
        said = row.pop(label, None) if label is not None else None
        if said is None:
            unlabelled += 1
            continue
        kept = {k: _feature(v, place, k) for k, v in row.items() if k not in ignore}
        rows.append((kept, _label(said, place, label)))
    if not seen:
        raise DataError(f"{path}: there are no rows")
    _require(path, label, list(columns), rows)
    data = Data(path.name, rows, unlabelled)
    return usable(data)


def usable(data: Data) -> Data:
    """Return the data set if something can be learned from it.

    Raises
    ------
    DataError
    """
    if len(data.rows) < FEWEST:
        raise DataError(
            f"{data.name}: {len(data.rows):,} samples have a label; at least {FEWEST} are needed to say anything"
        )
    classes = data.classes
    if len(classes) < 2:
        raise DataError(f"{data.name}: all labels are {classes[0]!r}; there is nothing to learn")
    if len(classes) > max(MOST_CLASSES, len(data.rows) // 10):
        raise DataError(
            f"{data.name}: {len(classes):,} different labels in {len(data.rows):,} samples are no classes;"
            " is this the right column?"
        )
    if not any(features for features, _ in data.rows):
        raise DataError(f"{data.name}: there is no column but the label, so nothing to learn from")
    return data


def _require(path: Path, label: str | None, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Say what is wrong with the label's column."""
    names = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    if label is None:
        raise ColumnError(f"{path}: which column holds the label? Write --label COLUMN, one of {names}")
    if label not in columns:
        near = get_close_matches(label, columns, n=1) or [
            c for c in columns if c.casefold() == label.casefold()
        ]
        hint = f"did you mean {near[0]}?" if near else f"there are {names}"
        raise ColumnError(f"{path}: there is no column {label}; {hint}")
    if not rows:
        raise DataError(f"{path}: the column {label} has no values")


def _label(value: Any, place: str, column: str | None) -> Label:
    """Return a label; whole numbers that a format stores as fractions are whole."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str | int):
        try:
            check_class(value)
        except BadRecord as wrong:
            raise DataError(f"{place}: {wrong} ({column})") from None
        return value
    if isinstance(value, float):
        raise DataError(
            f"{place}: the label {value:g} ({column}) is a number with a fraction; classes are text, whole"
            " numbers, true or false"
        )
    raise DataError(f"{place}: the label {str(value)[:40]!r} ({column}) is no text, whole number or boolean")


def _feature(value: Any, place: str, column: str) -> Feature:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int | float):
        if abs(value) > LARGEST_NUMBER:
            raise DataError(f"{place}: {column} is too large a number; --ignore leaves a column out")
        return value
    if isinstance(value, list) and all(type(x) in (int, float) and abs(x) <= LARGEST_NUMBER for x in value):
        return value
    if isinstance(value, dict | list):
        what = "an object" if isinstance(value, dict) else "a list with other things than numbers"
        raise DataError(
            f"{place}: {column} is {what}; features are numbers, texts, booleans and lists of numbers;"
            " --ignore leaves a column out"
        )
    try:
        return float(value)  # a decimal
    except (TypeError, ValueError):
        return str(value)  # a date


# Formats: each yields the place, for messages, and the columns of a row; None is a missing value


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines as text.

    Raises
    ------
    DataError
        If a line is no UTF-8, or the archive is damaged.
    """
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as wrong:
        raise DataError(f"{path}:{number}: this is not UTF-8 text: {wrong.reason}") from None
    except (EOFError, gzip.BadGzipFile) as wrong:
        raise DataError(f"{path}: after line {number:,} it cannot be unpacked: {wrong}") from None


def _csv(path: Path, label: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = _lines(path)
    first = next(lines, "")
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(_again(first, lines), delimiter=delimiter, strict=True)
    table: list[tuple[int, list[str]]] = []
    try:
        head = [name.strip() for name in next(reader, [])]
        for row in reader:
            if not row:
                continue
            if len(row) != len(head):
                raise DataError(
                    f"{path}:{reader.line_num}: {len(row)} fields where the first line has {len(head)}"
                )
            table.append((reader.line_num, row))
    except csv.Error as wrong:
        raise DataError(f"{path}:{reader.line_num}: {wrong}") from None
    twice = next((name for name, n in Counter(head).items() if n > 1), None)
    if twice is not None:
        raise DataError(f"{path}:1: the column {twice or 'without a name'} is there twice")
    kinds = [
        (lambda text: text) if name == label else _kind([row[i] for _, row in table])
        for i, name in enumerate(head)
    ]
    for number, row in table:
        values = (
            None if text.strip() in MISSING else kind(text) for kind, text in zip(kinds, row, strict=True)
        )
        yield f"{path}:{number}", dict(zip(head, values, strict=True))


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _kind(texts: Iterable[str]) -> Callable[[str], Any]:
    """Return what reads all of these texts."""
    known = [text for text in texts if text.strip() not in MISSING]
    if known and all(_is_number(text) for text in known):
        return float
    if known and all(text.lower() in {"true", "false"} for text in known):
        return lambda text: text.lower() == "true"
    return lambda text: text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def _json(path: Path, label: str | None, features: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    decode = msgspec.json.Decoder().decode
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = decode(line)
        except (ValueError, RecursionError) as wrong:
            raise DataError(f"{path}:{number}: this is no JSON: {wrong}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: each line should be one object, {{...}}")
        inner = row.get(features) if features else None
        yield f"{path}:{number}", {**inner, **_beside(row, label)} if isinstance(inner, dict) else row


def _beside(row: dict[str, Any], label: str | None) -> dict[str, Any]:
    """Return the label beside an object of features; without it, whatever may have been meant."""
    if label in row:
        return {label: row[label]}
    return {k: v for k, v in row.items() if isinstance(v, str | int | float)}


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow as pa  # noqa: PLC0415  an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise DataError(f"{path}: {PARQUET}") from None
    try:
        table = parquet.read_table(path)
    except pa.ArrowException as wrong:
        raise DataError(f"{path}: this is no Parquet: {wrong}") from None
    yield from ((f"{path}, row {n:,}", row) for n, row in enumerate(table.to_pylist(), 1))
