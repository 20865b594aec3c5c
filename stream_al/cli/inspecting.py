"""``inspect``: everything known of one sample."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_al.cli.options import ConfigFile, Json, Overrides, attach, examples, settings_of
from stream_al.cli.outcome import FAILURE, complain
from stream_al.cli.printing import json_or_text, one_line, print_json, print_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_al.config import Settings
    from stream_al.core.messages import Bucket, Closing, Correction, Genesis, LabelRequest, Learned, Source
    from stream_al.transport.port import Broker, Record

MOST_SAMPLES = 100_000
ERROR = "stream_al.error."

INSPECT_EXAMPLES = examples(
    "stream-al inspect s-123", "stream-al inspect 3-91823", "stream-al inspect s-123 --json"
)


@dataclass(slots=True)
class Case:
    """One member of the stream: its place, and what happened to it."""

    source: Source
    id: str | None = None
    sample: Any = None
    request: LabelRequest | None = None
    request_at: str | None = None
    coin: float | None = None
    closing: Closing | None = None
    closing_offset: int | None = None
    corrections: list[Correction] = field(default_factory=list)
    bucket: Bucket | None = None
    prediction: Any = None
    dead: str = ""  # why it could not be read
    before_start: bool = False
    read: bool = False  # by a scorer

    @property
    def coin_agrees(self) -> bool | None:
        """Whether the recorded coin is the one that anybody can derive; None where none was recorded."""
        recorded = self.closing or self.request
        return None if recorded is None or self.coin is None else recorded.query.coin == self.coin


@dataclass(slots=True)
class Search:
    """What was looked for, where, and what was found."""

    wanted: str
    searched: list[str] = field(default_factory=list)
    cases: dict[tuple[int, int], Case] = field(default_factory=dict)
    dead_letters: list[dict[str, Any]] = field(default_factory=list)

    def case(self, source: Source) -> Case:
        return self.cases.setdefault((source.partition, source.offset), Case(source))


def inspect(
    name: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a sample, or a request_id: partition-offset.")
    ],
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Print everything known of one sample: decision, coin, label, and what the model said then.

    The coin is derived again from seed, topic, partition and offset, and compared with the recorded one. An
    id that returned names several members of the stream; all of them are printed.
    """
    settings = settings_of(config, overrides)
    with attach(settings) as broker:
        search = _Inspector(broker, settings, name).run()
    if not search.cases and not search.dead_letters:
        complain(f"nothing is known of {name!r}; searched {'; '.join(search.searched)}")
        raise typer.Exit(FAILURE)
    if as_json:
        print_json(_plain(search))
    else:
        _print(search)


