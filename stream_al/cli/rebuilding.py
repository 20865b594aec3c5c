"""``rebuild`` and ``promote``: begin the model anew with labels as they were corrected, or exchange it for another."""

from __future__ import annotations

import secrets
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from stream_al.cli.options import ConfigFile, Json, Overrides, attach, examples, settings_of
from stream_al.cli.outcome import misuse
from stream_al.cli.printing import print_json, print_line

if TYPE_CHECKING:
    from stream_al.config import Settings
    from stream_al.core.messages import Genesis, Promote, Rebuild
    from stream_al.transport.port import Broker

LATEST = "latest-"
LOOK_S = 0.1

REBUILD_EXAMPLES = examples(
    "stream-al rebuild", "stream-al rebuild --from latest-5000", "stream-al rebuild --from 91823 --json"
)
PROMOTE_EXAMPLES = examples("stream-al promote forest", "stream-al promote default --json")

Wait = Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for a learner to take it.")]
TAKEN = "written at ledger offset {}; stream-al status says when it is in use"
NOT_TAKEN = "no learner has taken it yet; the next one that runs will"


@dataclass(slots=True)
class Asked:
    """What was asked for, and where the ledger has it; ``at`` is None while no learner has taken it."""

    id: str
    from_offset: int
    labels: int
    corrected: int
    at: int | None = None


@dataclass(slots=True)
class Labels:
    """The learned labels of a ledger: their offsets and answers, and which answers were corrected."""

    genesis: Genesis | None
    learned: deque[tuple[int, str]]
    corrected: set[str]
    end: int


def rebuild(
    *,
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="start|OFFSET|latest-N",
            help="Where in the ledger the new model begins: start, an offset, or latest-N for its N latest labels.",
        ),
    ] = "start",
    wait: Wait = 10.0,
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Begin the model anew from the labels in the ledger, corrected ones as they are now.

    A changed label of a request that was answered before changes nothing at once: it is kept as a correction,
    and this is how the model learns it. All processes exchange their model at the same record of the ledger and
    go on with the old one until then. Budget, open requests and the accuracy so far stay as they are.

    What is asked for goes through the topic for reports: whoever may write there may do this.
    """
    settings = settings_of(config, overrides)
    chosen = _chosen(begin)
    with attach(settings) as broker:
        labels = _labels(broker, settings, chosen[1])
        asked = _asked(labels, *chosen)
        _send(broker, settings, _wanted(labels, asked))
        asked.at = _taken(broker, settings, labels.end, asked.id, wait)
    if as_json:
        print_json(asked)
        return
    print_line(
        f"rebuild from ledger offset {asked.from_offset}:"
        f" {asked.labels:,} labels, {asked.corrected:,} of them corrected"
    )
    print_line(NOT_TAKEN if asked.at is None else TAKEN.format(asked.at))


@dataclass(slots=True)
class Promoted:
    """What was asked for, and where the ledger has it; ``at`` is None while no learner has taken it."""

    id: str
    name: str
    instead_of: str
    at: int | None = None


def promote(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The challenger that is to take over.")],
    *,
    wait: Wait = 10.0,
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Let a challenger take the model's place, and with it its query strategy, if it names one.

    All processes exchange their model at the same record of the ledger. The model that it replaces goes on as a
    challenger under its own name, so that it can be promoted back. Nothing in the configuration has to change.
    Budget, open requests and the accuracy so far stay as they are; the comparisons begin anew.

    What is asked for goes through the topic for reports: whoever may write there may do this.
    """
    settings = settings_of(config, overrides)
    with attach(settings) as broker:
        names, genesis, end = _lineup(broker, settings)
        if name not in names[1:]:
            others = ", ".join(names[1:])
            has = f"there are {others}" if others else "there are none; name some below challengers:"
            told = "is the model in use" if name == names[0] else "is no challenger"
            raise misuse(f"{name} {told}; {has}")
        asked = Promoted(secrets.token_hex(8), name, names[0])
        _send(broker, settings, _promotion(genesis, asked))
        asked.at = _taken(broker, settings, end, asked.id, wait)
    if as_json:
        print_json(asked)
        return
    print_line(f"promote {name} instead of {asked.instead_of}")
    print_line(NOT_TAKEN if asked.at is None else TAKEN.format(asked.at))


