"""The fold: ledger records in, all shared state out. The one place where state is made.

Theory of operation
-------------------
Every replica reads the same records in the same order and holds the same state: the model, its calibration, the
accuracy windows, the drift alarms, the budget in force, the open grants, and what has been closed. ``apply`` is
total: it never raises on a record that is in the ledger. ``position`` is the next offset to apply; ``version`` is the
offset after the last record that changed predictions, 0 until the first label was learned.

A ``rebuild`` begins an *epoch*: the model begins anew with the records from an earlier offset on. They are not kept
here, so the caller reads them again::

    apply(rebuild) ──▶ rebuilding: position stands at the rebuild, the old model answers
                           │  refold(each record from its ``begin`` up to, not including, its ``until``)
                           ▼
                       rebuilt() ──▶ the new model answers, position and version stand behind the rebuild

Only what makes predictions is exchanged; what was decided, closed, granted and estimated stays. What is folded again
goes through a second ``Fold``, so that there is one way to make a model.

A ``promote`` exchanges the model for a challenger: model, calibration and strategy change, and what is told of the
model begins anew.

Every 1,000 learned labels, and after each rebuild or promotion, a ``probe`` records what the learner's model says of
the first 32 observed samples. It changes nothing here; ``disagreement`` tells a replica how far its own model is from
it.
"""

from __future__ import annotations

import copy
import math
import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from stream_al.core.accuracy import Accuracy, Estimate, Terms
from stream_al.core.assessment import Assessment
from stream_al.core.calibration import HEAVIEST, HIGHEST_M, LOWEST_M, Calibration
from stream_al.core.challenger import Contender, Contest, Standing
from stream_al.core.classification import Answered
from stream_al.core.cooperative import OBSERVES_PER_LABEL, Cooperation, Cooperative, is_calm
from stream_al.core.drift import Drift
from stream_al.core.labels import Label, Value, label_key
from stream_al.core.messages import (
    Bucket,
    Budget,
    Challenger,
    Challengers,
    Closing,
    Correction,
    Expired,
    Features,
    Genesis,
    Grant,
    Learned,
    LedgerRecord,
    Observe,
    Probe,
    Promote,
    Query,
    Rebuild,
    Shown,
    Skipped,
    Task,
    Unsolicited,
    Vote,
    milliseconds,
)
from stream_al.core.model import Model
from stream_al.core.random_twin import RandomTwin
from stream_al.core.regression import Errors, Missed
from stream_al.core.strategies.base import QueryStrategy
from stream_al.core.strategies.novelty import with_novelty
from stream_al.core.strategies.table import create
from stream_al.core.utility import highest
from stream_al.core.votes import Panel

T = TypeVar("T")

FOLD_VERSION = 13
DAY_MS = 86_400_000
KEEP_CLOSED_MS = 16 * DAY_MS  # twice the default life of a request; older ones are no longer asked about
WARM_LABELS, WARM_LABELS_PER_CLASS = 30, 5
OBSERVED_AT_ONCE = 1_000
OBSERVE_EVERY_S = 10.0
RECENT_BUCKETS = 20
MOST_SHOWN = 20
PROBE_EVERY, PROBE_SAMPLES = 1_000, 32
MOST_OPERATIONS = 64  # whose names are remembered
MOST_PLACES = 8  # of answers about one label, so that they are recognised when they are read again


class Closed(NamedTuple):
    """A closed request: its sample's id, when, and its own answer: where that is, and its label.

    Both are None where nobody answered this one; of a skip, the label is. A correction changes the label of the request
    that ``Fold.known`` finds.
    """

    id: str
    at_ms: int
    answer: str | None = None
    label: Value | None = None


