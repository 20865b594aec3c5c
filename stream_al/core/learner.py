"""The learner: requests, answers and reports in; ledger records out. The sequencer of the ledger.

Theory of operation
-------------------
The learner's own tables (open requests, answers that wait for their request, the open bucket) are caches of the
topics: dropped whole on any error and rebuilt at every start, which is the same code path. Between two turns the
fold has read everything the learner wrote, so whatever is in the fold is final and whatever is not is open::

    request ──▶ open ──▶ answered (label, skip) ──▶ closed in the ledger
                   ├───▶ its id has a known label ─▶ closed, not asked again
                   └───▶ nobody answered ─────────▶ expired, once answers were read past ``expires_at``

    answer ──▶ names an open request ──▶ closes it; the first is learned, others of the same id are credited
          ├──▶ names none ──▶ waits a minute ──▶ rejected: unknown_request, or what is known of its id
          │                                  └─▶ unsolicited, with features: learned, where that is wanted
          ├──▶ names a closed one ──▶ another label than was learned: a correction
          │                       └─▶ rejected: closed_request
          ├──▶ names one of another id ──▶ rejected: id_mismatch
          ├──▶ is one of several (``Policy.votes``) ──▶ a vote; what the votes in the ledger decide is closed next turn
          └──▶ was taken before (its position is in the ledger) ──▶ ignored

An answer also serves the open requests of samples that are alike (``core.alike``), if that is wanted: it is learned
once, and each is closed and credited with its own probability. Their votes are counted together.

Positions: those of ``reports`` move with a bucket only; that of an answers partition never passes its oldest
waiting answer, and the state beside it says which of the later ones are done.

Tallies of a source partition follow each other without gaps, but where `reports` has grown meanwhile they are read from
several partitions, in any order. One that leaves a gap is early: it waits for what is missing until everything that was
committed before it was read has been read, too. If nothing came by then, the gap is real (samples that were deleted).
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal, TypeVar

from stream_al.core.alike import likeness
from stream_al.core.fold import Fold
from stream_al.core.grants import Dealer
from stream_al.core.labels import Value, label_key, same
from stream_al.core.messages import (
    Answer,
    Bucket,
    Budget,
    Correction,
    Decision,
    Expired,
    LabelRequest,
    Learned,
    LedgerRecord,
    Observe,
    Promote,
    Rebuild,
    Report,
    Skipped,
    Spent,
    Sums,
    Tally,
    Unsolicited,
    Vote,
    milliseconds,
    timestamp,
)
from stream_al.core.votes import Cast, Policy, told, verdict

BUCKET_SAMPLES = 50
QUIET_MS = 60_000  # a bucket that is not full after so long closes as it is
MOST_WAITING = 100  # a partition; their offsets must fit into the state beside the position
MOST_OBSERVES_KEPT = 2_000

K = TypeVar("K")
Rejection = Literal["unknown_request", "closed_request", "id_mismatch"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer stands in its topic."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"

    @property
    def parts(self) -> tuple[str, int, int]:
        return self.topic, self.partition, self.offset


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A tombstone on the requests topic: of one request, or of all open ones of an id."""

    id: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Turn:
    """What was read since the last turn.

    ``read_through`` says for each input (``requests``, ``reports``, ``answers``) a time such that everything
    committed before it has been read.
    """

    now_ms: int
    requests: list[LabelRequest | Withdrawal] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    answers: list[tuple[Place, int, Answer]] = field(default_factory=list)  # where, when written (ms), what
    read_through: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Step:
    """What one commit of the learner writes."""

    ledger: list[LedgerRecord] = field(default_factory=list)
    withdrawn: list[tuple[str, str]] = field(
        default_factory=list
    )  # (id, request_id) to publish as tombstones
    rejected: list[tuple[Place, Rejection]] = field(default_factory=list)
    bucket_closed: bool = False


@dataclass(slots=True)
class _Waiting:
    answer: Answer
    since_ms: int


def answers_read(state: str) -> int:
    """Return up to where answers were read by the state beside their position; 0: that says it alone."""
    return _answers_state(state)[0]


