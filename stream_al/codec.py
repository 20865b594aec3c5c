"""The edge of bytes: every decoder returns a typed value or raises ``BadRecord``, and nothing else.

Samples belong to the user and may be any JSON that the ``samples`` section of the config maps; what the service
writes itself is read back strictly, unknown fields ignored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from stream_al.core.budget import LEAST_P
from stream_al.core.labels import Label, Value, is_number, label_of
from stream_al.core.learner import Withdrawal
from stream_al.core.messages import (
    REQUEST_ID_HEADER,
    REQUEST_SCHEMA,
    Answer,
    AtDesk,
    Bucket,
    Budget,
    Challengers,
    Correction,
    Expired,
    Feature,
    Features,
    Genesis,
    Grant,
    LabelRequest,
    Learned,
    LedgerRecord,
    Observe,
    Prediction,
    Probe,
    Promote,
    Query,
    Rebuild,
    Report,
    Sample,
    Shown,
    Skipped,
    Source,
    Tally,
    Task,
    Unsolicited,
    Vote,
    milliseconds,
    timestamp,
)
from stream_al.transport.port import Output, Record

T = TypeVar("T")

DEAD_LETTER_BYTES = 64 * 1024
MOST_DEAD_LETTER_BYTES = 900 * 1024
LARGEST_NUMBER = 1e300
SURE_TYPES = frozenset({float, str, bool, type(None)})  # features of these types need no check
LARGEST_TARGET = 1e18  # of a regressor: squares of its errors stay finite
SMALLEST_P = 1e-12
LARGEST_OFFSET = 2**53
LARGEST_SUM = 1e15
LONGEST_LABEL = 1_000
LONGEST_OPERATION = 64
LONGEST_NAME = 64  # of a challenger
MAX_MESSAGE = 200
CONTROL, NEW_CLASS_CONTROL = (
    "label",
    "new_class",
)  # Label Studio's names of an answer, and of a class typed in


class BadRecord(Exception):  # noqa: N818  the name of the fact, not of the reaction
    """A record that cannot be used. ``reason`` is a short name for metrics; the message says what and where."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message[:MAX_MESSAGE])
        self.reason = reason


