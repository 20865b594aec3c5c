"""Metrics by class: precision, recall, F1, their macro mean, Cohen's kappa, and log loss.

Theory of operation
-------------------
The confusion matrix of all samples of a window is estimated from the returned labels: C[k, l] = N_k Σ w{k, l} / Σ w{k}
with w = 1/p, shown class k, label l, and N_k, which is known, the count of samples for which k was shown. (Each row
is scaled to its known total: post-stratification.) Samples for which nothing was shown are a row of their own.

Every metric θ is a function of C. Its variance is Σ w (w - f) (∂θ/∂W)² over the returned labels, f = Σ w{k} / N_k
the returned share of a row, W a cell's Σ w (linearisation; Deville, 1999); it is at least
half of the binomial one at n, Kish's effective number of the labels that the metric rests on, because few labels often
hold no error at all. The interval is Wilson's with the n that gives this variance. Where n < 10 there is none.

At most 50 classes are told apart, the first to be seen; the others are one class that has no metrics of its own.

Log loss is the mean of -log q of the true class, at most 10, over samples for which there was an answer: doubly robust
with the entropy of q, which is known of all samples, as the expected loss. Answers name at most 20 classes; where
there are more, it is Hájek's estimate, and the classes without a name are one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stream_al.core.messages import Shown, Sums
from stream_al.core.sequence import Interval, wilson

MOST_CLASSES = 50
FEWEST = 10  # effective labels
WORST_LOSS = 10.0
OTHER = "\0others"  # no label has this key: it is one of JSON, or a text that a person can write

Key = str | None  # a label's key; None where nothing was shown
Matrix = NDArray[np.float64]
Metric = Literal["precision", "recall", "f1"]


@dataclass(slots=True)
class Cell:
    """Sums over the returned labels of one cell."""

    n: int = 0
    w: float = 0.0
    ww: float = 0.0


@dataclass(slots=True)
class Confusion:
    """Returned labels of some buckets by (shown class, label)."""

    cells: dict[tuple[Key, str], Cell] = field(default_factory=dict)

    def label(self, shown: Key, label: str, p: float) -> None:
        """Add a label whose request had inclusion probability p."""
        self._add(shown, label, Cell(1, 1 / p, 1 / p**2))

    def add(self, other: Confusion) -> None:
        for (shown, label), cell in other.cells.items():
            self._add(shown, label, cell)

    def _add(self, shown: Key, label: str, more: Cell) -> None:
        cell = self.cells.setdefault((shown, label), Cell())
        cell.n += more.n
        cell.w += more.w
        cell.ww += more.ww


@dataclass(frozen=True, slots=True)
class Insufficient:
    """Why there is no interval: how many effective labels there are."""

    effective: float

    def __str__(self) -> str:
        return f"insufficient labels ({self.effective:.1f} of {FEWEST} effective)"


Known = Interval | Insufficient


@dataclass(frozen=True, slots=True)
class ClassReport:
    """What is known of the classes in a window.

    ``classes`` holds precision, recall and F1 of each class that is a label there, or was shown for one, the most
    frequently shown first.
    """

    classes: Mapping[str, Mapping[Metric, Known]]
    macro_f1: Known
    kappa: Known
    log_loss: Known


NOTHING = ClassReport({}, Insufficient(0.0), Insufficient(0.0), Insufficient(0.0))


@dataclass(slots=True)  # not frozen: it is made for each label, and frozen ones take three times as long
class Answered:
    """A returned label beside what the model had said.

    Attributes
    ----------
    p
        Inclusion probability of the request.
    shown, label
        Keys of the shown class, None where there was none, and of the true one.
    loss, expected_loss
        Log loss of the answer, and the one expected of it: its entropy; in nats.
    wide
        Whether the answer did not name all classes; then its entropy is not known, and ``expected_loss`` 0.
    """

    p: float
    shown: Key
    label: str
    loss: float
    expected_loss: float
    wide: bool

    @classmethod
    def of(cls, p: float, shown: Shown, label: str) -> Answered:
        """Return a label as it is credited.

        >>> a = Answered.of(0.5, Shown("m", 1, {"a": 0.75, "b": 0.25}), "b")
        >>> a.shown, round(a.loss, 3), round(a.expected_loss, 3)
        ('a', 1.386, 0.562)
        """
        q, wide = shown.probabilities.get(label, shown.rest), shown.rest > 0
        loss = min(-math.log(max(q, 1e-12)), WORST_LOSS)
        entropy = 0.0 if wide else -sum(x * math.log(x) for x in shown.probabilities.values() if x > 0)
        return cls(p, shown.label, label, loss, entropy, wide)

    def among(self, keys: AbstractSet[str]) -> Answered:
        """Return it with classes that are not among some taken as one."""
        known = self.shown is None or self.shown in keys
        if known and self.label in keys:
            return self
        shown = self.shown if known else OTHER
        return replace(self, shown=shown, label=self.label if self.label in keys else OTHER)


def report(confusion: Confusion, sums: Sums) -> ClassReport:
    """Return precision, recall, F1, macro F1 and kappa; the log loss is the caller's to add.

    Parameters
    ----------
    sums
        Over all samples of the same buckets.
    """
    table = _Table.of(confusion, sums)
    if table is None:
        return NOTHING
    values, variances, sizes = table.estimate()
    known = [_known(*each) for each in zip(values.tolist(), variances.tolist(), sizes.tolist(), strict=True)]
    k = len(table.keys)
    names: tuple[Metric, ...] = ("precision", "recall", "f1")
    classes = {
        key: {name: known[j * k + i] for j, name in enumerate(names)}
        for i, key in sorted(enumerate(table.keys), key=lambda each: -table.totals[each[0] + 1])
        if key != OTHER
    }
    kappa = known[-1]
    if isinstance(kappa, Interval):
        kappa = Interval(*(2 * x - 1 for x in (kappa.value, kappa.low, kappa.high)))
    return ClassReport(classes, known[-2], kappa, Insufficient(0.0))


def _known(value: float, variance: float, n: float) -> Known:
    """Return the interval of a metric in [0, 1] with its variance from n effective labels."""
    if not (n >= FEWEST and math.isfinite(value)):
        return Insufficient(n)
    near = (value * n + 1) / (n + 2)  # off 0 and 1, where no variance was seen
    binomial = near * (1 - near)
    size = binomial / max(variance, 0.5 * binomial / n)
    return wilson(value, min(size, n) if value in {0.0, 1.0} else size)


@dataclass(slots=True)
class _Table:
    """Dense sums: row 0 is for samples without a shown class, row i + 1 and column i for class i."""

    keys: list[str]
    totals: Matrix  # (K + 1,) samples by shown class
    w: Matrix  # (K + 1, K)
    ww: Matrix

    @classmethod
    def of(cls, confusion: Confusion, sums: Sums) -> _Table | None:
        if not confusion.cells:
            return None
        labels = {label for _, label in confusion.cells}
        keys = sorted(labels | {shown for shown, _ in confusion.cells if shown is not None})
        place = {key: i for i, key in enumerate(keys)}
        w, ww = np.zeros((len(keys) + 1, len(keys))), np.zeros((len(keys) + 1, len(keys)))
        for (shown, label), cell in confusion.cells.items():
            at = (0 if shown is None else place[shown] + 1, place[label])
            w[at], ww[at] = w[at] + cell.w, ww[at] + cell.ww
        totals = np.zeros(len(keys) + 1)
        for key, count in sums.predicted.items():
            i = place.get(key, place.get(OTHER))
            if i is not None:
                totals[i + 1] += count
        totals[0] = max(0, sums.samples - sum(sums.predicted.values()))
        return cls(keys, totals, w, ww)

    def estimate(self) -> tuple[Matrix, Matrix, Matrix]:
        """Return values, variances and effective labels of all metrics, kappa scaled to [0, 1].

        Shape (3 K + 2,): precision, recall and F1 of each class, macro F1, kappa.
        """
        rows = self.w.sum(axis=1, keepdims=True)
        scale = np.divide(self.totals[:, None], rows, out=np.zeros_like(rows), where=rows > 0)
        values, slopes = _metrics(self.w * scale)
        # of the scaled matrix by the sums that it is made of: a row's total stays what it is
        mean = np.divide(
            (slopes * self.w).sum(axis=2, keepdims=True),
            rows,
            where=rows > 0,
            out=np.zeros_like(slopes[..., :1]),
        )
        slopes = scale * (slopes - mean)
        share = np.minimum(
            1.0, np.divide(rows, self.totals[:, None], out=np.ones_like(rows), where=scale > 0)
        )
        spread = np.maximum(0.0, self.ww - share * self.w)
        variances = (spread * slopes**2).sum(axis=(1, 2))
        sizes = self._sizes()
        variances[-2] = max(variances[-2], self._least_macro(values, sizes))
        return values, variances, sizes

    def _least_macro(self, values: Matrix, sizes: Matrix) -> float:
        """Return the variance of macro F1 where each class has half of its own binomial one."""
        k = len(self.keys)
        f1, n = values[2 * k : 3 * k], np.maximum(sizes[2 * k : 3 * k], 1.0)
        near = (f1 * n + 1) / (n + 2)
        return float(np.sum(0.5 * near * (1 - near) / n) / k**2)

    def _sizes(self) -> Matrix:
        """Return Kish's effective number of the labels that each metric rests on."""
        w, ww = self.w, self.ww
        own = np.diag(w[1:]), np.diag(ww[1:])
        row, column = (w[1:].sum(axis=1), ww[1:].sum(axis=1)), (w.sum(axis=0), ww.sum(axis=0))
        either = tuple(r + c - d for r, c, d in zip(row, column, own, strict=True))
        everything = float(w.sum() ** 2 / ww.sum())
        kish = [_ratio(a**2, b) for a, b in (row, column, either)]
        sizes: Matrix = np.nan_to_num(np.concatenate([*kish, [everything, everything]]))
        return sizes


