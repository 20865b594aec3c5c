"""Several people's answers to one question, and the label that follows from them.

Theory of operation
-------------------
A ``vote`` in the ledger is an answer that does not close. The panel holds the ballots: the votes of each request, one a
person, the latest. What follows from a ballot is ``verdict``, by the policy in force; the learner writes it as a
``label``, with what it rests on (``Decision``), so that whoever reads the ledger needs no policy::

    vote ──▶ ballot ──verdict──▶ label (or skip, where everybody passed)
                │  └─▶ all have voted and do not agree: the owner decides, or what there is when the time is over
                └──▶ late votes: they change no label, and tell who is reliable

How reliable people are is learned from what was decided (Dawid & Skene, 1979, online): for each person, how often
they said v where the label is c, in parts where that is not certain, with a Dirichlet prior by which a newcomer is
right four times of five. With π the shares of the classes so far, and the votes independent given the class,

    P(c | votes) ∝ π(c) Π_a P_a(v_a | c).

The model has no say in it: its own mistakes must not look like agreement. Nobody's word alone counts as decided, so
that nobody can become reliable by agreeing with themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from stream_al.core.labels import Value, label_key
from stream_al.core.messages import Agreement, Decision, Vote

RIGHT, WRONG = 4.0, 1.0  # a newcomer's prior, in votes; the wrong ones are shared by the other classes
CLASS_PRIOR = 1.0
FEWEST = 2  # votes that make a decision which says something about people
MOST_TOLD = 20  # classes nobody voted for, in a record
MOST_PLACES = 64
MOST_PEOPLE = 1_000  # whose reliability is known; the others are newcomers for ever


class Cast(NamedTuple):
    """One person's vote. ``label`` None is a skip; ``at`` orders votes, ``answer`` is where it stands."""

    label: Value | None
    answer: str
    at: int

    @property
    def key(self) -> str | None:
        return None if self.label is None else label_key(self.label)


@dataclass(slots=True)
class Ballot:
    """The votes about one request, by person, the latest last; ``told``: people are judged by its ``decision``."""

    votes: dict[str, Cast] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    closed: bool = False
    decision: Decision | None = None
    told: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """How many people are asked, and when they agree.

    ``certainty`` is the probability of a class at which ``dawid_skene`` asks nobody else.
    """

    votes: int = 1
    agreement: Agreement = "majority"
    certainty: float = 0.95

    @property
    def asks_on(self) -> bool:
        """Whether people are still asked when the label is known."""
        return self.votes > 1 and self.agreement == "first"