def _lineup(broker: Broker, settings: Settings) -> tuple[list[str], Genesis, int]:
    """Return the names of the model in use and of the challengers, the first record, and the ledger's end."""
    from stream_al.codec import decode_ledger
    from stream_al.core.messages import Challengers, Genesis, Promote
    from stream_al.scan import ends, scan

    topic = settings.topics.ledger
    genesis, now, wanted, end = None, "", Challengers(), ends(broker, topic).get(0, 0)
    for record in scan(broker, topic):
        entry = decode_ledger(record)
        if isinstance(entry, Genesis) and genesis is None:
            genesis, now = entry, entry.model
        elif isinstance(entry, Challengers):
            wanted = entry
        elif isinstance(entry, Promote):
            now = entry.name
    known = _founded(genesis)
    others = dict.fromkeys([known.model, *(c.name for c in wanted.challengers)])
    return [now, *(name for name in others if name != now)], known, end


def _founded(genesis: Genesis | None) -> Genesis:
    from stream_al.transport.port import TransportError

    if genesis is None:
        raise TransportError("there is no ledger yet: the service has not run on this broker")
    return genesis


def _promotion(genesis: Genesis, asked: Promoted) -> Promote:
    from stream_al.core.messages import Promote

    return Promote(asked.id, genesis.ledger_id, asked.name, _now())


def _now() -> str:
    from stream_al.core.messages import timestamp

    return timestamp(time.time_ns() // 1_000_000)


def _chosen(begin: str) -> tuple[int, int | None]:
    """Return the offset to begin at, and how many labels where that was said.

    >>> _chosen("start"), _chosen("17"), _chosen("latest-500")
    ((0, None), (17, None), (0, 500))
    """
    number = begin.removeprefix(LATEST)
    if begin in ("start", "beginning"):  # the latter as ``tap`` has it
        return 0, None
    if not (number.isascii() and number.isdigit()) or (begin.startswith(LATEST) and int(number) == 0):
        raise misuse(
            f"--from {begin}: write start, an offset of the ledger, or latest-N, for example latest-5000"
        )
    return (0, int(number)) if begin.startswith(LATEST) else (int(number), None)


def _labels(broker: Broker, settings: Settings, latest: int | None) -> Labels:
    from stream_al.codec import decode_ledger
    from stream_al.core.messages import Correction, Genesis, Learned
    from stream_al.scan import ends, scan

    topic = settings.topics.ledger
    found = Labels(None, deque(maxlen=latest), set(), ends(broker, topic).get(0, 0))
    for record in scan(broker, topic):
        entry = decode_ledger(record)
        if isinstance(entry, Genesis) and found.genesis is None:
            found.genesis = entry
        elif isinstance(entry, Learned) and entry.learn:
            found.learned.append((record.offset, entry.answer))
        elif isinstance(entry, Correction):
            found.corrected.add(entry.corrects)
    return found


def _asked(labels: Labels, begin: int, latest: int | None) -> Asked:
    """Return what to ask for; ``latest`` labels begin at the first of them.

    Raises
    ------
    typer.Exit
        The ledger ends before it begins.
    """
    if latest is not None and labels.learned:
        begin = labels.learned[0][0]
    if begin > labels.end:
        raise misuse(f"--from {begin}: the ledger ends at {labels.end}")
    within = [answer for offset, answer in labels.learned if offset >= begin]
    return Asked(secrets.token_hex(8), begin, len(within), len(labels.corrected.intersection(within)))


def _wanted(labels: Labels, asked: Asked) -> Rebuild:
    from stream_al.core.messages import Rebuild

    return Rebuild(asked.id, _founded(labels.genesis).ledger_id, asked.from_offset, _now())


def _send(broker: Broker, settings: Settings, wanted: Rebuild | Promote) -> None:
    from stream_al.codec import encode
    from stream_al.transport.port import Output

    broker.append([Output(settings.topics.reports, encode(wanted), partition=0)])


def _taken(broker: Broker, settings: Settings, begin: int, operation: str, wait_s: float) -> int | None:
    """Return where in the ledger an operation stands, as soon as it does; None if that takes too long."""
    from stream_al.codec import decode_ledger
    from stream_al.core.messages import Promote, Rebuild
    from stream_al.transport.port import TopicPartition

    ledger, until = TopicPartition(settings.topics.ledger, 0), time.monotonic() + wait_s
    with broker.reader({ledger: begin}) as reader:
        while time.monotonic() < until:
            for record in reader.poll(1_000, LOOK_S).get(ledger, []):
                entry = decode_ledger(record)
                if isinstance(entry, Rebuild | Promote) and entry.id == operation:
                    return record.offset
    return None