def _metrics(c: Matrix) -> tuple[Matrix, Matrix]:
    """Return all metrics of a confusion matrix, shape (3 K + 2,), and their derivatives, shape (3 K + 2, K + 1, K)."""
    k = c.shape[1]
    shown, labelled, hits = c[1:].sum(axis=1), c.sum(axis=0), np.diag(c[1:])
    precision, recall, f1 = _ratio(hits, shown), _ratio(hits, labelled), _ratio(2 * hits, shown + labelled)
    slopes = np.zeros((3, k, k + 1, k))
    for i in range(k):
        slopes[0, i, i + 1] -= precision[i]
        slopes[1, i, :, i] -= recall[i]
        slopes[2, i, i + 1] -= f1[i]
        slopes[2, i, :, i] -= f1[i]
        slopes[:, i, i + 1, i] += (1, 1, 2)
    wholes = np.stack([shown, labelled, shown + labelled])
    slopes /= np.where(wholes > 0, wholes, 1.0)[:, :, None, None]
    total = c.sum()
    agreed, chance = float(hits.sum() / total), float((shown * labelled).sum() / total**2)
    rest = max(1 - chance, 1e-9)
    by_row = np.concatenate([[0.0], labelled])[:, None]
    kappa = ((by_row + shown) / total**2 - 2 * chance / total) * (
        (agreed - 1) / rest**2
    ) - agreed / total / rest
    kappa[np.arange(k) + 1, np.arange(k)] += 1 / total / rest
    values = np.concatenate([precision, recall, f1, [np.nanmean(f1), ((agreed - chance) / rest + 1) / 2]])
    macro = np.nansum(slopes[2], axis=0) / max(1, np.isfinite(f1).sum())
    return values, np.nan_to_num(
        np.concatenate([slopes.reshape(3 * k, k + 1, k), macro[None], kappa[None] / 2])
    )


def _ratio(part: Matrix, whole: Matrix) -> Matrix:
    """Divide; NaN where there is nothing to divide by."""
    quotient: Matrix = np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    return quotient