class Panel:
    """Ballots, and what is known of the people; a part of the fold."""

    def __init__(self) -> None:
        self.ballots: dict[str, Ballot] = {}
        self.said: dict[str, dict[str, dict[str, float]]] = {}  # person → class → what they said, how often
        self.classes: dict[str, float] = {}

    def vote(self, record: Vote, at: int, *, is_open: bool) -> bool:
        """Note a vote; False where it was noted before, or would change one after the decision."""
        ballot = self.ballots.setdefault(record.request_id, Ballot(closed=not is_open))
        who = record.annotator or ""
        if record.answer in ballot.places or (ballot.closed and who in ballot.votes):
            return False
        ballot.places = [*ballot.places, record.answer][-MOST_PLACES:]
        ballot.votes.pop(who, None)
        ballot.votes[who] = Cast(record.label, record.answer, at)
        self._tell(ballot, {who: ballot.votes[who]} if ballot.told else ballot.votes)
        return True

    def close(self, request_id: str, decision: Decision | None) -> None:
        """Note that a request is closed, by a decision or without one."""
        ballot = self.ballots.get(request_id)
        if ballot is not None:
            ballot.closed, ballot.decision = True, decision
            self._tell(ballot, ballot.votes)

    def forget(self, request_id: str) -> None:
        self.ballots.pop(request_id, None)

    def _tell(self, ballot: Ballot, votes: Mapping[str, Cast]) -> None:
        """Learn from a decision who is reliable."""
        decision = ballot.decision
        if decision is None or not _tells(decision, ballot):
            return
        for key, share in decision.probabilities.items():
            if not ballot.told:
                _add(self.classes, key, share)
            for who, cast in votes.items():
                if cast.key is not None and (who in self.said or len(self.said) < MOST_PEOPLE):
                    _add(self.said.setdefault(who, {}).setdefault(key, {}), cast.key, share)
        ballot.told = True

    # --- reading ---------------------------------------------------------------------------------------------

    def votes_on(self, request_ids: Iterable[str]) -> dict[str, Cast]:
        """Return the votes about requests that one answer serves: by person the latest, in order."""
        found = [
            (cast.at, who, cast)
            for request_id in request_ids
            if (ballot := self.ballots.get(request_id)) is not None
            for who, cast in ballot.votes.items()
        ]
        votes: dict[str, Cast] = {}
        for _, who, cast in sorted(found):
            votes.pop(who, None)
            votes[who] = cast
        return votes

    def probabilities(self, votes: Mapping[str, Cast], classes: Collection[str]) -> dict[str, float]:
        """Return each class's probability given the votes; empty without a label among them."""
        said = [(who, key) for who, cast in votes.items() if (key := cast.key) is not None]
        if not said:
            return {}
        keys = list(dict.fromkeys([*classes, *self.classes, *(key for _, key in said)]))
        total = sum(self.classes.values()) + CLASS_PRIOR * len(keys)
        logs = [
            math.log((self.classes.get(c, 0.0) + CLASS_PRIOR) / total)
            + sum(math.log(self._says(who, key, c, len(keys))) for who, key in said)
            for c in keys
        ]
        highest = max(logs)
        shares = [math.exp(x - highest) for x in logs]
        return {c: share / sum(shares) for c, share in zip(keys, shares, strict=True)}

    def _says(self, who: str, key: str, given: str, classes: int) -> float:
        """Return the probability that a person says ``key`` where the class is ``given``."""
        row = self.said.get(who, {}).get(given, {})
        prior = RIGHT if key == given else WRONG / (classes - 1)
        return (row.get(key, 0.0) + prior) / (sum(row.values()) + RIGHT + (WRONG if classes > 1 else 0.0))

    def reliability(self) -> dict[str, float]:
        """Return, for each person, how often their vote was the label, of what was decided by several."""
        found = {}
        for who, of in self.said.items():
            total = sum(sum(row.values()) for row in of.values())
            found[who] = sum(row.get(key, 0.0) for key, row in of.items()) / total
        return found


def _tells(decision: Decision, ballot: Ballot) -> bool:
    """Say whether a decision tells something about those who voted: one person's word is no decision of several."""
    labels = sum(cast.key is not None for cast in ballot.votes.values())
    return decision.policy == "owner" or max(decision.votes, labels) >= FEWEST


def _add(table: dict[str, float], key: str, share: float) -> None:
    table[key] = table.get(key, 0.0) + share


def told(probabilities: Mapping[str, float], votes: Mapping[str, Cast]) -> dict[str, float]:
    """Return what a record tells of them: of the classes that were voted for, and of the likeliest others.

    >>> told({"a": 0.6, "b": 0.3, "c": 0.1}, {}) == {"a": 0.6, "b": 0.3, "c": 0.1}
    True
    """
    voted = {cast.key for cast in votes.values()}
    top = sorted(probabilities, key=lambda key: (key not in voted, -probabilities[key], key))
    kept = set(top[: MOST_TOLD + len(voted)])
    return {key: p for key, p in probabilities.items() if key in kept}


def verdict(
    policy: Policy, votes: Mapping[str, Cast], probabilities: Mapping[str, float], *, last: bool = False
) -> Cast | None:
    """Return the vote that says what is decided; None while people are still asked, or cannot agree.

    Parameters
    ----------
    last
        There will be no more votes.
    """
    said = [cast for cast in votes.values() if cast.key is not None]
    missing = 0 if last else max(0, policy.votes - len(votes))
    if not said:
        return None if last or missing else next(iter([*votes.values()][-1:]), None)
    if policy.agreement == "first":
        return said[0]
    counts = Counter(cast.key for cast in said)
    if policy.agreement == "majority":
        key = counts.most_common(1)[0][0]
        decided = 2 * counts[key] > len(said) + missing
    else:
        key = max(counts, key=lambda one: probabilities.get(one or "", 0.0))
        sure = len(said) >= FEWEST and probabilities.get(key or "", 0.0) >= policy.certainty
        decided = sure or (not missing and 2 * counts[key] > len(said))
    return [cast for cast in said if cast.key == key][-1] if decided else None
