"""Honest accuracy over windows of the stream, by buckets and the labels that return for them.

Theory of operation
-------------------
Time is the order of buckets. A label belongs to the bucket whose range holds its sample, however late it comes;
one that comes before its bucket waits for it. A window of W samples is the shortest run of latest buckets with at
least W samples and 50 expected labels; the fading window weighs each bucket by .9995 to the power of its age in
samples. A window ends where answers are still to come: labels missing at the end are not missing at random - they
are the latest, of the latest model - so buckets in which less than half of what usually returns has returned are
left out until it has.

Strata are stretches of buckets with much the same mean p, with a model that answers or without. While a cold model
asks half of its samples, their labels are many and wrong in another way than later; in one ratio with the few heavy
ones after them they would tilt the early estimates. A drift alarm begins a stratum, too: κ, and the interval that
holds at all times, are made of those since the last alarm. κ is drawn towards 1 as if 100 labels had shown all of
the modelled variance. How estimates are made is told in ``estimate``, for a regressor's errors in ``regression``.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from stream_al.core.classification import (
    FEWEST,
    MOST_CLASSES,
    NOTHING,
    Answered,
    ClassReport,
    Confusion,
    Insufficient,
    Known,
    report,
)
from stream_al.core.estimate import DoublyRobust, Estimate, Moments, Terms, estimate, pooled
from stream_al.core.messages import Bucket, Sums
from stream_al.core.regression import Errors, Missed, errors
from stream_al.core.sequence import ALPHA, Interval, anytime, student, wilson

MIN_EXPECTED_LABELS = 50
MOST_BUCKETS = 1024
MOST_UNPLACED = 100_000
MATURE_SHARE, MATURE_REQUESTS = 0.5, 10
FADING = 0.9995
JUMP = 2.0  # of the mean p, between strata
TELLING = 50  # samples whose mean p is compared at once
MOST_STRATA = 32
UNSHRUNK = 100.0  # labels' worth of the belief that the modelled variance is right
LOSS_INFLATION = 3.0
SEQUENCE_FROM = 300
TUNED_TO_SAMPLES, USUAL_V = 2_000, 0.15


@dataclass(slots=True)
class Slot:
    """One bucket, or several old ones merged; or all of a stratum."""

    ranges: dict[int, tuple[int, int]]
    sums: Sums
    terms: Terms = field(default_factory=Terms)
    losses: Terms = field(default_factory=Terms)
    absolute: Terms = field(default_factory=Terms)  # errors of a regressor
    squared: Terms = field(default_factory=Terms)
    wide: int = 0  # labels of answers that did not name all classes
    confusion: Confusion | None = None  # None: not kept
    stratum: int = 0

    def holds(self, partition: int, offset: int) -> bool:
        start, end = self.ranges.get(partition, (0, 0))
        return start <= offset < end

    @property
    def closed(self) -> int:
        """Requests of this bucket that are closed, with a label or without."""
        return self.terms.n + self.terms.unlabelled

    def absorb(self, later: Slot) -> None:
        for partition, (start, end) in later.ranges.items():
            first, last = self.ranges.get(partition, (start, end))
            self.ranges[partition] = (min(first, start), max(last, end))
        self.sums.add(later.sums)
        self.terms.add(later.terms)
        self.losses.add(later.losses)
        self.absolute.add(later.absolute)
        self.squared.add(later.squared)
        self.wide += later.wide
        self.confusion = None


Pick = Callable[[Slot], tuple[Sums, Terms]]  # what an estimate is made of


class Accuracy:
    """Folds buckets and labels; answers for any window and for everything so far."""

    def __init__(self) -> None:
        self.slots: deque[Slot] = deque()
        self.everything = Sums()  # of all buckets
        self.strata: dict[int, Slot] = {}
        self.epoch = 0  # the first stratum since the last drift alarm
        self.unplaced: dict[int, list[tuple[int, _Credit]]] = {}
        self._keys: set[str] = set()
        self._turning = True
        self._latest = Sums()  # small buckets since the last comparison

    # --- folding ---------------------------------------------------------------------------------------------

    def bucket(self, bucket: Bucket) -> None:
        """Open the next unit of time and place the labels that waited for it."""
        slot = Slot(dict(bucket.ranges), Sums(), confusion=Confusion(), stratum=self._stratum(bucket.sums))
        for sums in (slot.sums, self.everything, self.strata[slot.stratum].sums):
            sums.add(bucket.sums)
        for partition in bucket.ranges:
            waiting = self.unplaced.pop(partition, [])
            keep = []
            for offset, credit in waiting:
                if slot.holds(partition, offset):
                    self._place(slot, credit)
                else:
                    keep.append((offset, credit))
            if keep:
                self.unplaced[partition] = keep[-MOST_UNPLACED:]
        self.slots.append(slot)
        if len(self.slots) > MOST_BUCKETS:
            self._merge_old()

    def label(
        self, partition: int, offset: int, terms: Terms, answered: Answered | Missed | None = None
    ) -> None:
        """Credit one returned label to the time of its sample."""
        credit = _Credit(terms, self._known(answered) if isinstance(answered, Answered) else answered)
        for slot in reversed(self.slots):
            if slot.holds(partition, offset):
                self._place(slot, credit)
                return
        ends = [s.ranges[partition][1] for s in self.slots if partition in s.ranges]
        if not ends or offset >= max(ends):
            self.unplaced.setdefault(partition, []).append((offset, credit))

    def begin_epoch(self) -> None:
        """Begin anew what is told since the last drift alarm, with the next bucket."""
        self._turning = True

    def _stratum(self, sums: Sums) -> int:
        """Return the stratum of the next bucket."""
        latest = max(self.strata, default=-1)
        self._latest.add(sums)
        if not self._turning and self._latest.samples < TELLING:
            return latest
        compared, self._latest = self._latest, Sums()
        if not self._turning and _alike(self.strata[latest].sums, compared):
            return latest
        self.strata[latest + 1] = Slot({}, Sums())
        if self._turning:
            self.epoch, self._turning = latest + 1, False
        if len(self.strata) > MOST_STRATA:
            self._join_strata()
        return latest + 1

    def _join_strata(self) -> None:
        """Join the two smallest strata that follow each other in an epoch; memory stays bounded."""
        numbers = list(self.strata)
        pairs = itertools.pairwise(numbers[:-1])
        first, second = min(
            (pair for pair in pairs if (pair[0] < self.epoch) == (pair[1] < self.epoch)),
            key=lambda pair: self.strata[pair[0]].sums.samples + self.strata[pair[1]].sums.samples,
        )
        self.strata[first].absorb(self.strata.pop(second))
        for slot in self.slots:
            if slot.stratum == second:
                slot.stratum = first

    def _known(self, answered: Answered) -> Answered:
        """Return the answer with classes beyond the first 50 taken as one."""
        for key in (answered.label, answered.shown):
            if key is not None and len(self._keys) < MOST_CLASSES:
                self._keys.add(key)
        return answered.among(self._keys)

    def _place(self, slot: Slot, credit: _Credit) -> None:
        answered = credit.answered
        for part in (slot, self.strata[slot.stratum]):
            part.terms.add(credit.terms)
            if isinstance(answered, Missed):
                part.absolute.add(answered.absolute)
                part.squared.add(answered.squared)
        if not isinstance(answered, Answered):
            return
        if slot.confusion is not None:
            slot.confusion.label(answered.shown, answered.label, answered.p)
        if answered.shown is not None:
            slot.losses.add(Terms.of_loss(answered.p, answered.expected_loss, answered.loss))
            slot.wide += answered.wide

    def _merge_old(self) -> None:
        """Halve the resolution of the older half; memory stays bounded and sums stay exact."""
        slots = list(self.slots)
        old, new = slots[: MOST_BUCKETS // 2], slots[MOST_BUCKETS // 2 :]
        merged: list[Slot] = []
        whole = True  # whether the last one has its share
        for slot in old:
            if not whole and merged[-1].stratum == slot.stratum:
                merged[-1].absorb(slot)
                whole = True
            else:
                merged.append(slot)
                whole = False
        self.slots = deque([*merged, *new])

    # --- reading ---------------------------------------------------------------------------------------------

    def window(self, samples: int | None) -> Estimate:
        """Return the estimate over the latest ``samples`` samples, or over all, that answers had time to reach."""
        return estimate(self._window(samples, _right), self._shown())

    def fading(self, alpha: float = FADING) -> Estimate:
        """Return the estimate in which a sample of age n counts ``alpha`` to the power of n."""
        return estimate(self._fading(alpha, _right), self._shown())

    def errors(self, samples: int | None) -> Errors:
        """Return a regressor's MAE and RMSE over the same samples as ``window``."""
        return errors(self._window(samples, _absolute), self._window(samples, _squared))

    def fading_errors(self, alpha: float = FADING) -> Errors:
        """Return a regressor's MAE and RMSE with the weights of ``fading``."""
        return errors(self._fading(alpha, _absolute), self._fading(alpha, _squared))

    def history(self, points: int) -> list[tuple[int, Estimate]]:
        """Return the accuracy over stretches of the stream, oldest first, each with the samples up to its end.

        At most ``points`` stretches of much the same length, each of at least 50 expected labels.
        """
        slots = list(self._mature())[::-1]
        kept = sum(slot.sums.samples for slot in self.slots)
        seen = self.everything.samples - kept
        least, shown = sum(slot.sums.samples for slot in slots) / max(1, points), self._shown()
        found: list[tuple[int, Estimate]] = []
        parts: dict[int, Moments] = {}
        held, expected = 0, 0.0
        for slot in slots:
            parts.setdefault(slot.stratum, Moments()).add(*_right(slot))
            held, expected = held + slot.sums.samples, expected + slot.sums.sum_p
            seen += slot.sums.samples
            if held >= least and expected >= MIN_EXPECTED_LABELS - 1e-6:
                found.append((seen, estimate([parts[n] for n in sorted(parts)], shown)))
                parts, held, expected = {}, 0, 0.0
        return found

    def _window(self, samples: int | None, pick: Pick) -> list[Moments]:
        if samples is None:
            return self._since(min(self.strata, default=0), pick)
        found: dict[int, Moments] = {}
        for slot in self.run(samples):
            found.setdefault(slot.stratum, Moments()).add(*pick(slot))
        return [found[number] for number in sorted(found)]

    def _fading(self, alpha: float, pick: Pick) -> list[Moments]:
        found: dict[int, Moments] = {}
        age = 0.0
        for slot in self._mature():
            g = alpha ** (age + slot.sums.samples / 2)
            found.setdefault(slot.stratum, Moments()).add(*pick(slot), g, g * g)
            age += slot.sums.samples
        return [found[number] for number in sorted(found)]

    def always(self, alpha: float = ALPHA) -> Interval | None:
        """Return the accuracy since the last drift alarm with an interval that holds at all times at once.

        Looking at a 95 % interval again and again, one sees it miss; this one misses in any place with probability
        ``alpha``. None before 300 samples.
        """
        strata = pooled(self._since(self.epoch, _right))
        robust = DoublyRobust.of(strata, self._shown())
        asked = [self.strata[n].sums for n in self.strata if n >= self.epoch]
        mean_p = sum(s.sum_p for s in asked) / max(1, sum(s.samples - s.uncovered for s in asked))
        if robust.g < SEQUENCE_FROM or not sum(s.n for s in strata) or mean_p <= 0:
            return None
        tuned_to = TUNED_TO_SAMPLES * USUAL_V / mean_p
        return robust.interval(anytime(robust.variance, tuned_to, alpha))

    def below(self, objective: float, alpha: float = ALPHA) -> bool:
        """Say whether the accuracy since the last drift alarm is below an objective.

        Asked as often as one likes, it says so wrongly with probability ``alpha`` at most.
        """
        known = self.always(alpha)
        return known is not None and known.high < objective

    def by_class(self, samples: int) -> ClassReport:
        """Return the metrics by class over the latest ``samples`` samples, as far back as labels are kept by class."""
        slots = [slot for slot in self.run(samples) if slot.confusion is not None]
        confusion, sums = Confusion(), Sums()
        for slot in slots:
            assert slot.confusion is not None
            confusion.add(slot.confusion)
            sums.add(slot.sums)
        if not slots:
            return NOTHING
        return replace(report(confusion, sums), log_loss=_log_loss(slots))

    def latest(self, buckets: int) -> Sums:
        """Return the sums of the latest ``buckets`` buckets."""
        total = Sums()
        for slot in list(self.slots)[-buckets:]:
            total.add(slot.sums)
        return total

    def run(self, samples: int) -> list[Slot]:
        """Return the buckets of a window, the latest first."""
        found = []
        held, expected = 0, 0.0
        for slot in self._mature():
            found.append(slot)
            held, expected = held + slot.sums.samples, expected + slot.sums.sum_p
            if held >= samples and expected >= MIN_EXPECTED_LABELS - 1e-6:
                break
        return found

    def _mature(self) -> Iterator[Slot]:
        """Yield the buckets that answers had time to reach, the latest first."""
        return itertools.islice(reversed(self.slots), self._immature(), None)

    def _since(self, first: int, pick: Pick) -> list[Moments]:
        """Return all of the strata from number ``first`` on that answers had time to reach."""
        found = {number: Moments() for number in self.strata if number >= first}
        for number, moments in found.items():
            moments.add(*pick(self.strata[number]))
        for slot in itertools.islice(reversed(self.slots), self._immature()):
            if slot.stratum in found:
                found[slot.stratum].add(*pick(slot), -1.0, -1.0)
        return list(found.values())

    def _shown(self) -> float:
        """Return κ."""
        total = Terms()
        for number, stratum in self.strata.items():
            if number >= self.epoch:
                total.add(stratum.terms)
        if total.wv <= 0:
            return 1.0
        effective = total.w**2 / total.ww
        seen = (total.wwrr - total.wrr) / total.wv
        return min(1.0, (effective * seen + UNSHRUNK) / (effective + UNSHRUNK))

    def _immature(self) -> int:
        """Return how many of the latest buckets still wait for most of the answers that usually come."""
        requests = sum(s.sums.requests for s in self.slots)
        closed = sum(s.closed for s in self.slots)
        if closed >= requests:
            return 0
        wanted = MATURE_SHARE * closed / requests
        group: deque[Slot] = deque()
        asked = answered = 0
        for age, slot in enumerate(reversed(self.slots)):
            group.append(slot)
            asked, answered = asked + slot.sums.requests, answered + slot.closed
            while asked - group[0].sums.requests >= MATURE_REQUESTS:
                first = group.popleft()
                asked, answered = asked - first.sums.requests, answered - first.closed
            if asked >= MATURE_REQUESTS and answered >= wanted * asked:
                return age + 1 - len(group)
        return 0


