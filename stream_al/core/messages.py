"""The facts that travel: samples, label requests, labels, ledger and report records, as plain typed values.

Three families, by topic:

* **messages** for and from the outside (``samples``, ``labels-requested``, ``labels``);
* **reports** of scorers to the learner (``reports``): ``Tally``, ``Observe``;
* **ledger records** (``ledger``), written by the learner only: everything that makes state.

Every report and ledger record begins with ``kind`` and ``schema``. Times that the service writes are ISO 8601 in UTC
with milliseconds; times in samples and labels are the user's text, shown and never used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from stream_al.core.labels import Label, Value

Feature = float | int | bool | str | list[float] | None
Features = dict[str, Feature]
Reason = Literal["warm_up", "informative", "explore"]
Task = Literal["classification", "regression"]
Agreement = Literal["first", "majority", "dawid_skene"]

SAMPLE_SCHEMA = "stream-al/sample/1"
REQUEST_SCHEMA = "stream-al/label-request/1"
PREDICTION_SCHEMA = "stream-al/prediction/1"
REPORT_SCHEMA = "stream-al/report/1"
LEDGER_SCHEMA = "stream-al/ledger/1"

REQUEST_ID_HEADER = "stream_al.request_id"
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_000


def timestamp(ms: int) -> str:
    """Format milliseconds since the epoch as the ISO 8601 text used in all messages.

    A record may carry any number as its time: beyond the years 1 to 9999 it is their first or last moment.

    >>> timestamp(1_000)
    '1970-01-01T00:00:01.000Z'
    >>> timestamp(2**63 - 1)
    '9999-12-31T23:59:59.000Z'
    """
    ms = min(max(ms, FIRST_MS), LAST_MS)
    return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@lru_cache(maxsize=64)  # it is checked when it is read, and used a moment later
def milliseconds(text: str) -> int:
    """Parse a time written by ``timestamp``.

    >>> milliseconds("1970-01-01T00:00:01.000Z")
    1000
    """
    return round(datetime.fromisoformat(text).timestamp() * 1000)


# --- messages ------------------------------------------------------------------------------------------------


# Read-only as all here; but what is made for each request is not frozen: that takes at least twice as long.
@dataclass(slots=True, unsafe_hash=True)
class Source:
    """Where a sample stands in its topic: its identity."""

    topic: str
    partition: int
    offset: int
    timestamp: str | None = None

    @property
    def request_id(self) -> str:
        return f"{self.partition}-{self.offset}"


@dataclass(slots=True)
class Sample:
    """One member of the stream. ``id`` is its name for people and for the join, not its identity."""

    id: str
    features: Features
    source: Source


@dataclass(slots=True, unsafe_hash=True)  # as above
class Query:
    """Why a label was requested. All numbers were fixed before the coin and, the threshold apart, lie in [0, 1].

    Attributes
    ----------
    utility, threshold
        Informativeness, and the value of it at which the ramp is half way.
    inclusion_probability
        The probability really used, after every cap and gate.
    floor
        The part of it that does not depend on the utility (exploration).
    coin
        The draw; the sample was chosen because ``coin < inclusion_probability``.
    expected_correct
        Calibrated probability that the shown class is right (m); 0.5 in regression, where no answer is right.
    """

    strategy: str
    reason: Reason
    utility: float
    threshold: float
    inclusion_probability: float
    floor: float
    coin: float
    expected_correct: float


@dataclass(slots=True, unsafe_hash=True)  # as above
class Shown:
    """What the model said. ``probabilities`` by label key, highest first, at most 20; ``rest`` is the others' sum.

    ``value`` is a regressor's prediction, None while it has none.
    """

    name: str
    version: int
    probabilities: dict[str, float] = field(default_factory=dict)
    rest: float = 0.0
    value: float | None = None

    @property
    def label(self) -> str | None:
        """The shown class's key, or None while the model has no answer."""
        return next(iter(self.probabilities), None)

    @property
    def confidence(self) -> float:
        return next(iter(self.probabilities.values()), 0.0)


@dataclass(slots=True, unsafe_hash=True)  # as above
class LabelRequest:
    id: str
    request_id: str
    features: Features
    source: Source
    query: Query
    model: Shown
    requested_at: str
    expires_at: str
    blind: bool | None = None  # whether people are not to see what the model says; None: nobody has drawn


@dataclass(frozen=True, slots=True)
class AtDesk:
    """How a person at the desk was asked.

    ``guess`` is the key of what the model said, whether or not it was shown; ``blind`` that it was hidden;
    ``seconds`` from seeing the question to answering it. An ``opinion`` is a second person's answer to a question that
    is answered already: it is for comparison, and nothing is learned from it. ``decides`` marks the owner's answer
    where others could not agree: it is the label.
    """

    blind: bool = False
    guess: str | None = None
    seconds: float | None = None
    opinion: bool = False
    decides: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A label or a skip as it came back. Exactly one of ``label`` and ``skip`` says something.

    ``features`` are those of a sample that nobody asked about; otherwise they are in its request.
    ``desk`` is there where the answer was given at the desk.
    """

    id: str
    label: Value | None = None
    skip: bool = False
    request_id: str | None = None
    annotator: str | None = None
    labeled_at: str | None = None
    features: Features | None = None
    desk: AtDesk | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One score, for the optional ``predictions`` topic."""

    id: str
    source: Source
    model: Shown
    utility: float
    inclusion_probability: float
    expected_correct: float
    schema: str = PREDICTION_SCHEMA


