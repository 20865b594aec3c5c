"""The desk: open questions in, one at a time to people, their answers out. A machine without I/O or clock.

Theory of operation
-------------------
A question is known from its request on until nobody has to see it any more::

    request ──▶ waiting ──lease──▶ leased ──answer, skip──▶ answered ──grace is over──▶ published
                  ▲  ▲               │                         │
                  │  └──── expired ──┘                         │
                  └──────────────────── undo ──────────────────┘

Beside these, a question may be *flagged* (put aside until the owner releases it) or *held*: its answer is a class that
the owner has not accepted. A lease is a promise to one annotator that nobody else gets the question meanwhile; it does
not bind the annotator: a late answer counts as long as nobody else's was given. Until it is published an answer can be
changed and taken back, so nothing learned ever has to be unlearned.

Questions are served in the order in which they came, whatever is in them: those that nobody gets to expire, and the
estimates rest on answers that are missing for no reason of their own.

Two coins of each question, from its position and the seed, as anybody can derive them again: *blind* - the guess is not
shown, nor anything that tells it; *second* - another person is asked as well. That one's answer is an *opinion*: it is
compared and not learned. Whichever answer is published first is the label.

The caller keeps unpublished answers where a crash does not lose them (``kept``), and what it reads on the topics is
told here again: ``published`` is the same call for an answer of this process, of its predecessor, and of others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from stream_al.core.coin import coin
from stream_al.core.desk_facts import Given, Item, Line, Recent, Refused, Rules, State, why
from stream_al.core.desk_figures import DeskFigures
from stream_al.core.labels import Label, Value, is_number, label_key, label_of, same
from stream_al.core.learner import Withdrawal
from stream_al.core.messages import Answer, AtDesk, Features, LabelRequest, Task, milliseconds, timestamp

MOST_OPEN, MOST_OPEN_BYTES = 5_000, 64 << 20
MOST_RECENT = 10
MOST_EARLY = 20_000
MOST_FEATURES = 500  # whose range is known
MOST_AT_ONCE = 5
LONGEST_S = 3_600.0  # a longer look at a question was a pause


@dataclass(slots=True)
class _Question:
    request: LabelRequest
    blind: bool
    second: bool
    size: int
    expires_ms: int
    holder: str = ""
    until_ms: int = 0
    given: dict[str, Given] = field(default_factory=dict)
    sending: set[str] = field(default_factory=set)  # annotators whose answers are being written
    published: dict[str, Value | None] = field(default_factory=dict)
    flagged_by: str = ""
    closed: bool = False

    @property
    def answers(self) -> dict[str, Value | None]:
        return {**self.published, **{who: g.label for who, g in self.given.items()}}

    @property
    def held(self) -> bool:
        return any(g.held for g in self.given.values())

    def wants(self, annotator: str) -> bool:
        """Whether this person's answer is wanted."""
        if self.flagged_by or self.held:
            return False
        answers = self.answers
        if not answers:
            return not self.closed
        one = next(iter(answers.values()))
        return self.second and len(answers) == 1 and annotator not in answers and one is not None