class Epoch(NamedTuple):
    """The model in use: folded from ``begin`` on, since the record at ``until``; the first one has neither."""

    begin: int = 0
    until: int = 0


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """A rebuild that is under way, and the fold that makes its model."""

    begin: int
    until: int
    fold: Fold


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says of n samples; all arrays have n rows.

    Attributes
    ----------
    probabilities
        Shape (n, K); a row of zeros where the model has no answer.
    utility, confidence, expected_correct
        In [0, 1]; the confidence is the shown class's probability.
    cold
        Where nothing informative can be said: no answer, or fewer than two classes known.
    values
        A regressor's predictions, NaN where it has no answer; None in classification.
    """

    probabilities: NDArray[np.float64]
    utility: NDArray[np.float64]
    cold: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    expected_correct: NDArray[np.float64]
    values: NDArray[np.float64] | None = None


class Fold:
    """State of one ledger up to ``position``."""

    def __init__(self, keep_closed_ms: int = KEEP_CLOSED_MS) -> None:
        self.keep_closed_ms = keep_closed_ms
        self.position = 0
        self.version = 0
        self.clock_ms = 0
        self.genesis: Genesis | None = None
        self.budget = Budget(fraction=0.0)  # until the ledger names one, nothing may be asked
        self.model: Model | None = None
        self.cooperative: Cooperative | None = None
        self.strategy: QueryStrategy | None = None
        self.champion = Challenger("default", None)  # whose model is in use
        self.lineup = Challengers()
        self.contest = Contest()
        self.promotions = 0
        self.calibration = Calibration()
        self.accuracy = Accuracy()
        self.drift = Drift()
        self.warmed = False
        self.class_counts: Counter[str] = Counter()
        self.closed: dict[str, Closed] = {}
        self.labels: dict[str, str] = {}  # by the id of a sample: the request whose answer is its label
        self.unlabelled: dict[str, int] = {}  # ids closed without an answer of theirs
        self.panel = Panel()
        # by the position of the answer that was learned: its label as it is now, and where it was corrected
        self.given: dict[str, Value] = {}
        self.corrected_at: dict[str, tuple[str, ...]] = {}
        self.unsolicited: dict[str, tuple[str, int]] = {}  # by id: the position of the answer, and when
        self.corrections: dict[str, Value] = {}  # as well; all of them, because any rebuild needs them
        self.operations: deque[str] = deque(maxlen=MOST_OPERATIONS)
        self.rebuilding: Rebuilding | None = None
        self.rebuilds = 0
        self.epoch = Epoch()
        self.probe_samples: list[Features] = []
        self.probe_due = False
        self.ends: dict[int, int] = {}
        self.buckets = 0
        self.grants: dict[int, Grant] = {}
        self.last_grant = 0
        self.grant_spent: dict[int, int] = {}  # of open grants, as far as buckets told
        self.granted_spent: Counter[str] = Counter()
        self.observed = 0
        self.observe_credit = 0.0
        self.last_grant_ms = 0
        self.learned = 0
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.last_label_ms = 0
        self.last_bucket_ms = 0
        self.observe_rate = 1.0
        self.mean_p = 1.0
        self._recent: deque[tuple[int, int, int, int]] = deque(maxlen=RECENT_BUCKETS)

    # --- folding ---------------------------------------------------------------------------------------------

    def apply(self, offset: int, record: LedgerRecord | None) -> None:
        """Fold the record at ``offset``; None stands for one that this version cannot read."""
        if record is None:
            self.errors["unreadable"] += 1
        elif self.genesis is None and not isinstance(record, Genesis):
            self.errors["before_genesis"] += 1
        elif isinstance(record, Genesis):
            self._genesis(offset, record)
        else:
            self._apply(offset, record)
        if self.rebuilding is None:
            self.position = offset + 1

    def _apply(self, offset: int, record: LedgerRecord) -> None:
        """Fold a record; what nobody foresaw is counted, in the same way by all replicas."""
        try:
            _FOLD[record.kind](self, offset, record)
        except Exception as error:  # noqa: BLE001 - a record that raises would end every replica at every start
            self.errors[type(error).__name__] += 1

    def _genesis(self, _: int, record: Genesis) -> None:
        if self.genesis is not None:
            self.errors["second_genesis"] += 1
            return
        self.genesis = record
        self.model = Model(record.spec, classes=record.classes, seed=record.seed, task=record.task)
        if record.cooperative and record.task == "classification":
            self.cooperative = Cooperative.beside(self.model)
        self.champion = Challenger(record.model, record.spec, record.strategy)
        self.strategy = create(record.strategy)
        self._advance_clock(record.created_at)

    def _budget(self, _: int, record: Budget) -> None:
        self.budget = record
        assert self.strategy is not None
        self.strategy = self._curious(self.strategy)

    def _curious(self, strategy: QueryStrategy) -> QueryStrategy:
        """Return a strategy with the budget's share for what is new."""
        novelty = self.budget.novelty if self.task == "classification" else 0.0  # it finds new classes
        return with_novelty(strategy, novelty)

    def _challengers(self, _: int, record: Challengers) -> None:
        """Let those compete that are named; the model that the ledger began with always may come back."""
        assert self.genesis is not None
        assert self.model is not None
        self.lineup = record
        if self.task == "regression":
            self.errors["challengers_in_regression"] += bool(record.challengers or record.random_twin)
            return
        first = Challenger(self.genesis.model, self.genesis.spec, self.genesis.strategy)
        wanted = {first.name: first, **{c.name: c for c in record.challengers}}
        wanted.pop(self.champion.name, None)
        self.contest.call(list(wanted.values()), self._made)
        if not record.random_twin:
            self.contest.twin = None
        elif self.contest.twin is None:
            self.contest.twin = RandomTwin(copy.deepcopy(self.model), self.drift.samples)

    def _made(self, who: Challenger) -> Model:
        assert self.genesis is not None
        return Model(who.spec, classes=self.genesis.classes, seed=self.genesis.seed)

    def _promote(self, offset: int, record: Promote) -> None:
        """Exchange the model for a challenger's; done twice, the same operation would only confuse."""
        assert self.model is not None
        if record.id in self.operations:
            self.errors["promoted_twice"] += 1
            return
        self.operations.append(record.id)
        new, former = self.contest.others.get(record.name), self.champion
        if new is None:
            self.errors["promotes_nobody"] += 1
            return
        asks_by = new.who.strategy or self.asks_by
        self.strategy = self._curious(create(asks_by))  # raises where there is none, and nothing has changed
        del self.contest.others[record.name]
        self.contest.others[former.name] = Contender(former, self.model, self.calibration)
        self.champion = replace(new.who, strategy=asks_by)
        self.model, self.calibration = new.model, new.calibration
        if self.cooperative is not None:
            pseudo = self.cooperative
            self.cooperative = Cooperative(copy.deepcopy(self.model), pseudo.accepted, pseudo.learned)
        self.accuracy.begin_epoch()
        self.drift.restart()
        self.contest.begin(self.model, self.drift.samples)
        self.promotions += 1
        self.probe_due = True
        if self.learned:
            self.version = offset + 1

    def _close(self, record: Closing, at: str, answer: str | None = None, label: Value | None = None) -> bool:
        """Note that a request is closed, by an answer of its own if there is one; False where it was already."""
        self._advance_clock(at)
        if record.request_id in self.closed:
            self.errors["closed_twice"] += 1
            return False
        self.closed[record.request_id] = Closed(record.id, self.clock_ms, answer, label)
        self.reasons[record.query.reason] += 1
        self._forget()
        return True

    def _label(self, offset: int, record: Learned) -> None:
        label = _shared(record.label)
        own = (record.answer, label) if record.same_as is None else ()
        if not self._close(record, record.received_at, *own):
            return
        self.panel.close(record.request_id, record.decision)
        self.outcomes["learned" if record.learn else "credited"] += 1
        self.last_label_ms = self.clock_ms
        if record.learn:
            self._give(record.answer, label)
        if record.same_as is None:
            self._know(record)
        else:  # nobody was asked about this one: another answer corrects nothing
            self.outcomes["alike"] += 1
            self._unlabelled(record.id)
        weight = self._weight(record.query.inclusion_probability)
        self._credit(offset, record, weight)
        if record.learn:
            self._learn(record, weight, record.query)
        if self.learned:
            self.version = offset + 1

    def _give(self, answer: str, label: Value) -> None:
        """Remember what is learned from an answer, which nobody has corrected yet."""
        self.given[answer] = label
        self.corrected_at.pop(answer, None)

    def _know(self, record: Learned) -> None:
        """Remember the label of an id, and which answer it was."""
        known = self.known(record.id)
        if known is None or known.answer != record.answer:  # a label does not stay young by being used again
            self.labels[record.id] = record.request_id

    def _unlabelled(self, name: str) -> None:
        self.unlabelled.pop(name, None)
        self.unlabelled[name] = self.clock_ms

    def _vote(self, offset: int, record: Vote) -> None:
        """Note one of several answers; the label that follows from them is a record of its own."""
        self._advance_clock(record.received_at)
        noted = self.panel.vote(record, offset, is_open=record.request_id not in self.closed)
        (self.outcomes if noted else self.errors)["voted" if noted else "voted_twice"] += 1

    def _unsolicited(self, offset: int, record: Unsolicited) -> None:
        """Learn what nobody asked for; no estimate, calibration or alarm hears of it."""
        self._advance_clock(record.received_at)
        if record.id in self.unsolicited:
            self.errors["unsolicited_twice"] += 1
            return
        self.outcomes["unsolicited"] += 1
        self.last_label_ms = self.clock_ms
        self.unsolicited[record.id] = (record.answer, self.clock_ms)
        self._give(record.answer, _shared(record.label))
        self._forget()
        self._learn(record, 0.0)
        if self.learned:
            self.version = offset + 1

    def _learn(self, record: Learned | Unsolicited, weight: float, query: Query | None = None) -> None:
        """Let the model learn a label; ``weight`` is what it counts in a comparison with another."""
        assert self.model is not None
        if self.cooperative is not None:
            self.model = self.cooperative.label(self.model, record.features, record.label, weight)
        self.contest.label(self.model, record.features, record.label, weight, query)
        seen = self._seen(record.features)
        error = self.model.learn(record.features, record.label)
        if error is not None:
            self.errors[error] += 1
            return
        if seen is not None:
            assert self.strategy is not None
            self.strategy.learn(seen)
        self.learned += 1
        self.probe_due = self.probe_due or self.learned % PROBE_EVERY == 0
        if self.task == "classification":
            self.class_counts[label_key(record.label)] += 1
        self.warmed = self.warmed or (self._knows_enough() and self.learned >= WARM_LABELS)

    def _knows_enough(self) -> bool:
        """Whether there are labels enough of each class, where there are classes."""
        counts = self.class_counts
        return self.task == "regression" or (
            len(counts) > 1 and min(counts.values()) >= WARM_LABELS_PER_CLASS
        )

    def _credit(self, offset: int, record: Learned, weight: float) -> None:
        if not 0 < record.query.inclusion_probability <= 1:
            self.errors["no_probability"] += 1
        elif self.task == "regression":
            self._credit_number(record)
        else:
            self._credit_class(offset, record, label_key(record.label), weight)

    def _credit_number(self, record: Learned) -> None:
        missed = Missed.of(record.query.inclusion_probability, record.model.value, record.label)
        self.accuracy.label(record.source.partition, record.source.offset, Terms(unlabelled=1), missed)

    def _credit_class(self, offset: int, record: Learned, key: str, weight: float) -> None:
        p, m, confidence = (
            record.query.inclusion_probability,
            record.query.expected_correct,
            record.model.confidence,
        )
        correct = record.model.label == key
        terms, answered = Terms.of(p, m, correct=correct), Answered.of(p, record.model, key)
        self.accuracy.label(record.source.partition, record.source.offset, terms, answered)
        of_champion = record.model.name == self.champion.name  # and not of one before a promotion
        if confidence > 0 and of_champion:
            self.calibration.learn(confidence, correct=correct, weight=weight)
            if self.drift.label(offset, m, correct=correct):
                self._drifted(offset)

    def _weight(self, p: float) -> float:
        """Return what a label counts where all samples are meant, on average 1; 0 where p says nothing."""
        return min(self.mean_p / p, HEAVIEST) if 0 < p <= 1 else 0.0

    def _drifted(self, offset: int) -> None:
        """React to an alarm: what is told since the last one begins anew, and the model may forget."""
        assert self.model is not None
        self.accuracy.begin_epoch()
        if self.cooperative is not None:
            self.cooperative.on_drift()
        error = self.model.on_drift()
        self.contest.on_drift(self.model, self.drift.samples)
        if error is not None:
            self.errors[error] += 1
        elif self.learned:
            self.version = offset + 1

    def _skip(self, _: int, record: Skipped) -> None:
        if self._close(record, record.received_at, record.answer if record.same_as is None else None):
            self.outcomes["skipped"] += 1
            self._close_unlabelled(record)

    def _expire(self, _: int, record: Expired) -> None:
        if self._close(record, record.expired_at):
            self.outcomes[record.reason] += 1
            self._close_unlabelled(record)

    def _close_unlabelled(self, record: Skipped | Expired) -> None:
        self.panel.close(record.request_id, None)
        self._unlabelled(record.id)
        self.accuracy.label(record.source.partition, record.source.offset, Terms(unlabelled=1))

    def _correction(self, _: int, record: Correction) -> None:
        """Note what the label should have been; the model learns it at the next rebuild."""
        self._advance_clock(record.received_at)
        if record.corrects not in self.given:
            self.errors["corrects_nothing"] += 1
            return
        self.outcomes["corrected"] += 1
        self.given[record.corrects] = record.label
        before = self.corrected_at.get(record.corrects, ())
        self.corrected_at[record.corrects] = (*before, record.answer)[-MOST_PLACES:]
        self.corrections[record.corrects] = record.label
        known = self.known(record.id)
        if known is not None and known.answer == record.corrects:
            self.closed[self.labels[record.id]] = known._replace(label=record.label)

    def _rebuild(self, offset: int, record: Rebuild) -> None:
        """Begin to fold again; done twice, the same operation would only cost time."""
        assert self.genesis is not None
        if record.id in self.operations:
            self.errors["rebuilt_twice"] += 1
            return
        self.operations.append(record.id)
        again = Fold(self.keep_closed_ms)
        again.apply(0, self.genesis)
        again.apply(0, self.budget)
        self._line_up(again)
        self.rebuilding = Rebuilding(min(max(record.from_offset, 0), offset), offset, again)

    def _line_up(self, again: Fold) -> None:
        """Give a fold the models that are in use here, all of them new."""
        assert self.genesis is not None
        others = [self.champion, *(c.who for c in self.contest.others.values())]
        others = [who for who in others if who.name != self.genesis.model]
        again.apply(0, Challengers(others, self.lineup.random_twin))
        if self.champion.name != self.genesis.model:
            again.apply(0, Promote("", self.genesis.ledger_id, self.champion.name, self.genesis.created_at))

    def refold(self, offset: int, record: LedgerRecord | None) -> None:
        """Fold a record of a rebuild's range once more."""
        assert self.rebuilding is not None
        if isinstance(record, Genesis | Rebuild | Correction | Challengers | Promote):
            return  # it began with the models in use now, and corrects by itself
        if isinstance(record, Learned | Unsolicited) and record.answer in self.corrections:
            record = replace(record, label=self.corrections[record.answer])
        self.rebuilding.fold.apply(offset, record)

    def rebuilt(self) -> None:
        """Exchange the model for the one that was made of the rebuild's range."""
        assert self.rebuilding is not None
        begin, until, again = self.rebuilding.begin, self.rebuilding.until, self.rebuilding.fold
        self.rebuilding = None
        self.model, self.cooperative, self.strategy = again.model, again.cooperative, again.strategy
        self.class_counts, self.contest = again.class_counts, again.contest
        self.errors.update(again.errors)  # a corrected label may be one that cannot be learned
        self.rebuilds += 1
        self.probe_due = True
        self.epoch = Epoch(begin, until)
        self.position = self.version = until + 1

    def _probe(self, _: int, __: Probe) -> None:
        self.probe_due = False

    def _bucket(self, offset: int, record: Bucket) -> None:
        self.buckets = record.number + 1
        self.accuracy.bucket(record)
        if self.drift.bucket(offset, record.sums):
            self._drifted(offset)
        for partition, (_start, end) in record.ranges.items():
            self.ends[partition] = max(end, self.ends.get(partition, 0))
        for number, spent in record.grants.items():
            grant = self.grants.get(number)
            if grant is None:
                continue
            self.grant_spent[number] = max(spent.spent, self.grant_spent.get(number, 0))
            if spent.closed:
                self.granted_spent[grant.grant] += self.grant_spent.pop(number)
                del self.grants[number]
        first, last = milliseconds(record.first_at), milliseconds(record.last_at)
        self.last_bucket_ms = last
        if self._recent:
            seconds, learned = (last - self._recent[-1][2]) / 1000, self.learned - self._recent[-1][3]
            credit = self.observe_credit + max(self._per_label * learned, seconds / OBSERVE_EVERY_S)
            self.observe_credit = min(credit, OBSERVED_AT_ONCE)
        self._recent.append((record.sums.samples, first, last, self.learned))
        recent = self.accuracy.latest(RECENT_BUCKETS)
        self.mean_p = recent.sum_p / recent.samples if recent.samples else 1.0
        self._set_observe_rate()
        advance = self.budget.advance
        self.warmed = self.warmed or (advance > 0 and self.granted_spent["advance"] >= advance)

    def _set_observe_rate(self) -> None:
        if self.observed < OBSERVED_AT_ONCE:
            self.observe_rate = 1.0
            return
        samples = sum(r[0] for r in self._recent)
        seconds = max(0.0, (self._recent[-1][2] - self._recent[0][1]) / 1000)
        labels = self._per_label * (self.learned - self._recent[0][3])
        self.observe_rate = min(1.0, 2 * max(labels, seconds / OBSERVE_EVERY_S) / max(samples, 1))

    def _observe(self, offset: int, record: Observe) -> None:
        assert self.model is not None
        self.observed += 1
        if len(self.probe_samples) < PROBE_SAMPLES:
            self.probe_samples.append(record.features)
        if self.observed > OBSERVED_AT_ONCE:
            self.observe_credit -= 1
        error = self._show(record.features)
        if error is not None:
            self.errors[error] += 1
            return
        seen = self._seen(record.features)
        if seen is not None:
            assert self.strategy is not None
            self.strategy.observe(seen)
        if self.learned:
            self.version = offset + 1

    def _seen(self, features: Features) -> Assessment | None:
        """Return what the model says of a sample, if the strategy's state can learn something from that."""
        assert self.model is not None
        assert self.strategy is not None
        useful = self.strategy.stateful and (self.model.embeds or self.task == "regression")
        return self.model.assess([features]) if useful else None

    def _show(self, features: Features) -> str | None:
        """Show a sample without a label to the model, which may be sure of it."""
        assert self.model is not None
        self.contest.observe(features)
        if self.cooperative is None:
            return self.model.observe(features)
        calm = self.warmed and is_calm(self.drift)
        return self.cooperative.observe(self.model, features, self.calibration, self.class_counts, calm=calm)

    def _grant(self, _: int, record: Grant) -> None:
        self._advance_clock(record.issued_at)
        self.last_grant = max(self.last_grant, record.number)
        self.last_grant_ms = milliseconds(record.issued_at)
        self.grants[record.number] = record

    def _advance_clock(self, at: str) -> None:
        self.clock_ms = max(self.clock_ms, milliseconds(at))

    def _forget(self) -> None:
        """Drop what is older than any request can be; the tables are in the order of the ledger."""
        oldest = self.clock_ms - self.keep_closed_ms
        for request_id, closed in _drop_older(self.closed, oldest, lambda closed: closed.at_ms):
            if closed.answer is not None:
                self._forget_answer(closed.answer)
            self.panel.forget(request_id)
            if self.labels.get(closed.id) == request_id:
                del self.labels[closed.id]
        for _, (answer, _) in _drop_older(self.unsolicited, oldest, lambda given: given[1]):
            self._forget_answer(answer)
        _drop_older(self.unlabelled, oldest, lambda at: at)

    def _forget_answer(self, answer: str) -> None:
        self.given.pop(answer, None)
        self.corrected_at.pop(answer, None)

    # --- reading ---------------------------------------------------------------------------------------------

    def known(self, name: str) -> Closed | None:
        """Return the request whose answer is the label of an id; None where none is known."""
        request_id = self.labels.get(name)
        return self.closed[request_id] if request_id is not None else None

    def answer_to(self, request_id: str) -> str | None:
        """Return where a closed request was answered; None where nobody answered this one."""
        closed = self.closed.get(request_id)
        return closed.answer if closed is not None else None

    @property
    def task(self) -> Task:
        return self.genesis.task if self.genesis is not None else "classification"

    @property
    def asks_by(self) -> str:
        """The name of the query strategy."""
        assert self.champion.strategy is not None
        return self.champion.strategy

    @property
    def classes(self) -> tuple[Label, ...]:
        return self.model.classes if self.model is not None else ()

    @property
    def warming(self) -> bool:
        """Whether the model still warms up: too few labels, and the advance is not spent."""
        return not self.warmed

    @property
    def cooperation(self) -> Cooperation:
        """Whether the model learns from pseudo-labels, or did until they turned out to do harm."""
        return "off" if self.cooperative is None else self.cooperative.state

    @property
    def pseudo_labels(self) -> int:
        """How many pseudo-labels were learned."""
        return 0 if self.cooperative is None else self.cooperative.learned.total()

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How the challengers compare with the model, and last the random twin."""
        return self.contest.standings(self.champion)

    @property
    def _per_label(self) -> int:
        """How many observes a learned label admits."""
        return OBSERVES_PER_LABEL if self.cooperation == "on" else 1

    @property
    def observe_room(self) -> int:
        """How many observes may enter the ledger: 1,000 at once, then one in 10 s or one a learned label.

        While the model learns from pseudo-labels, four a learned label.
        """
        return max(OBSERVED_AT_ONCE - self.observed, int(self.observe_credit), 0)

    def grants_of(self, partition: int) -> list[Grant]:
        """Return the grants of one partition that no bucket has closed, in order of their number."""
        return [g for g in self.grants.values() if g.partition == partition]

    def estimates(self, windows: Sequence[int]) -> dict[str, Estimate]:
        """Return the accuracy by window: those of so many samples, ``fading`` and ``all``; none in regression."""
        if self.task == "regression":
            return {}
        known = {str(w): self.accuracy.window(w) for w in windows}
        return {**known, "fading": self.accuracy.fading(), "all": self.accuracy.window(None)}

    def prediction_errors(self, windows: Sequence[int]) -> dict[str, Errors]:
        """Return MAE and RMSE by window, as ``estimates`` does; none in classification."""
        if self.task == "classification":
            return {}
        known = {str(w): self.accuracy.errors(w) for w in windows}
        return {**known, "fading": self.accuracy.fading_errors(), "all": self.accuracy.errors(None)}

    @property
    def spread(self) -> float | None:
        """What the ramp takes for the utilities' standard deviation; None: the one that they have."""
        return None if self.strategy is None else self.strategy.spread

    @property
    def numbers(self) -> tuple[str, ...]:
        """The features that samples are scored by, if those are numbers and asked for as a matrix."""
        return self.model.numbers if self.model is not None else ()

    def score(self, batch: Sequence[Mapping[str, Any]]) -> Scores:
        """Score n samples by their features."""
        assert self.model is not None, "a fold without genesis scores nothing"
        assert self.strategy is not None
        assessment = self.model.assess(batch)
        p = assessment.probabilities
        confidence = highest(p)
        m = self.calibration.expected_correct(confidence)
        utility, cold = self.strategy.utility(assessment), ~assessment.answered
        return Scores(p, utility, cold, confidence, m, assessment.values)

    def probe(self) -> Probe:
        """Return what the model says of the samples that all replicas compare."""
        scores = self.score(self.probe_samples)
        shown = [self.shown(scores, i) for i in range(len(self.probe_samples))]
        if scores.values is not None:
            return Probe(self.version, values=[s.value for s in shown])
        return Probe(self.version, [s.probabilities for s in shown])

    def disagreement(self, record: Probe) -> float:
        """Return the largest difference between a probe and what this model says, before the probe is folded."""
        n = len(self.probe_samples)
        if self.version != record.version or n != max(len(record.probabilities), len(record.values)):
            return math.inf
        own = self.score(self.probe_samples)
        if own.values is not None:
            mine = [self.shown(own, i).value for i in range(n)]
            return max(map(_apart, record.values, mine), default=0.0)
        at = {label_key(c): k for k, c in enumerate(self.classes)}
        pairs = (
            (p, float(own.probabilities[i, at[key]]) if key in at else None)
            for i, known in enumerate(record.probabilities)
            for key, p in known.items()
        )
        return max((_apart(p, mine) for p, mine in pairs), default=0.0)

    def shown(self, scores: Scores, i: int) -> Shown:
        """Return what is shown of the i-th sample.

        Its prediction, or the 20 highest probabilities by label key, and the others' sum.
        """
        assert self.genesis is not None
        if scores.values is not None:
            value = None if scores.cold[i] else float(scores.values[i])
            return Shown(self.champion.name, self.version, value=value)
        probabilities, classes = scores.probabilities[i].tolist(), self.classes
        if not any(probabilities):
            return Shown(self.champion.name, self.version)
        order = sorted(range(len(classes)), key=probabilities.__getitem__, reverse=True)
        top = {label_key(classes[k]): probabilities[k] for k in order[:MOST_SHOWN]}
        rest = float(scores.probabilities[i, order[MOST_SHOWN:]].sum()) if len(order) > MOST_SHOWN else 0.0
        return Shown(self.champion.name, self.version, top, rest)