@dataclass(slots=True)  # as ``Answered``
class _Credit:
    """What one returned label brings."""

    terms: Terms
    answered: Answered | Missed | None


def _right(slot: Slot) -> tuple[Sums, Terms]:
    return slot.sums, slot.terms


def _absolute(slot: Slot) -> tuple[Sums, Terms]:
    return _predicted(slot.sums), slot.absolute


def _squared(slot: Slot) -> tuple[Sums, Terms]:
    return _predicted(slot.sums), slot.squared


def _predicted(sums: Sums) -> Sums:
    """Return the counts of the samples that can have an error: those that had a prediction."""
    return Sums(samples=sums.answered + sums.uncovered, uncovered=sums.uncovered)


def _alike(before: Sums, now: Sums) -> bool:
    """Say whether two stretches have much the same mean p, and both a model with answers, or both none."""
    if _answers(before) != _answers(now):
        return False
    covered = before.samples - before.uncovered, now.samples - now.uncovered
    if min(*covered, before.sum_p, now.sum_p) <= 0:
        return True
    early, late = before.sum_p * covered[1], now.sum_p * covered[0]
    return early <= JUMP * late and late <= JUMP * early


def _answers(sums: Sums) -> bool:
    return 2 * (sum(sums.predicted.values()) + sums.answered) >= sums.samples


