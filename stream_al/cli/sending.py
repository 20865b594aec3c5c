"""``send``: lines of JSON into a topic."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from stream_al.cli.options import ConfigFile, Json, Overrides, examples, no_topic, settings_of, topic_name
from stream_al.cli.outcome import misuse
from stream_al.cli.printing import print_json, print_line

if TYPE_CHECKING:
    from stream_al.transport.port import Broker, Output

BATCH = 1_000
CHUNK_BYTES = 1 << 20
TICK_S = 0.1
OURS = ("ledger", "reports")

SEND_EXAMPLES = examples(
    "stream-al send samples samples.jsonl",
    "my-feed | stream-al send samples",
    """echo '{"id": "s-123", "label": "fraud"}' | stream-al send labels""",
    "stream-al send samples samples.jsonl --rate 100 --set broker.url=kafka://localhost:9092",
)


@dataclass(slots=True)
class Sent:
    topic: str
    sent: int = 0
    skipped: int = 0
    seconds: float = 0.0


def send(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC",
            help="A topic of the settings (samples, labels, labels-requested, dead-letters, predictions),"
            " whatever its name there, or the name of any other topic.",
        ),
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file with one record per line; - is standard input.")
    ] = Path("-"),
    *,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Send at most so many lines per second.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write to the ledger or the reports, which can ruin them.")
    ] = False,
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Write lines to a topic, each line one record, as it is.

    Lines are usually JSON, but any bytes are sent, so that bad input can be tried out. The key of a record
    is the string id of its object, if it has one. Empty lines are skipped. Missing topics are created as
    the service would.
    """
    from stream_al.service.loop import open_broker
    from stream_al.transport.port import TransportError

    settings = settings_of(config, overrides)
    name = topic_name(settings, topic)
    if name in (settings.topics.ledger, settings.topics.reports) and not force:
        raise misuse(
            f"{name} is written by stream-al alone, a wrong record there can ruin it; --force does it anyway"
        )
    with _opened(file) as (stream, size), open_broker(settings) as broker, _progress(size) as tell:
        if not broker.partitions(name):
            raise TransportError(no_topic(settings, topic))
        sent = _send(broker, name, stream, rate, tell)
    if as_json:
        print_json(sent)
    else:
        skipped = f"; {sent.skipped:,} were empty and skipped" if sent.skipped else ""
        print_line(f"sent {sent.sent:,} lines to {name} in {sent.seconds:.1f} s{skipped}")


@contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    if str(file) == "-":
        yield cast("BinaryIO", sys.stdin.buffer), None
        return
    with file.open("rb") as stream:
        yield stream, file.stat().st_size if file.is_file() else None


@contextmanager
def _progress(size: int | None) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far a file was read."""
    if size is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sending", total=size)
        yield lambda read: bar.update(task, completed=read)


def _send(
    broker: Broker, topic: str, stream: BinaryIO, rate: float | None, tell: Callable[[int], None]
) -> Sent:
    sent, started, read = Sent(topic), time.monotonic(), 0
    most = BATCH if rate is None else max(1, min(BATCH, round(rate * TICK_S)))
    for lines, size in _batches(stream, most):
        full = [line for line in lines if line.strip()]
        sent.skipped += len(lines) - len(full)
        broker.append([_output(topic, line) for line in full])
        sent.sent += len(full)
        read += size
        tell(read)
        if rate is not None:
            time.sleep(max(0.0, started + sent.sent / rate - time.monotonic()))
    sent.seconds = time.monotonic() - started
    return sent


def _batches(stream: BinaryIO, most: int) -> Iterator[tuple[list[bytes], int]]:
    """Yield lines as soon as they are there, at most ``most`` at once, with their size in bytes."""
    rest = b""
    while chunk := cast("BufferedReader", stream).read1(CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for i in range(0, len(lines), most):
            batch = lines[i : i + most]
            yield batch, sum(map(len, batch)) + len(batch)
    if rest:
        yield [rest], len(rest)


def _output(topic: str, line: bytes) -> Output:
    from stream_al.transport.port import Output

    return Output(topic, line, key=_key(line))


def _key(line: bytes) -> bytes | None:
    """Return the string id of an object.

    >>> _key(b'{"id": "s-1"}'), _key(b'{"id": 1}'), _key(b'[')
    (b's-1', None, None)
    """
    import msgspec

    try:
        found = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return None
    name = found.get("id") if isinstance(found, dict) else None
    return name.encode("utf-8", "surrogatepass") if isinstance(name, str) else None