def _apart(known: float | None, own: float | None) -> float:
    """Return how far two numbers are apart, of large ones in proportion; a missing one is infinitely far."""
    if known is None or own is None:
        return 0.0 if known is own else math.inf
    apart = abs(known - own) / max(1.0, abs(known))
    return apart if math.isfinite(apart) else math.inf


def _drop_older(table: dict[str, T], oldest_ms: int, at_ms: Callable[[T], int]) -> list[tuple[str, T]]:
    """Delete the first entries of a table, as far as they are older; return them."""
    gone = []
    for key, entry in table.items():
        if at_ms(entry) >= oldest_ms:
            break
        gone.append((key, entry))
    for key, _ in gone:
        del table[key]
    return gone


def _shared(label: Value) -> Value:
    """Return a label as one object for all of its class: a hundred thousand are remembered."""
    return sys.intern(label) if type(label) is str else label


def clipped(m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return m as it enters the modelled variance."""
    return np.clip(m, LOWEST_M, HIGHEST_M)


_FOLD: dict[str, Callable[[Fold, int, Any], None]] = {
    "budget": Fold._budget,
    "vote": Fold._vote,
    "label": Fold._label,
    "unsolicited": Fold._unsolicited,
    "skip": Fold._skip,
    "expire": Fold._expire,
    "correction": Fold._correction,
    "rebuild": Fold._rebuild,
    "probe": Fold._probe,
    "challengers": Fold._challengers,
    "promote": Fold._promote,
    "bucket": Fold._bucket,
    "observe": Fold._observe,
    "grant": Fold._grant,
}

__all__ = ["FOLD_VERSION", "Fold", "Scores", "clipped"]
