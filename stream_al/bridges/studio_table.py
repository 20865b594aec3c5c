"""What is known of each request on both sides: pure bookkeeping between topics and Label Studio, without I/O.

Theory of operation
-------------------
Nothing is kept on a disk. Requests, tombstones and answers are on topics, what is closed is in the ledger, and which
requests have become tasks stands in Label Studio itself, in each task's ``meta``: after any crash all is read again.
A request moves on as it is seen::

    asked ──▶ task ──▶ annotated ──▶ its answer is on ``labels``
      │         └────▶ closed before anybody annotated it: the task is deleted
      └──▶ closed before it became a task: forgotten

A task belongs to a request if request id, sample id and time of asking agree: request ids begin anew with a new ledger.
Label Studio keeps whatever it is sent, however often. So of two tasks of one request, which a process leaves behind
that ended in the middle of an import, the one that nobody has annotated is deleted, or else the later one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stream_al.core.labels import Value, same
from stream_al.core.learner import Withdrawal
from stream_al.core.messages import REQUEST_SCHEMA, Answer, LabelRequest, milliseconds

LARGEST_BATCH = 8 * 1024 * 1024  # bytes


@dataclass(slots=True)
class Asked:
    """A request. ``value`` is its message while it may still become a task."""

    request_id: str
    id: str
    requested_at: str
    expires_ms: int
    classes: tuple[str, ...]
    value: bytes | None
    closed: bool = False
    alone: bool = False  # not in a batch: one of its batch was refused
    refused: bool = False
    task: int | None = None
    annotated: bool = False
    said: dict[str | None, tuple[str, Value | None]] = field(
        default_factory=dict
    )  # on the topic, by annotator


class StudioTable:
    """All requests that the topic still holds, and their tasks."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.waiting: dict[str, Asked] = {}  # not yet tasks
        self.by_task: dict[int, Asked] = {}
        self.spare: set[int] = set()  # tasks that nobody needs
        self.first_ms: int | None = None  # when the oldest request was made

    # --- topics ----------------------------------------------------------------------------------------------

    def request(self, request: LabelRequest | Withdrawal, value: bytes, *, closed: bool = False) -> None:
        """Take in a request, which may be closed already, or a tombstone."""
        if isinstance(request, Withdrawal):
            for asked in self._named(request):
                self.close(asked)
            return
        if request.request_id in self.asked:
            return
        asked = Asked(
            request.request_id,
            request.id,
            request.requested_at,
            milliseconds(request.expires_at),
            tuple(request.model.probabilities),
            value,
        )
        self.asked[asked.request_id] = self.waiting[asked.request_id] = asked
        at = milliseconds(asked.requested_at)
        self.first_ms = at if self.first_ms is None else min(at, self.first_ms)
        if closed:
            self.close(asked)

    def _named(self, withdrawal: Withdrawal) -> list[Asked]:
        if withdrawal.request_id is None:
            return [asked for asked in self.asked.values() if asked.id == withdrawal.id]
        asked = self.asked.get(withdrawal.request_id)
        return [] if asked is None or asked.id != withdrawal.id else [asked]

    def answered(self, answer: Answer) -> None:
        """Note what stands on the topic of answers."""
        asked = self.asked.get(answer.request_id or "")
        if asked is not None and asked.id == answer.id:
            asked.said[answer.annotator] = (answer.labeled_at or "", answer.label)

    def close(self, asked: Asked) -> None:
        """Note that nobody is asked any more."""
        asked.closed = True
        asked.value = None
        self.waiting.pop(asked.request_id, None)

    def close_all(self, closed: Container[str]) -> None:
        """Close the requests that the ledger closed."""
        for asked in self.asked.values():
            if not asked.closed and asked.request_id in closed:
                self.close(asked)

    def expire(self, now_ms: int) -> None:
        """Close what can no longer be answered in time."""
        for asked in self.asked.values():
            if not asked.closed and asked.expires_ms <= now_ms:
                self.close(asked)

    # --- Label Studio ----------------------------------------------------------------------------------------

    def task(self, task: Mapping[str, Any], now_ms: int) -> Asked | None:
        """Take in a task; return the request it was made from, None for one that is none of ours, or is spare."""
        number, annotations = task.get("id"), task.get("annotations") or ()
        meta = task.get("meta")
        if not isinstance(number, int) or not isinstance(meta, dict):
            return None
        asked = self.asked.get(str(meta.get("request_id")))
        if asked is None or (asked.id, asked.requested_at) != (meta.get("id"), meta.get("requested_at")):
            if not annotations and _lapsed(meta, now_ms):
                self.spare.add(number)
            return None
        if asked.task is not None and asked.task != number:
            both_alike = asked.annotated == bool(annotations)
            if asked.task < number if both_alike else asked.annotated:
                self.spare.add(number)
                return None
            self.spare.add(asked.task)
            self.by_task.pop(asked.task, None)
        asked.task, asked.annotated, asked.value = number, bool(annotations), None
        self.by_task[number] = asked
        self.waiting.pop(asked.request_id, None)
        return asked

    def batch(self, most: int) -> list[Asked]:
        """Return requests to import at once: as many as are allowed, or one that must go alone."""
        found: list[Asked] = []
        size = 0
        for asked in self.waiting.values():
            if asked.value is None:
                continue
            if asked.alone:
                if not found:
                    return [asked]
                continue
            size += len(asked.value)
            if found and (len(found) >= most or size > LARGEST_BATCH):
                break
            found.append(asked)
        return found

    def imported(self, asked: Asked) -> None:
        """Note that a request has become a task; its number comes with the next look."""
        asked.value = None
        self.waiting.pop(asked.request_id, None)

    def refuse(self, asked: Asked) -> None:
        """Note that a request cannot become a task."""
        self.imported(asked)
        asked.refused = True

    def unneeded(self) -> Iterator[int]:
        """Yield the tasks to delete unless somebody has annotated them meanwhile."""
        yield from sorted(self.spare)
        for asked in self.asked.values():
            if asked.closed and asked.task is not None and not asked.annotated:
                yield asked.task

    def deleted(self, number: int) -> None:
        """Note that a task is gone."""
        self.spare.discard(number)
        asked = self.by_task.pop(number, None)
        if asked is not None:
            asked.task = None


def news(asked: Asked, answer: Answer) -> bool:
    """Say whether an annotation is more than what its annotator is already known to have said."""
    if asked.closed and answer.skip:
        return False
    known = asked.said.get(answer.annotator)
    if known is None:
        return True
    at, label = known
    if label is None or answer.label is None:
        changed = label is not answer.label
    else:
        changed = not same(label, answer.label)
    return changed and (answer.labeled_at or "") > at


def chosen(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the annotation that answers a task: the ground truth, or else the first that is no skip, or a skip."""
    annotations = [a for a in task.get("annotations") or () if isinstance(a, dict)]
    annotations.sort(
        key=lambda a: (bool(a.get("was_cancelled")), not a.get("ground_truth"), a.get("id") or 0)
    )
    return annotations[0] if annotations else None


def _lapsed(meta: Mapping[str, Any], now_ms: int) -> bool:
    """Say whether a task was made from a request that has expired since."""
    try:
        return meta.get("schema") == REQUEST_SCHEMA and milliseconds(str(meta.get("expires_at"))) <= now_ms
    except ValueError:
        return False
