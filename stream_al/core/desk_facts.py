"""What the desk is told and what it answers: rules, unpublished answers, questions as they are shown, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stream_al.core.labels import Value, same
from stream_al.core.messages import Features, LabelRequest

TORN = 0.35  # the first two classes are so close that the model cannot decide

Refusal = Literal["unknown", "closed", "answered", "published", "no_class"]
State = Literal["waiting", "leased", "answered", "held", "flagged", "published"]


class Refused(Exception):  # noqa: N818  the name of the fact
    """What was asked for cannot be done; ``reason`` is for programs, the message for people."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason: Refusal = reason


@dataclass(frozen=True, slots=True)
class Rules:
    """How the desk works; shares in [0, 1]."""

    seed: int = 1
    blind: float = 0.5
    second_opinion: float = 0.0
    grace_ms: int = 10_000
    lease_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class Given:
    """An answer that is not published yet; ``label`` None is a skip, ``held`` a class not accepted yet."""

    request_id: str
    id: str
    annotator: str
    label: Value | None
    at_ms: int
    seconds: float | None = None
    held: bool = False

    def says(self, label: Value | None) -> bool:
        """Whether this is that very answer."""
        if self.label is None or label is None:
            return self.label is label
        return same(self.label, label)


@dataclass(frozen=True, slots=True)
class Item:
    """A question as it is served. A blind one tells nothing of what the model thinks.

    ``guess`` is the class that the model says, or a regressor's number, with its ``confidence`` where there is one.
    """

    request_id: str
    id: str
    features: Features
    reason: str
    why: str
    blind: bool
    guess: Value | None
    confidence: float | None
    requested_at: str
    expires_at: str
    leased_until: str


@dataclass(frozen=True, slots=True)
class Line:
    """A question of the queue, for those who look at it without taking any."""

    request_id: str
    id: str
    state: State
    reason: str
    requested_at: str
    expires_at: str


@dataclass(frozen=True, slots=True)
class Recent:
    """One of the latest answers of an annotator, which can be changed until it is published."""

    request_id: str
    id: str
    label: Value | None
    state: Literal["answered", "held", "flagged", "published"]
    publishes_in_s: float | None


def why(request: LabelRequest, *, blind: bool = False) -> str:
    """Say in a sentence why a label is wanted; ``blind``: without what the model thinks."""
    query, shown = request.query, request.model
    if query.reason == "warm_up":
        return "warming up: the model has seen too few labels"
    if query.reason == "explore":
        return "random check: drawn by lot from all samples"
    if blind:
        return "the model would learn from this one"
    if shown.value is not None:
        return f"the model says {shown.value:.4g} and would learn from this one"
    first, second = ([*shown.probabilities.items(), ("", 0.0), ("", 0.0)])[:2]
    if second[0] and first[1] - second[1] <= TORN:
        return f"the model is torn between {first[0]} ({first[1]:.2f}) and {second[0]} ({second[1]:.2f})"
    if first[0]:
        return f"the model says {first[0]} ({first[1]:.2f}) and would learn from this one"
    return "the model has no answer"