def _log_loss(slots: Sequence[Slot]) -> Known:
    """Return the mean log loss over the samples of some buckets for which there was an answer.

    The losses of the few labels that were wrong with confidence make its variance, and few labels often hold none of
    them: its interval is widened as the modelled variance of the accuracy is larger than the one that showed.
    """
    total, hits = Moments(), Moments()
    sums = Sums()
    wide = 0
    for slot in slots:
        total.add(Sums(), slot.losses)
        hits.add(slot.sums, slot.terms)
        sums.add(slot.sums)
        wide += slot.wide
    effective = total.w**2 / total.ww if total.ww > 0 else 0.0
    if effective < FEWEST or wide not in {0, round(total.n)}:
        return Insufficient(effective)
    total.samples = sum(sums.predicted.values())
    total.m = 0.0 if wide else sums.sum_entropy
    robust = DoublyRobust.of([total], 1.0)
    if robust.g <= 0:
        return Insufficient(effective)
    hidden = math.sqrt(hits.modelled / hits.empirical) if hits.empirical > 0 else LOSS_INFLATION
    widened = min(max(1.0, hidden), LOSS_INFLATION)
    half = widened * student(effective - 1) * math.sqrt(robust.empirical) / robust.g
    return Interval(robust.value, max(0.0, robust.value - half), robust.value + half)


__all__ = ["Accuracy", "Estimate", "Interval", "Slot", "Terms", "wilson"]