def _answers_state(state: str) -> tuple[int, frozenset[int]]:
    try:
        read, *steps = json.loads(state)
        return int(read), frozenset(accumulate(int(o) for o in steps))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return 0, frozenset()


class Learner:
    """Machine without I/O: joins answers to requests and writes the ledger's records.

    Parameters
    ----------
    fold
        Shared state; the caller has read it to the ledger's end before every turn.
    budget
        The limits in force, as last written to the ledger.
    now_ms
        The learner's clock at its start.
    unsolicited
        Whether a label that nobody asked for is learned, if it brings its features.
    policy
        How many people answer a request, and when they agree.
    share_alike
        Whether an answer serves all open requests of samples that are alike.
    """

    def __init__(
        self,
        fold: Fold,
        budget: Budget,
        *,
        now_ms: int,
        label_ttl_ms: int,
        wait_unknown_ms: int,
        bucket_ms: int,
        transaction_timeout_ms: int,
        unsolicited: bool = False,
        policy: Policy = Policy(),  # noqa: B008  it is frozen
        share_alike: bool = False,
    ) -> None:
        self.fold = fold
        self.unsolicited = unsolicited
        self.policy, self.share_alike = policy, share_alike
        self.budget = budget
        self.label_ttl_ms = label_ttl_ms
        self.wait_unknown_ms = wait_unknown_ms
        self.bucket_ms = bucket_ms
        self.dealer = Dealer(fold, now_ms, transaction_timeout_ms)
        self.clock_ms = now_ms
        self.started_ms = now_ms
        self.first_deal = fold.last_grant == 0 and fold.buckets == 0
        self.pending: dict[str, LabelRequest] = {}
        self.by_id: dict[str, list[str]] = {}
        self.by_likeness: dict[bytes, list[str]] = {}
        self.touched: dict[str, None] = {}  # open requests whose votes are to be looked at, in order
        self.expiries: list[tuple[int, str]] = []
        self.waiting: dict[Place, _Waiting] = {}
        self.done: dict[tuple[str, int], tuple[int, frozenset[int]]] = {}
        self.ends = dict(fold.ends)
        self.floors: dict[int, int] = {}
        self.early: dict[int, list[tuple[int, Tally]]] = {}  # with the time each was read
        self.unread: list[tuple[int, int, int]] = [(now_ms, p, end) for p, end in fold.ends.items()]
        self.sums = Sums()
        self.ranges: dict[int, tuple[int, int]] = {}
        self.first_at, self.last_at = "", ""
        self.opened_ms = now_ms
        self.bucket_grants: dict[int, Spent] = {}
        self.observes: list[Observe] = []
        self.dropped: Counter[str] = Counter()

    # --- start -----------------------------------------------------------------------------------------------

    def remember(self, requests: Iterable[LabelRequest | Withdrawal]) -> None:
        """Rebuild the table of open requests from those read before the last start.

        Those older than the fold's memory of closed requests are left out: they were closed long ago.
        """
        oldest = self.fold.clock_ms - self.fold.keep_closed_ms
        for request in requests:
            if isinstance(request, LabelRequest) and milliseconds(request.requested_at) >= oldest:
                self.dealer.request(milliseconds(request.requested_at), self.budget)
                if request.request_id not in self.fold.closed:
                    self._open(request)
                    if request.request_id in self.fold.panel.ballots:
                        self.touched[request.request_id] = None

    def resume_answers(self, topic: str, partition: int, state: str) -> None:
        """Restore which answers after the committed position were already taken."""
        read, waiting = _answers_state(state)
        if read:
            self.done[topic, partition] = (read, waiting)

    def was_taken(self, place: Place) -> bool:
        """Whether an answer was taken before the last start; the position stands before it because another waits."""
        read, waiting = self.done.get((place.topic, place.partition), (0, frozenset[int]()))
        return place.offset < read and place.offset not in waiting

    # --- a turn ----------------------------------------------------------------------------------------------

    def on(self, turn: Turn) -> Step:
        """React to what was read; the caller commits the step and reads it back before the next turn."""
        self.clock_ms = max(self.clock_ms, turn.now_ms)
        step = Step()
        if self.fold.probe_due and self.fold.probe_samples:
            step.ledger.append(self.fold.probe())  # before all else: it is about the fold as it stands
        read_requests = turn.read_through.get("requests", 0)
        read_reports = min(turn.read_through.get("reports", 0), read_requests)
        for request in turn.requests:
            self._request(request, step)
        self._raise_floors(read_requests)
        for report in turn.reports:
            self._report(report, step)
        self._end_waits(turn.read_through.get("reports", 0))
        self._decide(step)
        for place, written_ms, answer in turn.answers:
            self._answer(place, written_ms, answer, step)
        self._retry_waiting(read_requests, step)
        self._expire(turn.read_through.get("answers", 0), step)
        self.dealer.settle(read_reports)
        self._close_bucket(step)
        if self.first_deal or read_reports >= self.started_ms:
            step.ledger += self.dealer.deal(
                self.clock_ms,
                len(self.pending),
                self.budget,
                first=self.first_deal,
                warming=self.fold.warming,
            )
            self.first_deal = False
        return step

    # --- requests --------------------------------------------------------------------------------------------

    def _request(self, request: LabelRequest | Withdrawal, step: Step) -> None:
        if isinstance(request, Withdrawal):
            self._withdraw(request, step)
            return
        if request.request_id in self.pending or request.request_id in self.fold.closed:
            self.dropped["request_again"] += 1
            return
        if request.source.offset < self.floors.get(request.source.partition, 0):
            self.dropped["request_decided_before"] += 1
            return
        self.dealer.request(milliseconds(request.requested_at), self.budget)
        self._open(request)
        known = self.fold.known(request.id)
        if known is not None and known.at_ms >= self.clock_ms - self.label_ttl_ms:
            assert known.answer is not None
            answer = Answer(request.id, label=known.label)
            self._close(request, answer, known.answer, step, learn=False, withdraw=True)

    def _open(self, request: LabelRequest) -> None:
        self.pending[request.request_id] = request
        self.by_id.setdefault(request.id, []).append(request.request_id)
        alike = likeness(request.features) if self.share_alike else None
        if alike is not None:
            self.by_likeness.setdefault(alike, []).append(request.request_id)
        heapq.heappush(self.expiries, (milliseconds(request.expires_at), request.request_id))

    def _forget(self, request: LabelRequest) -> None:
        del self.pending[request.request_id]
        self.touched.pop(request.request_id, None)
        _remove(self.by_id, request.id, request.request_id)
        alike = likeness(request.features) if self.share_alike else None
        if alike is not None:
            _remove(self.by_likeness, alike, request.request_id)

    def _alike(self, request: LabelRequest) -> list[LabelRequest]:
        """Return the open requests that one answer serves, this one first."""
        alike = likeness(request.features) if self.share_alike else None
        others = self.by_likeness.get(alike, ()) if alike is not None else ()
        return [request, *(self.pending[r] for r in others if r != request.request_id)]

    def _withdraw(self, withdrawal: Withdrawal, step: Step) -> None:
        named = [withdrawal.request_id] if withdrawal.request_id else list(self.by_id.get(withdrawal.id, ()))
        for request_id in named:
            request = self.pending.get(request_id)
            if request is not None and request.id == withdrawal.id:
                self._forget(request)
                step.ledger.append(self._expired(request, "withdrawn"))

    def _expired(self, request: LabelRequest, reason: Literal["expired", "withdrawn"]) -> Expired:
        return Expired(
            request.request_id, request.id, request.source, request.query, request.model, request.requested_at,
            timestamp(self.clock_ms), reason,
        )  # fmt: skip

    def _expire(self, read_answers_ms: int, step: Step) -> None:
        """Close what nobody answered in time; where some have voted, what they say decides."""
        later = []
        while self.expiries and self.expiries[0][0] < read_answers_ms:
            at, request_id = heapq.heappop(self.expiries)
            request = self.pending.get(request_id)
            if request is None:
                continue
            if request_id in self.touched:  # a vote of this very turn, which the fold has not read yet
                later.append((at, request_id))
            elif not self._decided(request, step, last=True):
                self._forget(request)
                step.ledger.append(self._expired(request, "expired"))
                step.withdrawn.append((request.id, request.request_id))
        for one in later:
            heapq.heappush(self.expiries, one)

    def _raise_floors(self, read_requests_ms: int) -> None:
        """Below a tally whose requests were all read, a request that is not known was decided before."""
        later = []
        for at, partition, end in self.unread:
            if at < read_requests_ms:
                self.floors[partition] = max(end, self.floors.get(partition, 0))
            else:
                later.append((at, partition, end))
        self.unread = later

    # --- answers ---------------------------------------------------------------------------------------------

    def _answer(self, place: Place, written_ms: int, answer: Answer, step: Step) -> None:
        if self.was_taken(place):
            return
        if self._settle_answer(place, answer, step):
            return
        held = [p for p in self.waiting if (p.topic, p.partition) == (place.topic, place.partition)]
        if len(held) >= MOST_WAITING:
            self._give_up(held[0], self.waiting[held[0]].answer, step)
            if held[0] in self.waiting:  # another of its id is learned by this very step
                self._reject(held[0], "closed_request", step)
        self.waiting[place] = _Waiting(answer, min(written_ms, self.clock_ms))

    def _settle_answer(self, place: Place, answer: Answer, step: Step) -> bool:
        """Close what the answer names, or reject it; False where it must wait."""
        where = str(place)
        if answer.request_id is None:
            named = [self.pending[r] for r in self.by_id.get(answer.id, ())]
            if named:
                self._take_answer(named, answer, where, step)
                return True
            known = self.fold.known(answer.id)
            if known is not None and known.at_ms >= self.clock_ms - self.label_ttl_ms:
                assert known.answer is not None
                voted = self._voted_by(known.answer)
                if voted is None or not self._late_vote(voted, place, answer, step):
                    self._answer_again(place, answer, known.answer, step)
                return True
            unasked = self.fold.unsolicited.get(answer.id)
            if unasked is None:
                return False
            self._answer_again(place, answer, unasked[0], step)
            return True
        open_request = self.pending.get(answer.request_id)
        if open_request is not None:
            if open_request.id != answer.id:
                self._reject(place, "id_mismatch", step)
            else:
                self._take_answer([open_request], answer, where, step)
            return True
        closed = self.fold.closed.get(answer.request_id)
        if closed is None:
            return False
        first = closed.answer
        if closed.id == answer.id and self._late_vote(answer.request_id, place, answer, step):
            return True
        if closed.id == answer.id:
            self._answer_again(place, answer, first, step)
        elif first != where:
            self._reject(place, "id_mismatch", step)
        return True

    def _take_answer(self, named: list[LabelRequest], answer: Answer, where: str, step: Step) -> None:
        """Close the requests that an answer names, and those alike; or count it as a vote about each."""
        decides = answer.desk is not None and answer.desk.decides and answer.label is not None
        if self.policy.votes == 1 or decides:
            decision = None
            if decides and answer.label is not None and self._votes(named[0]):
                decision = Decision("owner", len(self._votes(named[0])), {label_key(answer.label): 1.0})
            self._close_all(named, answer, where, step, decision)
            return
        for request in named:
            ballot = self.fold.panel.ballots.get(request.request_id)
            if ballot is None or where not in ballot.places:
                self.touched[request.request_id] = None
                step.ledger.append(self._vote(request.request_id, where, answer))

    def _vote(self, request_id: str, where: str, answer: Answer) -> Vote:
        return Vote(
            request_id, answer.id, answer.label, timestamp(self.clock_ms), where, answer.annotator,
            answer.labeled_at,
        )  # fmt: skip

    def _late_vote(self, request_id: str, place: Place, answer: Answer, step: Step) -> bool:
        """Take one of several people's answers when the label is known; False where it is none, or the owner's."""
        ballot, where = self.fold.panel.ballots.get(request_id), str(place)
        if ballot is None or (answer.desk is not None and answer.desk.decides):
            return False
        if where in ballot.places or where == self.fold.answer_to(request_id):
            return True
        if self.policy.votes == 1:  # they were several once; now whoever answers again corrects
            return False
        news = [v for v in step.ledger if isinstance(v, Vote) and v.request_id == request_id]
        who = {*ballot.votes, *(v.annotator or "" for v in news)}
        if (answer.annotator or "") in who or len(who) >= self.policy.votes:
            self._reject(place, "closed_request", step)
        else:
            self.waiting.pop(place, None)
            step.ledger.append(self._vote(request_id, where, answer))
        return True

    def _voted_by(self, where: str) -> str | None:
        """Return the request whose votes were decided by the answer at a place."""
        if self.policy.votes == 1:
            return None
        return next((r for r in self.fold.panel.ballots if self.fold.answer_to(r) == where), None)

    def _votes(self, request: LabelRequest) -> dict[str, Cast]:
        return self.fold.panel.votes_on(r.request_id for r in self._alike(request))

    def _decide(self, step: Step) -> None:
        """Close what the votes in the ledger decide."""
        looked, self.touched = self.touched, {}
        for request_id in looked:
            request = self.pending.get(request_id)
            if request is not None:
                self._decided(request, step)

    def _decided(self, request: LabelRequest, step: Step, *, last: bool = False) -> bool:
        """Close a request and those alike, if the votes about them agree; say whether they do."""
        votes = self._votes(request)
        if not votes:
            return False
        probabilities = self.fold.panel.probabilities(votes, [label_key(c) for c in self.fold.classes])
        found = verdict(self.policy, votes, probabilities, last=last)
        if found is None:
            return False
        who = next(name for name, cast in votes.items() if cast is found)
        answer = Answer(request.id, found.label, found.label is None, annotator=who or None)
        labels = sum(cast.label is not None for cast in votes.values())
        decision = Decision(self.policy.agreement, labels, told(probabilities, votes))
        over = last or (len(votes) < self.policy.votes and not self.policy.asks_on)
        self._close_all([request], answer, found.answer, step, decision, withdraw=over)
        return True

    def _close_all(
        self,
        named: list[LabelRequest],
        answer: Answer,
        where: str,
        step: Step,
        decision: Decision | None,
        *,
        withdraw: bool = False,
    ) -> None:
        """Close requests, and those alike, with one answer; it is learned once."""
        learned = decision is not None and (
            where in self.fold.given
            or any(isinstance(r, Learned) and r.learn and r.answer == where for r in step.ledger)
        )
        for request in named:
            alike = self._alike(request)[1:]
            over = withdraw or (decision is not None and decision.policy == "owner")
            self._close(request, answer, where, step, learn=not learned, withdraw=over, decision=decision)
            learned = True
            for other in alike:
                if other not in named:
                    self._close(
                        other, answer, where, step, learn=False, withdraw=True, decision=decision,
                        same_as=request.request_id,
                    )  # fmt: skip

    def _answer_again(self, place: Place, answer: Answer, first: str | None, step: Step) -> None:
        """Take another answer to what ``first`` closed: itself read again, a correction, or nothing new."""
        where, given = str(place), self.fold.given.get(first or "")
        if where == first or where in self.fold.corrected_at.get(first or "", ()):
            return
        if given is None or first is None or answer.label is None:
            self._reject(place, "closed_request", step)
            return
        corrected = (
            c.label for c in reversed(step.ledger) if isinstance(c, Correction) and c.corrects == first
        )
        label = next(corrected, given)
        if self._same(label, answer.label):
            self._reject(place, "closed_request", step)
            return
        self.waiting.pop(place, None)
        step.ledger.append(
            Correction(
                answer.request_id, answer.id, first, label, answer.label, timestamp(self.clock_ms), where,
                answer.annotator, answer.labeled_at,
            )
        )  # fmt: skip

    def _same(self, a: Value, b: Value) -> bool:
        return a == b if self.fold.task == "regression" else same(a, b)

    def _give_up(self, place: Place, answer: Answer, step: Step) -> None:
        """End the wait of an answer whose request did not come: learn it, if that is wanted, or reject it."""
        reason = self._unmatched(answer)
        wanted = self.unsolicited and reason == "unknown_request" and answer.request_id is None
        if not wanted or answer.label is None or answer.features is None:
            self._reject(place, reason, step)
        elif not any(isinstance(r, Unsolicited) and r.id == answer.id for r in step.ledger):
            self.waiting.pop(place, None)
            step.ledger.append(
                Unsolicited(
                    answer.id, answer.features, answer.label, timestamp(self.clock_ms), str(place),
                    answer.annotator, answer.labeled_at,
                )
            )  # fmt: skip

    def _unmatched(self, answer: Answer) -> Rejection:
        """Say why an answer names no open request, as far as its id is known."""
        known = any(answer.id in ids for ids in (self.by_id, self.fold.labels, self.fold.unlabelled))
        if not known:
            return "unknown_request"
        return "closed_request" if answer.request_id is None else "id_mismatch"

    def _close(
        self,
        request: LabelRequest,
        answer: Answer,
        where: str,
        step: Step,
        *,
        learn: bool,
        withdraw: bool = False,
        decision: Decision | None = None,
        same_as: str | None = None,
    ) -> None:
        self._forget(request)
        if withdraw:
            step.withdrawn.append((request.id, request.request_id))
        now = timestamp(self.clock_ms)
        learn = learn and request.id not in self.fold.unsolicited  # it was learned then
        if answer.skip or answer.label is None:
            step.ledger.append(
                Skipped(
                    request.request_id, request.id, request.source, request.query, request.model,
                    request.requested_at, now, where, answer.annotator, answer.labeled_at, same_as,
                )
            )  # fmt: skip
            return
        step.ledger.append(
            Learned(
                request.request_id, request.id, request.source, request.query, request.model, request.requested_at,
                request.features, answer.label, learn, now, where, answer.annotator, answer.labeled_at, same_as,
                decision,
            )
        )  # fmt: skip

    def _reject(self, place: Place, reason: Rejection, step: Step) -> None:
        self.waiting.pop(place, None)
        step.rejected.append((place, reason))

    def _retry_waiting(self, read_requests_ms: int, step: Step) -> None:
        for place, held in list(self.waiting.items()):
            if self._settle_answer(place, held.answer, step):
                self.waiting.pop(place, None)
            elif held.since_ms + self.wait_unknown_ms <= min(self.clock_ms, read_requests_ms):
                self._give_up(place, held.answer, step)

    def answer_position(self, topic: str, partition: int, read: int) -> tuple[int, str]:
        """Return the position to commit for an answers partition read up to ``read``, and its state."""
        done, before = self.done.get((topic, partition), (0, frozenset[int]()))
        now = {p.offset for p in self.waiting if (p.topic, p.partition) == (topic, partition)}
        waiting = sorted(
            now | {o for o in before if o >= read}
        )  # what waited at the last start, not read again yet
        if not waiting and read >= done:
            return read, ""
        steps = [later - earlier for earlier, later in zip([0, *waiting], waiting, strict=False)]
        state = json.dumps([max(read, done), *steps], separators=(",", ":"))
        return min([read, *waiting]), state

    # --- reports ---------------------------------------------------------------------------------------------

    def _report(self, report: Report, step: Step) -> None:
        if isinstance(report, Rebuild):
            self._rebuild(report, step)
            return
        if isinstance(report, Promote):
            self._promote(report, step)
            return
        if isinstance(report, Observe):
            if len(self.observes) < MOST_OBSERVES_KEPT:
                self.observes.append(report)
            return
        self._tally(report)

    def _rebuild(self, asked: Rebuild, step: Step) -> None:
        """Write what an operator asked for, once: reports are read again until a bucket closes."""
        if self._was_done(asked, step):
            self.dropped["rebuild_again"] += 1
            return
        begin = min(asked.from_offset, self.fold.position)
        step.ledger.append(replace(asked, from_offset=begin, corrections=len(self.fold.corrections)))

    def _promote(self, asked: Promote, step: Step) -> None:
        """Write it with what the challenger is; one that is not there, or promoted by this very step, is none."""
        found = self.fold.contest.others.get(asked.name)
        if self._was_done(asked, step):
            self.dropped["promote_again"] += 1
        elif found is None or any(isinstance(r, Promote) and r.name == asked.name for r in step.ledger):
            self.dropped["promote_nobody"] += 1
        else:
            step.ledger.append(replace(asked, spec=found.who.spec, strategy=found.who.strategy))

    def _was_done(self, asked: Rebuild | Promote, step: Step) -> bool:
        """Say whether an operation was written before, or is for another ledger."""
        genesis = self.fold.genesis
        done = [*self.fold.operations, *(r.id for r in step.ledger if isinstance(r, Rebuild | Promote))]
        return genesis is None or asked.ledger_id != genesis.ledger_id or asked.id in done

    def _tally(self, tally: Tally) -> None:
        expected = self._expected(tally.partition)
        if tally.from_offset < expected:
            self.dropped["tally_again"] += 1
        elif tally.from_offset > expected:
            self.early.setdefault(tally.partition, []).append((self.clock_ms, tally))
        else:
            self._take(tally)

    def _expected(self, partition: int) -> int:
        start = 0 if self.fold.genesis is None else self.fold.genesis.start.get(partition, 0)
        return self.ends.get(partition, start)

    def _end_waits(self, read_reports_ms: int) -> None:
        """Take the early tallies whose predecessors came, or cannot come any more."""
        for partition, held in list(self.early.items()):
            held.sort(key=lambda one: one[1].from_offset)
            while held:
                read_at, tally = held[0]
                if tally.from_offset > self._expected(partition) and read_at >= read_reports_ms:
                    break
                held.pop(0)
                if tally.from_offset < self._expected(partition):
                    self.dropped["tally_again"] += 1
                else:
                    self._take(tally)
            if not held:
                del self.early[partition]

    def _take(self, tally: Tally) -> None:
        self.ends[tally.partition] = tally.to_offset
        self.unread.append((self.clock_ms, tally.partition, tally.to_offset))
        self.dealer.tally(tally, self.clock_ms)
        if not self.ranges:
            self.first_at, self.last_at = tally.first_at, tally.last_at
            self.opened_ms = self.clock_ms
        start, _ = self.ranges.get(tally.partition, (tally.from_offset, 0))
        self.ranges[tally.partition] = (start, tally.to_offset)
        self.first_at = min(self.first_at, tally.first_at)
        self.last_at = max(self.last_at, tally.last_at)
        self.sums.add(tally.sums)
        self.bucket_grants |= tally.grants

    def _close_bucket(self, step: Step, *, flush: bool = False) -> None:
        if not self.ranges or self.early:  # positions of reports move with a bucket, past the early ones too
            return
        first = self.fold.buckets == 0
        opened_ms = min(self.opened_ms, milliseconds(self.first_at))  # a scorer's clock may be ahead
        due = first or self.clock_ms - opened_ms >= self.bucket_ms
        old = self.clock_ms - self.opened_ms >= QUIET_MS
        full = self.sums.samples + self.sums.invalid >= BUCKET_SAMPLES or old
        if not (flush or (full and due)):
            return
        step.ledger.append(
            Bucket(
                number=self.fold.buckets,
                ranges=self.ranges,
                sums=self.sums,
                first_at=self.first_at,
                last_at=self.last_at,
                grants=self.bucket_grants | self.dealer.take_closed(),
            )
        )
        step.ledger += self._observes_due()
        step.bucket_closed = True
        self.sums, self.ranges, self.bucket_grants = Sums(), {}, {}

    def _observes_due(self) -> list[Observe]:
        """Return the observes that enter the ledger; the fold says how many may."""
        kept = self.observes[: self.fold.observe_room]
        self.dropped["observe"] += len(self.observes) - len(kept)
        self.observes = []
        return kept

    def flush(self) -> Step:
        """Close the open bucket whatever its size: for the end of a finite stream."""
        step = Step()
        self._end_waits(self.clock_ms + 1)
        self._close_bucket(step, flush=True)
        return step


def _remove(table: dict[K, list[str]], key: K, request_id: str) -> None:
    """Take a request out of a table of lists."""
    table[key].remove(request_id)
    if not table[key]:
        del table[key]
