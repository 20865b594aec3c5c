"""The forms of the desk's HTTP API: what is sent, what is answered. The OpenAPI document is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictStr

from stream_al.core.accuracy import Interval
from stream_al.core.desk_facts import Item, Line, Recent
from stream_al.core.labels import Value, label_key

LARGEST = 2**53 - 1
Text = Annotated[StrictStr, Field(min_length=1, max_length=1_000)]
# a JSON number without a fraction, also where it is written with a point
Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Number = Annotated[StrictFloat, Field(ge=-1e18, le=1e18, allow_inf_nan=False)]
AnyLabel = StrictBool | Whole | Number | Text
RequestId = Annotated[str, Field(min_length=1, max_length=100)]
Seconds = Annotated[
    float | None,
    Field(ge=0, le=1e9, allow_inf_nan=False, description="From seeing the question to answering."),
]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Samples(Form):
    """Samples to be scored, in the form that ``samples`` of the configuration describes."""

    samples: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=500)]


class Lease(Form):
    """``request_id`` asks for one question in particular: an owner may."""

    count: int = Field(default=1, ge=0, le=5, description="How many questions to hold, at most.")
    request_id: RequestId | None = None


class Answer(Form):
    """A label. ``new_class`` says that it is none of the known ones, on purpose."""

    request_id: RequestId
    label: AnyLabel
    seconds: Seconds = None
    new_class: bool = False


class Skip(Form):
    """A question that cannot be answered."""

    seconds: Seconds = None


class Decision(Form):
    """What becomes of a proposed class: ``as_label`` is its name or that of another one, null dismisses it."""

    label: StrictBool | Whole | Text
    as_label: StrictBool | Whole | Text | None


class Class(BaseModel):
    """A class as it travels, and as it is shown."""

    label: bool | int | float | str
    key: str


class Question(BaseModel):
    """``guess`` is null where the question is blind, and where the model has no answer."""

    request_id: str
    id: str
    features: dict[str, float | int | bool | str | None]
    reason: str
    why: str
    blind: bool
    guess: Class | None
    confidence: float | None
    requested_at: str
    expires_at: str
    leased_until: str


class Given(BaseModel):
    """One of your latest answers; ``publishes_in_s`` is null where it does not, or has."""

    request_id: str
    id: str
    label: Class | None
    state: Literal["answered", "held", "flagged", "published"]
    publishes_in_s: float | None


class Work(BaseModel):
    """What is on your table, and how many more there are."""

    questions: list[Question]
    waiting: int
    recent: list[Given]
    classes: list[Class]


class Taken(BaseModel):
    """What became of an answer, and your latest ones."""

    state: Literal["answered", "held", "flagged", "published"]
    recent: list[Given]


class Undone(BaseModel):
    """The question is yours again; null: there was nothing to take back."""

    question: Question | None
    recent: list[Given]


class Queue(BaseModel):
    """The open questions, in the order in which they are served; looking takes none."""

    open: int
    requests: list[Row]


class Row(BaseModel):
    request_id: str
    id: str
    state: Literal["waiting", "leased", "answered", "held", "flagged", "published"]
    reason: str
    requested_at: str
    expires_at: str


class Me(BaseModel):
    """Who you are, and what the page has to know."""

    name: str
    role: Literal["annotator", "owner"]
    open: bool
    task: Literal["classification", "regression"]
    classes: list[Class]
    fixed: bool
    text: str | None
    image: str | None
    ranges: dict[str, tuple[float, float]]
    grace_s: float
    lease_s: float


class Sent(BaseModel):
    accepted: int


class Decided(BaseModel):
    answers: int


class Problem(BaseModel):
    """Why it cannot be done: ``reason`` for programs, ``detail`` for people."""

    reason: str
    detail: str


def class_of(label: Value) -> Class:
    return Class(label=label, key=label_key(label))


def question_of(item: Item) -> Question:
    return Question(
        request_id=item.request_id,
        id=item.id,
        features={k: v for k, v in item.features.items() if not isinstance(v, list)},
        reason=item.reason,
        why=item.why,
        blind=item.blind,
        guess=None if item.guess is None else class_of(item.guess),
        confidence=item.confidence,
        requested_at=item.requested_at,
        expires_at=item.expires_at,
        leased_until=item.leased_until,
    )


def given_of(recent: Recent) -> Given:
    return Given(
        request_id=recent.request_id,
        id=recent.id,
        label=None if recent.label is None else class_of(recent.label),
        state=recent.state,
        publishes_in_s=recent.publishes_in_s,
    )


def row_of(line: Line) -> Row:
    return Row(
        request_id=line.request_id,
        id=line.id,
        state=line.state,
        reason=line.reason,
        requested_at=line.requested_at,
        expires_at=line.expires_at,
    )


class Between(BaseModel):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Limit(BaseModel):
    """How much of a budget is used; ``window`` is stream, hour, day or outstanding."""

    window: str
    limit: float
    spent: float


class QueueFigures(BaseModel):
    open: int
    waiting: int
    leased: int
    answered: int
    oldest_s: float


class Stretch(BaseModel):
    """The accuracy over a stretch of the stream that ends after ``samples`` samples."""

    samples: int
    accuracy: Between | None


class Share(BaseModel):
    agreed: int
    of: int


class Anchor(BaseModel):
    """Agreement with the guess when it was shown, minus when it was hidden."""

    shown: Share
    hidden: Share
    difference: Between | None


class Agree(BaseModel):
    """Of the questions that two people answered; kappa is null while there are too few."""

    pairs: int
    agreed: int
    kappa: Between | None


class PersonFigures(BaseModel):
    """``seconds`` is the median time an answer takes."""

    name: str
    labels: int
    skips: int
    opinions: int
    disagreed: int
    seconds: float | None


class Proposal(BaseModel):
    """A class that annotators named and nobody has accepted."""

    label: Class
    answers: int
    annotators: list[str]


class Flag(BaseModel):
    request_id: str
    id: str
    by: str


class Figures(BaseModel):
    """What the owner sees."""

    model: str
    queue: QueueFigures
    answers_last_hour: int
    budget: list[Limit]
    samples: int
    labels: int
    warming: bool
    accuracy: Between | None
    history: list[Stretch]
    drift: list[int]
    anchoring: Anchor
    agreement: Agree
    annotators: list[PersonFigures]
    proposed: list[Proposal]
    flagged: list[Flag]
    classes: list[Class]


def between_of(interval: Interval | None) -> Between | None:
    return None if interval is None else Between(value=interval.value, low=interval.low, high=interval.high)