class _Inspector:
    """Looks through the topics, the cheapest and most telling first."""

    def __init__(self, broker: Broker, settings: Settings, wanted: str) -> None:
        import msgspec

        self.broker, self.settings = broker, settings
        self.search = Search(wanted)
        self.hint = msgspec.json.encode(wanted)[1:-1]  # as it stands in JSON that we write
        self.genesis: Genesis | None = None

    def run(self) -> Search:
        t = self.settings.topics
        self._scan(t.labels_requested, self._request)
        self._scan(t.ledger, self._ledger)
        self._place()
        if not self.search.cases:
            self._scan(t.samples, self._sample, MOST_SAMPLES)
        self._read_samples()
        self._scan(t.predictions, self._prediction, MOST_SAMPLES)
        self._scan(t.dead_letters, self._dead_letter)
        self._scan(t.ledger, self._bucket, said=False)
        self._coins()
        self._positions()
        return self.search

    def _scan(
        self, topic: str, look: Callable[[Record], None], latest: int | None = None, *, said: bool = True
    ) -> None:
        from stream_al.scan import scan

        seen = 0
        for record in scan(self.broker, topic, latest):
            seen += 1
            look(record)
        if said:
            self.search.searched.append(f"{seen:,} {'latest ' if latest == seen else ''}records of {topic}")

    def _mentions(self, record: Record) -> bool:
        return record.value is not None and self.hint in record.value

    def _wants(self, name: str, request_id: str) -> bool:
        return self.search.wanted in (name, request_id)

    def _request(self, record: Record) -> None:
        from stream_al.codec import BadRecord, decode_request
        from stream_al.core.messages import LabelRequest

        if not self._mentions(record):
            return
        try:
            request = decode_request(record)
        except BadRecord:
            return
        if isinstance(request, LabelRequest) and self._wants(request.id, request.request_id):
            case = self.search.case(request.source)
            case.id, case.request = request.id, request
            case.request_at = f"{record.topic}-{record.partition}@{record.offset}"

    def _ledger(self, record: Record) -> None:
        from stream_al.codec import decode_ledger
        from stream_al.core.messages import Correction, Expired, Genesis, Learned, Skipped

        if self.genesis is not None and not self._mentions(record):
            return
        entry = decode_ledger(record)
        if isinstance(entry, Genesis):
            self.genesis = self.genesis or entry
        if isinstance(entry, Learned | Skipped | Expired) and self._wants(entry.id, entry.request_id):
            case = self.search.case(entry.source)
            if case.closing is None:  # the fold ignores a second one
                case.id, case.closing, case.closing_offset = entry.id, entry, record.offset
        if isinstance(entry, Correction):
            for case in self.search.cases.values():
                if isinstance(case.closing, Learned) and case.closing.answer == entry.corrects:
                    case.corrections.append(entry)

    def _place(self) -> None:
        """Take a wanted place (``3-91823``, ``samples-3-91823``) for a sample, if the partition holds it."""
        from stream_al.core.messages import Source
        from stream_al.scan import ends

        topic = self.settings.topics.samples
        match = re.fullmatch(rf"(?:{re.escape(topic)}-)?(\d{{1,9}})-(\d{{1,18}})", self.search.wanted)
        if match is not None:
            partition, offset = int(match[1]), int(match[2])
            if offset < ends(self.broker, topic).get(partition, 0):
                self.search.case(Source(topic, partition, offset))

    def _sample(self, record: Record) -> None:
        from stream_al.codec import BadRecord

        if not self._mentions(record):
            return
        try:
            sample = self._decoder()(record)
        except BadRecord:
            return
        if sample.id == self.search.wanted:
            self.search.case(sample.source).id = sample.id

    def _decoder(self) -> Any:
        from stream_al.codec import SampleDecoder

        s = self.settings.samples
        return SampleDecoder(s.id, s.features, s.timestamp, s.max_bytes)

    def _read_samples(self) -> None:
        """Read the samples that are still retained at the places found."""
        from stream_al.codec import BadRecord
        from stream_al.scan import begins, ends, read

        topic = self.settings.topics.samples
        first, last = begins(self.broker, topic), ends(self.broker, topic)
        for (p, offset), case in self.search.cases.items():
            if case.source.topic != topic or not first.get(p, 0) <= offset < last.get(p, 0):
                continue
            for record in read(self.broker, topic, {p: offset}, {p: offset + 1}):
                case.sample = json_or_text(record.value)
                try:
                    case.id = case.id or self._decoder()(record).id
                except BadRecord:
                    continue

    def _prediction(self, record: Record) -> None:
        value = json_or_text(record.value)
        source = value.get("source") if isinstance(value, dict) else None
        if isinstance(source, dict):
            case = self.search.cases.get((source.get("partition", -1), source.get("offset", -1)))
            if case is not None:
                case.prediction = value

    def _dead_letter(self, record: Record) -> None:
        error = {
            k.removeprefix(ERROR): v.decode("utf-8", "replace")
            for k, v in record.headers
            if k.startswith(ERROR)
        }
        place = (error.get("topic"), error.get("partition"), error.get("offset"))
        here = {
            (c.source.topic, str(c.source.partition), str(c.source.offset))
            for c in self.search.cases.values()
        }
        value = json_or_text(record.value)
        if place in here or self._is_named(value):
            self.search.dead_letters.append({**error, "value": value})
        for (p, offset), case in self.search.cases.items():
            if place == (case.source.topic, str(p), str(offset)):
                case.dead = error.get("reason", "")

    def _is_named(self, value: Any) -> bool:
        """Tell whether a dead letter's value names what is wanted; one that is no JSON may hold it as text."""
        if not isinstance(value, dict):
            return isinstance(value, str) and f'"{self.hint.decode()}"' in value
        names = [value.get("id"), value.get("request_id"), _at(value, self.settings.samples.id)]
        return self.search.wanted in [str(name) for name in names if isinstance(name, str | int)]

    def _bucket(self, record: Record) -> None:
        from stream_al.codec import decode_ledger
        from stream_al.core.messages import Bucket

        if record.value is None or b'"bucket"' not in record.value[:40]:
            return
        entry = decode_ledger(record)
        if isinstance(entry, Bucket):
            for (p, offset), case in self.search.cases.items():
                start, end = entry.ranges.get(p, (0, 0))
                case.bucket = entry if start <= offset < end else case.bucket

    def _positions(self) -> None:
        """Tell what a scorer has read: it takes a while until that is in a bucket."""
        from stream_al.transport.port import TopicPartition

        partitions = {case.source.partition for case in self.search.cases.values()}
        tps = [TopicPartition(self.settings.topics.samples, p) for p in sorted(partitions)]
        for tp, position in self.broker.positions(f"{self.settings.group}-scorer", tps).items():
            for case in self.search.cases.values():
                if position is not None and case.source.partition == tp.partition:
                    case.read = case.source.offset < position.offset

    def _coins(self) -> None:
        from stream_al.core.coin import coin

        for case in self.search.cases.values():
            if self.genesis is not None:
                s = case.source
                case.before_start = s.offset < self.genesis.start.get(s.partition, 0)
                case.coin = coin(self.genesis.seed, s.topic, s.partition, s.offset)


def _plain(search: Search) -> dict[str, Any]:
    import msgspec

    cases = [
        {**msgspec.to_builtins(c, str_keys=True), "coin_agrees": c.coin_agrees, "state": _state(c)}
        for c in search.cases.values()
    ]
    return {
        "wanted": search.wanted,
        "cases": cases,
        "dead_letters": search.dead_letters,
        "searched": search.searched,
    }


