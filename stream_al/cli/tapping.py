"""``tap``: the records of a topic, as they come."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_al.cli.options import (
    ConfigFile,
    Json,
    Overrides,
    attach,
    examples,
    no_topic,
    settings_of,
    topic_name,
)
from stream_al.cli.outcome import misuse, styled
from stream_al.cli.printing import json_or_text, one_line, print_json, print_line, text_of

if TYPE_CHECKING:
    from stream_al.transport.port import Broker, Reader, Record, TopicPartition

AT_ONCE = 500
LOOK_S = 0.2
LONGEST = 2_000  # characters of a value at a terminal

TAP_EXAMPLES = examples(
    "stream-al tap labels-requested",
    "stream-al tap samples --from beginning --limit 10",
    "stream-al tap ledger --from -20 --no-follow --json | jq .value.kind",
)


def tap(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC", help="A topic of the settings, such as samples or ledger, or any other topic."
        ),
    ],
    *,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="beginning|end|OFFSET",
            help="Where to begin in each partition; -20 is the latest twenty.",
        ),
    ] = "end",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="End after so many records.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for new records, or end when all are printed.")
    ] = True,
    partition: Annotated[int | None, typer.Option("--partition", min=0, help="Only this partition.")] = None,
    headers: Annotated[bool, typer.Option("--headers", help="Show headers, which JSON always does.")] = False,
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Print the records of a topic, by default new ones as they come; Ctrl-C ends it.

    Only committed records are shown, and nothing is committed: taps disturb nobody. A terminal shows place,
    time, key and value; a pipe or a file gets the values alone, one a line, as send takes them. With --json
    each line is an object with topic, partition, offset, timestamp, key, headers and value; a value that is no
    JSON is text.
    """
    if not re.fullmatch(r"beginning|end|-?\d+", start):
        raise misuse(f"--from {start}: write beginning, end, an offset, or -20 for the latest twenty")
    from stream_al.transport.port import TransportError

    settings = settings_of(config, overrides)
    show = _json if as_json else _shown(headers=headers) if headers or _terminal() else _value
    with attach(settings) as broker:
        name = topic_name(settings, topic)
        if not broker.partitions(name):
            raise TransportError(no_topic(settings, topic))
        try:
            for record in _records(broker, name, start, partition, limit=limit, follow=follow):
                show(record)
        except KeyboardInterrupt:
            return


def _records(
    broker: Broker, topic: str, start: str, partition: int | None, *, limit: int | None, follow: bool
) -> Iterator[Record]:
    places, ends = _places(broker, topic, start, partition)
    left = limit
    with broker.reader(places) as reader:
        while follow or _unread(reader, ends):
            for tp, batch in reader.poll(min(AT_ONCE, left or AT_ONCE), LOOK_S).items():
                for record in batch:
                    if not follow and record.offset >= ends[tp]:
                        break
                    yield record
                    left = None if left is None else left - 1
                    if left == 0:
                        return


def _unread(reader: Reader, ends: dict[TopicPartition, int]) -> bool:
    return any(reader.position(tp) < end for tp, end in ends.items())


def _places(
    broker: Broker, topic: str, start: str, partition: int | None
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Return where to begin and where the partitions end now."""
    from stream_al.transport.port import TopicPartition

    count = broker.partitions(topic)
    if partition is not None and partition >= count:
        raise misuse(f"--partition {partition}: {topic} has {count} partitions, the last one is {count - 1}")
    chosen = range(count) if partition is None else (partition,)
    begins, ends = broker.begins(topic), broker.ends(topic)
    places = {p: _start(start, begins[p], ends[p]) for p in chosen}
    return {TopicPartition(topic, p): o for p, o in places.items()}, {
        TopicPartition(topic, p): ends[p] for p in chosen
    }


def _start(start: str, begin: int, end: int) -> int:
    """Return the first offset to read, inside what the partition holds.

    >>> [_start(s, 5, 30) for s in ("beginning", "end", "3", "12", "-20", "99")]
    [5, 30, 5, 12, 10, 30]
    """
    if start == "beginning":
        return begin
    if start == "end":
        return end
    number = end + int(start) if start.startswith("-") else int(start)
    return min(max(begin, number), end)


def _json(record: Record) -> None:
    print_json(fields(record))


def fields(record: Record) -> dict[str, Any]:
    """Return a record as plain values."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": _time(record),
        "key": text_of(record.key),
        "headers": {name: text_of(value) for name, value in record.headers},
        "value": json_or_text(record.value),
    }


def _time(record: Record) -> str:
    from stream_al.core.messages import timestamp

    return timestamp(record.timestamp)


def _value(record: Record) -> None:
    """Print a value as ``send`` takes it; one without a value cannot be sent."""
    import msgspec

    if record.value is None:
        return
    try:
        msgspec.json.decode(record.value)  # formatting alone checks less
        print_line(msgspec.json.format(record.value, indent=-1).decode())
    except (ValueError, RecursionError):
        print_line(one_line(text_of(record.value) or ""))


def _shown(*, headers: bool) -> Callable[[Record], None]:
    return lambda record: _line(record, headers=headers)


def _line(record: Record, *, headers: bool) -> None:
    from stream_al.wording import shortened

    paint = styled if _terminal() else _unpainted
    place = paint(f"{record.topic}-{record.partition}@{record.offset}", fg="cyan")
    time = paint(_time(record), dim=True)
    key = "" if record.key is None else paint(shortened(one_line(text_of(record.key) or "")), bold=True) + " "
    value = (
        paint("(no value)", dim=True)
        if record.value is None
        else shortened(one_line(text_of(record.value) or ""), LONGEST)
    )
    named = [f"{name}={one_line(text_of(content) or '')}" for name, content in record.headers]
    shown = paint(" ".join(named), dim=True) + " " if headers and named else ""
    print_line(f"{place} {time} {key}{shown}{value}")


def _unpainted(text: str, **_: Any) -> str:
    return text


def _terminal() -> bool:
    import sys

    return sys.stdout.isatty()
