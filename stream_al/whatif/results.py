"""Results of cells, and the table of them in a directory, which survives being stopped at any moment."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

from stream_al.simulate import Progress
from stream_al.whatif.reading import DataError

TABLE, CURVES = "results.csv", "curves.jsonl"


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of a cell: a row of the table.

    ``accuracy`` is the true one, ``estimate`` with its interval what the service knows of it, both over all samples
    and in [0, 1]; ``labels`` were learned, ``answers`` is what people gave for them.
    ``random_labels_for_same_accuracy`` is how many labels asking at random needs for this accuracy, and the bound says
    where it is ``at least`` or ``at most`` that.
    """

    cell: str
    data: str
    strategy: str
    model: str
    budget: float
    seed: int
    delay: int
    delay_distribution: str
    noise: float
    silence: float
    annotators: int
    samples: int
    requests: int
    labels: int
    answers: int
    accuracy: float
    estimate: float | None
    low: float | None
    high: float | None
    allowed: float
    within_budget: bool
    drift_alarms: int
    seconds: float
    random_labels_for_same_accuracy: float | None = None
    random_labels_bound: str = ""


@dataclass(slots=True)
class Curves:
    """Where a simulation stood along the stream: counts since its beginning; the estimate is None while unknown."""

    samples: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    allowed: list[float] = field(default_factory=list)
    drift: list[int] = field(default_factory=list)  # samples at which there was an alarm

    def add(self, now: Progress, right: int) -> None:
        """Note where it stands; the last of several notes at the same sample holds."""
        if self.samples and self.samples[-1] == now.samples:
            for values in (self.samples, self.right, self.requests, self.labels, self.allowed):
                values.pop()
        self.samples.append(now.samples)
        self.right.append(right)
        self.requests.append(now.requests)
        self.labels.append(now.labels)
        self.allowed.append(round(now.allowed, 3))


class Table:
    """The results in a directory; only whole rows count."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path, self.curves_path = directory / TABLE, directory / CURVES
        self.results: dict[str, Result] = {r.cell: r for r in self._read()}

    def _read(self) -> Iterator[Result]:
        _whole(self.path)
        _whole(self.curves_path)
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                try:
                    yield _parsed(row)
                except (KeyError, ValueError, TypeError):
                    raise DataError(
                        f"{self.path}: this is no table of results of this version; name another --out,"
                        " or delete it"
                    ) from None

    def add(self, result: Result, curves: Curves) -> None:
        """Append a result, its curves first."""
        with self.curves_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"cell": result.cell, **asdict(curves)}) + "\n")
        begin = not self.path.exists()
        with self.path.open("a", encoding="utf-8", newline="") as file:
            _write(file, [result], head=begin)
        self.results[result.cell] = result

    def rewrite(self, results: Sequence[Result]) -> None:
        """Write the table anew: these first, in their order, then what else it held."""
        told = dict.fromkeys(result.cell for result in results)
        known = self.results | {result.cell: result for result in reversed(results)}
        new = self.path.with_suffix(".new")
        with new.open("w", encoding="utf-8", newline="") as file:
            _write(file, [known[cell] for cell in {**told, **dict.fromkeys(known)}], head=True)
        new.replace(self.path)

    def curves(self, cells: Collection[str]) -> dict[str, Curves]:
        """Return the curves of these cells."""
        found = {}
        with self.curves_path.open(encoding="utf-8") as file:
            for line in file:
                held = json.loads(line)
                if (cell := held.pop("cell")) in cells:
                    found[cell] = Curves(**held)
        return found


def _whole(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    if path.exists():
        text = path.read_bytes()
        if not text.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(text.rfind(b"\n") + 1)


def _write(file: TextIO, results: Iterable[Result], *, head: bool) -> None:
    writer = csv.writer(file, lineterminator="\n")
    if head:
        writer.writerow(f.name for f in fields(Result))
    for result in results:
        writer.writerow(_text(getattr(result, f.name)) for f in fields(Result))


def _text(value: object) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


_PARSE: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False}[text],
    "float | None": lambda text: float(text) if text else None,
}


def _parsed(row: dict[str, str]) -> Result:
    return Result(**{f.name: _PARSE[str(f.type)](row[f.name]) for f in fields(Result)})