# --- reports -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sums:
    """Sums over decided samples; what the accuracy estimate needs of those nobody labels.

    ``sum_m``, ``sum_v`` and ``sum_v_over_p`` run over samples with p > 0; v = m (1 - m) with m clipped to
    [.03, .97]. ``uncovered`` counts the samples with p = 0. ``invalid`` ones were unreadable and not decided.
    ``answered`` counts the samples with p > 0 for which a regressor had a prediction.
    """

    samples: int = 0
    uncovered: int = 0
    invalid: int = 0
    requests: int = 0
    sum_p: float = 0.0
    sum_m: float = 0.0
    sum_v: float = 0.0
    sum_v_over_p: float = 0.0
    sum_confidence: float = 0.0
    sum_entropy: float = 0.0
    predicted: dict[str, int] = field(default_factory=dict)
    answered: int = 0

    def add(self, other: Sums) -> None:
        self.samples += other.samples
        self.uncovered += other.uncovered
        self.invalid += other.invalid
        self.requests += other.requests
        self.sum_p += other.sum_p
        self.sum_m += other.sum_m
        self.sum_v += other.sum_v
        self.sum_v_over_p += other.sum_v_over_p
        self.sum_confidence += other.sum_confidence
        self.sum_entropy += other.sum_entropy
        for key, count in other.predicted.items():
            self.predicted[key] = self.predicted.get(key, 0) + count
        self.answered += other.answered


@dataclass(frozen=True, slots=True)
class Spent:
    """What a partition did with one grant so far."""

    spent: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """A scorer's account of the half-open range of offsets that one commit decided in one partition."""

    kind: Literal["tally"] = field(default="tally", kw_only=True)
    schema: str = field(default=REPORT_SCHEMA, kw_only=True)
    partition: int
    from_offset: int
    to_offset: int
    first_at: str
    last_at: str
    sums: Sums
    grants: dict[int, Spent] = field(default_factory=dict)
    state_lost: bool = False