class Desk:
    """Holds the open questions and the answers that are not published yet.

    Parameters
    ----------
    rules
        Coins, grace and leases.

    ``known`` are the classes of the ledger, ``named`` those that answers on the topic added since; ``fixed`` says that
    there will be no others.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.questions: dict[str, _Question] = {}
        self.answered: dict[str, _Question] = {}  # those with answers that are not published
        self.by_id: dict[str, list[str]] = {}
        self.size = 0
        self.early: dict[str, list[Answer]] = {}  # published answers to questions that are not read yet
        self.recent: dict[str, deque[str]] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self.known: tuple[Label, ...] = ()
        self.named: tuple[Label, ...] = ()
        self.fixed = False
        self.task: Task = "classification"
        self.figures = DeskFigures()

    @property
    def classes(self) -> tuple[Label, ...]:
        """The classes that can be chosen, those of answers that are not published yet last."""
        found = self.known
        for label in self.named:
            found = _with(found, label)
        for given in self.kept():
            if not given.held and isinstance(given.label, str | int) and self.task == "classification":
                found = _with(found, given.label)
        return found

    # --- from the topics -------------------------------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether another question can be held; while not, requests are left unread, where they are safe."""
        return len(self.questions) < MOST_OPEN and self.size < MOST_OPEN_BYTES

    def open(self, request: LabelRequest | Withdrawal, *, closed: bool = False) -> None:
        """Take in a request, or withdraw one; the same again changes nothing.

        One that is ``closed`` already may still need a second opinion.
        """
        if isinstance(request, Withdrawal):
            named = [request.request_id] if request.request_id else list(self.by_id.get(request.id, ()))
            for request_id in named:
                self.close(request_id)
            return
        if request.request_id in self.questions:
            return
        features: Features = {k: v for k, v in request.features.items() if not isinstance(v, list)}
        self._widen(features)
        shown = replace(request, features=features)
        size = 400 + sum(len(k) + (len(v) if isinstance(v, str) else 16) for k, v in features.items())
        blind, second = (
            coin(self.rules.seed, request.source.topic, request.source.partition, request.source.offset, salt)
            < share
            for salt, share in (("blind", self.rules.blind), ("second", self.rules.second_opinion))
        )
        question = _Question(shown, blind, second, size, milliseconds(request.expires_at), closed=closed)
        self.questions[request.request_id] = question
        self.by_id.setdefault(request.id, []).append(request.request_id)
        self.size += size
        for answer in self.early.pop(request.request_id, ()):
            self._credit(question, answer)
        self._tidy(request.request_id)

    def _widen(self, features: Features) -> None:
        for name, value in features.items():
            if not isinstance(value, str) and value is not None and not isinstance(value, bool | list):
                low, high = self.ranges.get(name, (value, value))
                if name in self.ranges or len(self.ranges) < MOST_FEATURES:
                    self.ranges[name] = (min(low, value), max(high, value))

    def close(self, request_id: str) -> None:
        """Note that a request is closed in the ledger or withdrawn."""
        question = self.questions.get(request_id)
        if question is not None:
            question.closed = True
            self._tidy(request_id)

    def published(self, answer: Answer, at_ms: int) -> tuple[str, str] | None:
        """Note an answer on the topic; return which unpublished one it is, if it is one: request and annotator."""
        self.figures.add(answer, at_ms)
        if isinstance(answer.label, str | int) and self.task == "classification" and not self.fixed:
            self.named = _with(self.named, answer.label)
        if answer.request_id and answer.request_id not in self.questions:
            self.early.setdefault(answer.request_id, []).append(answer)
            if len(self.early) > MOST_EARLY:
                del self.early[next(iter(self.early))]
            return None
        ids = [answer.request_id] if answer.request_id else list(self.by_id.get(answer.id, ()))
        found = None
        for request_id in ids:
            question = self.questions[request_id]
            if question.request.id == answer.id:
                found = found or self._credit(question, answer)
                self._tidy(request_id)
        return found

    def _credit(self, question: _Question, answer: Answer) -> tuple[str, str] | None:
        """Note a published answer of a question; return whose unpublished one it is, if it is one."""
        who, found = answer.annotator or "", None
        if answer.desk is None:
            question.second = False  # another tool was faster than the desk: there is nothing to compare
        mine = question.given.get(who)
        if mine is not None and answer.desk is not None and mine.says(answer.label):
            self._drop(question, who)
            question.sending.discard(who)
            found = (question.request.request_id, who)
        question.published[who] = answer.label
        return found

    def _tidy(self, request_id: str) -> None:
        """Forget a question that nobody has to see any more."""
        question = self.questions[request_id]
        if question.given or question.sending:
            return
        if question.published:
            answers = list(question.published.values())
            if question.second and len(answers) == 1 and answers[0] is not None:
                return
        elif not question.closed:
            return
        del self.questions[request_id]
        self.size -= question.size
        others = self.by_id[question.request.id]
        others.remove(request_id)
        if not others:
            del self.by_id[question.request.id]

    def forget_expired(self, now_ms: int) -> None:
        """Wait no longer for second opinions on questions whose time is over."""
        for request_id, question in list(self.questions.items()):
            if question.second and question.expires_ms < now_ms:
                question.second = False
                self._tidy(request_id)

    # --- to and from people ----------------------------------------------------------------------------------

    def lease(self, annotator: str, count: int, now_ms: int) -> list[Item]:
        """Promise up to ``count`` questions to an annotator: those held already, then the oldest ones waiting."""
        wanted = min(max(count, 0), MOST_AT_ONCE)
        mine = [q for q in self.questions.values() if q.holder == annotator and q.until_ms > now_ms]
        found = [q for q in mine if q.wants(annotator)][:wanted]
        for question in self.questions.values():
            if len(found) >= wanted:
                break
            if (question.until_ms <= now_ms or not question.holder) and question.wants(annotator):
                found.append(question)
        return [self._promise(question, annotator, now_ms) for question in found]

    def lease_one(self, annotator: str, request_id: str, now_ms: int) -> Item:
        """Promise one question to an annotator, whoever else held it.

        Raises
        ------
        Refused
            It is not open.
        """
        return self._promise(self._question(request_id), annotator, now_ms)

    def _promise(self, question: _Question, annotator: str, now_ms: int) -> Item:
        question.holder, question.until_ms = annotator, now_ms + self.rules.lease_ms
        r, shown = question.request, question.request.model
        guess: Value | None = None
        if not question.blind:
            guess = shown.value if self.task == "regression" else None
            guess = label_of(shown.label) if shown.label is not None else guess
        return Item(
            r.request_id,
            r.id,
            r.features,
            r.query.reason,
            why(r, blind=question.blind),
            question.blind,
            guess,
            shown.confidence if guess is not None and shown.label is not None else None,
            r.requested_at,
            r.expires_at,
            timestamp(question.until_ms),
        )

    def give_back(self, annotator: str, request_id: str) -> None:
        """End a lease before its time."""
        question = self.questions.get(request_id)
        if question is not None and question.holder == annotator:
            question.holder, question.until_ms = "", 0

    def answer(
        self,
        annotator: str,
        request_id: str,
        label: Value | None,
        now_ms: int,
        *,
        seconds: float | None = None,
        new_class: bool = False,
        owner: bool = False,
    ) -> Given | None:
        """Take an answer, or a changed one; the same again changes nothing. ``label`` None is a skip.

        Returns
        -------
        Given or None
            What to keep until it is published; None where the same answer is published already.

        Raises
        ------
        Refused
            The question is not open, somebody else's answer was given, this annotator's other one is published, or the
            class is not known and ``new_class`` was not said.
        """
        done, key = self.figures.answered(request_id, annotator)
        if done:
            _check_again(key, label)
            return None
        question = self._question(request_id)
        if annotator in question.published or annotator in question.sending:
            before = question.published.get(annotator, question.given.get(annotator, _NONE).label)
            _check_again(None if before is None else label_key(before), label)
            return None
        mine = question.given.get(annotator)
        if mine is not None and mine.says(label):
            return mine
        if mine is None and not question.wants(annotator):
            raise self._unwanted(question)
        known = self._check(label, new_class=new_class) or owner
        took = None if seconds is None else round(min(max(seconds, 0.0), LONGEST_S), 2)
        given = Given(request_id, question.request.id, annotator, label, now_ms, took, held=not known)
        self.restore(given)
        return given

    def restore(self, given: Given) -> bool:
        """Take back an answer that was kept; False where its question is not open or it is published."""
        question = self.questions.get(given.request_id)
        if question is None or question.request.id != given.id or given.annotator in question.published:
            return False
        question.given[given.annotator] = given
        self.answered[given.request_id] = question
        if question.holder == given.annotator:
            question.holder, question.until_ms = "", 0
        self._note(given.annotator, given.request_id)
        return True

    def revert(self, given: Given, before: Given | None) -> None:
        """Take an answer back that could not be kept."""
        self._drop(self.questions[given.request_id], given.annotator)
        if before is not None:
            self.restore(before)

    def undo(self, annotator: str, request_id: str, now_ms: int) -> Item | None:
        """Take an answer or a flag back and lease the question again; None where there is nothing to take back.

        Raises
        ------
        Refused
            It is published, or not open any more.
        """
        if self.figures.answered(request_id, annotator)[0]:
            raise Refused("published", "this answer is published already")
        question = self._question(request_id)
        if annotator in question.published or annotator in question.sending:
            raise Refused("published", "this answer is published already")
        if question.closed:
            raise Refused("closed", "this question was closed meanwhile")
        gone = self._drop(question, annotator)
        if gone is None and question.flagged_by != annotator:
            return None
        if gone is None:
            question.flagged_by = ""
        if request_id in self.recent.get(annotator, ()):
            self.recent[annotator].remove(request_id)
        return self._promise(question, annotator, now_ms)

    def flag(self, annotator: str, request_id: str) -> None:
        """Put a question aside until the owner has looked at it.

        Raises
        ------
        Refused
            It is not open, or answered.
        """
        question = self._question(request_id)
        if question.flagged_by:
            return
        if question.answers:
            raise Refused("answered", "this question is answered; take the answer back first")
        question.flagged_by, question.holder, question.until_ms = annotator, "", 0
        self._note(annotator, request_id)

    def release(self, request_id: str) -> None:
        """Put a flagged question back into the queue.

        Raises
        ------
        Refused
            It is not open.
        """
        self._question(request_id).flagged_by = ""

    def _drop(self, question: _Question, annotator: str) -> Given | None:
        """Forget an unpublished answer and return it."""
        gone = question.given.pop(annotator, None)
        if not question.given:
            self.answered.pop(question.request.request_id, None)
        return gone

    def decide(self, label: Label, now_ms: int, *, as_label: Label | None) -> list[Given]:
        """Accept a proposed class, under its name or as another one; with ``as_label`` None, put its questions back.

        Returns
        -------
        list of Given
            The answers as they are now; dismissed ones are still ``held``.
        """
        decided = []
        for question in list(self.answered.values()):
            for who, given in list(question.given.items()):
                if not (given.held and given.says(label)):
                    continue
                if as_label is None:
                    self._drop(question, who)
                    decided.append(given)
                    self._tidy(question.request.request_id)
                else:
                    question.given[who] = replace(given, label=as_label, at_ms=now_ms, held=False)
                    decided.append(question.given[who])
        return decided

    def _question(self, request_id: str) -> _Question:
        question = self.questions.get(request_id)
        if question is None:
            raise Refused(
                "unknown", f"no open question {request_id}: it expired, or somebody else answered it"
            )
        return question

    def _unwanted(self, question: _Question) -> Refused:
        if question.answers:
            return Refused("answered", "somebody else has answered this question")
        if question.flagged_by:
            return Refused("answered", "this question was put aside")
        return Refused("closed", "this question is closed")

    def _check(self, label: Value | None, *, new_class: bool) -> bool:
        """Say whether a label can be published; False where it is a class that has to be accepted first."""
        if label is None:
            return True
        if self.task == "regression":
            if not is_number(label):
                raise Refused("no_class", "the answer has to be a number")
            return True
        if not isinstance(label, float) and any(same(label, known) for known in self.classes):
            return True
        if isinstance(label, float) or self.fixed or not new_class:
            known = ", ".join(map(label_key, self.classes)) or "none yet"
            raise Refused("no_class", f"{label_key(label)} is no class; there are: {known}")
        return False

    def _note(self, annotator: str, request_id: str) -> None:
        latest = self.recent.setdefault(annotator, deque(maxlen=MOST_RECENT))
        if request_id in latest:
            latest.remove(request_id)
        latest.append(request_id)

    # --- to the topics ---------------------------------------------------------------------------------------

    def due(self, now_ms: int) -> list[Answer]:
        """Return the answers whose grace is over, oldest first; they cannot be changed until ``returned``."""
        ready = [
            given
            for question in self.answered.values()
            for who, given in question.given.items()
            if not given.held and who not in question.sending and given.at_ms + self.rules.grace_ms <= now_ms
        ]
        return [self._going(given) for given in sorted(ready, key=lambda g: g.at_ms)]

    def _going(self, given: Given) -> Answer:
        question = self.questions[given.request_id]
        opinion = bool(question.published or question.sending)
        question.sending.add(given.annotator)
        shown = question.request.model
        return Answer(
            given.id,
            given.label,
            given.label is None,
            given.request_id,
            given.annotator,
            timestamp(given.at_ms),
            desk=AtDesk(question.blind, shown.label, given.seconds, opinion),
        )

    def returned(self, answers: Iterable[Answer]) -> None:
        """Take back answers that could not be written; they are due again."""
        for answer in answers:
            question = self.questions.get(answer.request_id or "")
            if question is not None:
                question.sending.discard(answer.annotator or "")

    # --- looking ---------------------------------------------------------------------------------------------

    def state(self, request_id: str, now_ms: int) -> State:
        """Return where a question stands."""
        q = self.questions[request_id]
        if q.flagged_by:
            return "flagged"
        if q.held:
            return "held"
        if q.given:
            return "answered"
        if q.published:
            return "published"
        return "leased" if q.holder and q.until_ms > now_ms else "waiting"

    def lines(self, now_ms: int) -> Iterator[Line]:
        """Yield the questions in the order in which they are served, taking none."""
        for request_id, q in self.questions.items():
            r = q.request
            yield Line(
                request_id, r.id, self.state(request_id, now_ms), r.query.reason, r.requested_at, r.expires_at
            )

    def waiting(self, annotator: str) -> int:
        """Return how many questions this annotator could still get."""
        return sum(q.wants(annotator) for q in self.questions.values())

    def latest(self, annotator: str, now_ms: int) -> list[Recent]:
        """Return an annotator's last ten answers, the latest first."""
        return [self._recent(annotator, r, now_ms) for r in reversed(self.recent.get(annotator, ()))]

    def _recent(self, annotator: str, request_id: str, now_ms: int) -> Recent:
        q = self.questions.get(request_id)
        given = q.given.get(annotator) if q is not None else None
        if q is not None and given is not None and annotator in q.sending:
            return Recent(request_id, given.id, given.label, "published", None)
        if q is not None and given is not None:
            left = max(0.0, (given.at_ms + self.rules.grace_ms - now_ms) / 1000)
            state: Literal["held", "answered"] = "held" if given.held else "answered"
            return Recent(request_id, given.id, given.label, state, None if given.held else left)
        if q is not None and q.flagged_by == annotator:
            return Recent(request_id, q.request.id, None, "flagged", None)
        key = self.figures.answered(request_id, annotator)[1]
        label = None if key is None else label_of(key)
        return Recent(request_id, q.request.id if q is not None else "", label, "published", None)

    def held(self) -> dict[str, list[Given]]:
        """Return the proposed classes by key, with the answers that name them."""
        found: dict[str, list[Given]] = {}
        for given in self.kept():
            if given.held and given.label is not None:
                found.setdefault(label_key(given.label), []).append(given)
        return found

    def kept(self) -> Iterator[Given]:
        """Yield everything that is not published yet."""
        for question in self.answered.values():
            yield from question.given.values()


_NONE = Given("", "", "", None, 0)


def _check_again(key: str | None, label: Value | None) -> None:
    """Accept an answer that is published already, if it is the same."""
    if key != (None if label is None else label_key(label)):
        raise Refused("published", "another answer of yours to this question is published already")


def _with(classes: tuple[Label, ...], label: Label) -> tuple[Label, ...]:
    return classes if any(same(label, known) for known in classes) else (*classes, label)
