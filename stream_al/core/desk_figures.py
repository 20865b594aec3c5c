"""What the answers of people say of the people and of the way they are asked: agreement, anchoring, pace.

Fed with published answers only, so that nothing counts that was taken back, and each answer once, however often it
is read. Memory is bounded: the agreement is that of the latest answers.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from stream_al.core.labels import label_key
from stream_al.core.messages import Answer
from stream_al.core.sequence import Z95, Interval, wilson

K = TypeVar("K")
V = TypeVar("V")

MOST_ANSWERS = 20_000  # remembered, so that they count once
MOST_TIMES = 500
MOST_ANNOTATORS = 200
HOUR_MS = 3_600_000
FEWEST_PAIRS = 10  # below it an agreement says nothing


@dataclass(frozen=True, slots=True)
class Anchoring:
    """Agreement with the guess when it was shown, minus when it was hidden; both in [0, 1], with a 95 % interval."""

    shown: tuple[int, int]  # agreed, of how many
    hidden: tuple[int, int]
    difference: Interval | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of ``pairs`` that two people answered, how many agree, and Fleiss' kappa with a 95 % interval."""

    pairs: int
    agreed: int
    kappa: Interval | None


@dataclass(slots=True)
class Annotator:
    """One person's work. ``seconds`` is the median from seeing to answering, of the latest 500."""

    labels: int = 0
    skips: int = 0
    opinions: int = 0
    disagreed: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_TIMES))

    @property
    def seconds(self) -> float | None:
        return median(self.times) if self.times else None


def anchoring(shown: tuple[int, int], hidden: tuple[int, int]) -> Anchoring:
    """Compare two shares by Newcombe's interval (1998, method 10), which stays within [-1, 1].

    >>> anchoring((90, 100), (70, 100)).difference.value.__round__(3)
    0.2
    """
    (a, m), (b, n) = shown, hidden
    if not m or not n:
        return Anchoring(shown, hidden, None)
    one, two = wilson(a / m, m), wilson(b / n, n)
    p, q = a / m, b / n
    low = p - q - ((p - one.low) ** 2 + (two.high - q) ** 2) ** 0.5
    high = p - q + ((one.high - p) ** 2 + (q - two.low) ** 2) ** 0.5
    return Anchoring(shown, hidden, Interval(p - q, low, high))


def kappa(pairs: Counter[tuple[str, str]]) -> Agreement:
    """Return Fleiss' kappa (1971) of two answers each, whoever gave them; 1 is full agreement, 0 what chance does.

    The interval is Cohen's large-sample one (1960): p₀ (1 - p₀) / (n (1 - pₑ)²).

    >>> kappa(Counter({("a", "a"): 40, ("b", "b"): 40, ("a", "b"): 20})).kappa.value.__round__(2)
    0.6
    """
    n, agreed = pairs.total(), sum(c for (a, b), c in pairs.items() if a == b)
    if n < FEWEST_PAIRS:
        return Agreement(n, agreed, None)
    shares: Counter[str] = Counter()
    for (a, b), count in pairs.items():
        shares[a] += count
        shares[b] += count
    by_chance = sum((c / (2 * n)) ** 2 for c in shares.values())
    if by_chance >= 1:  # one class only: any two people agree
        return Agreement(n, agreed, None)
    observed = agreed / n
    value = (observed - by_chance) / (1 - by_chance)
    half = Z95 * (observed * (1 - observed) / n) ** 0.5 / (1 - by_chance)
    return Agreement(n, agreed, Interval(value, max(-1.0, value - half), min(1.0, value + half)))


class DeskFigures:
    """Folds published answers."""

    def __init__(self) -> None:
        self.annotators: dict[str, Annotator] = {}
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.agreed = {False: [0, 0], True: [0, 0]}  # by blind: agreed with the guess, of how many
        self.latest: deque[int] = deque(maxlen=MOST_ANSWERS)  # when, in milliseconds
        self._counted: dict[tuple[str, str], str | None] = {}
        self._first: dict[str, tuple[str, str]] = {}  # who answered a request first, and what

    def add(self, answer: Answer, at_ms: int) -> bool:
        """Count one answer of the desk; say whether it is new."""
        desk = answer.desk
        if desk is None or answer.request_id is None:
            return False
        who, key = answer.annotator or "", None if answer.label is None else label_key(answer.label)
        if (answer.request_id, who) in self._counted:
            return False
        _remember(self._counted, (answer.request_id, who), key)
        person = self._person(who)
        self.latest.append(at_ms)
        if desk.seconds is not None:
            person.times.append(desk.seconds)
        if key is None:
            person.skips += 1
            return True
        person.labels += 1
        if desk.guess is not None:
            count = self.agreed[desk.blind]
            count[0] += key == desk.guess
            count[1] += 1
        self._compare(answer.request_id, who, key, opinion=desk.opinion)
        return True

    def _person(self, who: str) -> Annotator:
        if who not in self.annotators and len(self.annotators) >= MOST_ANNOTATORS:
            who = "others"
        return self.annotators.setdefault(who, Annotator())

    def _compare(self, request_id: str, who: str, key: str, *, opinion: bool) -> None:
        if not opinion:
            _remember(self._first, request_id, (who, key))
            return
        self._person(who).opinions += 1
        first = self._first.pop(request_id, None)
        if first is not None and first[0] != who:
            self.pairs[first[1], key] += 1
            if first[1] != key:
                self._person(who).disagreed += 1
                self._person(first[0]).disagreed += 1

    def answered(self, request_id: str, who: str) -> tuple[bool, str | None]:
        """Return whether somebody's answer to a request was published, and its key; None is a skip."""
        return (request_id, who) in self._counted, self._counted.get((request_id, who))

    def rate(self, now_ms: int) -> int:
        """Return how many answers were published in the last hour."""
        return sum(at > now_ms - HOUR_MS for at in self.latest)

    @property
    def anchoring(self) -> Anchoring:
        (a, m), (b, n) = self.agreed[False], self.agreed[True]
        return anchoring((a, m), (b, n))

    @property
    def agreement(self) -> Agreement:
        return kappa(self.pairs)


def _remember(table: dict[K, V], key: K, value: V) -> None:
    table[key] = value
    if len(table) > MOST_ANSWERS:
        del table[next(iter(table))]