@dataclass(slots=True, unsafe_hash=True)  # as above
class Observe:
    """Features of a randomly drawn sample, for unsupervised state. Report and ledger record alike."""

    kind: Literal["observe"] = field(default="observe", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    source: Source
    features: Features


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Begin the model anew: fold the ledger's records from ``from_offset`` on once more, labels corrected.

    Asked for as a report and then written to the ledger, where it begins an *epoch*: from this record on every
    replica has the model that was made so. ``id`` names the operation, so that it is done once; ``corrections`` says
    how many labels had been corrected by then.
    """

    kind: Literal["rebuild"] = field(default="rebuild", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    id: str
    ledger_id: str
    from_offset: int
    requested_at: str
    corrections: int = 0


@dataclass(frozen=True, slots=True)
class Promote:
    """Let a challenger take the model's place, and the model that of the challenger.

    Asked for as a report and then written to the ledger: from this record on every replica has that model. ``id``
    names the operation, so that it is done once. ``spec`` and ``strategy`` are the challenger's, as the learner writes
    them; a strategy of None stays what it was.
    """

    kind: Literal["promote"] = field(default="promote", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    id: str
    ledger_id: str
    name: str
    requested_at: str
    spec: object = None
    strategy: str | None = None


Report = Tally | Observe | Rebuild | Promote


# --- ledger --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first record: what every replica obeys. ``start`` is the first offset of each partition then known.

    ``cooperative`` says whether a classifier also learns what it is sure of.
    """

    kind: Literal["genesis"] = field(default="genesis", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    ledger_id: str
    topic: str
    start: dict[int, int]
    model: str
    spec: object
    classes: list[Label] | None
    strategy: str
    seed: int
    created_at: str
    task: Task = "classification"
    cooperative: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits in force from here on.

    ``exploration`` is the floor's share of the budget, ``novelty`` that of what is unlike everything learned.
    """

    kind: Literal["budget"] = field(default="budget", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    fraction: float | None = None
    per_hour: int | None = None
    per_day: int | None = None
    max_outstanding: int | None = None
    exploration: float = 0.2
    novelty: float = 0.0

    @property
    def capped(self) -> bool:
        """Whether requests need cap tokens."""
        return not (self.per_hour is None and self.per_day is None and self.max_outstanding is None)

    @property
    def burst(self) -> int:
        """Tokens by which requests may run ahead of ``fraction`` at any time: round(4 √(500 B))."""
        return 0 if self.fraction is None else round(4 * (500 * self.fraction) ** 0.5)

    @property
    def advance(self) -> int:
        """Tokens lent to the cold model, repaid later: min(100, round(600 B))."""
        return 0 if self.fraction is None else min(100, round(600 * self.fraction))

    @property
    def allowance(self) -> int:
        """By how much requests may exceed B·n at any prefix of n samples."""
        return self.burst + self.advance


@dataclass(frozen=True, slots=True)
class Challenger:
    """A model that learns beside the one in use. A ``strategy`` of None: that of the model that it would replace."""

    name: str
    spec: object
    strategy: str | None = None


@dataclass(frozen=True, slots=True)
class Challengers:
    """The challengers from here on, and whether a twin learns at random."""

    kind: Literal["challengers"] = field(default="challengers", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    challengers: list[Challenger] = field(default_factory=list)
    random_twin: bool = False


@dataclass(frozen=True, slots=True)
class Vote:
    """One of several people's answers to a request. It does not close: the label follows from all of them.

    ``label`` None is a skip. A vote about a closed request changes nothing but what is known of people.
    """

    kind: Literal["vote"] = field(default="vote", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    request_id: str
    id: str
    label: Value | None
    received_at: str
    answer: str
    annotator: str | None = None
    labeled_at: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a label rests on where several people were asked: how many votes, and what they say of each class.

    ``probabilities`` by label key; where the owner decided, 1 for that class.
    """

    policy: Agreement | Literal["owner"]
    votes: int
    probabilities: dict[str, float]


@dataclass(frozen=True, slots=True)
class Learned:
    """A request answered by a label. ``learn`` is true once per answer; the others are only credited.

    ``same_as`` names the request whose answer serves this one, too, because their samples are alike.
    """

    kind: Literal["label"] = field(default="label", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    request_id: str
    id: str
    source: Source
    query: Query
    model: Shown
    requested_at: str
    features: Features
    label: Value
    learn: bool
    received_at: str
    answer: str
    annotator: str | None = None
    labeled_at: str | None = None
    same_as: str | None = None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Unsolicited:
    """A label that nobody asked for, with the features of its sample: it is learned, and in no estimate.

    It has no inclusion probability: somebody chose it, and nobody knows how.
    """

    kind: Literal["unsolicited"] = field(default="unsolicited", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    id: str
    features: Features
    label: Value
    received_at: str
    answer: str
    annotator: str | None = None
    labeled_at: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A request that an annotator passed on, or all of several; ``same_as`` as in a label."""

    kind: Literal["skip"] = field(default="skip", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    request_id: str
    id: str
    source: Source
    query: Query
    model: Shown
    requested_at: str
    received_at: str
    answer: str
    annotator: str | None = None
    labeled_at: str | None = None
    same_as: str | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """A request that nobody answered in time (``reason`` ``expired``), or that was withdrawn."""

    kind: Literal["expire"] = field(default="expire", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    request_id: str
    id: str
    source: Source
    query: Query
    model: Shown
    requested_at: str
    expired_at: str
    reason: Literal["expired", "withdrawn"] = "expired"


@dataclass(frozen=True, slots=True)
class Correction:
    """Another label for one that was learned: for the next rebuild, the running model stays as it is.

    ``corrects`` is the position of the answer that was learned, ``answer`` that of the one that corrects it.
    ``request_id`` is None where the answer named the sample alone.
    """

    kind: Literal["correction"] = field(default="correction", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    request_id: str | None
    id: str
    corrects: str
    old: Value
    label: Value
    received_at: str
    answer: str
    annotator: str | None = None
    labeled_at: str | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """The learner's merge of tallies: the unit of time of every estimate.

    ``ranges`` holds the half-open range of offsets of each partition that took part.
    """

    kind: Literal["bucket"] = field(default="bucket", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    number: int
    ranges: dict[int, tuple[int, int]]
    sums: Sums
    first_at: str
    last_at: str
    grants: dict[int, Spent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """Tokens dealt to one partition. ``grant`` is ``advance``, ``burst`` or ``cap``; they lapse at ``until``.

    ``pace`` is how many requests a second the dealer expects of a partition that holds cap tokens.
    """

    kind: Literal["grant"] = field(default="grant", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    number: int
    grant: Literal["advance", "burst", "cap"]
    partition: int
    tokens: int
    issued_at: str
    until: str
    pace: float | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What the learner's model says of the first observed samples, for replicas to compare with their own.

    In classification ``probabilities`` of each sample, by label key, at most 20; in regression ``values``.
    """

    kind: Literal["probe"] = field(default="probe", kw_only=True)
    schema: str = field(default=LEDGER_SCHEMA, kw_only=True)
    version: int
    probabilities: list[dict[str, float]] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)


Closing = Learned | Skipped | Expired
LedgerRecord = (
    Genesis
    | Budget
    | Vote
    | Learned
    | Unsolicited
    | Skipped
    | Expired
    | Correction
    | Bucket
    | Observe
    | Grant
    | Rebuild
    | Probe
    | Challengers
    | Promote
)