def _decoded(decode: Callable[[bytes], T], value: bytes | None, what: str) -> T:
    """Run a decoder; everything that bytes can do to it becomes a ``BadRecord``."""
    if value is None:
        raise BadRecord("empty", f"the {what} has no value")
    try:
        return decode(value)
    except msgspec.ValidationError as problem:
        raise BadRecord("wrong_type", f"{what}: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise BadRecord("not_json", f"{what} is not JSON: {problem}") from None
    except RecursionError:
        raise BadRecord("not_json", f"{what} is nested too deeply") from None
    except (ValueError, OverflowError) as problem:
        raise BadRecord("wrong_type", f"{what}: {problem}") from None


# --- samples -------------------------------------------------------------------------------------------------


class _Sample(msgspec.Struct):
    features: dict[str, Feature]
    id: str | int | None = None
    timestamp: str | int | float | None = None


class SampleDecoder:
    """Decodes samples by the paths of the config.

    Parameters
    ----------
    id_path, features_path, timestamp_path
        Dotted paths into the sample; ``features_path=None``: all other top-level fields are features.
    max_bytes
        Larger values are refused before they are decoded.
    """

    def __init__(
        self,
        id_path: str = "id",
        features_path: str | None = "features",
        timestamp_path: str | None = "timestamp",
        max_bytes: int = 256_000,
    ) -> None:
        self.id_path, self.features_path, self.timestamp_path = id_path, features_path, timestamp_path
        self.max_bytes = max_bytes
        self.plain = (id_path, features_path, timestamp_path) == ("id", "features", "timestamp")
        self._decode = msgspec.json.Decoder(_Sample).decode
        self._decode_any = msgspec.json.Decoder(dict[str, Any]).decode

    def __call__(self, record: Record) -> Sample:
        """Decode one record.

        Raises
        ------
        BadRecord
            With reason ``too_large``, ``empty``, ``not_json`` or ``wrong_type``.
        """
        value = record.value
        if value is not None and len(value) > self.max_bytes:
            raise BadRecord("too_large", f"{len(value)} bytes; samples.max_bytes is {self.max_bytes}")
        try:
            found, features, time = self._parts(value)
        except BadRecord as problem:
            raise self._named(value, problem) from None
        if not SURE_TYPES.issuperset(map(type, features.values())):
            for name, feature in features.items():
                _check(name, feature)
        return self._sample(record, found, features, time)

    def again(self, record: Record) -> Sample:
        """Decode a record that is known to be a sample."""
        try:
            return self._sample(record, *self._parts(record.value))
        except BadRecord:  # nested nearly too deeply: what fitted on a shorter stack fits on an empty one
            with ThreadPoolExecutor(1) as elsewhere:
                return self._sample(record, *elsewhere.submit(self._parts, record.value).result())

    def _sample(self, record: Record, found: str | int | None, features: Features, time: object) -> Sample:
        if self.timestamp_path is None:
            time = timestamp(record.timestamp)
        source = Source(record.topic, record.partition, record.offset, None if time is None else str(time))
        name = f"{record.topic}-{record.partition}-{record.offset}" if found is None else str(found)
        return Sample(name, features, source)

    def _parts(self, value: bytes | None) -> tuple[str | int | None, Features, object]:
        if self.plain:
            plain = _decoded(self._decode, value, "sample")
            return plain.id, plain.features, plain.timestamp
        return self._mapped(_decoded(self._decode_any, value, "sample"))

    def _named(self, value: bytes | None, problem: BadRecord) -> BadRecord:
        """Return a problem that names the feature at fault, if it is one: decoders do not."""
        try:
            found = json.loads(value or b"", parse_constant=_Constant)
            for name, feature in self._features(found).items():
                _check_constant(name, feature)
                _check(name, feature)
        except BadRecord as named:
            return BadRecord(problem.reason, str(named))
        except (ValueError, AttributeError, RecursionError):  # it is another problem
            return problem
        return problem

    def _mapped(self, value: dict[str, Any]) -> tuple[str | int | None, Features, object]:
        found, time = _at(value, self.id_path), _at(value, self.timestamp_path)
        if found is not None and not isinstance(found, str | int):
            raise BadRecord("wrong_type", f"sample: {self.id_path} is neither a string nor a whole number")
        if isinstance(time, dict | list):
            raise BadRecord("wrong_type", f"sample: {self.timestamp_path} is not a time")
        features = self._features(value)
        if not isinstance(features, dict):
            raise BadRecord("wrong_type", f"sample: {self.features_path} is not an object of features")
        return found, features, time

    def _features(self, value: dict[str, Any]) -> Any:
        if self.features_path is not None:
            return _at(value, self.features_path)
        taken = {path.split(".")[0] for path in (self.id_path, self.timestamp_path) if path}
        return {k: v for k, v in value.items() if k not in taken}


def _at(value: object, path: str | None) -> Any:
    """Return what stands at a dotted path, or None."""
    if path is None:
        return None
    if isinstance(value, dict) and path in value:
        return value[path]
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


class _Constant(str):
    """A NaN or an infinity, which JSON has not, as it was written."""

    __slots__ = ()


def _check_constant(name: str, feature: object) -> None:
    for value in feature if isinstance(feature, list) else [feature]:
        if isinstance(value, _Constant):
            verb = "holds" if isinstance(feature, list) else "is"
            raise BadRecord(
                "not_json", f"sample: feature {name!r:.60} {verb} {value}; leave it out or send null"
            )


def _check(name: str, feature: object) -> None:
    if feature is None or isinstance(feature, bool | str):
        return
    if isinstance(feature, int | float):
        if abs(feature) > LARGEST_NUMBER:
            raise BadRecord("wrong_type", f"sample: feature {name!r:.60} is too large a number")
        return
    if isinstance(feature, list):
        if all(
            isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= LARGEST_NUMBER
            for x in feature
        ):
            return
        raise BadRecord(
            "wrong_type", f"sample: feature {name!r:.60} is a list of something else than numbers"
        )
    raise BadRecord(
        "wrong_type", f"sample: feature {name!r:.60} is {_kind(feature)}; flatten it or map samples.features"
    )


def _kind(value: object) -> str:
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


# --- label requests ------------------------------------------------------------------------------------------


class _Data(msgspec.Struct):
    id: str
    features: dict[str, Feature]


class _Meta(msgspec.Struct):
    id: str
    request_id: str
    source: Source
    query: Query
    model: Shown
    requested_at: str
    expires_at: str
    vectors: dict[str, list[float]] = {}
    blind: bool | None = None


class _Request(msgspec.Struct):
    data: _Data
    meta: _Meta


_decode_request = msgspec.json.Decoder(_Request).decode


def encode_request(request: LabelRequest, text: str | None = None, image: str | None = None) -> bytes:
    """Return a request as a Label Studio task; ``text`` and ``image`` name features shown as such."""
    features, vectors = request.features, {}
    if list in map(type, features.values()):
        vectors = {k: v for k, v in features.items() if isinstance(v, list)}
        features = {k: v for k, v in features.items() if k not in vectors}
    data: dict[str, Any] = {"id": request.id, "features": features}
    for name, feature in (("text", text), ("image", image)):
        if feature is not None:
            data[name] = str(features.get(feature) or "")
    meta: dict[str, Any] = {
        "schema": REQUEST_SCHEMA,
        "id": request.id,
        "request_id": request.request_id,
        "source": request.source,
        "query": request.query,
        "model": request.model,
        "requested_at": request.requested_at,
        "expires_at": request.expires_at,
    }
    if request.blind is not None:
        meta["blind"] = request.blind
    if vectors:
        meta["vectors"] = vectors
    predictions = [] if request.blind else _predictions(request.model, text, image)
    return msgspec.json.encode({"data": data, "meta": meta, "predictions": predictions})


def shown_as(text: str | None, image: str | None) -> str:
    """Return which part of a task the answer belongs to, where these features are shown as such."""
    return "text" if text else "image" if image else "features"


def _predictions(model: Shown, text: str | None, image: str | None) -> list[dict[str, Any]]:
    to_name = shown_as(text, image)
    if model.value is not None:
        number = {
            "from_name": CONTROL,
            "to_name": to_name,
            "type": "number",
            "value": {"number": model.value},
        }
        return [{"model_version": model.name, "result": [number]}]
    if model.label is None:
        return []
    choice = {
        "from_name": CONTROL,
        "to_name": to_name,
        "type": "choices",
        "value": {"choices": [model.label]},
    }
    return [{"model_version": model.name, "score": model.confidence, "result": [choice]}]


def decode_request(record: Record) -> LabelRequest | Withdrawal:
    """Decode a record of the requests topic: a request, or a tombstone that withdraws.

    Raises
    ------
    BadRecord
    """
    if record.value is None:
        named = next((v for k, v in record.headers if k == REQUEST_ID_HEADER), None)
        return Withdrawal(_text(record.key or b""), None if named is None else _text(named))
    wire = _decoded(_decode_request, record.value, "label request")
    meta = wire.meta
    _check_times(meta.requested_at, meta.expires_at)
    q = meta.query
    if not (SMALLEST_P <= q.inclusion_probability <= 1 and 0 <= q.expected_correct <= 1):
        raise BadRecord("wrong_type", "label request: a probability is out of its range")
    if meta.source.partition < 0 or not 0 <= meta.source.offset < LARGEST_OFFSET:
        raise BadRecord("wrong_type", "label request: source is no position")
    features: Features = {**wire.data.features, **meta.vectors}
    return LabelRequest(
        wire.data.id,
        meta.request_id,
        features,
        meta.source,
        meta.query,
        meta.model,
        meta.requested_at,
        meta.expires_at,
        meta.blind,
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _check_times(*times: str) -> None:
    try:
        for time in times:
            milliseconds(time)
    except (ValueError, OverflowError):
        raise BadRecord("wrong_type", "a time is not ISO 8601") from None


# --- answers -------------------------------------------------------------------------------------------------


class _Answer(msgspec.Struct):
    id: str | int | None = None
    label: str | int | bool | None = None
    skip: bool = False
    request_id: str | None = None
    annotator: str | None = None
    labeled_at: str | None = None
    features: Any = None
    annotation: dict[str, Any] | None = None
    annotations: list[dict[str, Any]] | None = None
    task: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None
    desk: Any = None  # a stranger's may be anything


class _Measured(_Answer):
    label: Any = None  # so that what is no number can be named


_DECODE_ANSWER: dict[Task, Callable[[bytes], _Answer]] = {
    "classification": msgspec.json.Decoder(_Answer).decode,
    "regression": msgspec.json.Decoder(_Measured).decode,
}


def decode_answer(record: Record, task: Task = "classification", max_bytes: int = 256_000) -> Answer:
    """Decode a label or a skip: our own form, or Label Studio's annotation payload or exported task.

    In regression a label is a number and nothing else; in classification it is no number with a fraction.
    A message larger than a sample may be brings no features: the ledger has no room for them.

    Raises
    ------
    BadRecord
    """
    wire = _decoded(_DECODE_ANSWER[task], record.value, "label")
    if wire.annotation is not None or wire.annotations:
        return _label_studio(wire, task)
    if wire.id is None:
        raise BadRecord("wrong_type", "label: id is missing")
    if wire.label is None and not wire.skip:
        raise BadRecord("wrong_type", "label: neither label nor skip is given")
    if wire.label is not None and wire.skip:
        raise BadRecord("wrong_type", "label: both label and skip are given")
    _check_label(wire.label, task)
    return Answer(
        str(wire.id),
        wire.label,
        wire.skip,
        wire.request_id,
        wire.annotator,
        wire.labeled_at,
        _usable(wire.features) if len(record.value or b"") <= max_bytes else None,
        _at_desk(wire.desk),
    )


def _usable(features: object) -> Features | None:
    """Return the features that came with a label, None where they are none: only one nobody asked for needs them."""
    if not isinstance(features, dict):
        return None
    with contextlib.suppress(BadRecord):
        for name, feature in features.items():
            _check(name, feature)
        return features
    return None


def _at_desk(value: object) -> AtDesk | None:
    try:
        return None if value is None else msgspec.convert(value, AtDesk)
    except msgspec.ValidationError:
        return None


def _label_studio(wire: _Answer, task: Task) -> Answer:
    annotation = wire.annotation or (wire.annotations or [{}])[-1]
    return annotated(wire.task or {"data": wire.data, "meta": wire.meta}, annotation, task)


def annotated(asked: Mapping[str, Any], annotation: Mapping[str, Any], task: Task) -> Answer:
    """Return what an annotation of Label Studio says about the request that its task, ``asked``, was made from.

    Raises
    ------
    BadRecord
    """
    meta, data = _mapping(asked.get("meta")), _mapping(asked.get("data"))
    name = meta.get("id", data.get("id"))
    if not isinstance(name, str):
        raise BadRecord(
            "wrong_type", "annotation: task.meta.id is missing; was the task imported from a request?"
        )
    request_id = meta.get("request_id")
    by = annotation.get("completed_by")
    by = by.get("email", by.get("id")) if isinstance(by, dict) else by
    at = annotation.get("updated_at") or annotation.get("created_at")
    read = _number if task == "regression" else _choice
    label = None if annotation.get("was_cancelled") else read(annotation)
    return Answer(
        name,
        label,
        skip=label is None,
        request_id=request_id if isinstance(request_id, str) else None,
        annotator=None if by is None else str(by),
        labeled_at=None if at is None else str(at),
    )


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_label(label: Value | None, task: Task) -> None:
    if label is None:
        return
    if task == "regression":
        _check_number(label)
    elif not isinstance(label, float):
        check_class(label)


def _check_number(label: Value) -> None:
    if not is_number(label):
        raise BadRecord("wrong_type", f"label: {label!r:.40} is not a number, and the task is regression")
    if abs(label) > LARGEST_TARGET:
        raise BadRecord("wrong_type", f"label: the number is above {LARGEST_TARGET:g}")


def check_class(label: Label) -> None:
    """Refuse a class that no answer may name.

    Raises
    ------
    BadRecord
    """
    if isinstance(label, str) and len(label) > LONGEST_LABEL:
        raise BadRecord(
            "too_large", f"label: a class name of {len(label)} characters; {LONGEST_LABEL} are allowed"
        )
    if isinstance(label, int) and abs(label) >= LARGEST_OFFSET:
        raise BadRecord("wrong_type", "label: the number is too large to be a class")


def _results(annotation: Mapping[str, Any]) -> list[tuple[object, Mapping[str, Any]]]:
    """Return what an annotation holds: name and value of each control of the label page, ``label`` first."""
    results = annotation.get("result")
    named = [_mapping(result) for result in (results if isinstance(results, list) else ())]
    found = [(result.get("from_name"), _mapping(result.get("value"))) for result in named]
    return sorted(found, key=lambda control: control[0] != CONTROL)


def _number(annotation: Mapping[str, Any]) -> Value:
    for _, value in _results(annotation):
        number = value.get("number")
        if isinstance(number, int | float):
            _check_number(number)
            return number
    raise BadRecord("wrong_type", "annotation: no number in its result, and the task is regression")


def _choice(annotation: Mapping[str, Any]) -> Label:
    """Return the class an annotation names: one that was typed in, before what may have been chosen for the person."""
    results = _results(annotation)
    typed = [value.get("text") for name, value in results if name == NEW_CLASS_CONTROL]
    chosen = [value.get("choices") for _, value in results]
    for texts in (*(_stripped(text) for text in typed), *chosen):
        if isinstance(texts, list) and texts and isinstance(texts[0], str):
            label = label_of(texts[0])
            check_class(label)
            if isinstance(label, str) and _has_surrogates(label):
                raise BadRecord("wrong_type", "annotation: the choice is not Unicode text")
            return label
    raise BadRecord("wrong_type", "annotation: no choice in its result")


def _stripped(texts: object) -> list[str]:
    """Return what stands in a text field, without white space around it and without nothing."""
    found = texts if isinstance(texts, list) else [texts]
    return [text.strip() for text in found if isinstance(text, str) and text.strip()]


# --- what the service writes and reads back --------------------------------------------------------------------


class _Kind(msgspec.Struct):
    kind: str


_decode_kind = msgspec.json.Decoder(_Kind).decode
_RECORDS: dict[str, tuple[Callable[[bytes], Any], tuple[str, ...]]] = {
    kind: (msgspec.json.Decoder(of).decode, times)
    for kind, of, times in (
        ("genesis", Genesis, ("created_at",)),
        ("budget", Budget, ()),
        ("vote", Vote, ("received_at",)),
        ("label", Learned, ("received_at",)),
        ("unsolicited", Unsolicited, ("received_at",)),
        ("skip", Skipped, ("received_at",)),
        ("expire", Expired, ("expired_at",)),
        ("correction", Correction, ("received_at",)),
        ("bucket", Bucket, ("first_at", "last_at")),
        ("observe", Observe, ()),
        ("grant", Grant, ("issued_at", "until")),
        ("rebuild", Rebuild, ("requested_at",)),
        ("probe", Probe, ()),
        ("challengers", Challengers, ()),
        ("promote", Promote, ("requested_at",)),
        ("tally", Tally, ("first_at", "last_at")),
    )
}
_REPORTS = ("tally", "observe", "rebuild", "promote")
KIND_FIRST = b'{"kind":"'


def encode(value: LedgerRecord | Report | Prediction) -> bytes:
    """Return a report, a ledger record or a prediction as JSON, ``kind`` first."""
    return msgspec.json.encode(value)


def _decode_record(value: bytes | None, what: str) -> Any:
    kind = "" if value is None else _first_kind(value)
    if kind not in _RECORDS:  # not as ``encode`` writes it
        kind = _decoded(_decode_kind, value, what).kind
    if kind not in _RECORDS:
        raise BadRecord("unknown_kind", f"{what}: kind {kind!r} is not known to this version")
    decode, times = _RECORDS[kind]
    record = _decoded(decode, value, what)
    _check_times(*(getattr(record, name) for name in times))
    return record


def _first_kind(value: bytes) -> str:
    """Return the kind of a record that begins with it, nothing where it does not.

    >>> _first_kind(b'{"kind":"label","id":"a"}'), _first_kind(b'{"id":"a","kind":"label"}')
    ('label', '')
    """
    if not value.startswith(KIND_FIRST):
        return ""
    return value[len(KIND_FIRST) : value.find(b'"', len(KIND_FIRST))].decode("latin-1")


def decode_ledger(record: Record) -> LedgerRecord | None:
    """Decode a ledger record; None for one that this version cannot read, because the fold is total."""
    try:
        found: LedgerRecord | Tally = _decode_record(record.value, "ledger record")
    except BadRecord:
        return None
    return None if isinstance(found, Tally) else found


def decode_report(record: Record) -> Report:
    """Decode a report.

    Raises
    ------
    BadRecord
    """
    found = _decode_record(record.value, "report")
    if found.kind not in _REPORTS:
        raise BadRecord("unknown_kind", f"report: kind {found.kind!r} does not belong here")
    if isinstance(found, Tally):
        _check_tally(found)
    if isinstance(found, Rebuild) and not (
        0 <= found.from_offset < LARGEST_OFFSET and 0 < len(found.id) <= LONGEST_OPERATION
    ):
        raise BadRecord("wrong_type", "report: a rebuild from no offset, or with no name that can be kept")
    if isinstance(found, Promote) and not (
        0 < len(found.id) <= LONGEST_OPERATION and len(found.name) <= LONGEST_NAME
    ):
        raise BadRecord("wrong_type", "report: a promotion with no name that can be kept")
    report: Report = found
    return report


def _check_tally(tally: Tally) -> None:
    """Refuse what no scorer writes: strangers may write to the topic, and a tally moves budgets and estimates."""
    s = tally.sums
    counts = (
        s.samples,
        s.uncovered,
        s.invalid,
        s.requests,
        s.answered,
        *s.predicted.values(),
        *(g.spent for g in tally.grants.values()),
    )
    numbers = (s.sum_p, s.sum_m, s.sum_v, s.sum_v_over_p, s.sum_confidence, s.sum_entropy)
    sane = (
        tally.partition >= 0
        and 0 <= tally.from_offset < tally.to_offset < LARGEST_OFFSET
        and min(counts) >= 0
        and s.samples + s.invalid <= tally.to_offset - tally.from_offset
        and s.uncovered + max(s.requests, s.answered) <= s.samples
        and all(0 <= x <= LARGEST_SUM for x in numbers)
        and sum(s.predicted.values()) <= s.samples
        and (s.sum_p == 0 or s.sum_p >= LEAST_P)
    )
    if not sane:
        raise BadRecord("wrong_type", "report: a tally that no scorer would write")


# --- dead letters --------------------------------------------------------------------------------------------


def dead_letter(topic: str, record: Record, problem: BadRecord, stage: str) -> Output:
    """Return a record as it came, with its headers and where and why it failed."""
    value = record.value
    beside = len(record.key or b"") + sum(len(k) + len(v or b"") for k, v in record.headers)
    if value is not None and len(value) + beside > MOST_DEAD_LETTER_BYTES:
        value = value[:DEAD_LETTER_BYTES]
    error = {
        "reason": problem.reason,
        "message": str(problem),
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "stage": stage,
    }
    headers = [(k, v) for k, v in record.headers if not k.startswith("stream_al.error.")]
    headers += [(f"stream_al.error.{k}", v.encode("utf-8", "replace")) for k, v in error.items()]
    return Output(topic, value, key=record.key, headers=tuple(headers))


def answer_bytes(answers: Sequence[Answer]) -> list[bytes]:
    """Return answers as JSON, one record each: for simulated annotators and tools."""
    return [msgspec.json.encode(_plain(a)) for a in answers]


def _plain(answer: Answer) -> dict[str, Any]:
    """Return what an answer says, without what it leaves open."""
    names = ("id", "label", "skip", "request_id", "annotator", "labeled_at", "features", "desk")
    said = {name: getattr(answer, name) for name in names}
    return {k: v for k, v in said.items() if v is not None and (k != "skip" or v)}


__all__ = [
    "CONTROL", "NEW_CLASS_CONTROL", "BadRecord", "SampleDecoder", "annotated", "answer_bytes", "check_class",
    "dead_letter", "decode_answer", "decode_ledger", "decode_report", "decode_request", "encode", "encode_request",
    "shown_as",
]  # fmt: skip