def _state(case: Case) -> str:
    from stream_al.core.messages import Expired, Skipped

    if case.closing is None:
        return _state_without_label(case)
    if isinstance(case.closing, Expired):
        return case.closing.reason
    return "skipped" if isinstance(case.closing, Skipped) else "learned" if case.closing.learn else "credited"


def _state_without_label(case: Case) -> str:
    if case.request is not None:
        return "open"
    if case.dead:
        return f"dead letter: {case.dead}"
    if case.before_start:
        return "skipped: it came before the service first started, see samples.start"
    return "not requested" if case.read or case.bucket is not None else "undecided"


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _print(search: Search) -> None:
    for case in search.cases.values():
        place = f"{case.source.topic}-{case.source.partition}@{case.source.offset}"
        print_line(one_line(f"{case.id or search.wanted}  ({place})"))
        for name, text in _lines(case):
            print_line(one_line(f"  {name:<10} {text}"))
    for letter in search.dead_letters:
        place = f"{letter.get('topic')}-{letter.get('partition')}@{letter.get('offset')}"
        print_line(one_line(f"dead letter  {letter.get('reason')}: {letter.get('message')} ({place})"))


def _lines(case: Case) -> list[tuple[str, str]]:
    import msgspec

    recorded = case.closing or case.request
    lines = [("state", _state(case))]
    if recorded is not None:
        q, m = recorded.query, recorded.model
        said = ", ".join(f"{label} {p:.1%}" for label, p in m.probabilities.items()) or "nothing yet"
        said = said if m.value is None else f"{m.value:.6g}"
        lines += [
            ("decision", f"{q.reason} by {q.strategy}: p {q.inclusion_probability:.4f}, floor {q.floor:.4f}"),
            ("utility", f"{q.utility:.4f}, threshold {q.threshold:.4f}"),
            ("requested", f"{recorded.requested_at} as {recorded.request_id}"),
            ("model", f"{m.name}, version {m.version}, said {said}"),
        ]
        if m.probabilities:
            lines.append(("expected", f"{q.expected_correct:.1%} to be correct"))
    lines.append(("coin", _coin(case)))
    lines += _closing(case)
    if case.bucket is not None:
        b = case.bucket
        lines.append(("bucket", f"{b.number}, {b.first_at} to {b.last_at}, {b.sums.samples:,} samples"))
    if case.prediction is not None:
        lines.append(("prediction", msgspec.json.encode(case.prediction).decode()))
    sample = "no longer retained" if case.sample is None else msgspec.json.encode(case.sample).decode()
    return [*lines, ("sample", sample)]


def _coin(case: Case) -> str:
    recorded = case.closing or case.request
    if case.coin is None:
        return "not derivable: there is no ledger with a seed"
    if recorded is None:
        return f"{case.coin!r} by derivation; no decision is recorded"
    q = recorded.query
    differs = f"but {case.coin!r} by derivation: the record or the seed is not genuine"
    word = "as derived" if case.coin_agrees else differs
    return f"{q.coin!r} recorded, {word}; below p: {'yes' if q.coin < q.inclusion_probability else 'no'}"


def _closing(case: Case) -> list[tuple[str, str]]:
    from stream_al.core.labels import label_key
    from stream_al.core.messages import Expired, Learned

    c = case.closing
    if c is None:
        return []
    if isinstance(c, Expired):
        return [("closed", f"{c.expired_at} {c.reason}, ledger offset {case.closing_offset}")]
    by = f" by {c.annotator}" if c.annotator else ""
    closed = ("closed", f"{c.received_at}{by} from {c.answer}, ledger offset {case.closing_offset}")
    if not isinstance(c, Learned):
        return [closed]
    corrected = [
        ("corrected", f"{x.received_at}{f' by {x.annotator}' if x.annotator else ''} to {label_key(x.label)}")
        for x in case.corrections
    ]
    return [("label", f"{label_key(c.label)}; {_verdict(c)}"), closed, *_rests_on(c), *corrected]


def _rests_on(c: Learned) -> list[tuple[str, str]]:
    """Say whose answer it was, where it was not one person's to this request."""
    lines = [] if c.same_as is None else [("same as", f"request {c.same_as}, whose sample is alike")]
    if c.decision is not None:
        likely = sorted(c.decision.probabilities.items(), key=lambda one: -one[1])[:3]
        shares = ", ".join(f"{key} {share:.2f}" for key, share in likely)
        lines.append(("decided", f"{c.decision.policy} of {c.decision.votes} votes: {shares}"))
    return lines


def _verdict(c: Learned) -> str:
    """Say how what the model had said compares with the label."""
    from stream_al.core.labels import is_number, label_key

    if c.model.value is not None and is_number(c.label):
        return f"the model was off by {abs(c.model.value - c.label):.6g}"
    if c.model.label is None:
        return "no guess yet"
    return "the model was right" if c.model.label == label_key(c.label) else "the model was wrong"
